import fc from 'fast-check'
import t from 'tap'
import { event, memory } from '../lib/index.ts'
import type { Connection, Room, Sendable } from '../lib/index.ts'
import { Room as RoomHandle } from '../lib/room.ts'
import { connect, encodings, node, turn } from './fake.ts'
import type { Fake, FakeNode } from './fake.ts'
import { until } from './helper.ts'
import { site, transports } from './site.ts'

/** How often something in a map or set is looked up, deleted or walked over. */
function counting (work: () => void): number {
  const methods = [[Map.prototype, 'get'], [Map.prototype, 'has'], [Map.prototype, 'delete'], [Set.prototype, 'has'], [Set.prototype, 'delete'],
    [Object.getPrototypeOf(new Map().values()), 'next'], [Object.getPrototypeOf(new Set().values()), 'next']] as Array<[Record<string, (...args: unknown[]) => unknown>, string]>
  let count = 0
  const restore = methods.map(([prototype, name]) => {
    const method = prototype[name] as (...args: unknown[]) => unknown
    prototype[name] = function (...args) {
      count++
      return method.apply(this, args)
    }
    return () => { prototype[name] = method }
  })
  try {
    work()
  } finally {
    for (const back of restore) back()
  }
  return count
}

function dataOf ({ wire }: Fake): unknown[] { return wire.events.filter(({ event }) => event !== 'ready').map(({ data }) => data) }

t.test('streams and WebSockets of one room get the same events in the same order', async (t) => {
  const { app: { connections }, open } = await site(t)
  const all = [await open('sse'), await open('ws'), await open('sse'), await open('ws')]
  for (const { connection } of all) t.equal(await connection.join('room'), true)
  const room = connections.room('room')
  const expected: unknown[] = []
  for (let i = 0; i < 50; i++) {
    if (i % 3 === 0) await room.send({ event: 'n', data: i })
    else void room.send({ event: 'n', data: i })
    expected.push(i)
  }
  for (const one of all) t.strictSame(await one.wait(50), expected)
})

t.test('a room reaches its members and nobody else', async (t) => {
  const { app: { connections }, open } = await site(t)
  const [a, b, both] = [await open('sse'), await open('ws'), await open('ws')]
  await a.connection.join('a')
  await b.connection.join('b')
  await both.connection.join(['a', 'b'])
  t.match(await connections.room('a').send({ event: 'n', data: 'to a' }), { accepted: true, members: 2, nodes: 1 })
  t.match(await connections.room('b').send({ event: 'n', data: 'to b' }), { accepted: true, members: 2 })
  t.match(await connections.room('c').send({ event: 'n', data: 'to nobody' }), { accepted: true, members: 0, nodes: 0 })
  await connections.broadcast({ event: 'n', data: 'end' })
  t.strictSame(await a.wait(2), ['to a', 'end'])
  t.strictSame(await b.wait(2), ['to b', 'end'])
  t.strictSame(await both.wait(3), ['to a', 'to b', 'end'])
})

t.test('looking at a room creates nothing', async (t) => {
  const { registry } = await node(t)
  const room = registry.room('room')
  t.equal(room.name, 'room')
  t.equal(room.size, 0)
  t.equal(room.has(null as never), false)
  t.strictSame([...room.members()], [])
  t.strictSame(await room.presence(), [])
  t.strictSame(await room.history(), { events: [], complete: true })
  await room.clear()
  await room.disconnect()
  t.strictSame(await room.send({ data: 1 }).then(({ members }) => members), 0)
  t.strictSame([...registry.rooms()], [])
  t.equal(registry.stats().rooms, 0)
})

t.test('a room exists exactly while it has members', async (t) => {
  const one = await node(t)
  const { registry } = one
  const [a, b] = [connect(one).connection, connect(one).connection]
  const names = (): string[] => [...registry.rooms()].sort()
  void a.join('x')
  t.strictSame(names(), ['x'], 'at once, in the same tick')
  void b.join(['x', 'y'])
  t.strictSame(names(), ['x', 'y'])
  t.strictSame([registry.room('x').size, registry.room('y').size], [2, 1])
  void a.leave('x')
  t.strictSame([registry.room('x').size, registry.room('x').has(a), registry.room('x').has(b)], [1, false, true])
  t.strictSame([...registry.room('x').members()], [b])
  b.close()
  t.strictSame(names(), [])
  t.equal(registry.stats().rooms, 0)
})

