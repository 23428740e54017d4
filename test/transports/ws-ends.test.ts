import { Socket } from 'node:net'
import { constants, deflateRawSync } from 'node:zlib'
import type { FastifyRequest } from 'fastify'
import t from 'tap'
import type { Test } from 'tap'
import type { Connection, Disconnect, Wire, WsHandlers } from '../../lib/index.ts'
import { build, listen, until, wsClient } from '../helper.ts'
import type { BuildOptions, WsClient } from '../helper.ts'
import { logs } from '../logs.ts'
import { closeFrame, frame, rawUpgrade, Raw } from '../raw-ws.ts'

interface Place { port: number, ends: Disconnect[], signals: string[], events: Disconnect[], connection: () => Connection, app: Awaited<ReturnType<typeof build>> }

/** A route whose connections join two rooms, and what became of them. */
async function place (t: Test, options: BuildOptions = {}, handlers: WsHandlers = {}): Promise<Place> {
  const app = await build(t, options)
  const ends: Disconnect[] = []
  const events: Disconnect[] = []
  const signals: string[] = []
  let last: Connection | undefined
  app.connections.on('disconnect', (_connection, end) => { events.push(end) })
  app.ws('/x', {
    ...handlers,
    async onConnect (connection: Connection, request: FastifyRequest) {
      last = connection
      connection.signal.addEventListener('abort', () => { signals.push(String((connection.signal.reason as Error).message)) })
      await connection.join(['a', 'b'])
      await handlers.onConnect?.(connection, request)
    },
    onDisconnect (connection: Connection, end: Disconnect) {
      ends.push(end)
      t.notOk(connection.open)
      t.equal(connection.rooms.size, 0)
      t.notOk(connection.send('too late'))
    }
  } as never)
  return { port: await listen(app), ends, signals, events, app, connection: () => last as Connection }
}

/** Waits for the end of the only connection and looks at all that tells of it. */
async function ended (t: Test, { app, ends, events, signals }: Place, end: Partial<Disconnect>): Promise<void> {
  await until(() => ends.length > 0 && events.length > 0)
  await new Promise((resolve) => setTimeout(resolve, 20))
  t.equal(ends.length, 1, 'onDisconnect runs once')
  t.equal(events.length, 1)
  t.equal(signals.length, 1)
  t.match(ends[0], { ...end, rooms: ['a', 'b'] })
  t.strictSame(ends[0], events[0])
  t.ok((ends[0] as Disconnect).duration > 0)
  t.strictSame([app.connections.size, [...app.connections.rooms()].length], [0, 0])
}

t.test('a client that closes says its code and reason, or none', async (t) => {
  const cases: Array<[number | undefined, string, Partial<Disconnect>]> = [
    [undefined, '', { code: 1005, reason: 'client', clean: true }],
    [1000, '', { code: 1000, reason: 'client', clean: true }],
    [1000, 'bye', { code: 1000, reason: 'bye', clean: true }],
    [1001, 'going away', { code: 1001, reason: 'going away', clean: true }],
    [3000, 'registered', { code: 3000, reason: 'registered', clean: true }],
    [4999, '€'.repeat(41), { code: 4999, reason: '€'.repeat(41), clean: true }]
  ]
  for (const [code, reason, end] of cases) {
    await t.test(`${code} ${reason}`, async (t) => {
      const here = await place(t)
      const raw = await rawUpgrade(t, here.port, '/x')
      await until(() => here.app.connections.room('b').size === 1)
      raw.write(closeFrame(code, reason))
      await until(() => raw.ended)
      t.equal(raw.closeCode, code ?? 1005, 'the close frame is answered')
      t.strictSame([here.app.connections.size, here.app.connections.room('a').size, here.signals.length], [0, 0, 1], 'it is gone though the client has not hung up')
      raw.socket.end()
      await ended(t, here, end)
    })
  }
})

