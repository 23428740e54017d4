import t from 'tap'
import { CheckedEvent } from '../lib/event.ts'
import { Framed } from '../lib/frame.ts'
import { Hold } from '../lib/hold.ts'
import { find, replay } from '../lib/replay.ts'
import type { Reader, Replayed, ReplayTopic } from '../lib/replay.ts'
import type { Gap } from '../types/api.ts'
import type { Delivery, Range, Spared } from '../types/backplane.ts'
import type { Encoding } from '../types/transport.ts'

const encoding: Encoding = { name: 'raw', frame: (event) => Buffer.from(event.text as string) }

class Log implements Reader {
  resets = 0
  readonly deliveries: Delivery[] = []
  readonly incomplete = new Set<string>()
  reads: Array<[topic: string, after: unknown]> = []
  /** What each topic's next read sees at most. */
  readonly tops = new Map<string, number>()
  onRead: () => void = () => {}

  add (topic: string, offset: number, { except = null, size = 10 }: { except?: Spared | null, size?: number } = {}): void {
    const event = new CheckedEvent()
    event.text = String(offset).padEnd(size)
    this.deliveries.push({ topic, offset, prev: 0, except, event: event.at('e', offset) })
  }

  async range (topic: string, after: number | { id: string }, limit: number): Promise<Range> {
    this.reads.push([topic, after])
    const top = this.tops.get(topic) ?? this.deliveries.at(-1)?.offset ?? 0
    this.tops.delete(topic)
    const from = typeof after === 'number' ? after : this.deliveries.find((one) => one.topic === topic && one.event.text?.trim() === after.id)?.offset ?? -1
    const all = this.deliveries.filter((one) => one.topic === topic && one.offset > from && one.offset <= top)
    this.onRead()
    return { deliveries: all.slice(0, limit), complete: !this.incomplete.delete(topic), more: all.length > limit, from, top }
  }

  framed (delivery: Delivery, placed: boolean): Framed { return new Framed(delivery.event, placed ? delivery.offset : 0) }
}

class Target implements Replayed {
  readonly id = 'me'
  user: string | null = null
  readonly hold = new Hold(100, 1, () => {})
  readonly wire = { encoding }
  held = true
  buffered = 0
  readonly limit = 100
  got: Framed[] = []
  onPut: () => void = () => {}
  onDrain: () => void = () => {}

  hasRoom (bytes: number): boolean { return this.buffered === 0 || this.buffered + bytes <= this.limit }
  async drained (mark: number): Promise<void> {
    await null
    this.buffered = Math.min(this.buffered, mark)
    this.onDrain()
  }

  put (framed: Framed): void {
    this.got.push(framed)
    this.buffered += framed.frame(encoding).length
    this.onPut()
  }

  get numbers (): number[] { return this.got.map(({ event }) => Number(event.text)) }
}

function topics (...names: string[]): Array<ReplayTopic & { left: boolean }> {
  return names.map((name) => ({ roster: { topic: `room/${name}`, last: 0 }, room: name, start: 0, gave: 0, left: false }))
}

function gapless (): void {}

t.test('it gives what there is after a place, in one order over all topics', async (t) => {
  const log = new Log()
  const to = new Target()
  for (const [offset, room] of [...'abbaccab'].entries()) log.add(`room/${room}`, offset + 1)
  const told: Gap[][] = []
  t.equal(await replay(to, log, topics('a', 'b'), 2, (gaps) => told.push(gaps)), 8)
  t.strictSame(to.numbers, [3, 4, 7, 8])
  t.strictSame(told, [[]])
  t.strictSame(to.got.map(({ offset }) => offset), [3, 4, 7, 8])
})

t.test('it gives nothing where there is nothing', async (t) => {
  const to = new Target()
  const told: Gap[][] = []
  t.equal(await replay(to, new Log(), topics('a'), 5, (gaps) => told.push(gaps)), 5)
  t.equal(await replay(to, new Log(), [], 5, (gaps) => told.push(gaps)), 5)
  t.strictSame([to.got, told], [[], [[], []]])
})

