import { once } from 'node:events'
import { Agent, request } from 'node:http'
import type { IncomingMessage } from 'node:http'
import { connect, constants } from 'node:http2'
import type { ClientHttp2Session, ClientHttp2Stream } from 'node:http2'
import { request as secureRequest } from 'node:https'
import { Socket } from 'node:net'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import Fastify from 'fastify'
import type { FastifyInstance } from 'fastify'
import t from 'tap'
import type { Test } from 'tap'
import { connections, sseReal } from '../../lib/index.ts'
import type { Connection, Disconnect, Wire } from '../../lib/index.ts'
import { cert, key } from '../fixtures/tls.ts'
import { build, listen, sseClient, until } from '../helper.ts'
import { logs } from '../logs.ts'
import type { Line } from '../logs.ts'
import { get, rawClient } from '../raw.ts'

async function * three (): AsyncGenerator<string> { yield 'one'; await sleep(2); yield 'zwölf'; yield 'three' }
const BODY = 'data: one\n\ndata: zwölf\n\ndata: three\n\n'
const LATIN = Buffer.from(BODY).toString('latin1')

t.test('a client of HTTP/1.0 gets the body as it is, ended by the end of the socket', async (t) => {
  const app = await build(t)
  app.get('/x', { sse: true }, three)
  app.get('/throws', { sse: true }, async function * () { yield 'one'; await sleep(2); throw new Error('the password is 1234') })
  const port = await listen(app)
  const client = await rawClient(t, port, get('/x', {}, '1.0'))
  await until(() => client.ended)
  const [head = '', body] = client.text.split(/\r\n\r\n(.*)/s)
  t.match(head, /^HTTP\/1.1 200 OK/)
  t.match(head, /connection: close/i)
  t.notMatch(head, /transfer-encoding/i)
  t.equal(body, LATIN)
  const kept = await rawClient(t, port, get('/x', { connection: 'keep-alive' }, '1.0'))
  await until(() => kept.ended)
  t.equal(kept.text.split('\r\n\r\n')[1], LATIN)
  const cut = await rawClient(t, port, get('/throws', {}, '1.0'))
  await until(() => cut.ended || cut.closed)
  t.notMatch(cut.text, /password/)
  t.equal(app.connections.size, 0)
})

t.test('a source waits for a reader of HTTP/1.0, who can leave', async (t) => {
  const app = await build(t)
  const marks: number[] = []
  const ends: Disconnect[] = []
  app.connections.on('disconnect', (_connection, end) => { ends.push(end) })
  app.get('/x', { sse: true }, async function * (_request, _reply, connection) {
    for (let i = 0; i < 300; i++) { marks.push(connection.buffered); yield 'x'.repeat(50_000) }
  })
  const port = await listen(app)
  const client = await rawClient(t, port, get('/x', {}, '1.0'))
  client.socket.pause()
  await until(() => [...app.connections].some(({ buffered }) => buffered > 16_384))
  client.socket.resume()
  await until(() => client.ended)
  t.equal(marks.length, 300)
  t.ok(Math.max(...marks) < 16_384)
  t.equal([...client.text.matchAll(/^data: x{50000}$/gm)].length, 300)
  const other = await rawClient(t, port, get('/x', {}, '1.0'))
  other.socket.pause()
  await until(() => [...app.connections].some(({ buffered }) => buffered > 16_384))
  other.socket.resetAndDestroy()
  await until(() => ends.length === 2)
  t.match(ends, [{ reason: 'done', clean: true }, { reason: 'client', clean: false }])
})

t.test('a socket is used again after a stream has ended', async (t) => {
  const app = await build(t, { fastify: { connectionTimeout: 10_000, keepAliveTimeout: 10_000 } })
  app.get('/x', { sse: true }, three)
  app.get('/plain', async () => 'plain')
  app.get('/closed', { sse: { broadcast: false } }, async (_request, reply) => { reply.sse().close() })
  const port = await listen(app)
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  t.after(() => agent.destroy())
  const sockets = new Set<unknown>()
  for (const path of ['/x', '/plain', '/x', '/closed', '/x', '/x', '/plain']) {
    const outgoing = request({ port, host: '127.0.0.1', path, agent })
    outgoing.end()
    const [response] = await once(outgoing, 'response') as [IncomingMessage]
    sockets.add(response.socket)
    let text = ''
    for await (const chunk of response.setEncoding('utf8')) text += chunk as string
    t.equal(text, path === '/plain' ? 'plain' : path === '/x' ? BODY : '')
  }
  t.equal(sockets.size, 1)
})

