import t from 'tap'
import type { Test } from 'tap'
import { event, memory } from '../lib/index.ts'
import type { Connection, Except, RegistryEvents, Sendable } from '../lib/index.ts'
import { connect, FakeEncoding, FaultyBackplane, node, turn } from './fake.ts'
import type { FakeNode } from './fake.ts'
import { until } from './helper.ts'
import { site, transports } from './site.ts'

/** From now on no timer fires, so what comes to an end has not waited for one. */
function frozen (t: Test): void {
  const { setTimeout } = globalThis
  globalThis.setTimeout = (() => setTimeout(() => {}, 1_000_000).unref()) as never
  t.teardown(() => { globalThis.setTimeout = setTimeout })
}

/** Every event of a registry, as a line. */
function tape ({ registry }: FakeNode): string[] {
  const lines: string[] = []
  const names: Array<keyof RegistryEvents> = ['connect', 'disconnect', 'join', 'leave', 'room', 'empty', 'slow', 'gap', 'deliver']
  for (const name of names) {
    registry.on(name, (...args: unknown[]) => {
      lines.push([name, ...args.filter((arg) => typeof arg === 'string')].join(' '))
    })
  }
  return lines
}

t.test('a connection is found by its id, iterated and counted while it is open', async (t) => {
  const { app: { connections }, open } = await site(t)
  t.equal(connections.size, 0)
  t.strictSame([...connections], [])
  const all = [await open('sse'), await open('ws')]
  t.equal(connections.size, 2)
  t.strictSame([...connections], all.map(({ connection }) => connection))
  for (const { connection } of all) t.equal(connections.get(connection.id), connection)
  t.equal(connections.get('nobody'), undefined)
  t.equal(connections.get('__proto__'), undefined)
  for (const { leave } of all) leave()
  await until(() => connections.size === 0)
  for (const { connection } of all) t.equal(connections.get(connection.id), undefined)
  t.strictSame([...connections], [])
})

for (const where of ['this node', 'the other node']) {
  t.test(`an event is sent to one connection by its id on ${where}`, async (t) => {
    const backplane = memory()
    const [here, there] = [await site(t, { connections: { backplane } }), await site(t, { connections: { backplane } })]
    const at = where === 'this node' ? here : there
    for (const transport of transports) {
      const [one, other] = [await at.open(transport), await at.open(transport)]
      t.equal(await here.app.connections.send(one.connection.id, { event: 'a', data: { n: 1 } }), true)
      t.equal(await here.app.connections.send(one.connection.id, event({ event: 'a', data: 'text' })), true)
      t.equal(await here.app.connections.send(one.connection.id, { event: 'a', data: [null] }), true)
      t.equal(await at.app.connections.send(other.connection.id, { event: 'a', data: 0 }), true)
      t.strictSame(await one.wait(3), [{ n: 1 }, 'text', [null]])
      t.strictSame(await other.wait(1), [0], 'nobody else gets it')
    }
  })

  t.test(`bytes and bare strings reach one connection by its id on ${where} as they are`, async (t) => {
    const backplane = memory()
    const [here, there] = [await node(t, {}, backplane), await node(t, {}, backplane)]
    const encoding = new FakeEncoding('raw')
    const { connection, wire } = connect(where === 'this node' ? here : there, { encoding })
    t.equal(await here.registry.send(connection.id, Buffer.from([1, 2, 255])), true)
    t.equal(await here.registry.send(connection.id, '{"not":"json"'), true)
    t.equal(await here.registry.send(connection.id, ''), true)
    t.equal(await here.registry.send(connection.id, { retry: 5 }), true)
    await turn()
    t.strictSame(wire.events, [{ data: { type: 'Buffer', data: [1, 2, 255] } }, { data: '{"not":"json"' }, { data: '' }, { retry: 5 }])
  })

  t.test(`a connection is closed by its id on ${where}`, async (t) => {
    const backplane = memory()
    const [here, there] = [await site(t, { connections: { backplane } }), await site(t, { connections: { backplane } })]
    const at = where === 'this node' ? here : there
    for (const transport of transports) {
      const [one, other] = [await at.open(transport), await at.open(transport)]
      t.equal(await here.app.connections.close(one.connection.id, 'because'), true)
      t.equal(one.connection.open, false)
      t.equal(await one.ended(), transport === 'sse' ? 0 : 1000)
      await until(() => at.ends.has(one.connection))
      t.match(at.ends.get(one.connection), { code: 1000, reason: 'because', clean: true })
      t.equal(await here.app.connections.close(other.connection.id), true)
      await until(() => at.ends.has(other.connection))
      t.match(at.ends.get(other.connection), { code: 1000, reason: 'closed' })
      t.equal(await here.app.connections.close(one.connection.id), false, 'it is gone')
    }
  })

  t.test(`a connection is taken out of a room by its id on ${where}`, async (t) => {
    const backplane = memory()
    const [here, there] = [await site(t, { connections: { backplane } }), await site(t, { connections: { backplane } })]
    const at = where === 'this node' ? here : there
    const { connection } = await at.open('ws')
    await connection.join(['a', 'b'])
    t.equal(await here.app.connections.leave(connection.id, 'a'), true)
    t.strictSame([...connection.rooms], ['b'])
    t.equal(at.app.connections.room('a').size, 0)
    t.equal(connection.open, true)
  })
}