t.test('it reads on until there is no more, in one order also where one topic was cut', async (t) => {
  const log = new Log()
  const to = new Target()
  for (let offset = 1; offset <= 1_000; offset++) log.add(`room/${offset % 7 === 0 ? 'b' : 'a'}`, offset)
  let told = 0
  t.equal(await replay(to, log, topics('a', 'b'), 0, () => told++), 1_000)
  t.strictSame(to.numbers, log.deliveries.map(({ offset }) => offset))
  t.equal(told, 1)
  t.ok(log.reads.length >= 10)
})

t.test('what one topic has after another was read is not given before that is read again', async (t) => {
  const log = new Log()
  const to = new Target()
  for (const [offset, room] of [...'abab'].entries()) log.add(`room/${room}`, offset + 1)
  log.tops.set('room/a', 2) // it was read before 3 came
  t.equal(await replay(to, log, topics('a', 'b'), 0, gapless), 2)
  t.strictSame(to.numbers, [1, 2], '3 and 4 come live')
})

t.test('what is gone is told before the first event, by the name of its room, and again when more goes meanwhile', async (t) => {
  const log = new Log()
  const to = new Target()
  for (let offset = 1; offset <= 300; offset++) log.add('room/a', offset)
  for (const topic of ['room/b', 'all']) log.incomplete.add(topic)
  const told: Array<[number, Gap[]]> = []
  to.onDrain = () => log.incomplete.add('room/a')
  await replay(to, log, [...topics('a', 'b'), { roster: { topic: 'all', last: 0 }, room: undefined, start: 0, gave: 0, left: false }], 0, (gaps) => told.push([to.got.length, gaps]))
  t.strictSame(told[0], [0, [{ reason: 'trimmed', room: 'b' }, { reason: 'trimmed' }]])
  t.strictSame(told[1]?.[1], [{ reason: 'trimmed', room: 'a' }])
  t.ok((told[1]?.[0] as number) > 0)
})

t.test('whom an event spares, by id or as a user, does not get it', async (t) => {
  for (const [user, given] of [[null, [4, 5, 6]], ['ada', [4, 6]]] as const) {
    const log = new Log()
    const to = new Target()
    to.user = user
    log.add('room/a', 4, { except: { ids: ['other'], users: [] } })
    log.add('room/a', 5, { except: { ids: [], users: ['ada'] } })
    log.add('room/a', 6, { except: { ids: [], users: ['null', ''] } })
    log.add('room/a', 7, { except: { ids: ['me'], users: [] } })
    t.equal(await replay(to, log, topics('a'), 0, gapless), 7, 'it is past it all the same')
    t.strictSame(to.numbers, given)
  }
})

t.test('it waits for the reader, by the bytes that are written', async (t) => {
  const log = new Log()
  const to = new Target()
  const most: number[] = []
  to.onPut = () => most.push(to.buffered)
  for (let offset = 1; offset <= 100; offset++) log.add('room/a', offset, { size: 30 })
  log.add('room/a', 101, { size: 1_000 })
  log.add('room/a', 102, { size: 30 })
  t.equal(await replay(to, log, topics('a'), 0, gapless), 102)
  t.strictSame(to.numbers, log.deliveries.map(({ offset }) => offset))
  t.ok(Math.max(...most.slice(0, 100)) <= 100)
  t.equal(most[100], 1_000, 'one that is larger than may wait is given when nothing waits')
})

t.test('it ends when the reader has caught up, with what came meanwhile', async (t) => {
  const log = new Log()
  const to = new Target()
  for (let offset = 1; offset <= 8; offset++) log.add('room/a', offset)
  let more = 20
  to.onDrain = () => { if (more-- > 0) log.add('room/a', 100 - more, { size: 60 }) }
  t.equal(await replay(to, log, topics('a'), 0, gapless), 100)
  t.equal(to.got.length, 28)
  t.ok(to.buffered <= 50)
})