t.test('the rooms of a connection are those it joined', async (t) => {
  const one = await node(t)
  const { connection } = connect(one, { user: 'ada' })
  t.strictSame([...connection.rooms], [], 'neither everybody nor its user is a room')
  t.equal(await connection.join('x'), true)
  t.equal(await connection.join(['y', 'z', 'y']), true)
  t.equal(await connection.join('x'), true, 'joining twice is joining')
  t.equal(await connection.join([]), true)
  t.strictSame([...connection.rooms], ['x', 'y', 'z'])
  await connection.leave('y')
  await connection.leave('y')
  await connection.leave('never joined')
  t.strictSame([...connection.rooms], ['x', 'z'])
  connection.close()
  t.strictSame([...connection.rooms], [])
  t.equal(await connection.join('x'), false)
  t.strictSame([...one.registry.rooms()], [])
})

t.test('join says false when the connection is closed or has left meanwhile', async (t) => {
  const one = await node(t)
  const closed = connect(one).connection
  const joining = closed.join(['x', 'y'])
  closed.close()
  t.equal(await joining, false)
  const left = connect(one).connection
  const both = left.join(['x', 'y'])
  void left.leave('y')
  t.equal(await both, false)
  t.strictSame([...left.rooms], ['x'])
  const back = connect(one).connection
  const first = back.join('x')
  void back.leave('x')
  t.equal(await back.join('x'), true)
  t.equal(await first, true, 'it is in the room')
})

t.test('who closes while the backplane does not answer is told so, and not kept waiting until it does', async (t) => {
  const backplane = memory()
  const one = await node(t, {}, backplane)
  const subscribe = backplane.subscribe.bind(backplane)
  let answer = (): void => {}
  backplane.subscribe = async (node, topic) => {
    if (topic === 'room/x') await new Promise<void>((resolve) => { answer = resolve })
    return await subscribe(node, topic)
  }
  const { connection } = connect(one)
  const other = connect(one).connection
  const [both, again] = [connection.join(['x', 'y']), connection.join('x')]
  const stays = other.join('x')
  connection.close()
  t.strictSame(await Promise.all([both, again]), [false, false])
  answer()
  t.equal(await stays, true)
  t.strictSame([...other.rooms], ['x'])
})

t.test('join throws at once for mistakes of the caller only', async (t) => {
  const one = await node(t, { maxRooms: 3 })
  const { connection } = connect(one)
  const nobody = connect(one).connection
  for (const name of ['', 'x'.repeat(257), 'a\nb', '\0', '\ud800', 5, null, undefined, {}, [['x']], [5], ['']]) {
    t.throws(() => connection.join(name as never), { code: 'FST_ERR_REAL_ROOM_NAME' })
  }
  t.throws(() => connection.join(['x', '']), { code: 'FST_ERR_REAL_ROOM_NAME' })
  t.strictSame([...connection.rooms], [], 'none of them was joined')
  for (const presence of [false, 5, 'ada', null, { key: 5 }, { key: '' }, {}, { key: 'k', meta: 1n }, { key: 'k', meta: () => {} }]) {
    t.throws(() => nobody.join('x', { presence: presence as never }), { code: 'FST_ERR_REAL_ARGUMENT' })
  }
  t.strictSame([...nobody.rooms], [])
  t.throws(() => nobody.join('x', null as never), { code: 'FST_ERR_REAL_ARGUMENT' })
  t.throws(() => connection.join(['a', 'b', 'c', 'd']), { code: 'FST_ERR_REAL_TOO_MANY_ROOMS' })
  t.strictSame([...connection.rooms], [])
  t.equal(await connection.join(['a', 'b', 'c', 'a']), true)
  t.throws(() => connection.join('d'), { code: 'FST_ERR_REAL_TOO_MANY_ROOMS', statusCode: 429 })
  t.equal(await connection.join('a'), true, 'it is in it already')
  await connection.leave('b')
  t.equal(await connection.join('d'), true)
  connection.close()
  t.throws(() => connection.join(''), { code: 'FST_ERR_REAL_ROOM_NAME' })
})

