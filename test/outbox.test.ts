import { setImmediate as turn } from 'node:timers/promises'
import t from 'tap'
import { toEvent } from '../lib/event.ts'
import { Framed } from '../lib/frame.ts'
import { Outbox } from '../lib/outbox.ts'
import type { Link, Outlet } from '../lib/outbox.ts'
import { Roster } from '../lib/roster.ts'
import type { Member } from '../lib/roster.ts'
import type { Spared } from '../types/backplane.ts'
import type { Encoding, RealEvent } from '../types/transport.ts'
import { build, listen, sseClient, until, wsClient } from './helper.ts'

const LARGE = 65_536

class Counted implements Encoding {
  readonly name: string
  readonly made = new Map<RealEvent, number>()
  constructor (name: string) { this.name = name }

  text ({ event, text = '' }: RealEvent): string {
    return event === this.name ? '' : `${this.name}:${text};` // an event of its own name is one it has nothing to say of
  }

  frame (event: RealEvent): Uint8Array {
    this.made.set(event, (this.made.get(event) ?? 0) + 1)
    return Buffer.from(this.text(event))
  }
}

class Taker implements Outlet, Member {
  readonly id: string
  readonly user: string | null
  readonly outbox: Outbox
  readonly root: Link
  tail: Link
  open = true
  /** One for each write: the pieces of it. */
  writes: Uint8Array[][] = []
  count = 0
  offset = 0
  flowedAt = -1_000

  constructor (outbox: Outbox, encoding: Encoding, id: string, user: string | null = null) {
    this.outbox = outbox
    this.id = id
    this.user = user
    this.tail = this.root = outbox.root(encoding)
  }

  deliver (framed: Framed): void {
    if (!this.open) return
    if (this.tail.before === null) this.outbox.wait(this)
    this.tail = this.tail.step(framed)
  }

  take (link: Link): void {
    this.count += link.count
    if (link.offset > 0) this.offset = link.offset
    const pieces = link.join()
    if (link.size !== pieces.reduce((sum, { length }) => sum + length, 0)) throw new Error('the size of a link is not that of its pieces')
    if (link.size > 0) this.writes.push(pieces)
  }

  close (): void {
    this.open = false
    this.outbox.write(this)
  }

  get buffered (): number { return 0 }
  get text (): string { return this.writes.flat().map((piece) => Buffer.from(piece).toString()).join('') }
}

function framed (text: string, offset = 0, event?: string): Framed {
  return new Framed(toEvent({ data: text, ...event === undefined ? {} : { event } }, { maxBytes: Infinity }), offset)
}

function outboxOf (): { outbox: Outbox, flushes: () => number } {
  let flushes = 0
  return { outbox: new Outbox(() => { flushes++ }), flushes: () => flushes }
}

t.test('what a connection is given in one turn is one write, at the end of the turn', async (t) => {
  const { outbox, flushes } = outboxOf()
  const taker = new Taker(outbox, new Counted('a'), '1')
  for (const text of ['one', 'two', 'three']) {
    taker.deliver(framed(text))
    await null // an await in a publisher does not end the turn
  }
  t.equal(taker.writes.length, 0)
  await turn()
  t.equal(taker.writes.length, 1)
  t.equal(taker.writes[0]?.length, 1)
  t.equal(taker.text, 'a:one;a:two;a:three;')
  t.equal(taker.count, 3)
  t.equal(flushes(), 1)
  taker.deliver(framed('four'))
  await turn()
  t.equal(taker.text, 'a:one;a:two;a:three;a:four;')
  t.equal(taker.writes.length, 2)
  t.equal(flushes(), 2)
})

t.test('connections that were given the same are written the same buffer, joined once, encoded once for each encoding', async (t) => {
  const { outbox } = outboxOf()
  const encodings = [new Counted('a'), new Counted('b')] as const
  const roster = new Roster<Taker>('room/x', 'x', false)
  for (let i = 0; i < 100; i++) roster.members.add(new Taker(outbox, encodings[i % 2] as Counted, String(i)))
  for (const text of ['one', 'two', 'three']) roster.deliver(framed(text))
  await turn()
  for (const [at, { name, made }] of encodings.entries()) {
    t.strictSame([...made.values()], [1, 1, 1])
    const buffers = new Set([...roster.members].filter((_, i) => i % 2 === at).map(({ writes }) => writes[0]?.[0]))
    t.equal(buffers.size, 1)
    t.equal(Buffer.from([...buffers][0] as Uint8Array).toString(), `${name}:one;${name}:two;${name}:three;`)
  }
})