t.test('streams leave no listeners on the socket they shared', async (t) => {
  const app = await build(t)
  const counts: number[] = []
  app.get('/x', { sse: true }, async (request) => {
    const { socket } = request.raw
    counts.push(['end', 'close', 'error', 'timeout', 'drain'].reduce((sum, name) => sum + socket.listenerCount(name), 0))
    return ['x']
  })
  const port = await listen(app)
  const client = await rawClient(t, port, '')
  for (let i = 1; i <= 20; i++) {
    client.socket.write(get('/x'))
    await until(() => client.text.split('0\r\n\r\n').length === i + 1)
  }
  t.equal(new Set(counts).size, 1, counts.join())
})

t.test('pipelined requests are answered in their order', async (t) => {
  const { lines, options } = logs()
  const app = await build(t, { fastify: options })
  app.get('/x', { sse: true }, three)
  app.get('/plain', async () => 'plain')
  app.get('/fails', { sse: true }, async function * () { throw Object.assign(new Error('no'), { statusCode: 418 }) })
  const port = await listen(app)
  const client = await rawClient(t, port, get('/x') + get('/x') + get('/plain') + get('/fails') + get('/x', { connection: 'close' }))
  await until(() => client.ended)
  const answers = client.text.split(/(?=HTTP\/1\.1 \d)/)
  t.strictSame(answers.map((answer) => answer.slice(9, 12)), ['200', '200', '200', '418', '200'])
  for (const index of [0, 1, 4]) t.equal(unchunk(answers[index]?.split(/\r\n\r\n(.*)/s)[1] ?? ''), LATIN)
  t.match(answers[2], /\r\n\r\nplain$/)
  t.equal(app.connections.size, 0)
  t.strictSame(lines.filter(({ level, msg }) => level >= 40 && msg !== 'no'), [])
})

t.test('a pipelined stream behind one that does not end goes with its socket', async (t) => {
  const warnings: string[] = []
  const warn = (warning: Error): void => { warnings.push(warning.name) }
  process.on('warning', warn)
  t.teardown(() => { process.removeListener('warning', warn) })
  for (const how of ['FIN', 'RST', 'half-close']) {
    const app = await build(t)
    const ends: Disconnect[] = []
    let finallies = 0
    app.connections.on('disconnect', (_connection, end) => { ends.push(end) })
    app.get('/x', { sse: { broadcast: false } }, async (_request, reply) => { reply.sse() })
    app.get('/source', { sse: true }, async function * (_request, _reply, { signal }) { try { yield 'one'; await sleep(600_000, null, { signal }) } finally { finallies++ } })
    app.get('/greedy', { sse: true }, async function * () { try { for (;;) yield 'x'.repeat(10_000) } finally { finallies++ } })
    const port = await listen(app)
    const client = await rawClient(t, port, get('/x') + get('/x').repeat(12) + get('/source') + get('/greedy'))
    await until(() => app.connections.size === 15 && [...app.connections].some(({ buffered }) => buffered > 16_384))
    if (how === 'RST') client.socket.resetAndDestroy()
    else if (how === 'FIN') client.socket.destroy()
    else client.socket.end()
    await until(() => ends.length === 15)
    t.equal(app.connections.size, 0)
    t.ok(ends.every(({ reason }) => reason === 'client'), how)
    await until(() => finallies === 2)
    await app.close()
  }
  await sleep(5)
  t.strictSame(warnings, [])
})

t.test('a pipelined stream that is closed before its turn is sent in its turn', async (t) => {
  const app = await build(t)
  let first = null as Connection | null
  app.get('/first', { sse: { broadcast: false } }, async (_request, reply) => { first = reply.sse() })
  app.get('/second', { sse: { broadcast: false } }, async (_request, reply) => { const connection = reply.sse(); connection.send('two'); connection.close() })
  const client = await rawClient(t, await listen(app), get('/first') + get('/second', { connection: 'close' }))
  await until(() => first !== null && app.connections.size === 1)
  await sleep(20)
  t.notMatch(client.text, 'two')
  first?.close()
  await until(() => client.ended)
  t.match(client.text, /0\r\n\r\nHTTP\/1\.1 200 OK[^]*data: two\n\n/)
})