t.test('a client that vanishes was lost', async (t) => {
  const ways: Record<string, (raw: Raw) => void> = {
    FIN: (raw) => { raw.socket.end() },
    'FIN and no more': (raw) => { raw.socket.destroy() },
    RST: (raw) => { raw.socket.resetAndDestroy() },
    'in the middle of a frame': (raw) => { raw.socket.end(frame(1, 'half').subarray(0, 8)) },
    'in the middle of a message': (raw) => { raw.socket.end(frame(1, 'half', { fin: false })) },
    'in the middle of a close frame': (raw) => { raw.socket.end(closeFrame(1000, 'half').subarray(0, 7)) }
  }
  for (const [name, leave] of Object.entries(ways)) {
    await t.test(name, async (t) => {
      const here = await place(t)
      const raw = await rawUpgrade(t, here.port, '/x')
      await until(() => here.app.connections.room('b').size === 1)
      leave(raw)
      await ended(t, here, { code: 1006, reason: 'lost', clean: false })
    })
  }
})

t.test('a client that has sent FIN, said no goodbye and takes nothing is out of everything, and cut', async (t) => {
  const { setTimeout: idle } = Socket.prototype
  Socket.prototype.setTimeout = function (delay, work) { return idle.call(this, delay === 5_000 ? 300 : delay, work) } // the patience, shortened
  t.teardown(() => { Socket.prototype.setTimeout = idle })
  const app = await build(t, { connections: { maxBuffered: 50_000_000, heartbeat: 200 } })
  const ran: string[] = []
  app.ws('/x', {
    async onConnect (connection) { await connection.join('room') },
    onDisconnect (_connection, { code, reason, clean }) { ran.push(`${code} ${reason} ${clean}`) }
  })
  const port = await listen(app)
  const deserters: Record<string, (connection: Connection) => unknown> = {
    'to whom nothing is sent': () => {},
    'to whom something is sent': (connection) => connection.send('more'),
    'that a source writes to': (connection) => connection.from((function * () { while (true) yield 'more' })()),
    'that somebody waits for': (connection) => connection.drained()
  }
  await Promise.all(Object.entries(deserters).map(async ([what, use], n) => {
    const raw = await rawUpgrade(t, port, `/x?n=${n}`)
    const isIt = ({ request }: Connection): boolean => (request.query as { n?: string }).n === String(n)
    const connection = [...app.connections].find(isIt) as Connection
    raw.socket.pause()
    while (connection.buffered < 10_000_000) connection.send('x'.repeat(1_000_000))
    await until(() => connection.request.raw.socket.writableLength > 1_000_000)
    raw.socket.end()
    await until(() => !connection.request.raw.socket.readable)
    await use(connection)
    await until(() => !connection.open)
    t.equal(connection.rooms.size, 0, what)
  }))
  await until(() => ran.length === 4)
  t.strictSame(ran, Array.from({ length: 4 }, () => '1006 lost false'))
})

t.test('so is one that nobody pings nor writes to', async (t) => {
  const { setTimeout: idle } = Socket.prototype
  Socket.prototype.setTimeout = function (delay, work) { return idle.call(this, delay === 5_000 ? 300 : delay, work) } // the patience, shortened
  t.teardown(() => { Socket.prototype.setTimeout = idle })
  const here = await place(t, { connections: { maxBuffered: 50_000_000, heartbeat: 0 } })
  const raw = await rawUpgrade(t, here.port, '/x')
  await until(() => here.app.connections.room('b').size === 1)
  const connection = here.connection()
  raw.socket.pause()
  while (connection.buffered < 10_000_000) connection.send('x'.repeat(1_000_000))
  await until(() => connection.request.raw.socket.writableLength > 1_000_000)
  raw.socket.end()
  await ended(t, here, { code: 1006, reason: 'lost', clean: false })
})

t.test('a goodbye behind a message that is still being inflated is heard, though its socket is closed by then', async (t) => {
  for (const heartbeat of [0, 15_000]) {
    const heard: number[] = []
    const here = await place(t, { connections: { heartbeat }, ws: { compression: true, maxPayload: 50_000_000 } }, { onMessage (_connection, message) { heard.push(message.length) } })
    const raw = await rawUpgrade(t, here.port, '/x', { headers: { 'sec-websocket-extensions': 'permessage-deflate; client_no_context_takeover' } })
    await until(() => here.app.connections.room('b').size === 1)
    const deflated = deflateRawSync('x'.repeat(20_000_000), { finishFlush: constants.Z_SYNC_FLUSH }).subarray(0, -4)
    raw.socket.end(Buffer.concat([frame(1, deflated, { rsv: 4 }), closeFrame(4000, 'enough')]))
    await ended(t, here, { code: 4000, reason: 'enough', clean: true })
    t.strictSame(heard, [20_000_000])
  }
})