t.test('a frame that is alone is not copied', async (t) => {
  const { outbox } = outboxOf()
  const encoding = new Counted('a')
  const taker = new Taker(outbox, encoding, '1')
  const event = framed('one')
  taker.deliver(event)
  await turn()
  t.equal(taker.writes[0]?.[0], event.frame(encoding))
})

t.test('large frames are not copied, and what lies between them is joined', async (t) => {
  const { outbox } = outboxOf()
  const encoding = new Counted('a')
  const taker = new Taker(outbox, encoding, '1')
  const large = 'x'.repeat(LARGE)
  const almost = 'x'.repeat(LARGE - 'a:;'.length - 1)
  const events = [large, 'one', 'two', almost, large, large, 'three', large, 'four'].map((text) => framed(text))
  for (const event of events) taker.deliver(event)
  await turn()
  t.equal(taker.writes.length, 1)
  const pieces = taker.writes[0] as Uint8Array[]
  t.equal(pieces.length, 7)
  for (const [piece, event] of [[0, 0], [2, 4], [3, 5], [4, 6], [5, 7], [6, 8]]) t.ok(pieces[piece as number] === events[event as number]?.frame(encoding), `piece ${piece} is a frame as it was made`)
  t.equal(Buffer.from(pieces[1] as Uint8Array).toString(), `a:one;a:two;a:${almost};`)
})

t.test('an encoding with nothing to say of an event writes nothing', async (t) => {
  const { outbox } = outboxOf()
  const taker = new Taker(outbox, new Counted('a'), '1')
  taker.deliver(framed('', 0, 'a'))
  await turn()
  t.strictSame(taker.writes, [])
  t.equal(taker.count, 1)
  for (const event of [framed('x'.repeat(LARGE)), framed('', 0, 'a')]) taker.deliver(event)
  await turn()
  t.equal(taker.writes[0]?.length, 1, 'and no empty piece beside a large frame')
})

t.test('a link knows the last offset and how many of its events are not kept', async (t) => {
  const { outbox } = outboxOf()
  const root = outbox.root(new Counted('a'))
  t.equal(root.unkept, 0)
  const link = root.step(framed('direct')).step(framed('kept', 5)).step(framed('direct'))
  t.equal(link.offset, 5)
  t.equal(link.unkept, 2)
  t.equal(root.step(framed('direct')).offset, 0)
})

t.test('there is one root for an encoding, and after a turn nothing hangs on it', async (t) => {
  const { outbox } = outboxOf()
  const encoding = new Counted('a')
  const root = outbox.root(encoding)
  t.equal(outbox.root(encoding), root)
  t.not(outbox.root(new Counted('a')), root)
  const taker = new Taker(outbox, encoding, '1')
  taker.deliver(framed('one'))
  t.not(root.next, null)
  await turn()
  t.equal(root.next, null)
  t.equal(taker.tail, root)
})

t.test('a connection that closes is written what it was given before, once', async (t) => {
  const { outbox } = outboxOf()
  const taker = new Taker(outbox, new Counted('a'), '1')
  outbox.write(taker)
  t.strictSame(taker.writes, [], 'nothing waits')
  taker.deliver(framed('last words'))
  taker.close()
  t.equal(taker.text, 'a:last words;')
  taker.deliver(framed('too late'))
  await turn()
  t.equal(taker.text, 'a:last words;')
})

t.test('what is sent while a turn is written goes out in the next', async (t) => {
  const { outbox } = outboxOf()
  const encoding = new Counted('a')
  const taker = new Taker(outbox, encoding, '1')
  const other = new Taker(outbox, encoding, '2')
  const take = taker.take.bind(taker)
  taker.take = (link) => {
    take(link)
    if (taker.writes.length === 1) taker.deliver(framed('again'))
  }
  for (const one of [taker, other]) one.deliver(framed('first'))
  await turn()
  t.equal(taker.text, 'a:first;')
  await turn()
  t.equal(taker.text, 'a:first;a:again;')
  t.equal(other.text, 'a:first;')
})