t.test('a connection on a silent node is not found', async (t) => {
  const backplane = memory()
  const { registry } = await node(t, {}, backplane)
  const silent = { id: 'silent', deliver () {}, missed () {}, reset () {}, log: registry.log }
  await backplane.subscribe(silent, 'nodes')
  t.equal(await registry.close('nobody'), false)
})

t.test('unknown ids are answered without waiting where there is one node', async (t) => {
  const { registry } = await node(t)
  frozen(t)
  for (const id of ['nobody', '__proto__', '', '\0', 'x'.repeat(100_000)]) {
    t.equal(await registry.send(id, 'x'), false)
    t.equal(await registry.close(id), false)
    t.equal(await registry.leave(id, 'room'), false)
  }
})

t.test('unknown ids are answered as soon as every node has answered', async (t) => {
  const backplane = memory()
  const [{ registry }] = [await node(t, {}, backplane), await node(t, {}, backplane), await node(t, {}, backplane)]
  frozen(t)
  t.equal(await registry.send('nobody', 'x'), false)
  t.equal(await registry.close('nobody'), false)
  t.equal(await registry.leave('nobody', 'room'), false)
})

t.test('what is asked of other nodes is answered with false when this one stops', async (t) => {
  const backplane = memory()
  const one = await node(t, {}, backplane)
  await backplane.subscribe({ id: 'silent', deliver () {}, missed () {}, reset () {}, log: one.registry.log }, 'nodes')
  frozen(t)
  const answer = one.registry.close('nobody')
  await one.registry.stop()
  t.equal(await answer, false)
})

t.test('mistakes of the caller are thrown at once, also where a promise is returned', async (t) => {
  const { registry } = await node(t)
  const { connection } = connect({ registry, lines: [], requests: [] })
  for (const id of [connection.id, 'nobody']) {
    t.throws(() => registry.send(id, { text: 'x' } as never), { code: 'FST_ERR_REAL_EVENT', message: /data/ })
    t.throws(() => registry.send(id, 5 as never), { code: 'FST_ERR_REAL_EVENT' })
    t.throws(() => registry.send(id, { data: 1n }), { code: 'FST_ERR_REAL_DATA' })
    t.throws(() => registry.close(id, 5 as never), { code: 'FST_ERR_REAL_ARGUMENT' })
    t.throws(() => registry.leave(id, ''), { code: 'FST_ERR_REAL_ROOM_NAME' })
    t.throws(() => registry.leave(id, undefined as never), { code: 'FST_ERR_REAL_ROOM_NAME' })
  }
  for (const id of [undefined, null, 5, ['x'], {}]) {
    t.throws(() => registry.send(id as never, 'x'), { code: 'FST_ERR_REAL_ARGUMENT' })
    t.throws(() => registry.close(id as never), { code: 'FST_ERR_REAL_ARGUMENT' })
    t.throws(() => registry.leave(id as never, 'room'), { code: 'FST_ERR_REAL_ARGUMENT' })
  }
  t.throws(() => registry.broadcast({ room: 'x' } as never), { code: 'FST_ERR_REAL_EVENT' })
  t.throws(() => registry.broadcast('x', { except: 5 as never }), { code: 'FST_ERR_REAL_ARGUMENT' })
})