t.test('what is written to a socket that is cut, and whoever waits for it, waits for its close', async (t) => {
  const here = await place(t)
  await rawUpgrade(t, here.port, '/x')
  await until(() => here.app.connections.room('b').size === 1)
  const connection = here.connection()
  const { wire } = connection as unknown as { wire: Wire }
  connection.request.raw.socket.destroy()
  wire.write(Buffer.from('more'))
  wire.whenFlushed()
  wire.ping()
  await connection.drained()
  await ended(t, here, { code: 1006, reason: 'lost', clean: false })
})

t.test('a client that breaks the protocol is told how, and what follows is not heard', async (t) => {
  const cases: Array<[string, Buffer, number]> = [
    ['a reserved opcode', frame(3, 'x'), 1002],
    ['a reserved control opcode', frame(11), 1002],
    ['RSV1 without extension', frame(1, 'x', { rsv: 4 }), 1002],
    ['RSV2', frame(1, 'x', { rsv: 2 }), 1002],
    ['RSV3', frame(9, 'x', { rsv: 1 }), 1002],
    ['no mask', frame(1, 'x', { mask: null }), 1002],
    ['a ping of 126 bytes', frame(9, 'x'.repeat(126)), 1002],
    ['a ping in fragments', frame(9, 'x', { fin: false }), 1002],
    ['a continuation of nothing', frame(0, 'x'), 1002],
    ['a message within a message', Buffer.concat([frame(1, 'x', { fin: false }), frame(1, 'y')]), 1002],
    ['text that is no UTF-8', frame(1, Buffer.from([0xc3, 0x28])), 1007],
    ['a surrogate as UTF-8', frame(1, Buffer.from([0xed, 0xa0, 0x80])), 1007],
    ['a reason that is no UTF-8', closeFrame(1000, Buffer.from([0xff])), 1007],
    ['a message that is too large', frame(2, Buffer.alloc(1_048_577)), 1009],
    ['a close frame of one byte', frame(8, 'x'), 1002],
    ...[0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535].map((code): [string, Buffer, number] => [`close code ${code}`, closeFrame(code), 1002])
  ]
  const here = await place(t)
  for (const [name, bytes, code] of cases) {
    const raw = await rawUpgrade(t, here.port, '/x')
    await until(() => here.app.connections.room('b').size === 1)
    raw.write(bytes, frame(1, 'after'))
    await until(() => raw.closeCode !== 0)
    t.equal(raw.closeCode, code, name)
    raw.socket.end()
    await until(() => raw.closed)
    await until(() => here.ends.length === 1)
    t.match(here.ends, [{ code, reason: 'protocol error', clean: false, rooms: ['a', 'b'] }], name)
    here.ends.splice(0)
    t.equal(here.app.connections.size, 0)
  }
})

t.test('the server closes with a code and a reason; what was sent before still goes out', async (t) => {
  const cases: Array<[string, (connection: Connection) => void, { code: number, reason: string }, string?]> = [
    ['close()', (connection) => connection.close(), { code: 1000, reason: 'closed' }],
    ['a code', (connection) => connection.close(4001), { code: 4001, reason: 'closed' }],
    ['a code and a reason', (connection) => connection.close(4001, 'enough'), { code: 4001, reason: 'enough' }],
    ['a reason that is too long for a frame', (connection) => connection.close(4001, '€'.repeat(100)), { code: 4001, reason: '€'.repeat(41) }],
    ['an empty reason', (connection) => connection.close(1013, ''), { code: 1013, reason: '' }]
  ]
  for (const [name, close, end] of cases) {
    await t.test(name, async (t) => {
      const here = await place(t)
      const client = await wsClient(here.port, '/x')
      await until(() => here.app.connections.room('b').size === 1)
      const connection = here.connection()
      connection.send('last words')
      close(connection)
      t.notOk(connection.open, 'it is out of everything at once')
      t.notOk(connection.send('too late'))
      t.equal(here.app.connections.size, 0)
      connection.close(4002, 'again')
      await until(() => client.closed)
      t.strictSame(client.messages, ['last words'])
      t.strictSame(client.closed, end)
      await ended(t, here, { ...end, clean: true })
    })
  }
})