t.test('connectionTimeout does not end a quiet stream, and holds again after it', async (t) => {
  const app = await build(t, { fastify: { connectionTimeout: 200 } })
  app.get('/x', { sse: true }, async function * () { yield 'one'; await sleep(500); yield 'two' })
  app.get('/hang', () => {})
  const port = await listen(app)
  const client = await rawClient(t, port, get('/x'))
  await client.wait('0\r\n\r\n')
  t.match(client.text, 'data: two')
  client.socket.write(get('/hang'))
  await until(() => client.ended || client.closed)
  t.pass('the next request is not waited for')
})

t.test('late writes are none', async (t) => {
  const app = await build(t)
  let connection = null as Connection | null
  const thrown: unknown[] = []
  const trap = (err: unknown): void => { thrown.push(err) }
  process.on('uncaughtException', trap)
  t.teardown(() => { process.removeListener('uncaughtException', trap) })
  app.get('/x', { sse: true }, async (_request, reply) => { connection = reply.sse() })
  const port = await listen(app)
  for (const version of ['1.1', '1.0']) {
    const client = await rawClient(t, port, get('/x', {}, version))
    await client.wait('ready')
    const given = connection as unknown as Connection
    given.send('sent')
    await client.wait('sent')
    client.socket.resetAndDestroy()
    while (given.open) { given.send('x'.repeat(1_000)); await new Promise((resolve) => setImmediate(resolve)) } // in the very turn in which the socket goes
    for (let i = 0; i < 10; i++) t.equal(given.send('late'), false)
    t.equal(given.close(), undefined)
    t.equal(await given.join('room'), false)
  }
  await sleep(10)
  t.strictSame(thrown, [])
})

// --- HTTP/2

interface Two { app: FastifyInstance, session: ClientHttp2Session, ends: Disconnect[], warnings: Line[], lines: Line[] }

async function two (t: Test, declare: (app: FastifyInstance) => void, options: object = {}, secure = false, initialWindowSize = 65_535): Promise<Two> {
  const { lines, options: logging } = logs()
  const app = Fastify({ ...logging, http2: true, ...(secure ? { https: { allowHTTP1: true, key, cert } } : {}) } as never) as unknown as FastifyInstance
  await app.register(connections, { drain: { within: 0, grace: 500 }, ...options })
  await app.register(sseReal, { broadcast: false })
  const ends: Disconnect[] = []
  app.connections.on('disconnect', (_connection, end) => { ends.push(end) })
  declare(app)
  await app.listen({ port: 0, host: '127.0.0.1' })
  const session = connect(`http${secure ? 's' : ''}://127.0.0.1:${(app.server.address() as AddressInfo).port}`, { rejectUnauthorized: false, settings: { initialWindowSize } })
  session.on('error', () => {})
  t.after(async () => { session.destroy(); await app.close() })
  return { app, session, ends, lines, get warnings () { return lines.filter(({ level }) => level >= 40) } }
}

interface TwoClient { stream: ClientHttp2Stream, headers: Record<string, unknown>, text: string, ended: boolean, closed: boolean, code: number | undefined }

async function ask (session: ClientHttp2Session, path: string, method: string = 'GET'): Promise<TwoClient> {
  const stream = session.request({ ':path': path, ':method': method, accept: 'text/event-stream' })
  const client: TwoClient = { stream, headers: {}, text: '', ended: false, closed: false, code: undefined }
  stream.setEncoding('utf8').on('data', (chunk: string) => { client.text += chunk })
  stream.on('end', () => { client.ended = !stream.aborted })
  stream.on('error', () => {})
  stream.on('close', () => { client.closed = true; client.code = stream.rstCode })
  const [headers] = await once(stream, 'response') as [Record<string, unknown>]
  client.headers = headers
  return client
}