t.test('an id on a direct send to a connection in a kept room is refused, wherever it lives', async (t) => {
  const backplane = memory()
  const [here, there] = [await node(t, {}, backplane), await node(t, {}, backplane)]
  const near = connect(here, { bare: false })
  const far = connect(there, { bare: false })
  await near.connection.join('room')
  await far.connection.join('room')
  t.throws(() => here.registry.send(near.connection.id, { id: 'mine', data: 1 }), { code: 'FST_ERR_REAL_DIRECT_ID' })
  await t.rejects(here.registry.send(far.connection.id, { id: 'mine', data: 1 }), { code: 'FST_ERR_REAL_DIRECT_ID' })
  t.strictSame([here.registry.size, there.registry.size], [1, 1], 'nobody is harmed')
})

t.test('data nested as deep as JSON goes reaches a connection on the other node, or is refused', async (t) => {
  const backplane = memory()
  const [here, there] = [await node(t, {}, backplane), await node(t, {}, backplane)]
  const { connection } = connect(there)
  let depth = 1
  for (let refused = false; !refused; depth += 50) {
    let data: unknown = 'deep'
    for (let i = 0; i < depth; i++) data = [data]
    try {
      t.equal(await here.registry.send(connection.id, { data }), true)
    } catch (err) {
      t.match(err, { code: 'FST_ERR_REAL_DATA' })
      refused = true
    }
    if (depth < 2_000) depth += 400
  }
  t.ok(depth > 1_000)
  for (const { lines } of [here, there]) t.strictSame(lines, [])
})

t.test('a broadcast reaches every WebSocket and every stream without a source, on every node', async (t) => {
  const backplane = memory()
  const [here, there] = [await site(t, { connections: { backplane } }), await site(t, { connections: { backplane } })]
  const all = [await here.open('sse'), await here.open('ws'), await there.open('sse'), await there.open('ws')]
  const source = await here.open('sse', { path: '/source' })
  const receipt = await here.app.connections.broadcast({ event: 'order', data: { id: 1 } })
  t.match(receipt, { accepted: true, members: 2, nodes: 2 })
  t.type(receipt.id, 'string')
  for (const one of all) t.strictSame(await one.wait(1), [{ id: 1 }])
  await until(() => source.got().length > 0)
  t.equal(await here.app.connections.send(source.connection.id, { event: 'end' }), true)
  await source.wait(1, 'end')
  t.strictSame(source.got().map(({ event }) => event), ['begun', 'end'])
})

t.test('except spares connections, ids, users and arrays of these, on every node', async (t) => {
  const backplane = memory()
  const nodes = [await node(t, {}, backplane), await node(t, {}, backplane)] as const
  const [{ registry }] = nodes
  const all = nodes.flatMap((one) => [connect(one, { user: 'ada' }), connect(one, { user: 'bob' }), connect(one)])
  for (const { connection } of all) await connection.join('room')
  const [ada, bob, nobody, adaThere, bobThere, nobodyThere] = all.map(({ connection }) => connection) as never as [Connection, Connection, Connection, Connection, Connection, Connection]
  const cases: Array<[Except, Connection[]]> = [
    [ada, [ada]],
    [adaThere, [adaThere]],
    [nobodyThere.id, [nobodyThere]],
    [{ user: 'ada' }, [ada, adaThere]],
    [[nobody, bobThere.id, { user: 'ada' }], [ada, adaThere, nobody, bobThere]],
    [['ada', { user: bob.id }, 'null', 'undefined'], []],
    [{ user: '__proto__' }, []],
    [[], []]
  ]
  let last = 0
  for (const [except, spared] of cases) {
    for (const send of [registry.broadcast.bind(registry), registry.room('room').send.bind(registry.room('room'))]) {
      const data = ++last
      const receipt = await send({ data }, { except })
      await turn()
      for (const { connection, wire } of all) {
        t.equal(wire.events.some((event) => event.data === data), !spared.includes(connection))
      }
      t.equal(receipt.members, 3 - spared.filter((connection) => registry.get(connection.id) !== undefined).length)
    }
  }
})