t.test('an end that only the server knows of is told as it was', async (t) => {
  const here = await place(t)
  const raw = await rawUpgrade(t, here.port, '/x')
  await until(() => here.app.connections.room('b').size === 1)
  here.connection().close(4001, 'enough')
  await until(() => raw.closeCode !== 0)
  t.equal(raw.closeCode, 4001)
  raw.socket.end(frame(1, 'not heard'))
  await ended(t, here, { code: 4001, reason: 'enough', clean: false })
})

t.test('the registry closes by id, by room and at a shutdown', async (t) => {
  const ways: Array<[string, (here: Place) => unknown, Partial<Disconnect>]> = [
    ['by id', ({ app, connection }) => app.connections.close(connection().id, 'by id'), { code: 1000, reason: 'by id', clean: true }],
    ['by room', ({ app }) => app.connections.room('a').disconnect('by room'), { code: 1000, reason: 'by room', clean: true }],
    ['shutdown', ({ app }) => app.close(), { code: 1001, reason: 'shutdown', clean: true }]
  ]
  for (const [name, close, end] of ways) {
    await t.test(name, async (t) => {
      const here = await place(t)
      const client = await wsClient(here.port, '/x')
      await until(() => here.app.connections.room('b').size === 1)
      await close(here)
      await until(() => client.closed)
      t.match(client.closed, { code: end.code, reason: end.reason })
      await ended(t, here, end)
    })
  }
})

t.test('a client that ignores a shutdown is cut at the end of the grace', async (t) => {
  const here = await place(t, { connections: { drain: { within: 0, grace: 50 } } })
  const raw = await rawUpgrade(t, here.port, '/x')
  await until(() => here.app.connections.room('b').size === 1)
  await here.app.close()
  await until(() => raw.ended)
  t.equal(raw.closeCode, 1001)
  await ended(t, here, { code: 1001, reason: 'shutdown', clean: false })
})

t.test('a right that ends closes with 4401, a user who has too many with 1008', async (t) => {
  const expiring = await place(t, { connections: { heartbeat: 40, identify: () => ({ id: 'ada', expires: Date.now() + 30 }) } })
  const client = await wsClient(expiring.port, '/x')
  await until(() => client.closed)
  t.match(client.closed, { code: 4401, reason: 'expired' })
  await ended(t, expiring, { code: 4401, reason: 'expired', clean: true })
  const crowded = await place(t, { connections: { maxPerUser: 1 } }, { onConnect (connection) { connection.identify('ada') } })
  const first = await wsClient(crowded.port, '/x')
  await until(() => crowded.connection()?.user === 'ada')
  const second = await wsClient(crowded.port, '/x')
  await until(() => second.closed)
  t.match(second.closed, { code: 1008, reason: 'too many connections' })
  t.equal(first.closed, null)
  await crowded.app.close()
})