for (const secure of [false, true]) {
  t.test(`HTTP/2 ${secure ? 'over TLS' : 'in clear'} carries streams, without a Connection header`, async (t) => {
    const warned: string[] = []
    const warn = (warning: Error): void => { warned.push(warning.name) }
    process.on('warning', warn)
    t.teardown(() => { process.removeListener('warning', warn) })
    const site = await two(t, (app) => {
      app.get('/x', { sse: true }, three)
      app.get('/open', { sse: true }, async (_request, reply) => { const connection = reply.sse(); connection.send('one'); await connection.join('room') })
      app.get('/fails', { sse: true }, async function * () { throw Object.assign(new Error('no'), { statusCode: 418 }) })
      app.get('/throws', { sse: true }, async function * () { yield 'one'; await sleep(2); throw new Error('the password is 1234') })
      app.get('/none', { sse: true }, async function * (_request, reply) { reply.code(204) })
    }, { heartbeat: 20, history: false }, secure)
    const { app, session, ends } = site
    const client = await ask(session, '/x')
    await until(() => client.closed)
    t.equal(client.text, BODY)
    t.equal(client.code, constants.NGHTTP2_NO_ERROR)
    t.match(client.headers, { ':status': 200, 'content-type': 'text/event-stream', 'cache-control': 'no-cache, no-transform', 'x-accel-buffering': 'no' })
    for (const name of ['connection', 'transfer-encoding', 'keep-alive', 'content-length']) t.notOk(name in client.headers, name)
    const fails = await ask(session, '/fails')
    t.equal(fails.headers[':status'], 418)
    t.equal((await ask(session, '/none')).headers[':status'], 204)
    const head = await ask(session, '/open', 'HEAD')
    t.match(head.headers, { ':status': 200, 'content-type': 'text/event-stream' })
    t.equal(app.connections.size, 0)
    const throws = await ask(session, '/throws')
    await until(() => throws.closed)
    t.equal(throws.text, 'data: one\n\n', 'what was sent arrives')
    t.equal(throws.code, constants.NGHTTP2_INTERNAL_ERROR, 'and the client can tell that there should be more')
    await until(() => ends.length === 4)
    t.match(ends, [{ reason: 'done', clean: true }, { reason: 'refused' }, { reason: 'refused' }, { reason: 'error', code: 1011, clean: false }])
    const open = [await ask(session, '/open'), await ask(session, '/open')]
    await until(() => open.every(({ text }) => /\n\n(?::\n){2,}$/.test(text)))
    await app.connections.room('room').send('to both')
    await until(() => open.every(({ text }) => text.includes('to both')))
    open[0]?.stream.close(constants.NGHTTP2_CANCEL)
    await until(() => ends.length === 5)
    t.match(ends.at(-1), { reason: 'client', clean: false, rooms: ['room'] })
    t.equal(app.connections.size, 1, 'the other stream of the session stays')
    session.destroy()
    await until(() => ends.length === 6)
    t.equal(app.connections.size, 0)
    t.match(site.warnings.filter(({ msg }) => msg !== 'no'), [{ msg: 'a stream failed and was cut' }])
    t.strictSame(warned, [])
  })
}

t.test('over HTTP/2 a source waits for its reader, alone', async (t) => {
  const marks: number[] = []
  let finallies = 0
  const { app, session, ends } = await two(t, (app) => {
    app.get('/x', { sse: true }, async function * (_request, _reply, connection) {
      try {
        for (let i = 0; i < 200; i++) { marks.push(connection.buffered); yield 'x'.repeat(10_000) }
      } finally { finallies++ }
    })
    app.get('/other', { sse: true }, three)
  })
  const client = await ask(session, '/x')
  client.stream.pause()
  await until(() => [...app.connections].some(({ buffered }) => buffered >= 16_384))
  const other = await ask(session, '/other')
  await until(() => other.closed)
  t.equal(other.text, BODY)
  const asked = marks.length
  t.ok(asked < 100)
  client.stream.resume()
  await until(() => client.closed)
  t.equal(marks.length, 200)
  t.ok(Math.max(...marks) < 16_384, String(Math.max(...marks)))
  t.equal([...client.text.matchAll(/^data: x{10000}$/gm)].length, 200)
  const leaving = await ask(session, '/x')
  leaving.stream.pause()
  await until(() => [...app.connections].some(({ buffered }) => buffered >= 16_384))
  leaving.stream.close(constants.NGHTTP2_CANCEL)
  await until(() => finallies === 2)
  t.match(ends.at(-1), { reason: 'client' })
})

