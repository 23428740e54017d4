import dns from 'node:dns'
import { Agent, request } from 'node:http'
import type { Socket } from 'node:net'
import { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect as connectTls } from 'node:tls'
import Fastify from 'fastify'
import type { FastifyInstance } from 'fastify'
import t from 'tap'
import type { Test } from 'tap'
import type { Connection, Disconnect } from '../lib/index.ts'
import { sharedRegistry, sseReal } from '../lib/index.ts'
import { injectSSE, injectWS } from '../lib/testing.ts'
import { asks, bare, bareSocket, bareStream, closeCode, isWhole, retryOf, upgrades } from './bare.ts'
import type { Bare } from './bare.ts'
import { cert, key } from './fixtures/tls.ts'
import { build, listen, sseClient, until, wsClient } from './helper.ts'
import type { BuildOptions } from './helper.ts'

const HOUR = 3_600_000
const PILE = 6 * 1_048_576 // the kernel takes about four megabytes for a reader that does not read

interface Site { app: FastifyInstance, port: number, ends: Disconnect[] }

/** An application that is slow to end: `/live` for both transports, in room `hall`, or another by the query. */
async function site (t: Test, { grace = HOUR, within = 0, ...options }: BuildOptions & { grace?: number, within?: number } = {}, routes?: (app: FastifyInstance) => void): Promise<Site> {
  const app = await build(t, {
    ...options,
    fastify: { pluginTimeout: 0, ...options.fastify },
    connections: { drain: { grace, within }, maxBuffered: 64 * 1_048_576, maxEventBytes: 32 * 1_048_576, ...options.connections }
  })
  const ends: Disconnect[] = []
  app.connections.on('disconnect', (connection, end) => { ends.push(end) })
  app.get('/live', { sse: true, ws: { async onConnect (connection) { await connection.join(roomOf(connection)) } } }, async (request, reply) => {
    const connection = reply.sse()
    await connection.join(roomOf(connection))
  })
  routes?.(app)
  return { app, port: await listen(app), ends }
}

function roomOf ({ request }: Connection): string { return (request.query as { room?: string }).room ?? 'hall' }

/** A stream whose reader does not read, with megabytes on their way to it: a shutdown waits for it. */
async function stuckStream ({ app, port }: Site): Promise<Bare> {
  const client = await bareStream(port, '/live?room=stuck')
  await until(() => app.connections.room('stuck').size > 0)
  client.socket.pause()
  await app.connections.room('stuck').send('x'.repeat(PILE))
  const [stuck] = app.connections.room('stuck').members()
  await until(() => (stuck as Connection).buffered > 0)
  return client
}

t.test('a server stops listening before its streams have ended, and ends with the last of them', async (t) => {
  const here = await site(t)
  const stuck = await stuckStream(here)
  const other = await bareStream(here.port, '/live')
  let closed = false
  const closing = here.app.close().then(() => { closed = true })
  await until(() => other.closed)
  await t.rejects(bare(here.port), { code: 'ECONNREFUSED' })
  t.notOk(closed)
  stuck.socket.resume()
  await closing
  await until(() => stuck.closed)
  t.ok(isWhole(stuck), 'a slow reader that reads after all gets everything')
  t.ok(stuck.text.length > PILE)
})

t.test('each stream is told when to come back and ended properly, and its socket does not live on', async (t) => {
  const grace = 5_000
  const here = await site(t, { grace, within: 2_000 })
  const clients = await Promise.all(Array.from({ length: 20 }, () => bareStream(here.port, '/live', 'Connection: keep-alive\r\n')))
  await until(() => here.app.connections.room('hall').size === 20)
  await here.app.connections.room('hall').send('last')
  await here.app.close()
  await until(() => clients.every(({ closed }) => closed))
  for (const client of clients) {
    t.ok(isWhole(client))
    t.match(client.text, /data: last\n\n\r\n[^]*retry: \d+\n/, 'what was sent before comes before')
    t.ok(retryOf(client) > 0 && retryOf(client) <= grace + 2_000)
    t.notMatch(client.text, / 503 /)
  }
  t.match(here.ends, Array.from({ length: 20 }, () => ({ code: 1001, reason: 'shutdown', clean: true, rooms: ['hall'] })))
})