t.test('the events of the registry come in the order in which things happen', async (t) => {
  const one = await node(t)
  const { registry } = one
  const lines = tape(one)
  const a = connect(one, { user: 'ada' }).connection
  const b = connect(one).connection
  void a.join('x')
  void b.join(['x', 'y', 'x'])
  void a.join('x')
  void a.leave('x')
  void a.leave('x')
  await registry.room('x').send({ data: 1 })
  await registry.room('nowhere').send({ data: 1 })
  await registry.user('ada').send({ data: 1 })
  await registry.broadcast({ data: 1 })
  b.close()
  t.strictSame(lines, ['connect', 'connect', 'room x', 'join x', 'join x', 'room y', 'join y', 'leave x',
    'deliver room/x', 'deliver room/nowhere', 'deliver user/ada', 'deliver all', 'leave x', 'empty x', 'leave y', 'empty y'])
  await turn()
  t.strictSame(lines.slice(16), ['disconnect'])
})

t.test('a listener hears who it is about, once for each thing', async (t) => {
  const one = await node(t)
  const { registry } = one
  const heard: unknown[][] = []
  for (const name of ['connect', 'disconnect', 'join', 'leave', 'room', 'empty'] as const) registry.on(name, (...args: unknown[]) => { heard.push([name, ...args]) })
  const { connection } = connect(one, { user: 'ada' })
  t.equal(registry.on('connect', () => {}), registry)
  void connection.join('x')
  connection.close(4000, 'enough')
  await turn()
  t.strictSame(heard.map(([name, who]) => [name, who === connection ? 'it' : who]), [['connect', 'it'], ['room', 'x'], ['join', 'it'], ['leave', 'it'], ['empty', 'x'], ['disconnect', 'it']])
  t.match(heard.at(-1)?.[2], { code: 4000, reason: 'enough', clean: true, rooms: ['x'], events: 0, bytes: 0 })
})

t.test('a listener that is taken off hears no more', async (t) => {
  const one = await node(t)
  let heard = 0
  const listener = (): void => { heard++ }
  one.registry.on('connect', listener)
  connect(one)
  t.equal(one.registry.off('connect', listener), one.registry)
  connect(one)
  t.equal(heard, 1)
})

t.test('a listener that throws or rejects is logged and harms nobody', async (t) => {
  const one = await node(t)
  const { registry, lines } = one
  const names = ['connect', 'disconnect', 'join', 'leave', 'room', 'empty', 'deliver'] as const
  const heard: string[] = []
  for (const name of names) {
    registry.on(name, () => { throw new Error(`thrown in ${name}`) })
    registry.on(name, (async () => { throw new Error(`rejected in ${name}`) }) as never)
    registry.on(name, () => { heard.push(name) })
  }
  const { connection, wire } = connect(one)
  t.equal(await connection.join('x'), true)
  t.match(await registry.room('x').send({ data: 1 }), { accepted: true, members: 1 })
  await turn()
  t.match(wire.events, [{ data: 1 }])
  connection.close()
  await turn()
  t.strictSame(heard, ['connect', 'room', 'join', 'deliver', 'leave', 'empty', 'disconnect'])
  const said = lines.map(({ fields }) => fields.err?.message).sort()
  t.strictSame(said, names.flatMap((name) => [`thrown in ${name}`, `rejected in ${name}`]).sort())
})

t.test('who somebody is, is known when its connect is heard', async (t) => {
  const one = await node(t)
  const users: Array<string | null> = []
  one.registry.on('connect', (connection) => {
    users.push(connection.user)
    t.equal(one.registry.get(connection.id), connection)
    t.equal(one.registry.user('ada').has(connection), connection.user === 'ada')
  })
  connect(one, { user: 'ada' })
  connect(one)
  t.strictSame(users, ['ada', null])
})