t.test('over HTTP/2 a source that never waits leaves the others their turn', async (t) => {
  const { app, session } = await two(t, (app) => {
    app.get('/x', { sse: true }, function * () { for (let i = 0; ; i++) yield String(i) })
    app.get('/ping', async () => 'pong')
  })
  const client = await ask(session, '/x')
  await until(() => client.text.length > 100_000)
  for (let i = 0; i < 10; i++) {
    const ping = await ask(session, '/ping')
    t.equal(ping.headers[':status'], 200)
  }
  client.stream.close()
  await until(() => app.connections.size === 0)
})

t.test('a stream of HTTP/2 that was not taken to its end has not ended properly', async (t) => {
  const { session, ends } = await two(t, (app) => {
    app.get('/x', { sse: true }, async (_request, reply) => { const connection = reply.sse(); for (let i = 0; i < 20; i++) connection.send('x'.repeat(100_000)); connection.close() })
  }, { maxBuffered: 10_000_000 })
  const client = await ask(session, '/x')
  client.stream.pause()
  session.destroy()
  await until(() => ends.length === 1)
  t.match(ends, [{ code: 1000, reason: 'closed', clean: false }])
})

t.test('a stream of HTTP/2 that is reset without an error once the server has ended it is over after a while', async (t) => {
  const looks = shortenPatience(t)
  const { session, ends } = await two(t, (app) => {
    app.get('/x', { sse: true }, async (_request, reply) => { const connection = reply.sse(); for (let i = 0; i < 20; i++) connection.send('x'.repeat(100_000)); connection.close() })
  }, { maxBuffered: 10_000_000 })
  const client = await ask(session, '/x')
  client.stream.pause()
  await until(() => looks() > 1) // it was looked at, and will be again
  t.equal(ends.length, 0)
  client.stream.close()
  await until(() => ends.length === 1)
  t.match(ends, [{ code: 1000, reason: 'closed', clean: false }])
})

t.test('over HTTP/2 drained() settles', async (t) => {
  let connection = null as Connection | null
  const { session } = await two(t, (app) => { app.get('/x', { sse: true }, async (_request, reply) => { connection = reply.sse() }) }, { maxBuffered: 10_000_000 })
  const client = await ask(session, '/x')
  const given = connection as unknown as Connection
  for (let i = 0; i < 20; i++) given.send('x'.repeat(100_000))
  t.ok(given.buffered > 1_000_000)
  await given.drained()
  t.ok(given.buffered <= 16_384)
  client.stream.pause()
  for (let i = 0; i < 20; i++) given.send('x'.repeat(100_000))
  const drained = given.drained()
  client.stream.close()
  await drained
  t.equal(given.open, false)
})

t.test('over HTTP/2 an item for which there is no room waits until all before it is taken', async (t) => {
  const slow: unknown[] = []
  const { app, session } = await two(t, (app) => {
    app.get('/x', { sse: true }, async function * () { for (let i = 0; i < 20; i++) yield 'x'.repeat(700) })
  }, { maxBuffered: 1_000 }, false, 100)
  app.connections.on('slow', (connection) => { slow.push(connection) })
  const client = await ask(session, '/x')
  client.stream.pause()
  await until(() => [...app.connections].some(({ buffered }) => buffered > 0))
  await sleep(20)
  client.stream.resume()
  await until(() => client.closed)
  t.equal([...client.text.matchAll(/^data: x{700}$/gm)].length, 20)
  t.strictSame(slow, [])
})

t.test('a shutdown ends the streams of HTTP/2, and the session', async (t) => {
  for (const secure of [false, true]) {
    const { app, session } = await two(t, (app) => {
      app.get('/open', { sse: true }, async (_request, reply) => { reply.sse() })
    }, { drain: { within: 0, grace: 300 } }, secure)
    const client = await ask(session, '/open')
    await app.close()
    await until(() => client.closed && session.destroyed)
    t.match(client.text, /^retry: \d+\n/)
    t.equal(client.ended, true)
    t.equal(client.code, constants.NGHTTP2_NO_ERROR)
  }
})