t.test('each WebSocket is closed with 1001', async (t) => {
  const here = await site(t)
  const [polite, resuming] = await Promise.all([wsClient(here.port, '/live'), wsClient(here.port, '/live?lastEventId=')])
  await until(() => here.app.connections.room('hall').size === 2)
  await here.app.connections.room('hall').send('last')
  await here.app.close()
  for (const client of [polite, resuming]) {
    await until(() => client.closed !== null)
    t.same(client.closed, { code: 1001, reason: 'shutdown' })
  }
  t.same(polite.messages, ['last'])
  t.match(here.ends, [{ code: 1001, reason: 'shutdown', clean: true, rooms: ['hall'] }, { code: 1001, reason: 'shutdown', clean: true, rooms: ['hall'] }])
})

t.test('a WebSocket that does not answer the close frame is cut after the grace', async (t) => {
  const here = await site(t, { grace: 100 })
  const client = await bare(here.port, upgrades('/live'))
  await until(() => here.app.connections.size === 1)
  await here.app.close()
  t.equal(closeCode(client), 1001)
  t.match(here.ends, [{ code: 1001, reason: 'shutdown', clean: false }])
})

t.test('clients that do not read are cut after the grace, and only they', async (t) => {
  const here = await site(t, { grace: 200 })
  const stuck = await stuckStream(here)
  const stuckSocket = await bareSocket(here.port, '/live?room=deaf')
  await until(() => here.app.connections.room('deaf').size === 1)
  stuckSocket.socket.pause()
  await here.app.connections.room('deaf').send('x'.repeat(PILE))
  const reader = await bareStream(here.port, '/live')
  await here.app.close()
  t.equal(here.app.connections.size, 0)
  t.equal(here.ends.filter(({ clean }) => clean).length, 1)
  t.equal(here.ends.length, 3)
  for (const { socket } of [stuck, stuckSocket]) socket.resume()
  await until(() => reader.closed && stuck.closed && stuckSocket.closed)
  t.ok(isWhole(reader))
  t.notOk(isWhole(stuck))
  t.equal(closeCode(stuckSocket), 0)
})

t.test('idle keep-alive sockets are closed at once, and those that fall idle later as soon as they do', async (t) => {
  let answer = (): void => {}
  const here = await site(t, {}, (app) => {
    app.get('/quick', async () => 'quick')
    app.get('/slow', async () => { await new Promise<void>((resolve) => { answer = resolve }); return 'slow' })
  })
  const stuck = await stuckStream(here)
  const [idle, busy] = [await bare(here.port, asks('/quick')), await bare(here.port, asks('/slow'))]
  await until(() => idle.text.endsWith('quick'))
  let closed = false
  const closing = here.app.close().then(() => { closed = true })
  await until(() => idle.closed)
  t.notOk(busy.closed)
  answer()
  await until(() => busy.closed)
  t.match(busy.text, /^HTTP\/1\.1 200 OK[^]*slow$/)
  t.notOk(closed)
  stuck.socket.resume()
  await closing
})

t.test('an ordinary answer that is still on its way is not cut', async (t) => {
  let asked = false
  const here = await site(t, {}, (app) => {
    app.get('/big', async () => {
      asked = true
      await sleep(20)
      return 'y'.repeat(PILE)
    })
  })
  const stuck = await stuckStream(here)
  const slow = await bare(here.port, asks('/big'))
  slow.socket.pause()
  await until(() => asked)
  const closing = here.app.close()
  await sleep(200)
  slow.socket.resume()
  await until(() => slow.closed)
  t.equal(slow.text.length - slow.text.indexOf('\r\n\r\n') - 4, PILE)
  stuck.socket.resume()
  await closing
})