t.test('leave rejects nothing and throws for a name that is none', async (t) => {
  const { connection } = connect(await node(t))
  t.throws(() => connection.leave(''), { code: 'FST_ERR_REAL_ROOM_NAME' })
  t.throws(() => connection.leave(['x'] as never), { code: 'FST_ERR_REAL_ROOM_NAME' })
})

t.test('a send throws at once for mistakes of the caller', async (t) => {
  const { registry } = await node(t, { maxEventBytes: 100 })
  const room = registry.room('room')
  const bad: Array<[unknown, string]> = [
    [{ text: 'x' }, 'FST_ERR_REAL_EVENT'], [{}, 'FST_ERR_REAL_EVENT'], [null, 'FST_ERR_REAL_EVENT'], [undefined, 'FST_ERR_REAL_EVENT'], [7, 'FST_ERR_REAL_EVENT'], [['x'], 'FST_ERR_REAL_EVENT'],
    [{ event: 'a\nb' }, 'FST_ERR_REAL_EVENT'], [{ event: 'error' }, 'FST_ERR_REAL_EVENT'], [{ data: 1n }, 'FST_ERR_REAL_DATA'], [{ data: () => {} }, 'FST_ERR_REAL_DATA'],
    [{ id: '', data: 1 }, 'FST_ERR_REAL_EVENT'], ['x'.repeat(101), 'FST_ERR_REAL_TOO_LARGE'], [{ data: Buffer.alloc(101) }, 'FST_ERR_REAL_TOO_LARGE'], [{ data: 'é'.repeat(51) }, 'FST_ERR_REAL_TOO_LARGE']
  ]
  for (const [event, code] of bad) t.throws(() => room.send(event as Sendable), { code })
  for (const except of [5, null, {}, { user: 5 }, [null], [{}], { id: 5 }]) t.throws(() => room.send('x', { except: except as never }), { code: 'FST_ERR_REAL_ARGUMENT' })
  t.throws(() => room.send('x', null as never), { code: 'FST_ERR_REAL_ARGUMENT' })
  t.throws(() => room.send({ data: 1 }, { once: true }), { code: 'FST_ERR_REAL_EVENT' })
  t.throws(() => room.disconnect(5 as never), { code: 'FST_ERR_REAL_ARGUMENT' })
  t.throws(() => room.history({ limit: 0 }), { code: 'FST_ERR_REAL_ARGUMENT' })
  t.throws(() => room.history({ after: 5 as never }), { code: 'FST_ERR_REAL_ARGUMENT' })
  for (const name of ['', 5, null, undefined, 'x'.repeat(257), '\x7f']) {
    t.throws(() => registry.room(name as string), { code: 'FST_ERR_REAL_ROOM_NAME' })
    t.throws(() => registry.user(name as string), { code: 'FST_ERR_REAL_ROOM_NAME' })
  }
  t.match(await room.send('x'.repeat(100)), { accepted: true })
})

t.test('with once an id is delivered once, and the receipt says so', async (t) => {
  const backplane = memory()
  const [here, there] = [await node(t, {}, backplane), await node(t, {}, backplane)]
  const all = [connect(here), connect(there)]
  for (const { connection } of all) await connection.join('room')
  const first = await here.registry.room('room').send({ id: 'key', data: 1 }, { once: true })
  t.match(first, { accepted: true, members: 1, nodes: 2 })
  t.notOk(first.duplicate)
  t.strictSame(await there.registry.room('room').send({ id: 'key', data: 2 }, { once: true }), { accepted: true, members: 0, id: first.id, duplicate: true, nodes: 0 })
  t.notOk((await here.registry.room('other').send({ id: 'key', data: 3 }, { once: true })).duplicate, 'a key is a room\'s own')
  t.notOk((await here.registry.room('room').send({ id: 'key', data: 4 })).duplicate, 'not without once')
  await turn()
  for (const one of all) t.strictSame(dataOf(one), [1, 4])
  const unkept = await node(t, { history: false })
  t.throws(() => unkept.registry.room('room').send({ id: 'key', data: 1 }, { once: true }), { code: 'FST_ERR_REAL_EVENT' })
})