t.test('a throw or a rejection in a handler is told to onError, logged once and closes with 1011', async (t) => {
  const boom = new Error('boom')
  const odd: unknown[] = ['a string', undefined, null, 5, Object.create(null), Symbol('odd'), { toString () { throw new Error('in toString') } }]
  const throwing: Array<[string, WsHandlers, RegExp]> = [
    ['onConnect throws', { onConnect () { throw boom } }, /^boom$/],
    ['onConnect rejects', { async onConnect () { await null; throw boom } }, /^boom$/],
    ['onMessage throws', { onMessage () { throw boom } }, /^boom$/],
    ['onMessage rejects', { async onMessage () { await null; throw boom } }, /^boom$/],
    ['onMessage gives a promise that rejects', { onMessage: () => Promise.reject(boom) }, /^boom$/],
    ['onMessage gives something that can be awaited and rejects', { onMessage: () => ({ then (_resolve: unknown, reject: (err: Error) => void) { reject(boom) } }) }, /^boom$/],
    ...odd.map((value): [string, WsHandlers, RegExp] => [`onMessage throws ${typeof value} ${value === null}`, { onMessage () { throw value } }, typeof value === 'string' ? /^a string$/ : /./])
  ]
  for (const [name, handlers, message] of throwing) {
    await t.test(name, async (t) => {
      const { options, errors } = logs()
      const told: Error[] = []
      let after = 0
      const here = await place(t, { fastify: options }, {
        ...handlers,
        onError (connection, error) {
          told.push(error)
          t.ok(connection.open, 'it can still be told')
          connection.send('sorry')
        }
      })
      const client = await wsClient(here.port, '/x')
      for (let i = 0; i < 3; i++) client.send('x')
      after++
      await until(() => client.closed)
      t.match(client.closed, { code: 1011, reason: 'error' }, 'no text of the error reaches the client')
      t.strictSame(client.messages, ['sorry'])
      await ended(t, here, { code: 1011, reason: 'error', clean: true })
      t.equal(told.length, 1)
      t.match(told[0]?.message, message)
      t.ok(told[0] instanceof Error)
      t.equal(errors().length, 1)
      t.match(errors(), [{ msg: 'a handler of a WebSocket route failed', reqId: /./, connection: here.connection().id }])
      t.equal(after, 1)
    })
  }
})

t.test('onError may be slow, close by itself, fail itself or be missing', async (t) => {
  const ways: Array<[string, WsHandlers, Partial<Disconnect>, string[]]> = [
    ['missing', {}, { code: 1011, reason: 'error' }, ['a handler of a WebSocket route failed']],
    ['slow', { async onError (connection) { await new Promise((resolve) => setTimeout(resolve, 10)); connection.send('after a while') } }, { code: 1011 }, ['a handler of a WebSocket route failed']],
    ['closes', { async onError (connection) { await null; connection.close(4000, 'mine') } }, { code: 4000, reason: 'mine' }, ['a handler of a WebSocket route failed']],
    ['throws', { onError () { throw new Error('again') } }, { code: 1011 }, ['a handler of a WebSocket route failed', 'onError itself failed']],
    ['rejects', { async onError () { throw new Error('again') } }, { code: 1011 }, ['a handler of a WebSocket route failed', 'onError itself failed']]
  ]
  for (const [name, handlers, end, lines] of ways) {
    await t.test(name, async (t) => {
      const { options, errors } = logs()
      const here = await place(t, { fastify: options }, { ...handlers, onMessage () { throw new Error('boom') } })
      const client = await wsClient(here.port, '/x')
      client.send('x')
      await until(() => client.closed)
      if (name === 'slow') t.strictSame(client.messages, ['after a while'])
      await ended(t, here, end)
      t.strictSame(errors().map(({ msg }) => msg), lines)
    })
  }
})

t.test('onDisconnect that fails is logged once and told to onError', async (t) => {
  for (const onDisconnect of [() => { throw new Error('boom') }, async () => { await null; throw new Error('boom') }]) {
    const { options, errors } = logs()
    const app = await build(t, { fastify: options })
    const told: Error[] = []
    app.ws('/x', { onDisconnect, onError (_connection, error) { told.push(error) } })
    app.ws('/both', { onDisconnect, onError () { throw new Error('again') } })
    const port = await listen(app)
    ;(await wsClient(port, '/x')).close()
    await until(() => told.length === 1)
    t.match(told, [{ message: 'boom' }])
    t.strictSame(errors().map(({ msg }) => msg), ['onDisconnect failed'])
    ;(await wsClient(port, '/both')).close()
    await until(() => errors().length === 3)
    t.strictSame(errors().map(({ msg }) => msg), ['onDisconnect failed', 'onDisconnect failed', 'onError itself failed'])
  }
})

t.test('a handler that stops because the signal said so has not failed', async (t) => {
  const { options, errors } = logs()
  const told: Error[] = []
  const here = await place(t, { fastify: options }, {
    async onMessage (connection) {
      await new Promise((resolve, reject) => connection.signal.addEventListener('abort', () => reject(connection.signal.reason)))
    },
    onError (_connection, error) { told.push(error) }
  })
  const client = await wsClient(here.port, '/x')
  client.send('wait')
  client.close()
  await ended(t, here, { code: 1005 })
  t.strictSame(errors(), [])
  t.strictSame(told, [])
})