t.test('HTTP/1 and HTTP/2 share a port', async (t) => {
  const { app, session } = await two(t, (app) => {
    app.get('/x', { sse: true }, three)
    app.get('/open', { sse: true }, async (_request, reply) => { await reply.sse().join('room') })
  }, { history: false }, true)
  const { port } = app.server.address() as AddressInfo
  const one = async (path: string): Promise<{ response: IncomingMessage, text: string, ended: boolean }> => {
    const outgoing = secureRequest({ port, host: '127.0.0.1', path, rejectUnauthorized: false, agent: false })
    outgoing.end()
    const [response] = await once(outgoing, 'response') as [IncomingMessage]
    const client = { response, text: '', ended: false }
    response.setEncoding('utf8').on('data', (chunk: string) => { client.text += chunk }).on('end', () => { client.ended = true }).on('error', () => {})
    return client
  }
  const finite = await one('/x')
  await until(() => finite.ended)
  t.equal(finite.text, BODY)
  t.equal(finite.response.headers['transfer-encoding'], 'chunked')
  const clients = [await one('/open'), await ask(session, '/open')]
  await until(() => app.connections.room('room').size === 2)
  await app.connections.room('room').send('both')
  await until(() => clients.every(({ text }) => text === 'data: both\n\n'))
  clients.forEach((client) => 'response' in client && client.response.destroy())
  await until(() => app.connections.size === 1)
})

function unchunk (text: string): string {
  let out = ''
  for (let rest = text; ;) {
    const [, size = '', more = ''] = /^([0-9a-f]+)\r\n([^]*)$/.exec(rest) ?? []
    const length = parseInt(size, 16)
    if (!(length > 0)) return out
    out += more.slice(0, length)
    rest = more.slice(length + 2)
  }
}

t.test('what is behind a reader who takes nothing is given up after a while, what is taken slowly is not', async (t) => {
  shortenPatience(t)
  const app = await build(t, { connections: { maxBuffered: 40_000_000 } })
  const ends: Disconnect[] = []
  app.connections.on('disconnect', (_connection, end) => { ends.push(end) })
  app.get('/x', { sse: { broadcast: false } }, async (_request, reply) => { const connection = reply.sse(); for (let i = 0; i < 300; i++) connection.send('x'.repeat(100_000)); connection.close() })
  const port = await listen(app)
  const deaf = await rawClient(t, port, get('/x'))
  deaf.socket.pause()
  await until(() => ends.length === 1)
  t.match(ends, [{ reason: 'closed', clean: false }])
  const slow = await rawClient(t, port, get('/x'))
  for (let i = 0; i < 6; i++) { // several times as long as the patience
    const { bytesRead } = slow.socket
    slow.socket.resume()
    await until(() => slow.socket.bytesRead > bytesRead)
    slow.socket.pause()
    await sleep(150)
  }
  t.equal(ends.length, 1)
  slow.socket.resume()
  await slow.wait('\r\n0\r\n\r\n')
  await until(() => ends.length === 2)
  t.match(ends.at(-1), { reason: 'closed', clean: true, events: 300 })
})

t.test('a pipelined stream whose reader takes nothing any more is cut, too', async (t) => {
  shortenPatience(t)
  const app = await build(t, { connections: { maxBuffered: 40_000_000 } })
  const ends: Disconnect[] = []
  app.connections.on('disconnect', (_connection, end) => { ends.push(end) })
  app.get('/before', async () => 'before')
  app.get('/x', { sse: { broadcast: false } }, async (_request, reply) => { const connection = reply.sse(); for (let i = 0; i < 300; i++) connection.send('x'.repeat(100_000)); connection.close() })
  app.get('/few', { sse: true }, () => 'few')
  const port = await listen(app)
  const deaf = await rawClient(t, port, get('/before') + get('/x'))
  deaf.socket.pause()
  await until(() => ends.length === 1)
  t.match(ends, [{ reason: 'closed', clean: false }])
  const kept = await rawClient(t, port, get('/before') + get('/few') + get('/before'))
  await until(() => kept.text.match(/before/g)?.length === 2)
  t.match(ends.at(-1), { reason: 'done', clean: true })
})