t.test('an id that was sent without once is a key too, as long as an event with it is kept', async (t) => {
  const room = (await node(t, { history: { events: 2 } })).registry.room('room')
  await room.send({ id: 'key', data: 1 })
  const second = await room.send({ id: 'key', data: 2 })
  await room.send({ id: 'other', data: 3 })
  t.match(await room.send({ id: 'key', data: 4 }, { once: true }), { duplicate: true, id: second.id })
  await room.send({ id: 'another', data: 5 })
  t.notOk((await room.send({ id: 'key', data: 6 }, { once: true })).duplicate)
})

t.test('everybody leaves a room that is cleared, on every node, and nobody is disconnected', async (t) => {
  const backplane = memory()
  const [here, there] = [await site(t, { connections: { backplane } }), await site(t, { connections: { backplane } })]
  const all = [await here.open('sse'), await here.open('ws'), await there.open('sse'), await there.open('ws')]
  for (const { connection } of all) await connection.join(['room', 'other'])
  await here.app.connections.room('room').clear()
  for (const { connection } of all) {
    t.strictSame([...connection.rooms], ['other'])
    t.equal(connection.open, true)
  }
  t.strictSame([...here.app.connections.rooms(), ...there.app.connections.rooms()], ['other', 'other'])
})

t.test('every member of a room is disconnected, on every node, with the reason', async (t) => {
  const backplane = memory()
  const [here, there] = [await site(t, { connections: { backplane } }), await site(t, { connections: { backplane } })]
  const all = [await here.open('sse'), await here.open('ws'), await there.open('sse'), await there.open('ws')]
  for (const { connection } of all) await connection.join('room')
  const spared = await there.open('ws')
  await spared.connection.join('other')
  await here.app.connections.room('room').disconnect('over')
  for (const [index, { connection, ended }] of all.entries()) {
    t.equal(connection.open, false)
    t.equal(await ended(), transports[index % 2] === 'sse' ? 0 : 1000)
    const { ends } = index < 2 ? here : there
    await until(() => ends.has(connection))
    t.match(ends.get(connection), { code: 1000, reason: 'over', rooms: ['room'] })
  }
  t.equal(spared.connection.open, true)
  await here.app.connections.room('other').disconnect()
  await until(() => there.ends.has(spared.connection))
  t.match(there.ends.get(spared.connection), { reason: 'closed' })
})

t.test('when a send resolves the members have it, and what is sent after comes after it', async (t) => {
  const { app: { connections }, open } = await site(t)
  const all = [await open('sse'), await open('ws')]
  for (const { connection } of all) await connection.join('room')
  for (let i = 0; i < 20; i++) {
    await connections.room('room').send({ event: 'n', data: `room ${i}` })
    for (const { connection } of all) connection.send({ event: 'n', data: `direct ${i}` })
  }
  for (const { connection } of all) await connections.room('room').send({ event: 'n', data: 'last' }).then(() => connection.close())
  const expected = Array.from({ length: 20 }, (_, i) => [`room ${i}`, `direct ${i}`]).flat()
  for (const [index, one] of all.entries()) {
    await one.ended()
    t.strictSame(one.data('n'), [...expected, ...new Array(index + 1).fill('last')], 'what was sent before a close still goes out')
  }
})