t.test('a socket on which nothing was ever asked does not keep the server open', async (t) => {
  const here = await site(t)
  const silent = await bare(here.port)
  await until(async () => await connectionsOf(here.app) === 1)
  await here.app.close()
  await until(() => silent.closed)
  t.equal(silent.text, '')
})

t.test('a request that was begun and does not come is given the grace, and one that comes is answered', async (t) => {
  const sockets: Socket[] = []
  const here = await site(t, { grace: 300 })
  here.app.server.on('connection', (socket) => { sockets.push(socket) })
  const [half, late] = [await bare(here.port, 'GET /live HTTP/1.1\r\nHos'), await bare(here.port, 'GET /live HTTP/1.1\r\nHos')]
  await until(() => sockets.length === 2 && sockets.every(({ bytesRead }) => bytesRead > 0))
  const closing = here.app.close()
  await until(() => !here.app.server.listening)
  late.socket.write('t: localhost\r\n\r\n')
  await until(() => late.closed)
  t.match(late.text, /^HTTP\/1\.1 503 /)
  await closing
  await until(() => half.closed)
  t.equal(half.text, '')
})

for (const [what, options] of Object.entries({ TLS: { https: { key, cert } }, 'TLS, to a server of HTTP/2 that takes HTTP/1,': { http2: true, https: { key, cert, allowHTTP1: true } } })) {
  t.test(`nor does one over ${what} keep it open, with nothing or half a request on it`, async (t) => {
    const app = await build(t, { fastify: { pluginTimeout: 0, ...options } as never, connections: { drain: { grace: 300, within: 0 } } })
    app.get('/live', { sse: true }, async (request, reply) => { reply.sse() })
    const sockets: Socket[] = []
    app.server.on('secureConnection', (socket: Socket) => { sockets.push(socket) })
    const port = await listen(app)
    const silent = connectTls({ port, rejectUnauthorized: false })
    const half = connectTls({ port, rejectUnauthorized: false })
    half.write('GET /live HTTP/1.1\r\nHos')
    const stream = connectTls({ port, rejectUnauthorized: false })
    let text = ''
    stream.setEncoding('latin1').on('data', (chunk: string) => { text += chunk })
    stream.write(asks('/live'))
    let gone = 0
    for (const socket of [silent, half, stream]) socket.on('error', () => {}).on('close', () => { gone++ })
    await until(() => app.connections.size === 1 && text.includes('\r\n\r\n') && sockets.length === 3 && sockets.filter(({ bytesRead }) => bytesRead > 0).length === 2)
    await app.close()
    await until(() => gone === 3)
    t.match(text, /retry: \d+\n\r\n0\r\n\r\n$/)
  })
}

function connectionsOf (app: FastifyInstance): Promise<number> {
  return new Promise((resolve, reject) => { app.server.getConnections((err, count) => err === null ? resolve(count) : reject(err)) })
}