t.test('a listener may close the connection it hears of, and nothing of it stays', async (t) => {
  for (const name of ['connect', 'room', 'join'] as const) {
    const one = await node(t)
    const { registry } = one
    const lines = tape(one)
    let close = name === 'connect' // what is to be closed comes with the first
    registry.on(name, () => { if (close) for (const connection of registry) connection.close() })
    const { connection } = connect(one, { user: 'ada' })
    close = true
    t.equal(await connection.join(['x', 'y']), false)
    await turn()
    t.strictSame([...connection.rooms], [], name)
    t.strictSame([registry.size, registry.room('x').size, registry.room('y').size, registry.user('ada').size], [0, 0, 0, 0])
    t.strictSame([...registry.rooms()], [])
    t.match(registry.stats(), { connections: 0, rooms: 0, users: 0 })
    t.equal((await registry.broadcast({ data: 1 })).members, 0)
    t.equal(lines.filter((line) => line === 'disconnect').length, 1)
    const joins = lines.filter((line) => line.startsWith('join')).length
    t.equal(lines.filter((line) => line.startsWith('leave')).length, joins)
    t.equal(lines.filter((line) => line.startsWith('room')).length, lines.filter((line) => line.startsWith('empty')).length)
  }
})

t.test('what a listener causes is heard after what it hears, by every listener', async (t) => {
  const one = await node(t)
  const { registry } = one
  const before = tape(one)
  registry.on('join', (connection, room) => { if (room === 'x') void connection.leave('x') })
  registry.on('leave', (connection, room) => { if (room === 'x' && connection.open) void connection.join('y') })
  registry.on('empty', (room) => { if (room === 'y') void connect(one).connection.join('z') })
  const after = tape(one)
  const { connection } = connect(one)
  t.equal(await connection.join('x'), false)
  connection.close()
  await turn()
  t.strictSame(before, after)
  t.strictSame(before, ['connect', 'room x', 'join x', 'leave x', 'empty x', 'room y', 'join y', 'leave y', 'empty y', 'connect', 'room z', 'join z', 'disconnect'])
})

t.test('a room that is left and joined again in a listener is empty and there again, in this order', async (t) => {
  const one = await node(t)
  const lines = tape(one)
  let again = true
  one.registry.on('leave', (connection) => {
    if (again) void connection.join('x')
    again = false
  })
  const { connection } = connect(one)
  await connection.join('x')
  await connection.leave('x')
  t.strictSame(lines, ['connect', 'room x', 'join x', 'leave x', 'empty x', 'room x', 'join x'])
  t.equal(one.registry.stats().rooms, 1)
})

t.test('every event that comes is shown once to a tap, as it was sent', async (t) => {
  const backplane = memory()
  const [here, there] = [await node(t, {}, backplane), await node(t, { history: false }, backplane)]
  const heard: unknown[] = []
  const heardThere: unknown[] = []
  here.registry.on('deliver', (topic, event) => { heard.push([topic, event]) })
  there.registry.on('deliver', (topic) => { heardThere.push(topic) })
  const { connection } = connect(here)
  await connection.join('x')
  const { id } = await here.registry.room('x').send({ event: 'named', data: { a: 1 } })
  await there.registry.room('x').send('not kept')
  await here.registry.room('empty').send({ id: 'mine', data: Buffer.from('bytes') })
  await here.registry.room('x').send({ id: 'k', data: 1 }, { once: true })
  await here.registry.room('x').send({ id: 'k', data: 2 }, { once: true })
  t.strictSame(heard, [
    ['room/x', { id, event: 'named', data: { a: 1 } }],
    ['room/x', { id: '', data: 'not kept' }],
    ['room/empty', { id: 'mine', data: Buffer.from('bytes') }],
    ['room/x', { id: 'k', data: 1 }]
  ])
  t.strictSame(heardThere, ['room/x'], 'what it sent itself')
})

t.test('an event that comes when the last member has just left is shown to a tap all the same, and given to nobody', async (t) => {
  const shared = memory()
  const faults = new FaultyBackplane(shared)
  const [one, other] = [await node(t, {}, faults), await node(t, {}, shared)]
  const heard: unknown[] = []
  one.registry.on('deliver', (topic, { data }) => { heard.push([topic, data]) })
  const { connection, wire } = connect(one)
  await connection.join('x')
  faults.held = true // they are on their way
  await other.registry.room('x').send({ data: 1 })
  await other.registry.room('x').send({ data: 2 }, { except: 'nobody' })
  void connection.leave('x')
  faults.release()
  await turn()
  t.strictSame([heard, wire.events], [[['room/x', 1], ['room/x', 2]], []])
})