t.test('a room costs one write for a connection in a turn, and one frame for all of one encoding', async (t) => {
  const one = await node(t, { history: false })
  const all = Array.from({ length: 20 }, (_, i) => connect(one, { encoding: i % 2 === 0 ? encodings.one : encodings.other }))
  for (const { connection } of all) await connection.join('room')
  const before = [encodings.one.made, encodings.other.made]
  for (let i = 0; i < 5; i++) await one.registry.room('room').send({ data: i })
  await turn()
  t.strictSame([encodings.one.made, encodings.other.made].map((made, i) => made - (before[i] as number)), [5, 5])
  for (const fake of all) t.strictSame([fake.wire.writes, dataOf(fake)], [1, [0, 1, 2, 3, 4]])
})

t.test('leaving costs what the connection is in, not what there is', async (t) => {
  const one = await node(t)
  const { registry } = one
  for (let i = 0; i < 20_000; i += 100) await connect(one).connection.join(Array.from({ length: 100 }, (_, j) => `room ${i + j}`))
  const few = Array.from({ length: 50 }, () => connect(one).connection)
  for (const connection of few) void connection.join(['a', 'b'])
  const visits = counting(() => { for (const connection of few) connection.close() })
  t.ok(visits > 50 && visits < 50 * 100, `${visits} visits to maps and sets for 50 connections in 2 of 20,002 rooms`)
  t.equal(registry.stats().rooms, 20_000)
})

t.test('a send from inside a listener comes after what is being sent, for every member', async (t) => {
  const { app: { connections }, open } = await site(t)
  const all = [await open('sse'), await open('ws'), await open('ws'), await open('sse')]
  const room = connections.room('room')
  connections.on('join', (_connection, name) => { void room.send({ event: 'n', data: `joined ${name}` }) })
  connections.on('leave', (_connection, name) => { void room.send({ event: 'n', data: `left ${name}` }) })
  connections.on('deliver', (topic, { data }) => {
    if (topic === 'room/room' && typeof data === 'number') void room.send({ event: 'n', data: `echo ${data}` })
  })
  for (const { connection } of all) await connection.join('room')
  void room.send({ event: 'n', data: 1 })
  void room.send({ event: 'n', data: 2 })
  await all[1]?.connection.join('other')
  await all[2]?.connection.leave('room')
  await room.send({ event: 'n', data: 'end' })
  const orders = []
  for (const one of all.filter((_, index) => index !== 2)) {
    await until(() => one.data('n').includes('end'))
    const data = one.data('n')
    orders.push(data.slice(data.indexOf(1)))
  }
  t.strictSame(orders[0], [1, 'echo 1', 2, 'echo 2', 'joined other', 'left room', 'end'])
  for (const order of orders) t.strictSame(order, orders[0])
})

t.test('a handle holds no state: it may be kept or made again', async (t) => {
  const one = await node(t)
  const room: Room = one.registry.room('room')
  const user = one.registry.user('room')
  const { connection } = connect(one)
  await connection.join('room')
  t.strictSame([room.size, one.registry.room('room').size, user.size], [1, 1, 0], 'a user is another name space')
  await connection.leave('room')
  await connection.join('room')
  t.strictSame([...room.members()], [connection])
  t.not(one.registry.room('room'), room)
  t.equal(room instanceof RoomHandle, true)
})

t.test('what is no connection is in no room, however many are', async (t) => {
  const one = await node(t)
  const room = one.registry.room('room')
  for (let i = 0; i < 20; i++) {
    await connect(one).connection.join('room')
    for (const what of [null, undefined, 'id', {}]) t.equal(room.has(what as never), false, `${room.size}`)
  }
})

t.test('members may come and go while they are walked', async (t) => {
  const one = await node(t)
  const all = Array.from({ length: 10 }, () => connect(one).connection)
  for (const connection of all) await connection.join('room')
  let walked = 0
  for (const connection of one.registry.room('room').members()) {
    walked++
    connection.close()
  }
  t.strictSame([walked, one.registry.room('room').size], [10, 0])
  for (const connection of one.registry) connection.close()
  t.equal(one.registry.size, 0)
})

// --- any interleaving, against a model

