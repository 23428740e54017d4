import { headers } from '@nats-io/transport-node'
import type { Msg } from '@nats-io/transport-node'
import t from 'tap'
import type { Test } from 'tap'
import { followOf } from '../../lib/backplanes/nats-link.ts'
import { isPersistent } from '../../lib/backplanes/nats-options.ts'
import { Order } from '../../lib/backplanes/nats-order.ts'
import { StreamReader } from '../../lib/backplanes/nats-reader.ts'
import { acknowledgement, storedOf } from '../../lib/backplanes/nats-stream.ts'
import { NatsTopic } from '../../lib/backplanes/nats-topic.ts'
import { toEvent } from '../../lib/event.ts'
import { encodeParcel } from '../../lib/parcel.ts'
import { until } from '../helper.ts'

interface Line { order: Order, passed: Array<number | string>, last: Map<string, number>, doubts: number, hear (offset: number, prev?: number, token?: string, size?: number): void }

/** An order of events that know where they are in their topic; what has passed is kept. */
function line (t: Test, isAll: boolean): Line {
  const last = new Map<string, number>()
  const one: Line = {
    passed: [],
    last,
    doubts: 0,
    order: new Order({
      pass ({ token, offset }) { one.passed.push(offset); last.set(token, offset) },
      fits: ({ token, prev }) => prev <= (last.get(token) ?? 0),
      doubt () { one.doubts++ }
    }),
    hear (offset, prev = offset - 1, token = 'x', size = 0) { one.order.hear({ token, offset, prev, msg: { data: new Uint8Array(size) } as Msg }) }
  }
  one.order.isAll = isAll
  t.after(() => one.order.end())
  return one
}

t.test('of all that is kept each waits for the one before it, and what is not kept for what came before', async (t) => {
  const { order, passed, hear } = line(t, true)
  hear(2)
  order.after(() => passed.push('after 2'))
  t.strictSame(passed, [], 'it is shut')
  order.open(0)
  hear(3)
  hear(3)
  order.after(() => passed.push('after 3'))
  const came = order.passed()
  hear(1)
  hear(1)
  await came
  order.after(() => passed.push('at once'))
  t.strictSame([passed, order.last], [[1, 2, 'after 2', 3, 'after 3', 'at once'], 3])
})

t.test('while it is shut what is not kept waits, though nothing else does', async (t) => {
  const { order, passed, hear } = line(t, true)
  order.after(() => passed.push('one'))
  const came = order.passed()
  t.strictSame(passed, [])
  hear(1)
  order.open(0)
  await came
  t.strictSame(passed, ['one', 1])
})

t.test('what does not come is doubted, as long as it does not', async (t) => {
  const one = line(t, true)
  one.order.open(0)
  one.hear(3)
  one.hear(2)
  await until(() => one.doubts === 1)
  t.ok(one.order.isShut)
  t.strictSame(one.order.waiting('x').map(({ offset }) => offset), [2, 3])
  t.strictSame(one.order.waiting('y'), [])
  one.order.ask()
  one.order.open(3)
  t.strictSame(one.passed, [2, 3])
  let over = false
  const waiting = one.order.when(() => over)
  one.hear(5)
  await until(() => one.doubts === 2)
  over = true
  one.order.open(4)
  await waiting
  t.equal(one.order.last, 5)
})

t.test('what moves on is not doubted', async (t) => {
  const one = line(t, true)
  one.order.open(0)
  one.hear(2)
  await new Promise((resolve) => setTimeout(resolve, 400))
  one.hear(1)
  one.hear(4)
  await new Promise((resolve) => setTimeout(resolve, 200))
  t.equal(one.doubts, 0)
  one.hear(3)
  t.strictSame(one.passed, [1, 2, 3, 4])
})

t.test('of rooms only, what comes passes, and a hole is doubted at once', async (t) => {
  const one = line(t, false)
  one.hear(4, 0)
  one.order.open(2)
  one.hear(9, 4)
  one.hear(12, 0, 'y')
  t.strictSame([one.passed, one.doubts], [[4, 9, 12], 0])
  one.hear(20, 15)
  t.strictSame([one.passed, one.doubts, one.order.isShut], [[4, 9, 12], 1, true])
  one.hear(15, 9)
  one.order.open(20)
  t.strictSame(one.passed, [4, 9, 12, 15, 20], 'it had only been late')
  one.hear(30, 25)
  one.last.set('x', 25)
  one.order.open(25)
  t.strictSame([one.passed.at(-1), one.doubts], [30, 2], 'it was told as missed')
})

t.test('of rooms only, what was kept up to a place is known to have come, unless something waits', async (t) => {
  const places = [true, false].map((isAll) => {
    const { order } = line(t, isAll)
    const reached = [3, 4, 2].map((offset) => {
      order.reach(offset)
      const { last } = order
      if (offset === 3) order.open(1)
      return last
    })
    return reached
  })
  t.strictSame(places, [[0, 1, 1], [0, 4, 4]])
})

t.test('a place that the stream does not know is forgotten, what came since is not', async (t) => {
  const one = line(t, true)
  one.order.open(0)
  one.hear(1_000)
  one.order.after(() => one.passed.push('after it'))
  one.order.shut()
  one.order.ask()
  one.hear(2)
  one.order.open(0)
  t.strictSame(one.order.waiting('x').map(({ offset }) => offset), [2])
  one.hear(1)
  t.strictSame(one.passed, ['after it', 1, 2])
})