t.test('what did not fit the hold is read again', async (t) => {
  const log = new Log()
  const to = new Target()
  log.add('room/a', 1)
  let once = true
  log.onRead = () => {
    if (!once) return
    once = false
    log.add('room/a', 2, { size: 90 })
    log.add('room/a', 3, { size: 90 })
    for (const delivery of log.deliveries.slice(1)) to.hold.add(log.framed(delivery, true))
  }
  t.equal(await replay(to, log, topics('a'), 0, gapless), 3)
  t.strictSame(to.numbers, [1, 2, 3])
  t.strictSame(to.hold.end(), [])
})

t.test('what is on hold when it reads is forgotten, but for what is not kept', async (t) => {
  const log = new Log()
  const to = new Target()
  log.add('room/a', 1)
  const event = new CheckedEvent()
  const unkept = new Framed(event, 0)
  to.hold.add(new Framed(event, 1))
  to.hold.add(unkept)
  await replay(to, log, topics('a'), 0, gapless)
  t.strictSame(to.hold.end(), [unkept])
})

t.test('up to a place its events move nothing', async (t) => {
  const log = new Log()
  for (let offset = 1; offset <= 500; offset++) log.add('room/a', offset)
  for (const until of [450, 500, 600]) {
    const to = new Target()
    t.equal(await replay(to, log, topics('a'), 10, gapless, { until }), until)
    t.strictSame(to.numbers, Array.from({ length: Math.min(until, 500) - 10 }, (_, index) => index + 11))
    t.ok(to.got.every(({ offset }) => offset === 0))
  }
})

t.test('it stops when the connection is closed, wherever it is', async (t) => {
  const log = new Log()
  for (let offset = 1; offset <= 300; offset++) log.add('room/a', offset, { size: 40 })
  const reading = new Target()
  log.onRead = () => { reading.held = false }
  t.equal(await replay(reading, log, topics('a'), 0, () => t.fail('nothing is told')), -1)
  t.strictSame(reading.got, [])
  log.onRead = () => {}
  const draining = new Target()
  draining.onDrain = () => { draining.held = false }
  t.equal(await replay(draining, log, topics('a'), 0, gapless), -1)
  t.equal(draining.got.length, 2)
  const ending = new Target()
  ending.onDrain = () => { ending.held = ending.got.length < 200 }
  t.equal(await replay(ending, log, topics('a'), 0, gapless), -1)
  t.equal(ending.got.length, 200)
})

t.test('a room that is left meanwhile is not replayed on', async (t) => {
  const log = new Log()
  const to = new Target()
  for (let offset = 1; offset <= 300; offset++) log.add(`room/${offset % 2 === 0 ? 'a' : 'b'}`, offset, { size: 40 })
  const [a, b] = topics('a', 'b') as [ReturnType<typeof topics>[0], ReturnType<typeof topics>[0]]
  to.onDrain = () => { b.left = true }
  t.equal(await replay(to, log, [a, b], 0, gapless), 300)
  t.strictSame(to.numbers, [1, 2, ...Array.from({ length: 149 }, (_, index) => index * 2 + 4)])
  t.equal(log.reads.filter(([topic]) => topic === 'room/b').length, 1)
})

t.test('an id of the application is found where it came first', async (t) => {
  const log = new Log()
  log.add('room/a', 5)
  log.add('room/b', 3)
  const other = { ...log.deliveries[0] as Delivery, topic: 'room/b', offset: 4 } // with the same id
  log.deliveries.push(other)
  t.equal(await find(log, topics('a', 'b', 'c'), '5'), 4)
  t.equal(await find(log, topics('a'), '5'), 5)
  t.equal(await find(log, topics('a', 'b'), '7'), -1)
  t.equal(await find(log, [], '5'), -1)
})