const ROOMS = ['a', 'b', 'c']
interface Model { rooms: Map<string, Set<number>>, open: Set<number>, given: unknown[][], echoing: boolean }

const step = fc.oneof(
  fc.record({ op: fc.constant('join' as const), who: fc.nat(5), room: fc.constantFrom(...ROOMS) }),
  fc.record({ op: fc.constant('leave' as const), who: fc.nat(5), room: fc.constantFrom(...ROOMS) }),
  fc.record({ op: fc.constant('close' as const), who: fc.nat(5), room: fc.constantFrom(...ROOMS) }),
  fc.record({ op: fc.constant('clear' as const), who: fc.nat(5), room: fc.constantFrom(...ROOMS) }),
  fc.record({ op: fc.constant('turn' as const), who: fc.nat(5), room: fc.constantFrom(...ROOMS) }),
  { weight: 4, arbitrary: fc.record({ op: fc.constant('send' as const), who: fc.nat(5), room: fc.constantFrom(...ROOMS) }) },
  fc.record({ op: fc.constant('spare' as const), who: fc.nat(5), room: fc.constantFrom(...ROOMS) })
)
type Step = typeof step extends fc.Arbitrary<infer S> ? S : never

async function run (nodes: FakeNode[], steps: Step[], echoing: boolean): Promise<void> {
  const fakes = Array.from({ length: 6 }, (_, i) => connect(nodes[i % nodes.length] as FakeNode, { encoding: i < 3 ? encodings.one : encodings.other, bare: i % 2 === 0, broadcast: false }))
  const model: Model = { rooms: new Map(), open: new Set(fakes.keys()), given: fakes.map(() => []), echoing }
  const member = (room: string): Set<number> => model.rooms.get(room) ?? new Set()
  const deliver = (room: string, data: unknown, spared = -1): void => {
    for (const who of member(room)) if (who !== spared) model.given[who]?.push(data)
  }
  const exit = (who: number, room: string): void => {
    const members = member(room)
    if (!members.delete(who)) return
    if (members.size === 0) model.rooms.delete(room)
    if (echoing) deliver(room, `left ${room}`)
  }
  if (echoing) {
    nodes.forEach(({ registry }) => {
      registry.on('join', (_connection, room) => { void registry.room(room).send({ data: `joined ${room}` }) })
      registry.on('leave', (_connection, room) => { void registry.room(room).send({ data: `left ${room}` }) })
    })
    nodes[0]?.registry.on('deliver', (topic, { data }) => {
      if (typeof data === 'number') void nodes[0]?.registry.room(topic.slice('room/'.length)).send({ data: `echo ${data}` })
    })
  }
  let last = 0
  for (const { op, who, room } of steps) {
    const fake = fakes[who] as Fake
    const { registry } = nodes[last % nodes.length] as FakeNode
    if (op === 'join') {
      void fake.connection.join(room)
      if (model.open.has(who) && !member(room).has(who)) {
        model.rooms.set(room, member(room).add(who))
        if (echoing) deliver(room, `joined ${room}`)
      }
    } else if (op === 'leave') {
      void fake.connection.leave(room)
      exit(who, room)
    } else if (op === 'close') {
      const rooms = [...fake.connection.rooms]
      fake.connection.close()
      model.open.delete(who)
      for (const name of rooms) exit(who, name)
    } else if (op === 'clear') {
      void registry.room(room).clear()
      model.rooms.delete(room)
    } else if (op === 'turn') {
      await turn()
    } else {
      const echoes = echoing && nodes[0]?.registry.room(room).size !== 0
      const data = echoes ? ++last : `quiet ${++last}`
      void registry.room(room).send({ data }, op === 'spare' ? { except: fake.connection } : {})
      deliver(room, data, op === 'spare' ? who : -1)
      if (echoes) deliver(room, `echo ${data}`)
    }
    for (const name of ROOMS) {
      const sizes = nodes.map(({ registry }) => registry.room(name).size).reduce((sum, size) => sum + size)
      if (sizes !== member(name).size) throw new Error(`room ${name} has ${sizes} members instead of ${member(name).size} after ${op}`)
      for (const { registry } of nodes) {
        if ([...registry.rooms()].includes(name) !== (registry.room(name).size > 0)) throw new Error(`room ${name} is there without members, or not there with members`)
      }
    }
  }
  await turn()
  await turn()
  for (const [who, fake] of fakes.entries()) {
    const [got, expected] = [JSON.stringify(dataOf(fake)), JSON.stringify(model.given[who])]
    if (got !== expected) throw new Error(`connection ${who} got ${got} instead of ${expected}`)
  }
  for (const { connection } of fakes) connection.close()
  await turn()
  for (const { registry } of nodes) {
    const { connections, rooms, users } = registry.stats()
    if (connections + rooms + users !== 0) throw new Error(`something stays: ${JSON.stringify(registry.stats())}`)
  }
}