t.test('on real sockets one turn is one write a connection, whatever rooms its events came from', async (t) => {
  const app = await build(t, { connections: { history: false } })
  app.get('/events', { sse: true }, async (_request, reply) => { await reply.sse().join(['a', 'b']) })
  app.get('/ws', { ws: true }, { onConnect: (connection) => connection.join(['a', 'b']) })
  const port = await listen(app)
  const clients = [await sseClient(port, '/events'), await wsClient(port, '/ws')] as const
  await until(() => app.connections.room('b').size === 2)
  const writes = new Map<string, number>()
  for (const { transport, request } of app.connections) {
    const { socket } = request.raw
    const write = socket.write.bind(socket) as (...args: unknown[]) => boolean
    writes.set(transport, 0)
    socket.write = (...args: unknown[]) => {
      writes.set(transport, writes.get(transport) as number + 1)
      return write(...args)
    }
  }
  for (let i = 0; i < 3; i++) for (const name of ['a', 'b']) await app.connections.room(name).send(`${name}${i}`)
  for (const connection of app.connections) connection.send('direct')
  await until(() => clients[0].events.length === 7 && clients[1].messages.length === 7)
  t.strictSame([...writes], [['sse', 1], ['ws', 1]])
  const expected = ['a0', 'b0', 'a1', 'b1', 'a2', 'b2', 'direct']
  t.strictSame(clients[0].events.map(({ data }) => data), expected)
  t.strictSame(clients[1].messages, expected)
  for (const client of clients) client.close()
})

// --- against an oracle that joins strings

/** A stream of numbers that a seed repeats: mulberry32. */
function random (seed: number): (below: number) => number {
  let state = seed
  return (below) => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below
  }
}

t.test('whatever joins, leaves, is spared, is sent to directly or closes, everybody is written what a naive outbox would write', async (t) => {
  const seed = Number(process.env.SEED ?? Date.now() % 1e9)
  t.comment(`SEED=${seed}`)
  const next = random(seed)
  const pick = <T>(list: readonly T[]): T => list[next(list.length)] as T
  const { outbox } = outboxOf()
  const encodings = [new Counted('a'), new Counted('b')] as const
  const rosters = Array.from({ length: 8 }, (_, i) => new Roster<Taker>(`room/${i}`, String(i), false))
  const rooms = rosters.map(() => new Set<Taker>()) // the oracle's own
  const expected = new Map<Taker, string[]>() // texts of this turn
  const seen = { events: 0, closed: 0, large: 0, spared: 0, shared: 0 }
  let people: Taker[] = []

  const arrive = (): void => {
    const taker = new Taker(outbox, pick(encodings), `c${seen.events}-${people.length}-${next(1e9)}`, pick([null, 'ada', 'bob', 'eve']))
    people.push(taker)
    expected.set(taker, [])
    for (let i = next(4); i > 0; i--) join(taker)
  }
  const join = (taker: Taker): void => {
    const at = next(8)
    rosters[at]?.members.add(taker)
    rooms[at]?.add(taker)
  }
  const leave = (taker: Taker): void => {
    const at = next(8)
    rosters[at]?.members.delete(taker)
    rooms[at]?.delete(taker)
  }
  const fresh = (): Framed => {
    seen.events++
    const large = next(100) === 0
    if (large) seen.large++
    return framed(large ? 'x'.repeat(LARGE + next(3) - 5) : `${seen.events}${'.'.repeat(next(50))}`, seen.events, next(20) === 0 ? pick(['a', 'b']) : undefined)
  }
  const given = (taker: Taker, { event }: Framed): void => { expected.get(taker)?.push((taker.root.encoding as Counted).text(event)) }
  const send = (): void => {
    const at = next(8)
    const event = fresh()
    const except: Spared | null = next(3) === 0 ? { ids: [pick(people).id, pick(people).id], users: next(4) === 0 ? ['ada'] : [] } : null
    const spared = (taker: Taker): boolean => except !== null && (except.ids.some((id) => id === taker.id) || except.users.some((user) => user === taker.user))
    const members = [...rooms[at] as Set<Taker>].filter((taker) => !spared(taker))
    seen.spared += (rooms[at]?.size ?? 0) - members.length
    if (rosters[at]?.count(except) !== members.length) throw new Error('a roster counts wrong')
    for (const taker of members) given(taker, event)
    if (except === null) rosters[at]?.deliver(event)
    else rosters[at]?.deliverExcept(event, except)
  }
  const check = (taker: Taker): void => {
    const texts = (expected.get(taker) as string[]).filter((text) => text !== '')
    const whole = texts.join('')
    if (taker.text !== whole) t.fail(`SEED=${seed}: ${taker.text.slice(0, 200)} instead of ${whole.slice(0, 200)}`)
    if (taker.writes.length !== (whole === '' ? 0 : 1)) t.fail(`SEED=${seed}: ${taker.writes.length} writes in one turn`)
    let pieces = 0
    for (const [i, text] of texts.entries()) if (text.length >= LARGE || i === 0 || (texts[i - 1] as string).length >= LARGE) pieces++
    if (whole !== '' && taker.writes[0]?.length !== pieces) t.fail(`SEED=${seed}: ${taker.writes[0]?.length} pieces instead of ${pieces}`)
    if (taker.count !== expected.get(taker)?.length) t.fail(`SEED=${seed}: ${taker.count} events were counted instead of ${expected.get(taker)?.length}`)
  }
  const close = (taker: Taker): void => {
    seen.closed++
    taker.close()
    check(taker)
    for (const [at, members] of rooms.entries()) {
      members.delete(taker)
      rosters[at]?.members.delete(taker)
    }
    people = people.filter((other) => other !== taker)
    expected.delete(taker)
    arrive()
  }

  while (people.length < 60) arrive()
  for (let turns = 0; turns < 1_500; turns++) {
    for (let i = next(12); i > 0; i--) {
      const what = next(20)
      const taker = pick(people)
      if (what < 8) send()
      else if (what < 13) join(taker)
      else if (what < 15) leave(taker)
      else if (what === 19) close(taker)
      else {
        const event = fresh()
        given(taker, event)
        taker.deliver(event)
      }
    }
    await turn()
    const buffers = people.flatMap(({ writes }) => writes[0] ?? [])
    seen.shared += buffers.length - new Set(buffers).size
    for (const taker of people) {
      check(taker)
      taker.writes = []
      taker.count = 0
      expected.set(taker, [])
    }
    for (const { made } of encodings) {
      if ([...made.values()].some((times) => times !== 1)) t.fail(`SEED=${seed}: an event was encoded more than once`)
      made.clear()
    }
  }
  t.ok(Object.values(seen).every((count) => count > 10), JSON.stringify(seen))
})