t.test('a tap that empties the room hears each event once', async (t) => {
  const one = await node(t)
  const { connection } = connect(one)
  await connection.join('x')
  const heard: unknown[] = []
  one.registry.on('deliver', (topic, { data }) => {
    heard.push(data)
    void connection.leave('x')
  })
  const receipt = await one.registry.room('x').send({ data: 1 })
  t.strictSame(heard, [1])
  t.equal(receipt.members, 1, 'it was given to one')
})

t.test('the numbers of stats are those of the connections', async (t) => {
  const { app: { connections }, open } = await site(t)
  t.strictSame(connections.stats(), { connections: 0, byTransport: {}, rooms: 0, users: 0, sent: 0, dropped: 0, slow: 0, refused: 0, resumed: 0, gaps: 0 })
  const [sse, ws, other] = [await open('sse', { user: 'ada' }), await open('ws', { user: 'ada' }), await open('ws', { user: 'bob' })]
  await sse.connection.join(['a', 'b'])
  await ws.connection.join('a')
  await connections.room('a').send({ data: 1 })
  await sse.wait(1)
  await ws.wait(1)
  t.match(connections.stats(), { connections: 3, byTransport: { sse: 1, ws: 2 }, rooms: 2, users: 2, sent: 3, dropped: 0, slow: 0, refused: 0 })
  sse.drop()
  ws.leave()
  other.drop()
  await until(() => connections.size === 0)
  t.match(connections.stats(), { connections: 0, byTransport: {}, rooms: 0, users: 0, sent: 3 })
})

t.test('a prepared event is checked and encoded once, however often and to whomever it is sent', async (t) => {
  const one = await node(t, { history: false })
  const encoding = new FakeEncoding('counted')
  const all = Array.from({ length: 10 }, () => connect(one, { encoding }))
  for (const { connection } of all) await connection.join('room')
  let read = 0
  const prepared = event({ event: 'tick', get data () { read++; return { at: 1 } } })
  for (let i = 0; i < 10; i++) for (const { connection } of all) t.equal(connection.send(prepared), true)
  await turn()
  t.strictSame([read, encoding.made], [1, 1])
  await one.registry.room('room').send(prepared)
  await one.registry.broadcast(prepared)
  t.equal(await one.registry.send(all[0]?.connection.id as string, prepared), true)
  await turn()
  t.equal(read, 1)
  for (const [index, { wire }] of all.entries()) t.strictSame(wire.events, new Array(index === 0 ? 13 : 12).fill({ event: 'tick', data: { at: 1 } }))
})

t.test('a prepared event means the same to a stream and to a WebSocket', async (t) => {
  const { app: { connections }, open } = await site(t)
  const all = [await open('sse'), await open('ws')]
  for (const { connection } of all) await connection.join('room')
  const prepared = event({ event: 'tick', data: { at: [1, null, 'é'] } })
  for (let i = 0; i < 3; i++) await connections.room('room').send(prepared)
  for (const one of all) t.strictSame(await one.wait(3, 'tick'), new Array(3).fill({ at: [1, null, 'é'] }))
})

t.test('a prepared event is refused where it is made, and where it is too large', async (t) => {
  for (const bad of [{ name: 'x' }, { event: 'error' }, { data: () => {} }, undefined, null, 5, ['x']]) t.throws(() => event(bad as Sendable), { code: /^FST_ERR_REAL_(?:EVENT|DATA)$/ })
  const { registry } = await node(t, { maxEventBytes: 10 })
  t.throws(() => registry.broadcast(event('x'.repeat(11))), { code: 'FST_ERR_REAL_TOO_LARGE' })
  t.match(await registry.broadcast(event('x'.repeat(10))), { accepted: true })
})