for (const count of [1, 2]) {
  for (const echoing of [false, true]) {
    t.test(`any interleaving of joins, leaves, sends and closes gives every member one order${echoing ? ', with sends from inside listeners' : ''}, on ${count} node${count === 1 ? '' : 's'}`, async (t) => {
      let steps = 0
      await fc.assert(fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (given) => {
        steps += given.length
        const backplane = memory()
        const nodes = []
        for (let i = 0; i < count; i++) nodes.push(await node(t, {}, backplane))
        await run(nodes, given, echoing)
      }), { numRuns: 150 })
      t.ok(steps > 500)
    })
  }
}

// --- hostile names

const hostile = [
  '__proto__', 'constructor', 'toString', 'prototype', 'hasOwnProperty', 'valueOf', '*', '>', '?', '[a-z]', 'a.*', 'a.>', 'room/', '/', '//', 'room/x', 'user/x', 'all', 'nodes', 'presence/x', '..', '../x', '%00', '%2e%2e',
  ':', 'a:b', 'a::b', '{tag}', '}{', ' ', '  x', 'x ', '\u00a0', '\u2028', '\u2029', '\u0085', '\u202e', '\u2066abc', '\u200b', '\ufeff', '\ufffd', 'é', 'e\u0301', '💥', '👩‍👩‍👧', '\u{10ffff}', '0', '-1', 'null', 'undefined', 'NaN', 'true', '1e400',
  '\'; drop table', '<script>', '$' + '{x}', '$where', '\\', '"', '`', 'data: x', 'id: 1', 'x'.repeat(256)
]
const refused = ['', '\0', 'a\0b', '\n', 'a\r\nb', '\t', '\x1b[31m', '\x7f', '\ud800', 'a\udfff', 'x'.repeat(257), 'x'.repeat(100_000), ['x'], [], {}, { toString: () => 'x' }, 5, 0, NaN, true, null, undefined, Symbol('x'), () => 'x', new String('x')] // eslint-disable-line no-new-wrappers

t.test('every name is a name of its own, for rooms, users, keys, events and ids', async (t) => {
  t.ok(hostile.length >= 60)
  const backplane = memory()
  const nodes = [await node(t, { maxRooms: 0 }, backplane), await node(t, { maxRooms: 0 }, backplane)] as const
  const [{ registry }] = nodes
  const pristine = Object.getOwnPropertyNames(Object.prototype).sort()
  const everywhere = connect(nodes[1]).connection
  for (const name of hostile) {
    const one = connect(nodes[0], { user: name, encoding: encodings.other })
    const other = connect(nodes[1], { encoding: encodings.other })
    t.equal(await one.connection.join(name, { presence: { meta: name } }), true)
    t.equal(await everywhere.join(name), true)
    t.strictSame([...one.connection.rooms], [name])
    t.equal(registry.room(name).size, 1)
    t.match(await registry.room(name).send({ data: `room ${name}` }), { accepted: true, members: 1, nodes: 2 })
    t.match(await registry.user(name).send({ data: `user ${name}` }), { accepted: true, members: 1, nodes: 1 })
    t.match(await registry.room(name).send({ data: 'spared' }, { except: [{ user: name }, name] }), { accepted: true, members: 0 })
    t.strictSame(await registry.room(name).presence(), [{ key: name, metas: [name] }])
    t.equal((await registry.room(name).history()).events.length, 2)
    t.equal(one.connection.send({ event: name.replace(/[\r\n]/g, '-'), data: name }), true)
    t.equal(await nodes[1].registry.leave(one.connection.id, name), true)
    t.strictSame([...one.connection.rooms], [])
    t.equal(await nodes[1].registry.close(name), false, 'a name is no id')
    await turn()
    t.strictSame(dataOf(one).filter((data) => typeof data === 'string'), [`room ${name}`, `user ${name}`, name])
    t.strictSame(dataOf(other), [])
    one.connection.close()
    other.connection.close()
  }
  t.strictSame([...nodes[1].registry.rooms()].sort(), [...hostile].sort())
  everywhere.close()
  await turn()
  t.strictSame([...registry.rooms(), ...nodes[1].registry.rooms()], [])
  t.strictSame(Object.getOwnPropertyNames(Object.prototype).sort(), pristine)
})