/** Text in brackets, so that it can be seen what was made bytes of at once. */
class Packing extends Counted {
  pack (text: string): Uint8Array { return Buffer.from(`[${text}]`) }
  override frame (event: RealEvent): Uint8Array { return this.pack(this.text(event)) }
}

function give (taker: Taker, text: string): void {
  if (taker.tail.before === null) taker.outbox.wait(taker)
  taker.tail = taker.tail.add(toEvent(text, { maxBytes: Infinity }), Infinity) as Link
}

t.test('the text of a source\'s events becomes bytes at once, where nothing stands between them', async (t) => {
  const { outbox } = outboxOf()
  const packing = new Packing('p')
  const [one, other] = [new Taker(outbox, packing, '1'), new Taker(outbox, packing, '2')]
  const shared = framed('room', 7)
  for (const text of ['a', 'ü', 'c']) give(one, text)
  for (const taker of [one, other]) taker.deliver(shared)
  give(one, 'd')
  give(other, 'e')
  const { bytes } = one.tail
  await turn()
  t.strictSame([one.text, other.text], ['[p:a;p:ü;p:c;][p:room;][p:d;]', '[p:room;][p:e;]'])
  t.equal(bytes + '[]'.length, Buffer.byteLength(one.text), 'what waits is counted but for what is put around it')
  t.strictSame([one.count, one.offset, other.count, other.offset], [5, 7, 2, 7])
  const plain = new Taker(outbox, new Counted('c'), '3')
  give(plain, 'x')
  give(plain, 'y')
  t.equal(plain.tail.unkept, 2)
  give(one, 'z')
  give(one, 'z')
  one.deliver(framed('kept', 8))
  t.equal(one.tail.unkept, 2)
  one.close()
  await turn()
  t.equal(plain.text, 'c:x;c:y;', 'an encoding whose frames cannot be joined makes each by itself')
  t.ok(one.text.endsWith('[p:z;p:z;][p:kept;]'), 'a close lets out what waited')
})

t.test('text of a source has room by its bytes, however many a character needs', (t) => {
  const { outbox } = outboxOf()
  const one = new Taker(outbox, new Packing('p'), '1')
  const FRAMING = 32
  const add = (text: string, room: number): Link | null => one.tail.add(toEvent(text, { maxBytes: Infinity }), room)
  const wide = 'ü'.repeat(50)
  t.equal(add(wide, 'p:;'.length + 100 + FRAMING - 1), null)
  one.tail = add(wide, 'p:;'.length + 100 + FRAMING) as Link
  t.equal(one.tail.bytes, 103)
  t.equal(add('€', 103 + 6 + FRAMING - 1), null)
  one.tail = add('€', 103 + 6 + FRAMING) as Link
  t.equal(one.tail.bytes, 109)
  one.deliver(framed('room'))
  t.equal(one.tail.bytes, 109 + '[]'.length + '[p:room;]'.length)
  t.equal(add('x', one.tail.bytes + 4 + FRAMING - 1), null, 'behind what is settled too')
  t.equal(add('x', one.tail.bytes + 4 + FRAMING)?.bytes, one.tail.bytes + 4)
  t.end()
})