t.test('who sends, and takes nothing, is given up as well; who takes it is heard again after that', async (t) => {
  shortenPatience(t)
  const app = await build(t, { connections: { maxBuffered: 40_000_000 } })
  const ends: Disconnect[] = []
  app.connections.on('disconnect', (_connection, end) => { ends.push(end) })
  app.addContentTypeParser('text/own', (_request, _body, done) => { done(null) }) // nobody reads it
  app.get('/before', async () => 'before')
  app.route({ method: ['GET', 'POST'], url: '/x', sse: { broadcast: false }, async handler (_request, reply) { const connection = reply.sse(); for (let i = 0; i < 300; i++) connection.send('x'.repeat(100_000)); connection.close() } })
  const port = await listen(app)
  const requests = [
    get('/x', { 'content-length': '1000000' }),
    get('/x', { 'content-type': 'text/own', 'content-length': '1000000' }).replace('GET', 'POST'),
    `${get('/x')}GET / HTTP/1.1\r\nx: `,
    `${get('/before')}${get('/x')}GET / HTTP/1.1\r\nx: `
  ]
  for (const request of requests) {
    const client = await rawClient(t, port, request)
    client.socket.pause()
    const sending = setInterval(() => client.socket.write('x'), 20)
    t.teardown(() => clearInterval(sending))
  }
  await until(() => ends.length === requests.length)
  t.strictSame(ends.map(({ reason, clean }) => `${reason} ${clean}`), requests.map(() => 'closed false'))
  const reader = await rawClient(t, port, get('/x'))
  reader.socket.pause()
  await until(() => [...app.connections].length === 0)
  reader.socket.write(get('/before'))
  reader.socket.resume()
  await reader.wait('\r\n0\r\n\r\nHTTP/1.1 200')
  await reader.wait('before')
  t.match(ends.at(-1), { reason: 'closed', clean: true })
})

t.test('a reader who was found too slow is not waited for', async (t) => {
  shortenPatience(t)
  const app = await build(t, { connections: { maxBuffered: 8_000_000, history: false } })
  const ends: Disconnect[] = []
  app.connections.on('disconnect', (_connection, end) => { ends.push(end) })
  app.get('/x', { sse: true }, async (_request, reply) => { await reply.sse().join('room') })
  const client = await rawClient(t, await listen(app), get('/x'))
  await until(() => app.connections.room('room').size === 1)
  client.socket.pause()
  while (app.connections.size > 0) {
    await app.connections.room('room').send('x'.repeat(1_000_000))
    await new Promise((resolve) => setImmediate(resolve))
  }
  await until(() => ends.length === 1)
  t.match(ends, [{ code: 1013, reason: 'slow', clean: false }])
})

t.test('the methods of a wire that is over do nothing', async (t) => {
  const app = await build(t)
  const ends: Disconnect[] = []
  let connection = null as Connection | null
  app.connections.on('disconnect', (_connection, end) => { ends.push(end) })
  app.get('/x', { sse: { broadcast: false } }, async (_request, reply) => { connection = reply.sse() })
  const client = await sseClient(await listen(app), '/x')
  const { wire } = connection as unknown as { wire: Wire }
  wire.whenFlushed()
  wire.whenFlushed()
  wire.terminate()
  t.match(ends, [{ code: 1006, reason: 'lost', clean: false }])
  wire.terminate()
  wire.close({ code: 1000, reason: 'again' })
  wire.drain(5)
  wire.write(Buffer.from('late'))
  wire.whenFlushed()
  wire.ping()
  await until(() => client.ended)
  t.equal(client.cut, true)
  t.equal(client.text, '')
  t.equal(ends.length, 1)
})

/** How long a reader may take nothing, without the wait. Gives how often it was waited for. */
function shortenPatience (t: Test): () => number {
  const { setTimeout: timer } = globalThis
  const { setTimeout: idle } = Socket.prototype
  let waits = 0
  const shorter = (delay: number): number => {
    if (delay !== 5_000) return delay
    waits++
    return 600
  }
  globalThis.setTimeout = ((work: () => void, delay: number, ...rest: []) => timer(work, shorter(delay), ...rest)) as never
  Socket.prototype.setTimeout = function (delay, work) { return idle.call(this, shorter(delay), work) }
  t.teardown(() => {
    globalThis.setTimeout = timer
    Socket.prototype.setTimeout = idle
  })
  return () => waits
}