t.test('a handler that fails after the client has left is told and logged all the same', async (t) => {
  const { options, errors } = logs()
  const told: Error[] = []
  let fail = (): void => {}
  const here = await place(t, { fastify: options }, {
    async onMessage () { await new Promise((_resolve, reject) => { fail = () => reject(new Error('late')) }) },
    onError (_connection, error) { told.push(error) }
  })
  const client = await wsClient(here.port, '/x')
  client.send('wait')
  client.send('never')
  client.close()
  await until(() => here.events.length === 1)
  t.strictSame(here.ends, [], 'a handler is at work')
  fail()
  await ended(t, here, { code: 1005, reason: 'client', clean: true })
  t.match(told, [{ message: 'late' }])
  t.equal(errors().length, 1)
})

t.test('handlers that close and fail at once do no harm', async (t) => {
  const { options, errors } = logs()
  const here = await place(t, { fastify: options }, { onMessage (connection) { connection.close(4000, 'first'); throw new Error('second') } })
  const client = await wsClient(here.port, '/x')
  client.send('x')
  await until(() => client.closed)
  await ended(t, here, { code: 4000, reason: 'first', clean: true })
  t.equal(errors().length, 1)
})

t.test('a listener of the registry that closes what comes leaves a pair of onConnect and onDisconnect', async (t) => {
  const app = await build(t)
  const ran: string[] = []
  app.connections.on('connect', (connection) => connection.close(4003, 'not you'))
  app.ws('/x', { onConnect (connection) { ran.push(`connect ${connection.open}`) }, onMessage () { ran.push('message') }, onDisconnect (_connection, { code }) { ran.push(`disconnect ${code}`) } })
  const raw = await rawUpgrade(t, await listen(app), '/x', {}, frame(1, 'early'))
  await until(() => raw.closeCode !== 0)
  t.equal(raw.closeCode, 4003)
  raw.socket.end(closeFrame(4003))
  await until(() => ran.length === 2)
  t.strictSame(ran, ['connect false', 'disconnect 4003'])
})

t.test('every connection logs open and close with the logger of its request', async (t) => {
  const { options, lines } = logs()
  const here = await place(t, { fastify: options })
  const client = await wsClient(here.port, '/x')
  await until(() => here.app.connections.room('b').size === 1)
  await here.app.connections.broadcast('hi')
  await client.wait(1)
  client.close(1000, 'bye')
  await ended(t, here, { code: 1000 })
  const opened = lines.find(({ msg }) => msg === 'connection opened')
  const closed = lines.find(({ msg }) => msg === 'connection closed')
  t.match(opened, { reqId: /./, connection: here.connection().id, transport: 'ws' })
  t.match(closed, { reqId: opened?.reqId, connection: opened?.connection, transport: 'ws', code: 1000, reason: 'bye', clean: true, events: 1 })
})

t.test('all ends at once are all told', async (t) => {
  const { options, errors } = logs()
  const here = await place(t, { fastify: options, connections: { drain: { within: 0, grace: 500 } } }, { onMessage () { throw new Error('boom') } })
  const clients: WsClient[] = await Promise.all(Array.from({ length: 100 }, () => wsClient(here.port, '/x')))
  await until(() => here.app.connections.room('b').size === 100)
  const ways: Array<(client: WsClient) => void> = [
    (client) => client.close(),
    (client) => client.close(1000, 'bye'),
    (client) => client.socket.terminate(),
    (client) => (client.socket as unknown as { _socket: Raw['socket'] })._socket.resetAndDestroy(),
    (client) => client.send('boom'),
    () => {}
  ]
  for (const [index, client] of clients.entries()) {
    client.socket.on('error', () => {})
    ways[index % ways.length]?.(client)
  }
  await here.app.close()
  t.equal(here.ends.length, 100)
  t.equal(here.events.length, 100)
  t.ok(here.ends.every(({ rooms }) => rooms.length === 2))
  t.ok(errors().every(({ msg }) => msg === 'a handler of a WebSocket route failed'))
})