t.test('what waits is bounded: what is too much is left out, and what is not kept passes', async (t) => {
  const one = line(t, true)
  for (let i = 1; i <= 3; i++) one.hear(i, i - 1, 'x', 8_000_000)
  t.strictSame(one.order.waiting('x').map(({ offset }) => offset), [1, 2])
  for (let i = 0; i < 1_001; i++) one.order.after(() => one.passed.push(`follower ${i}`))
  t.strictSame(one.passed, ['follower 1000'])
  one.order.yield()
  t.equal(one.passed.length, 1_001)
  const waiting = one.order.when(() => false)
  one.order.begin(7)
  await waiting
  t.strictSame([one.order.last, one.order.waiting('x'), one.order.isShut], [7, [], true])
})

t.test('a server keeps the order from 2.10 on', async (t) => {
  for (const version of [undefined, '', 'x', '2.9.10', '1.20.0']) t.equal(followOf('auto', version), 'all', version ?? 'none')
  for (const version of ['2.10.0', '2.10.0-RC.1', '2.12.3', '3.0.0']) t.equal(followOf('auto', version), 'rooms', version)
  t.equal(followOf('rooms', '2.9.10'), 'rooms')
  t.equal(followOf('all', '2.12.3'), 'all')
})

t.test('a connection that gives up is known by its options', async (t) => {
  const persistent = (options?: object): boolean => isPersistent({ publish () {}, options } as never)
  t.ok(persistent())
  t.ok(persistent({ maxReconnectAttempts: -1 }))
  t.notOk(persistent({ maxReconnectAttempts: 10 }))
  t.notOk(persistent({ reconnect: false, maxReconnectAttempts: -1 }))
  t.ok(isPersistent(() => { throw new Error('not called') }))
})

t.test('an answer of JetStream is read with care', async (t) => {
  const msg = (body: unknown, more = {}): Msg => ({ data: Buffer.from(JSON.stringify(body)), json: () => body, ...more }) as unknown as Msg
  t.strictSame(acknowledgement(msg({ seq: 5 })), { offset: 5, duplicate: false })
  t.strictSame(acknowledgement(msg({ seq: 5, duplicate: true })), { offset: 5, duplicate: true })
  t.equal(acknowledgement({ data: new Uint8Array(0), headers: headers(503, 'No Responders') } as unknown as Msg), null)
  t.throws(() => acknowledgement(msg({ error: { description: 'no space' } })), /JetStream: no space/)
  for (const seq of [undefined, '5', 1.5]) t.throws(() => acknowledgement(msg({ seq })), /no acknowledgement/)
})

t.test('the place of what is read is in its reply', async (t) => {
  const read = (reply?: string): unknown => {
    const stored = storedOf({ reply } as Msg)
    return stored === null ? null : [stored.stored.offset, stored.stored.at, stored.isLast]
  }
  t.strictSame(read('$JS.ACK.app.consumer.1.42.3.1700000000000000000.0'), [42, 1_700_000_000_000, true])
  t.strictSame(read('$JS.ACK.domain.hash.app.consumer.1.42.3.1700000000000000000.7.random'), [42, 1_700_000_000_000, false])
  for (const reply of [undefined, '', 'x', '$JS.ACK.app.consumer.1']) t.equal(read(reply), null)
})

/** A reader of one topic, whose readings of the stream are answered by hand. */
function byHand (): { reader: StreamReader, topic: NatsTopic, readings: Array<(...offsets: number[]) => void>, comes (offset: number): void, texts (): Promise<unknown[]> } {
  const topic = Object.assign(new NatsTopic('room/x', 'x'), { isLive: true })
  const readings: Array<(...offsets: number[]) => void> = []
  const msgOf = (offset: number): Msg => ({ data: encodeParcel({ event: toEvent(String(offset), { maxBytes: Infinity }), except: null }, { from: 'other', count: offset }) } as unknown as Msg)
  const reader = new StreamReader(
    { log: { error () {}, warn () {} }, epoch: 'e', seen: 9, isWhole: true, topic: () => topic, agree: async () => {} },
    { up: true, maxPayload: 1_000, subjects: { kept: () => 'x' }, insist: <T>(work: () => Promise<T>) => work() } as never,
    {
      bounds: { events: 10, age: 60_000 },
      find: async () => ({ epoch: 'e', base: 0, first: 1, last: 0, perSubject: 11 }),
      read: () => new Promise((resolve) => { readings.push((...offsets) => resolve({ all: offsets.map((offset) => ({ offset, at: 0, msg: msgOf(offset) })), now: 0 })) })
    } as never
  )
  return {
    reader,
    topic,
    readings,
    comes (offset) { reader.add(topic, reader.delivery('room/x', toEvent(String(offset), { maxBytes: Infinity }), null, offset, offset - 1), 1, msgOf(offset)) },
    texts: async () => (await reader.range('room/x', 0, 10)).deliveries.map(({ event }) => event.text)
  }
}

t.test('who reads a topic after something of it was found missing is not given what was being read before', async (t) => {
  const { reader, topic, readings, comes, texts } = byHand()
  const before = texts()
  await until(() => readings.length === 1)
  reader.drop(topic)
  const after = [texts(), texts()]
  await until(() => readings.length === 2)
  readings[0]?.()
  t.strictSame(await before, [])
  comes(6)
  readings[1]?.(5)
  for (const given of [...after, texts()]) t.strictSame(await given, ['5', '6'])
  t.equal(readings.length, 2)
})

t.test('what was read before it came is in the log once', async (t) => {
  const { readings, comes, texts } = byHand()
  const given = texts()
  await until(() => readings.length === 1)
  comes(4)
  readings[0]?.(4, 5)
  t.strictSame(await given, ['4', '5'])
  for (const offset of [5, 6]) comes(offset)
  t.strictSame(await texts(), ['4', '5', '6'])
})
