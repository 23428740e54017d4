import type { FastifyInstance } from 'fastify'
import t from 'tap'
import type { Test } from 'tap'
import type { Connection, Disconnect } from '../lib/index.ts'
import { asks, bare, bareSocket, bareStream, upgrades } from './bare.ts'
import { build, listen, sseClient, until, wsClient } from './helper.ts'
import { logs } from './logs.ts'

interface Line { msg: string, level: number, reqId?: string, connection?: string, transport?: string, reason?: string, code?: number, clean?: boolean, duration?: number, events?: number, bytes?: number, tenant?: string }

interface Site { app: FastifyInstance, port: number, lines: Line[], told: Array<[string, Disconnect?]> }

async function site (t: Test, routes: (app: FastifyInstance) => void): Promise<Site> {
  const lines: Line[] = []
  const app = await build(t, {
    fastify: { logger: { stream: { write (line: string) { lines.push(JSON.parse(line) as Line) } } }, pluginTimeout: 0 } as never,
    connections: { drain: { grace: 200, within: 0 } }
  })
  const told: Site['told'] = []
  app.connections.on('connect', ({ id }) => { told.push([id]) })
  app.connections.on('disconnect', ({ id }, end) => { told.push([id, end]) })
  app.addHook('onRequest', async (request) => { request.log = request.log.child({ tenant: 'acme' }) })
  routes(app)
  return { app, port: await listen(app), lines, told }
}

const MANY = 3

/** Each way a connection can end, and what is said of it. */
const ways: Array<{ name: string, path: string, transport: 'sse' | 'ws', end: Partial<Disconnect>, leave: (here: Site) => Promise<unknown> }> = [
  { name: 'a stream whose client leaves', path: '/live', transport: 'sse', end: { reason: 'client', clean: false }, async leave ({ port }) { (await sseClient(port, '/live')).close() } },
  { name: 'a stream whose client resets', path: '/live', transport: 'sse', end: { reason: 'client', clean: false }, async leave ({ port }) { (await bareStream(port, '/live')).socket.resetAndDestroy() } },
  { name: 'a stream whose client half-closes', path: '/live', transport: 'sse', end: { reason: 'client', clean: false }, async leave ({ port }) { (await bareStream(port, '/live')).socket.end() } },
  { name: 'a stream whose source is done', path: '/done', transport: 'sse', end: { reason: 'done', code: 1000, clean: true }, async leave ({ port }) { await sseClient(port, '/done') } },
  { name: 'a stream whose source fails', path: '/fails', transport: 'sse', end: { reason: 'error', code: 1011, clean: false }, async leave ({ port }) { await sseClient(port, '/fails') } },
  { name: 'a stream that was never opened', path: '/refuses', transport: 'sse', end: { reason: 'refused', code: 1006, clean: false }, async leave ({ port }) { await sseClient(port, '/refuses') } },
  { name: 'a stream that the server closes', path: '/closes', transport: 'sse', end: { reason: 'enough', code: 1000, clean: true }, async leave ({ port }) { await sseClient(port, '/closes') } },
  { name: 'a WebSocket whose client leaves politely', path: '/socket', transport: 'ws', end: { reason: 'bye', code: 1000, clean: true }, async leave ({ port }) { (await wsClient(port, '/socket')).close(1000, 'bye') } },
  { name: 'a WebSocket whose client is cut', path: '/socket', transport: 'ws', end: { reason: 'lost', code: 1006, clean: false }, async leave ({ port }) { (await bareSocket(port, '/socket')).socket.destroy() } },
  { name: 'a WebSocket whose client resets during the handshake', path: '/socket', transport: 'ws', end: { reason: 'lost', code: 1006, clean: false }, async leave ({ port, told }) { const before = told.length; const client = await bare(port, upgrades('/socket')); await until(() => told.length > before); client.socket.resetAndDestroy() } },
  { name: 'a WebSocket whose handler throws', path: '/throws', transport: 'ws', end: { reason: 'error', code: 1011, clean: true }, async leave ({ port }) { await wsClient(port, '/throws') } },
  { name: 'a WebSocket that onConnect refuses', path: '/refused', transport: 'ws', end: { reason: 'no', code: 4403, clean: true }, async leave ({ port }) { await wsClient(port, '/refused') } },
  { name: 'a stream at a shutdown', path: '/live', transport: 'sse', end: { reason: 'shutdown', code: 1001, clean: true }, async leave ({ app, port, told }) { await sseClient(port, '/live'); await until(() => told.length > 0); await app.close() } },
  { name: 'a WebSocket at a shutdown', path: '/socket', transport: 'ws', end: { reason: 'shutdown', code: 1001, clean: true }, async leave ({ app, port, told }) { await wsClient(port, '/socket'); await until(() => told.length > 0); await app.close() } },
  { name: 'a stream cut at a shutdown before its head', path: '/never', transport: 'sse', end: { reason: 'shutdown', code: 1001, clean: false }, async leave ({ app, port, told }) { await bare(port, asks('/never')); await until(() => told.length > 0); await app.close() } }
]

