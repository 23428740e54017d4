import type { Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { FastifyInstance } from 'fastify'
import t from 'tap'
import type { Test } from 'tap'
import type { Disconnect } from '../lib/index.ts'
import { asks, bare, bareSocket, closeCode, isWhole, retryOf, upgrades } from './bare.ts'
import { build, listen, until } from './helper.ts'

const HOUR = 3_600_000

interface Site { app: FastifyInstance, port: number, ends: Disconnect[], opened (): number }

async function site (t: Test, grace: number, routes: (app: FastifyInstance) => void): Promise<Site> {
  const app = await build(t, { fastify: { pluginTimeout: 0 }, connections: { drain: { grace, within: 0 } }, sse: { headStart: HOUR } })
  const ends: Disconnect[] = []
  let opened = 0
  app.connections.on('connect', () => { opened++ })
  app.connections.on('disconnect', (connection, end) => { ends.push(end) })
  routes(app)
  return { app, port: await listen(app), ends, opened: () => opened }
}

/** Something a test lets go on. */
function gate (): { wait (): Promise<void>, open (): void, waiting: number } {
  let open = (): void => {}
  const opened = new Promise<void>((resolve) => { open = resolve })
  const made = { open, waiting: 0, wait () { made.waiting++; return opened } }
  return made
}

t.test('a stream whose head was not sent yet is opened, told when to come back, and ended', async (t) => {
  const { wait, open, ...rest } = gate()
  const { app, port, ends } = await site(t, HOUR, (app) => {
    app.get('/live', { sse: true }, async (request, reply) => {
      const connection = reply.sse()
      await connection.join('hall')
      connection.send('early')
      await wait()
    })
  })
  t.same(rest, { waiting: 0 })
  const client = await bare(port, asks('/live'))
  await until(() => app.connections.room('hall').size === 1)
  const closing = app.close()
  await until(() => app.connections.size === 0)
  t.equal(client.text, '')
  open()
  await closing
  await until(() => client.closed)
  t.match(client.text, /^HTTP\/1\.1 200 OK/)
  t.match(client.text, /data: early\n/)
  t.ok(isWhole(client))
  t.ok(retryOf(client) > 0)
  t.match(ends, [{ reason: 'shutdown', code: 1001, clean: true, rooms: ['hall'] }])
})

t.test('a handler or source that heeds its signal before the head was sent is no failure', async (t) => {
  let asked = 0
  const { app, port, ends } = await site(t, HOUR, (app) => {
    app.get('/handler', { sse: true }, async (request, reply) => {
      const connection = reply.sse()
      asked++
      await sleep(HOUR, null, { signal: connection.signal })
    })
    app.get('/plain', async (request, reply) => {
      const connection = reply.sse()
      asked++
      await sleep(HOUR, null, { signal: connection.signal })
    })
    app.get('/source', { sse: true }, async function * (request, reply, connection) {
      asked++
      await sleep(HOUR, null, { signal: connection.signal })
      yield 'never'
    })
    app.get('/callback', async (request, reply) => {
      reply.sse(async (connection) => {
        asked++
        await sleep(HOUR, null, { signal: connection.signal })
      })
      return reply
    })
  })
  const clients = await Promise.all(['/handler', '/plain', '/source', '/callback'].map((path) => bare(port, asks(path))))
  await until(() => asked === 4)
  await app.close()
  await until(() => clients.every(({ closed }) => closed))
  for (const client of clients) {
    t.match(client.text, /^HTTP\/1\.1 200 OK/)
    t.ok(isWhole(client))
    t.ok(retryOf(client) > 0)
  }
  t.equal(ends.length, 4)
  t.equal(ends.filter(({ reason, clean }) => reason === 'shutdown' && clean).length, 4)
})

t.test('a handler that never settles is cut after the grace', async (t) => {
  const { app, port, ends } = await site(t, 100, (app) => {
    app.get('/live', { sse: true }, async (request, reply) => {
      reply.sse()
      await new Promise(() => {})
    })
  })
  const client = await bare(port, asks('/live'))
  await until(() => app.connections.size === 1)
  await app.close()
  await until(() => client.closed)
  t.equal(client.text, '')
  t.match(ends, [{ reason: 'shutdown', clean: false }])
})

t.test('a stream asked for before the close and opened during it is told to wait: 200 to an EventSource, 503 to others', async (t) => {
  const { wait, open, ...rest } = gate()
  const { app, port, opened } = await site(t, 5_000, (app) => {
    app.addHook('preHandler', wait)
    app.get('/route', { sse: true }, async (request, reply) => { reply.sse() })
    app.get('/plain', async (request, reply) => { reply.sse() })
    app.get('/generator', { sse: true }, async function * () { yield 'never' })
  })
  t.same(rest, { waiting: 0 })
  let asked = 0
  app.server.on('request', () => { asked++ })
  const paths = ['/route', '/plain', '/generator']
  const sources = await Promise.all(paths.map((path) => bare(port, asks(path))))
  const others = await Promise.all(paths.map((path) => bare(port, asks(path).replace(/Accept: .*\r\n/, 'Accept: */*\r\n'))))
  await until(() => asked === 6)
  const closing = app.close()
  await until(() => !app.server.listening)
  open()
  await closing
  await until(() => [...sources, ...others].every(({ closed }) => closed))
  for (const client of sources) {
    t.match(client.text, /^HTTP\/1\.1 200 OK[^]*content-type: text\/event-stream\r\n/)
    t.match(client.text, /connection: close\r\n/i)
    t.ok(retryOf(client) >= 5_000)
  }
  for (const client of others) {
    t.match(client.text, /^HTTP\/1\.1 503 Service Unavailable[^]*retry-after: 5\r\n/)
    t.match(client.text, /FST_ERR_REAL_SHUTTING_DOWN/)
  }
  t.equal(opened(), 0)
})

t.test('an upgrade that arrives during the close is refused with 503', async (t) => {
  const { wait, open } = gate()
  const { app, port, opened } = await site(t, 5_000, (app) => {
    app.get('/live', { ws: true }, {})
    app.get('/busy', async () => { await wait(); return 'done' })
  })
  const sockets: Socket[] = []
  app.server.on('connection', (socket) => { sockets.push(socket) })
  const request = upgrades('/live')
  const half = await bare(port, request.slice(0, 40)) // on its way when the close begins
  const busy = await bare(port, asks('/busy'))
  await until(() => sockets.length === 2 && sockets.every(({ bytesRead }) => bytesRead > 0))
  const closing = app.close()
  await until(() => !app.server.listening)
  half.socket.write(request.slice(40))
  await until(() => half.closed)
  t.match(half.text, /^HTTP\/1\.1 503 Service Unavailable\r\nretry-after: 5\r\nconnection: close\r\n[^]*FST_ERR_REAL_SHUTTING_DOWN/)
  open()
  await closing
  await until(() => busy.closed)
  t.equal(opened(), 0)
})

t.test('an upgrade that is in the middle of its hooks, before or after its handler, is refused with 503', async (t) => {
  const { wait, open } = gate()
  let asked = 0
  const hook = async (): Promise<void> => {
    asked++
    await wait()
  }
  const { app, port, opened } = await site(t, 5_000, (app) => {
    app.get('/before', { ws: true, preHandler: hook }, {})
    app.get('/after', { ws: true, onSend: hook }, {})
  })
  const clients = await Promise.all(['/before', '/after'].map((path) => bare(port, upgrades(path))))
  await until(() => asked === 2)
  const closing = app.close()
  await until(() => !app.server.listening)
  open()
  await closing
  await until(() => clients.every(({ closed }) => closed))
  for (const client of clients) t.match(client.text, /^HTTP\/1\.1 503 Service Unavailable[^]*retry-after: \d+\r\n/)
  t.equal(opened(), 0)
})

t.test('a WebSocket whose onConnect has not finished is closed with 1001', async (t) => {
  const { wait, open } = gate()
  let asked = 0
  const told: Disconnect[] = []
  const { app, port, ends } = await site(t, HOUR, (app) => {
    app.get('/live', { ws: true }, { onConnect () { asked++; return wait() }, onDisconnect (connection, end) { told.push(end) } })
  })
  const client = await bareSocket(port, '/live')
  await until(() => asked === 1)
  const closing = app.close()
  await until(() => client.closed)
  open()
  await closing
  t.equal(closeCode(client), 1001)
  t.match(ends, [{ reason: 'shutdown', code: 1001, clean: true }])
  t.same(told, ends)
})