t.test('sources are ended by their signal, and a close waits for what they do last', async (t) => {
  const done: string[] = []
  const here = await site(t, {}, (app) => {
    app.get('/generator', { sse: true }, async function * (request, reply, connection) {
      try {
        yield 'a'
        await sleep(HOUR, null, { signal: connection.signal })
      } finally {
        await sleep(60)
        done.push('generator')
      }
    })
    app.get('/parked', { sse: true }, async function * () {
      try {
        while (true) {
          yield 'a'
          await sleep(10)
        }
      } finally {
        await sleep(60)
        done.push('parked')
      }
    })
    app.get('/callback', { sse: true }, async (request, reply) => {
      reply.sse(async (connection) => {
        connection.send('a')
        await sleep(HOUR, null, { signal: connection.signal }).catch(() => {})
        await sleep(60)
        done.push('callback')
      })
    })
    app.get('/readable', { sse: true }, async (request, reply) => {
      reply.sse(new Readable({
        objectMode: true,
        read () { if (this.readableLength === 0) setTimeout(() => this.push('a'), 10) },
        destroy (err, over) {
          done.push('readable')
          over(err)
        }
      }))
    })
    app.get('/socket', { ws: true }, {
      async onMessage (connection, message) {
        await sleep(HOUR, null, { signal: connection.signal }).catch(() => {})
        await sleep(60)
        done.push(`message ${String(message)}`)
      },
      async onDisconnect () {
        await sleep(60)
        done.push('onDisconnect')
      }
    })
  })
  for (const path of ['/generator', '/parked', '/callback', '/readable']) await (await sseClient(here.port, path)).wait(1)
  const socket = await wsClient(here.port, '/socket')
  socket.send('hello')
  const [connection] = [...here.app.connections].filter(({ transport }) => transport === 'ws')
  await until(() => connection !== undefined && done.length === 0)
  await sleep(20)
  await here.app.close()
  t.same(done.sort(), ['callback', 'generator', 'message hello', 'onDisconnect', 'parked', 'readable'])
  t.equal(here.ends.length, 5)
})

t.test('what ignores its signal does not hold a close beyond the grace', async (t) => {
  let asked = 0
  const here = await site(t, { grace: 100 }, (app) => {
    app.get('/source', { sse: true }, async function * () {
      yield 'a'
      asked++
      await new Promise(() => {})
    })
    app.get('/handler', { sse: true }, async (request, reply) => {
      reply.sse()
      asked++
      await new Promise(() => {})
    })
    app.get('/socket', { ws: true }, { onConnect () { asked++; return new Promise(() => {}) } })
  })
  const clients = [await bareStream(here.port, '/source'), await bareStream(here.port, '/handler'), await bareSocket(here.port, '/socket')]
  await until(() => asked === 3)
  await here.app.close()
  t.equal(here.ends.length, 3)
  t.equal(here.ends.filter(({ reason }) => reason === 'shutdown').length, 3)
  await until(() => clients.every(({ closed }) => closed))
})

t.test('a connection that waits for its replay ends like any other', async (t) => {
  const obeys = (connection: Connection): Promise<unknown> => new Promise((resolve) => connection.signal.addEventListener('abort', resolve))
  const here = await site(t, { connections: { hold: HOUR } }, (app) => {
    app.get('/held', { sse: true, ws: { async onConnect (connection) { await connection.join('hall'); await obeys(connection) } } }, async (request, reply) => {
      const connection = reply.sse()
      await connection.join('hall')
      await obeys(connection)
    })
  })
  const stream = await bareStream(here.port, '/held', 'Last-Event-ID: abc-1\r\n')
  const socket = await bareSocket(here.port, '/held?lastEventId=abc-1')
  await until(() => here.app.connections.room('hall').size === 2)
  await here.app.connections.room('hall').send('held back')
  await here.app.close()
  await until(() => stream.closed && socket.closed)
  t.ok(isWhole(stream))
  t.notMatch(stream.text, /held back|event: gap/)
  t.equal(closeCode(socket), 1001)
  t.equal(here.ends.length, 2)
})

t.test('so does one in the middle of a replay, and one that is too far behind', async (t) => {
  const history = { events: 1_000, bytes: 64 * 1_048_576 }
  for (const slow of ['catch-up', 'drop'] as const) {
    const here = await site(t, { connections: { history, slow, maxBuffered: 65_536 } })
    const { app, port, ends } = here
    const first = await sseClient(port, '/live')
    const { id } = await first.wait(1)
    first.close()
    await until(() => app.connections.size === 0)
    for (let i = 0; i < 200; i++) await app.connections.room('hall').send('y'.repeat(50_000))
    const replayed = await bareStream(port, '/live', `Last-Event-ID: ${id as string}\r\n`)
    replayed.socket.pause()
    const behind = await bareStream(port, '/live?room=other')
    behind.socket.pause()
    await until(() => app.connections.room('other').size === 1)
    for (let i = 0; i < 200; i++) {
      await app.connections.room('other').send('y'.repeat(50_000))
      await new Promise(setImmediate)
    }
    await until(() => app.connections.stats().slow > 0)
    const closing = app.close()
    for (const { socket } of [replayed, behind]) socket.resume()
    await closing
    await until(() => replayed.closed && behind.closed)
    for (const client of [replayed, behind]) {
      t.ok(isWhole(client), slow)
      t.ok(retryOf(client) > 0)
    }
    t.equal(ends.length, 3)
  }
})