t.test('a source that gives an event in each turn is written to in every eighth turn, a lone event at once', async (t) => {
  let now = 50
  const outbox = new Outbox(() => {}, () => now)
  const packing = new Packing('p')
  const taker = new Taker(outbox, packing, '1')
  const each = async (...texts: string[]): Promise<number[]> => {
    const writes: number[] = []
    for (const text of texts) {
      give(taker, text)
      await turn()
      writes.push(taker.writes.length)
    }
    return writes
  }
  t.strictSame(await each(...'abcdefghijklmnopq'), [1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3])
  t.equal(taker.text, '[p:a;][p:b;p:c;p:d;p:e;p:f;p:g;p:h;p:i;][p:j;p:k;p:l;p:m;p:n;p:o;p:p;p:q;]')
  now += 3
  t.strictSame(await each('r'), [3])
  now += 1
  t.strictSame(await each('s'), [4], 'nor for longer than 4 ms')
  now += 4
  t.strictSame(await each('t'), [5], 'it did not flow')
  give(taker, 'u')
  for (let i = 0; i < 7; i++) {
    await turn()
    t.equal(taker.writes.length, 5)
  }
  await turn()
  t.equal(taker.writes.length, 6, 'nothing has to follow')
  t.strictSame(await each('x'.repeat(16_384)), [7], 'nor does what fills a write wait')
  give(taker, 'v')
  taker.deliver(framed('room'))
  await turn()
  t.ok(taker.text.endsWith('[p:v;][p:room;]'), 'nor what stands before the event of a room')
  t.strictSame(await each('w'), [8])
  taker.close()
  t.ok(taker.text.endsWith('[p:w;]'), 'a close does not wait')
  await turn()
  t.equal(taker.writes.length, 9)
  const other = new Taker(outbox, packing, '2')
  t.strictSame(await each('1', '2'), [9, 9])
  give(other, 'x')
  await turn()
  t.equal(other.writes.length, 1, 'each for itself')
})

t.test('events of sources and of rooms keep their order, whatever their sizes', async (t) => {
  const { outbox } = outboxOf()
  const packing = new Packing('p')
  const takers = Array.from({ length: 8 }, (_, i) => new Taker(outbox, packing, String(i)))
  const expected = takers.map(() => '')
  let seed = 7
  const random = (below: number): number => (seed = (seed * 48_271) % 2_147_483_647) % below
  for (let step = 0; step < 3_000; step++) {
    const text = `${step}${'x'.repeat(random(200) === 0 ? LARGE : random(30))}`
    if (random(3) > 0) {
      const at = random(takers.length)
      give(takers[at] as Taker, text)
      expected[at] += `p:${text};`
    } else {
      const event = framed(text, random(2) * step)
      takers.forEach((taker, at) => {
        if (random(4) === 0) return
        taker.deliver(event)
        expected[at] += `p:${text};`
      })
    }
    if (random(40) === 0) await turn()
  }
  for (let i = 0; i < 8; i++) await turn() // what flows may wait so long
  t.strictSame(takers.map(({ text }) => text.replace(/[[\]]/g, '')), expected)
})

t.test('after a turn of many, one of few writes to these alone, and one of many to all', async (t) => {
  const { outbox } = outboxOf()
  const encoding = new Counted('c')
  const crowd = Array.from({ length: 2_000 }, (_, i) => new Taker(outbox, encoding, String(i)))
  const few = crowd.slice(0, 3)
  for (const takers of [crowd, few, crowd, few, few, crowd]) {
    const event = framed(`${takers.length}`)
    for (const taker of takers) taker.deliver(event)
    await turn()
  }
  t.equal(crowd.at(-1)?.text, 'c:2000;c:2000;c:2000;')
  t.equal(few[2]?.text, 'c:2000;c:3;c:2000;c:3;c:3;c:2000;')
})

t.test('those that wait are looked at some at a time, each before any of them is written to, and none that is written already', async (t) => {
  const outbox = new Outbox(() => {})
  const encoding = new Counted('a')
  const done: string[] = []
  class Seen extends Taker {
    override get buffered (): number { done.push('look'); return 1 }
    override take (): void { done.push('take') }
  }
  for (let i = 0; i < 70; i++) new Seen(outbox, encoding, String(i)).deliver(framed('x'))
  outbox.flush()
  const of = (what: string, count: number): string[] => Array<string>(count).fill(what)
  t.strictSame(done, [32, 32, 6].flatMap((count) => [...of('look', count), ...of('take', count)]))
})