t.test('what is no name is refused by every verb', async (t) => {
  const one = await node(t)
  const { registry } = one
  const { connection } = connect(one)
  for (const name of refused as never[]) {
    const verbs: Array<() => unknown> = [() => registry.room(name), () => registry.user(name), () => connection.join([name]), () => connection.leave(name), () => registry.leave(connection.id, name)]
    for (const verb of verbs) t.throws(verb, { code: 'FST_ERR_REAL_ROOM_NAME' })
    if (name !== null) t.throws(() => connection.identify(name), { code: 'FST_ERR_REAL_ROOM_NAME' })
    if (!Array.isArray(name)) t.throws(() => connection.join(name), { code: 'FST_ERR_REAL_ROOM_NAME' })
  }
  t.strictSame([[...connection.rooms], connection.user, [...registry.rooms()]], [[], null, []])
})

t.test('a storm of joins and leaves leaves nothing behind', async (t) => {
  const one = await node(t, { maxRooms: 0 })
  const { connection, wire } = connect(one)
  const answers = []
  for (let i = 0; i < 10_000; i++) {
    answers.push(connection.join(`room ${i % 100}`))
    void connection.leave(`room ${i % 100}`)
  }
  t.ok((await Promise.all(answers)).every((answer) => !answer))
  t.strictSame([...connection.rooms], [])
  t.equal(one.registry.stats().rooms, 0)
  await turn()
  t.strictSame(wire.events, [])
  t.equal(await connection.join('room 1'), true)
})

t.test('a prepared event may be sent to a room with an exception', async (t) => {
  const one = await node(t)
  const all: Connection[] = []
  for (let i = 0; i < 3; i++) all.push(connect(one).connection)
  for (const connection of all) await connection.join('room')
  t.match(await one.registry.room('room').send(event({ data: 1 }), { except: all.slice(1) }), { members: 1 })
})

t.test('what comes back of a room that everybody has left is given to nobody', async (t) => {
  const backplane = memory()
  backplane.unsubscribe = async () => {} // a broker is told a second later
  const one = await node(t, {}, backplane)
  const { connection, wire } = connect(one)
  await connection.join('room')
  await connection.leave('room')
  t.match(await one.registry.room('room').send('late'), { accepted: true, members: 0 })
  await turn()
  t.strictSame(wire.events.filter(({ event }) => event !== 'ready'), [])
})

t.test('a room that nobody is in holds none of the rooms its members were in', async (t) => {
  const one = await node(t)
  const { connection } = connect(one, { broadcast: false })
  await connection.join('first')
  const before = connection.rosters
  await connection.join('second')
  const shared = connection.rosters
  const second = one.registry.roster('room/second')
  t.equal(second?.after(before), shared, 'whoever comes from the same rooms shares their array')
  await connection.leave('first')
  t.equal(second?.after(before), shared, 'and who leaves has another')
  await connection.leave('second')
  t.not(second?.after(before), shared)
})