t.test('a backplane that is down is logged and answered, and throws at nobody', async (t) => {
  const backplane = new FaultyBackplane(memory())
  const one = await node(t, {}, backplane)
  const { registry, lines } = one
  const { connection, wire } = connect(one)
  await connection.join('before')
  backplane.down = true
  t.strictSame(await registry.room('before').send({ data: 1 }), { accepted: false, members: 0 })
  t.strictSame(await registry.broadcast({ data: 1 }), { accepted: false, members: 0 })
  t.equal(lines.filter(({ level }) => level === 'error').length, 2, 'once each')
  t.equal(await connection.join('while'), false)
  t.strictSame([...connection.rooms], ['before'], 'who was told false is not in it')
  t.equal(registry.room('while').size, 0)
  t.equal(await registry.send(connection.id, { data: 'direct' }), true, 'what is here is reached')
  t.equal(await registry.send('nobody', { data: 1 }), false)
  const other = connect(one, { user: 'ada' }).connection
  await other.leave('before')
  t.equal(other.open, true)
  await registry.room('before').clear()
  t.strictSame([...connection.rooms], [], 'a room is cleared here at least')
  await turn()
  backplane.down = false
  t.equal(await connection.join('while'), true)
  t.match(await registry.room('while').send({ data: 2 }), { accepted: true, members: 1 })
  t.match(await registry.broadcast({ data: 3 }), { accepted: true, members: 2 })
  connect(one, { user: 'ada' })
  t.match(await registry.user('ada').send({ data: 4 }), { accepted: true, members: 2 }, 'the next to come has the topic subscribed for all')
  await registry.user('ada').disconnect()
  t.equal(other.open, false)
  await turn()
  t.strictSame(wire.events.map(({ data }) => data), ['direct', 2, 3])
})

t.test('who has left and joined again is in the room, though the first join could not be acknowledged', async (t) => {
  const backplane = memory()
  const one = await node(t, {}, backplane)
  const { subscribe } = backplane
  let fail: (err: Error) => void = () => {}
  backplane.subscribe = (node, topic) => {
    backplane.subscribe = subscribe
    return new Promise((_resolve, reject) => { fail = (err) => reject(err) })
  }
  const { connection } = connect(one, { broadcast: false })
  const first = connection.join('room', { presence: { key: 'ada' } })
  await connection.leave('room')
  const second = connection.join('room', { presence: { key: 'ada' } })
  await turn()
  fail(new Error('subscribe failed'))
  t.strictSame([await first, await second], [false, true])
  t.strictSame([...connection.rooms], ['room'])
  t.strictSame(await one.registry.room('room').presence(), [{ key: 'ada', metas: [null] }])
})

t.test('a node that has stopped has no timer left, whatever it was doing', async (t) => {
  const timers = new Map<unknown, string>()
  const { setTimeout, setInterval, clearTimeout, clearInterval } = globalThis
  Object.assign(globalThis, {
    setTimeout (work: () => void, ...rest: [number]) {
      const timer = setTimeout(() => { timers.delete(timer); work() }, ...rest)
      timers.set(timer, new Error('set here').stack ?? '')
      return timer
    },
    setInterval (...args: Parameters<typeof setInterval>) {
      const timer = setInterval(...args)
      timers.set(timer, new Error('set here').stack ?? '')
      return timer
    },
    clearTimeout (timer: NodeJS.Timeout) { timers.delete(timer); clearTimeout(timer) },
    clearInterval (timer: NodeJS.Timeout) { timers.delete(timer); clearInterval(timer) }
  })
  t.teardown(() => Object.assign(globalThis, { setTimeout, setInterval, clearTimeout, clearInterval }))
  const backplane = memory()
  const one = await node(t, { hold: 1_000_000, presence: { timeout: 1_000 } }, backplane)
  const { registry } = one
  await backplane.subscribe({ id: 'silent', deliver () {}, missed () {}, reset () {}, log: registry.log }, 'nodes')
  const all = [connect(one, { user: 'ada' }), connect(one, { opened: false }), connect(one, { bare: false, lastEventId: 'x-1', opened: false }), connect(one, { bare: false })]
  for (const { connection } of all) void connection.join(['room', 'other'], { presence: { key: 'k' } })
  await registry.room('room').send({ data: 1 })
  const asked = registry.close('nobody')
  const listed = registry.room('elsewhere').presence()
  t.ok(timers.size > 2)
  await turn()
  for (const { connection } of all) connection.close()
  void registry.room('room').presence()
  await turn()
  await registry.stop()
  t.equal(await asked, false)
  t.strictSame(await listed, [])
  await turn()
  t.strictSame([...timers.values()].slice(1), [], 'but for the one that keeps this process')
})