function routes (app: FastifyInstance): void {
  app.get('/live', { sse: true }, async (request, reply) => { reply.sse() })
  app.get('/done', { sse: true }, async function * () { yield 'a' })
  app.get('/fails', { sse: true }, async function * () { yield 'a'; throw new Error('broken') })
  app.get('/refuses', { sse: true }, async (request, reply) => { reply.sse(); throw new Error('refused') })
  app.get('/closes', { sse: true }, async (request, reply) => { const connection = reply.sse(); connection.send('a'); connection.close(1000, 'enough') })
  app.get('/never', { sse: { headStart: 3_600_000 } }, async (request, reply) => { reply.sse(); await new Promise(() => {}) })
  app.get('/socket', { ws: true }, {})
  app.get('/throws', { ws: true }, { onConnect () { throw new Error('broken') } })
  app.get('/refused', { ws: true }, { onConnect (connection: Connection) { connection.close(4403, 'no') } })
}

for (const { name, path, transport, end, leave } of ways) {
  t.test(`${name} is opened and closed once, in the log of its request and for the registry`, async (t) => {
    const here = await site(t, routes)
    const times = end.reason === 'shutdown' ? 1 : MANY
    for (let i = 0; i < times; i++) await leave(here)
    await until(() => here.told.length >= 2 * times && here.app.connections.size === 0)
    await here.app.close()
    const { lines, told } = here
    const opened = lines.filter(({ msg }) => msg === 'connection opened')
    const closed = lines.filter(({ msg }) => msg === 'connection closed')
    t.equal(opened.length, times)
    t.equal(closed.length, times)
    t.equal(told.filter(([, end]) => end === undefined).length, times)
    const disconnects = told.filter(([, end]) => end !== undefined)
    t.equal(disconnects.length, times)
    for (const line of closed) {
      const { reqId, connection } = line
      const request = lines.find(({ msg, reqId: id }) => msg === 'incoming request' && id === reqId)
      t.match(request, { req: { url: path } }, 'the id of its request')
      t.match(line, { level: 30, transport, tenant: 'acme', ...end }, path)
      for (const figure of ['duration', 'events', 'bytes'] as const) t.type(line[figure], 'number')
      t.match(opened.find((other) => other.connection === connection), { level: 30, reqId, connection, transport, tenant: 'acme' })
      t.match(disconnects.find(([id]) => id === connection)?.[1], end)
    }
  })
}

t.test('a history that fails for who connects ends that connection, and is logged', async (t) => {
  const { lines, options } = logs('error')
  const app = await build(t, {
    fastify: options,
    connections: { identify: ({ headers }) => headers['x-user'] as string | undefined, history: ({ kind, name }) => { if (kind === 'all' || name === 'eve') throw new Error('which?'); return false } }
  })
  const ends: string[] = []
  app.connections.on('disconnect', (_connection, { reason }) => { ends.push(reason) })
  app.get('/x', { sse: true, ws: {} }, async (_request, reply) => { reply.sse() })
  const port = await listen(app)
  for (const headers of [{}, { 'x-user': 'eve' }]) {
    const reader = await sseClient(port, '/x', headers as Record<string, string>)
    await until(() => reader.ended)
    const { socket } = await wsClient(port, '/x', { headers })
    await until(() => socket.readyState === socket.CLOSED)
  }
  await until(() => ends.length === 4)
  t.strictSame(ends, ['error', 'error', 'error', 'error'])
  t.match(lines, Array.from(ends, () => ({ msg: 'it is not known what is kept for a connection', err: { message: 'which?' } })))
  t.equal(lines.length, 4)
  t.match(app.connections.stats(), { connections: 0, users: 0 })
})