t.test('a connection that was ended before, and whose end never got there, keeps its reason and is not taken for whole', async (t) => {
  const here = await site(t, { grace: 100 })
  const stuck = await stuckStream(here)
  const stuckSocket = await bareSocket(here.port, '/live?room=deaf')
  await until(() => here.app.connections.room('deaf').size === 1)
  stuckSocket.socket.pause()
  await here.app.connections.room('deaf').send('x'.repeat(PILE))
  for (const room of ['stuck', 'deaf']) await here.app.connections.room(room).disconnect('enough')
  t.equal(here.app.connections.size, 0)
  t.equal(here.ends.length, 0)
  await here.app.close()
  t.match(here.ends, [{ code: 1000, reason: 'enough', clean: false }, { code: 1000, reason: 'enough', clean: false }])
  for (const { socket } of [stuck, stuckSocket]) socket.resume()
  await until(() => stuck.closed && stuckSocket.closed)
  t.notOk(isWhole(stuck))
})

t.test('a second close is the first one, and a close before it listens ends it as well', async (t) => {
  const here = await site(t)
  const client = await bareStream(here.port, '/live')
  await Promise.all([here.app.close(), here.app.close()])
  await here.app.close()
  await until(() => client.closed)
  t.equal(here.ends.length, 1)

  const early = Fastify()
  early.register(sseReal)
  await early.close()
  t.notOk(early.server.listening)
})

t.test('an application that never listens ends its injected connections', async (t) => {
  const app = await build(t, { fastify: { pluginTimeout: 0 }, connections: { drain: { grace: HOUR, within: 0 } } })
  let finished = 0
  const ends: Disconnect[] = []
  app.connections.on('disconnect', (connection, end) => { ends.push(end) })
  app.get('/live', { sse: true, ws: {} }, async (request, reply) => { reply.sse() })
  app.get('/source', { sse: true }, async function * (request, reply, connection) {
    try {
      yield 'a'
      await sleep(HOUR, null, { signal: connection.signal })
    } finally {
      finished++
    }
  })
  const [stream, source, socket] = [await injectSSE(app, '/live'), await injectSSE(app, '/source'), await injectWS(app, '/live')]
  await app.close()
  t.match(await socket.closed, { code: 1001 })
  t.match(await source.next(), { value: { data: 'a' } })
  for (const one of [stream, source]) {
    for await (const event of one) t.equal(event.event, 'ready')
    t.type(one.retry, 'number')
  }
  t.equal(finished, 1)
  t.match(ends, [{ reason: 'shutdown', clean: true }, { reason: 'shutdown', clean: true }, { reason: 'shutdown', clean: true }])
})

t.test('an application without a connection closes at once', async (t) => {
  const app = Fastify()
  app.register(sseReal)
  await app.ready()
  await app.close()
  t.ok((await sharedRegistry(app) as { draining?: boolean }).draining)
})

t.test('a server on localhost has two sockets to listen on, and both stop', async (t) => {
  const { lookup } = dns
  t.after(() => { dns.lookup = lookup })
  const both = [{ address: '127.0.0.1', family: 4 }, { address: '127.0.0.2', family: 4 }]
  dns.lookup = ((host: string, options: { all?: boolean }, callback: (err: null, ...found: unknown[]) => void) => {
    if (host !== 'localhost') return lookup(host, options, callback as never)
    return typeof options === 'function' ? (options as typeof callback)(null, '127.0.0.1', 4) : options.all === true ? callback(null, both) : callback(null, '127.0.0.1', 4)
  }) as never
  const app = await build(t, { fastify: { pluginTimeout: 0 }, connections: { drain: { grace: HOUR, within: 0 }, maxBuffered: 64 * 1_048_576, maxEventBytes: 32 * 1_048_576 } })
  const ends: Disconnect[] = []
  app.connections.on('disconnect', (connection, end) => { ends.push(end) })
  app.get('/live', { sse: true, ws: { async onConnect (connection) { await connection.join(roomOf(connection)) } } }, async (request, reply) => { await reply.sse().join(roomOf(reply.connection as Connection)) })
  await app.listen({ port: 0, host: 'localhost' })
  t.equal(app.addresses().length, 2)
  const { port } = app.addresses()[0] as { port: number }
  const stuck = await stuckStream({ app, port, ends })
  const clients: Bare[] = []
  for (const { address } of both) clients.push(await bareStream(port, '/live', '', address), await bareSocket(port, '/live', address))
  await until(() => app.connections.size === 5)
  const closing = app.close()
  await until(() => clients.every(({ closed }) => closed))
  t.equal(clients.filter(isWhole).length, 2)
  t.equal(clients.filter((client) => closeCode(client) === 1001).length, 2)
  for (const { address } of both) await t.rejects(bare(port, '', address), { code: 'ECONNREFUSED' }, address)
  stuck.socket.resume()
  await closing
  t.equal(ends.length, 5)
})

t.test('forceCloseConnections changes nothing for those that read', async (t) => {
  for (const forceCloseConnections of [true, 'idle', false] as const) {
    const here = await site(t, { fastify: { forceCloseConnections } })
    const [stream, socket] = [await bareStream(here.port, '/live'), await bareSocket(here.port, '/live')]
    await until(() => here.app.connections.size === 2)
    await here.app.close()
    await until(() => stream.closed && socket.closed)
    t.ok(isWhole(stream), `stream, ${forceCloseConnections}`)
    t.ok(retryOf(stream) > 0)
    t.equal(closeCode(socket), 1001, `socket, ${forceCloseConnections}`)
    t.equal(here.ends.filter(({ clean }) => clean).length, 2)
  }
})

t.test('routes of @fastify/websocket itself are closed with 1001 too, and cut after the grace', async (t) => {
  for (const answers of [true, false]) {
    const here = await site(t, { grace: answers ? HOUR : 100 }, (app) => {
      app.get('/plain', { websocket: true }, (socket) => { socket.send('hello') })
    })
    const client = answers ? await bareSocket(here.port, '/plain') : await bare(here.port, upgrades('/plain'))
    await until(() => client.text.endsWith('hello'))
    await here.app.close()
    await until(() => client.closed)
    t.equal(closeCode(client), 1001)
  }
})

t.test('a client that comes back over the socket it has is told to wait, and never gets a 503', async (t) => {
  const here = await site(t)
  const stuck = await stuckStream(here)
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  t.after(() => agent.destroy())
  const ask = (): Promise<number | string> => new Promise((resolve) => {
    const outgoing = request({ port: here.port, host: '127.0.0.1', path: '/live', agent, headers: { accept: 'text/event-stream' } }, (response) => {
      response.resume().on('end', () => resolve(response.statusCode as number))
    })
    outgoing.on('error', (err: Error & { code?: string }) => resolve(err.code as string)).end()
  })
  const first = ask()
  await until(() => here.app.connections.size === 2)
  const closing = here.app.close()
  t.equal(await first, 200)
  for (let i = 0; i < 20; i++) t.match(await ask(), /^(?:ECONNREFUSED|ECONNRESET)$/)
  stuck.socket.resume()
  await closing
})
