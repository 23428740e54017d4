import { once } from 'node:events'
import { request } from 'node:http'
import type { IncomingMessage } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import compress from '@fastify/compress'
import cookie from '@fastify/cookie'
import cors from '@fastify/cors'
import helmet from '@fastify/helmet'
import rateLimit from '@fastify/rate-limit'
import session from '@fastify/session'
import Fastify from 'fastify'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import t from 'tap'
import { connections, sseReal } from '../../lib/index.ts'
import { build, listen, sseClient, until } from '../helper.ts'
import { logs } from '../logs.ts'
import { get, rawClient } from '../raw.ts'

const finite = async function * (): AsyncGenerator<string> { yield 'one'; await sleep(1); yield 'two' }
const BODY = 'data: one\n\ndata: two\n\n'

async function neighbours (app: FastifyInstance): Promise<void> {
  await app.register(cookie)
  await app.register(session, { secret: 'a secret of at least 32 characters', cookie: { secure: false } })
  await app.register(cors, { origin: ['https://example.com'], credentials: true })
  await app.register(helmet)
  await app.register(rateLimit, { max: 1_000 })
  await app.register(compress, { global: true, threshold: 0 })
}

for (const order of ['before', 'after']) {
  t.test(`what plugins registered ${order} it put into the head reaches the client`, async (t) => {
    const app = Fastify({ forceCloseConnections: true })
    t.after(() => app.close())
    if (order === 'before') await neighbours(app)
    await app.register(sseReal)
    if (order === 'after') await neighbours(app)
    const greet = (reply: FastifyReply): void => {
      reply.setCookie('a', '1').setCookie('b', '2')
      reply.request.session.set('user' as never, 'ada' as never)
    }
    app.get('/generator', { sse: true }, async function * (_request, reply) { greet(reply); yield * finite() })
    app.get('/called', { sse: true }, async (_request, reply) => { greet(reply); reply.sse(finite()) })
    app.get('/plain', (_request, reply) => { greet(reply); return reply.sse(finite()) })
    app.get('/late', (_request, reply) => { setTimeout(() => { greet(reply); reply.sse(finite()) }, 5) })
    const port = await listen(app)
    for (const path of ['/generator', '/called', '/plain', '/late']) {
      const client = await sseClient(port, path, { origin: 'https://example.com', 'accept-encoding': 'gzip, br' })
      await until(() => client.ended)
      const { headers } = client.response
      t.equal(client.text, BODY, path)
      t.match(headers['set-cookie']?.map((text) => text.split('=')[0]).sort(), ['a', 'b', 'sessionId'])
      t.equal(headers['access-control-allow-origin'], 'https://example.com')
      t.equal(headers['access-control-allow-credentials'], 'true')
      t.match(headers.vary, /origin/i)
      t.ok(headers['content-security-policy'])
      t.equal(headers['x-ratelimit-limit'], '1000')
      t.equal(headers['content-encoding'], undefined)
      t.equal(headers['content-type'], 'text/event-stream')
      const other = await sseClient(port, path, { origin: 'https://other.example', cookie: (headers['set-cookie'] ?? []).map((text) => text.split(';')[0]).join('; ') })
      t.equal(other.response.headers['access-control-allow-origin'], undefined)
      other.close()
    }
  })
}

t.test('a hook that another plugin adds when a route is declared runs, too, whichever was registered first', async (t) => {
  const app = Fastify({ forceCloseConnections: true })
  t.after(() => app.close())
  const ran: string[] = []
  const add = (name: string) => (route: { onSend?: unknown }): void => {
    const hook = async (): Promise<void> => { ran.push(name) }
    if (Array.isArray(route.onSend)) route.onSend.push(hook)
    else route.onSend = [hook, ...[route.onSend ?? []].flat()]
  }
  app.addHook('onRoute', add('early'))
  await app.register(sseReal)
  app.addHook('onRoute', add('late'))
  app.addHook('onRoute', (route) => { route.onSend = [...[route.onSend ?? []].flat(), async () => { ran.push('replaced') }] as never })
  app.addHook('onRoute', (route) => { if (route.url === '/none') route.onSend = undefined as never })
  app.addHook('onSend', async () => { ran.push('instance') })
  app.get('/x', { sse: true, onSend: async () => { ran.push('own') } }, finite)
  app.get('/none', { sse: true }, finite)
  const response = await app.inject('/x')
  t.equal(response.body, BODY)
  t.strictSame([...ran].sort(), ['early', 'instance', 'late', 'own', 'replaced'])
  t.equal((await app.inject('/none')).body, BODY)
})

t.test('what a hook puts in the place of a stream is the answer', async (t) => {
  const app = await build(t)
  const ends: string[] = []
  app.connections.on('disconnect', (_connection, { reason }) => { ends.push(reason) })
  app.addHook('onSend', async (request, reply, payload) => {
    if (request.url !== '/replaced' || typeof payload === 'string') return payload
    reply.type('text/plain')
    return 'another body'
  })
  app.get('/replaced', { sse: true }, finite)
  app.get('/before', async (_request, reply) => { reply.send('before'); await sleep(0); reply.sse(finite()) })
  app.get('/early', { onSend: async () => { await sleep(10) } }, async (_request, reply) => { reply.send('before'); reply.sse(finite()) })
  const replaced = await app.inject('/replaced')
  t.equal(replaced.body, 'another body')
  t.equal(replaced.headers['content-type'], 'text/plain')
  t.strictSame(ends, ['refused'])
  t.equal((await app.inject('/early')).body, 'before')
  t.strictSame(ends, ['refused', 'refused'])
  t.equal((await app.inject('/before')).body, 'before')
  t.equal(app.connections.size, 0)
})

t.test('the hooks of a request run as on any route', async (t) => {
  const app = await build(t)
  const ran: string[] = []
  for (const hook of ['onRequest', 'preParsing', 'preValidation', 'preHandler', 'preSerialization', 'onSend', 'onResponse'] as const) app.addHook(hook as 'onRequest', async () => { ran.push(hook) })
  app.get('/x', { sse: true }, finite)
  const client = await sseClient(await listen(app), '/x')
  await until(() => client.ended)
  await until(() => ran.includes('onResponse'))
  t.strictSame(ran, ['onRequest', 'preParsing', 'preValidation', 'preHandler', 'onSend', 'onResponse'])
  t.equal(app.hasReplyDecorator('sse'), true)
})

t.test('what a client saw last is read from the header as UTF-8, else from the query', async (t) => {
  const app = await build(t)
  app.get('/x', { sse: { broadcast: false } }, async (_request, reply) => { const connection = reply.sse(); connection.send({ data: { last: connection.lastEventId } }); connection.close() })
  app.get('/strict', { sse: { broadcast: false }, schema: { querystring: { type: 'object', properties: { a: { type: 'string' } }, additionalProperties: false } } }, async (_request, reply) => { const connection = reply.sse(); connection.send({ data: { last: connection.lastEventId } }); connection.close() })
  const ask = async (url: string, id?: string): Promise<unknown> => {
    const client = await sseClient(port, url, id === undefined ? {} : { 'last-event-id': Buffer.from(id).toString('latin1') })
    await until(() => client.ended)
    return JSON.parse(client.events[0]?.data as string).last
  }
  const port = await listen(app)
  t.equal(await ask('/x'), undefined)
  t.equal(await ask('/x', 'zwölf €'), 'zwölf €')
  t.equal(await ask('/x?lastEventId=zw%C3%B6lf'), 'zwölf')
  t.equal(await ask('/strict?a=1&lastEventId=zw%C3%B6lf'), 'zwölf', 'a schema that knows only its own takes it away')
  t.equal(await ask('/strict?notlastEventId=zw'), undefined)
  t.not(await ask('/strict?lastEventId=a&lastEventId=b'), 'a')
  t.equal(await ask('/x?lastEventId=query', 'header'), 'header')
  t.equal(await ask('/x?lastEventId='), '')
  t.not(await ask('/x?lastEventId=a&lastEventId=b'), 'a')
  t.not(await ask('/x?lastEventId=' + 'a'.repeat(5_000)), undefined)
})

t.test('a connection that is closed as soon as it is heard of is an empty stream', async (t) => {
  const app = await build(t)
  let started = 0
  app.connections.on('connect', (connection) => { connection.close(4000, 'banned') })
  app.get('/generator', { sse: true }, async function * () { started++; yield 'one' })
  app.get('/open', async (_request, reply) => { reply.sse() })
  for (const path of ['/generator', '/open']) {
    const { statusCode, body } = await app.inject(path)
    t.equal(statusCode, 200)
    t.equal(body, '')
  }
  t.equal(started, 0)
})

t.test('the head is exact', async (t) => {
  const app = await build(t)
  app.get('/x', { sse: true }, finite)
  app.get('/own', { sse: true }, async (_request, reply) => {
    reply.code(202).header('cache-control', 'public, max-age=1').header('content-length', '5').header('content-type', 'text/plain')
    reply.raw.setHeader('transfer-encoding', 'identity')
    reply.raw.setHeader('x-raw', 'kept')
    return finite()
  })
  app.get('/hook', { sse: true, onSend: async (_request, reply) => { reply.header('content-length', '5') } }, finite)
  const port = await listen(app)
  const client = await rawClient(t, port, get('/x'))
  await client.wait('0\r\n\r\n')
  const [head = '', body] = client.text.split(/\r\n\r\n(.*)/s)
  t.strictSame(head.split('\r\n').filter((line) => !/^date:|^keep-alive:/i.test(line)).map((line) => line.toLowerCase()).sort(), [
    'cache-control: no-cache, no-transform',
    'connection: keep-alive',
    'content-type: text/event-stream',
    'http/1.1 200 ok',
    'transfer-encoding: chunked',
    'x-accel-buffering: no'
  ])
  t.equal(body, 'b\r\ndata: one\n\n\r\nb\r\ndata: two\n\n\r\n0\r\n\r\n')
  const own = await sseClient(port, '/own')
  await until(() => own.ended)
  t.match(own.response.headers, { 'cache-control': 'public, max-age=1', 'content-type': 'text/event-stream', 'x-raw': 'kept', 'transfer-encoding': 'chunked', 'content-length': undefined })
  t.equal(own.response.statusCode, 202)
  t.equal(own.text, BODY)
  const hook = await sseClient(port, '/hook')
  await until(() => hook.ended)
  t.equal(hook.text, BODY)
})

t.test('a head that cannot be sent is an error, and nothing stays behind', async (t) => {
  const app = await build(t)
  const ends: string[] = []
  app.connections.on('disconnect', (_connection, { reason }) => { ends.push(reason) })
  app.get('/x', { sse: true }, async (_request, reply) => { reply.header('x-bad', 'a\nb'); return finite() })
  const client = await sseClient(await listen(app), '/x')
  await until(() => client.ended)
  t.equal(client.response.statusCode, 500)
  t.strictSame(ends, ['refused'])
  t.equal(app.connections.size, 0)
})

t.test('an error handler that sends an object is what answers before the first byte', async (t) => {
  const app = await build(t)
  app.setErrorHandler((err: Error, _request, reply) => { reply.code(503).send({ mine: err.message }) })
  app.get('/generator', { sse: true }, async function * () { throw new Error('no') })
  app.get('/called', async (_request, reply) => { reply.sse(); throw new Error('no') })
  app.get('/typed', { sse: true, onSend: async (_request, _reply, payload) => { if (typeof payload !== 'string') throw new Error('no') } }, finite)
  app.register(async (scope) => {
    scope.setErrorHandler(async (err: Error) => ({ scoped: err.message }))
    scope.get('/scoped', { sse: true }, async function * () { throw new Error('no') })
  })
  for (const path of ['/generator', '/called', '/typed']) {
    const response = await app.inject(path)
    t.equal(response.statusCode, 503)
    t.strictSame(response.json(), { mine: 'no' })
    t.match(response.headers['content-type'], 'application/json')
  }
  t.strictSame((await app.inject('/scoped')).json(), { scoped: 'no' })
})

t.test('an error handler may answer with a stream where there is none yet', async (t) => {
  const app = await build(t, { sse: { retry: 0 } })
  app.setErrorHandler((err: Error, _request, reply) => { reply.code(200).sse([err.message]) })
  const failing = async (): Promise<never> => { throw new Error('no') }
  app.get('/plain', failing)
  app.get('/events', { sse: true }, failing)
  app.get('/hook', { sse: true, preHandler: failing }, finite)
  app.get('/answered', { sse: true, onSend: async (_request, _reply, payload) => payload }, async (_request, reply) => { reply.send('mine'); throw new Error('no') })
  for (const path of ['/plain', '/events', '/hook']) {
    const response = await app.inject(path)
    t.match(response, { statusCode: 200, body: 'data: no\n\n', headers: { 'content-type': 'text/event-stream' } }, path)
  }
  t.equal((await app.inject('/answered')).body, 'mine')
  t.equal(app.connections.size, 0)
})

t.test('an error handler may answer with a stream where one had begun and failed before its head', async (t) => {
  const app = await build(t)
  const handlers: Record<string, (err: Error, request: FastifyRequest, reply: FastifyReply) => unknown> = {
    nothing: (err, _request, reply) => { reply.sse([err.message]) },
    connection: (err, _request, reply) => reply.sse([err.message]),
    'nothing, later': async (err, _request, reply) => { reply.sse([err.message]) },
    'the reply, later': async (err, _request, reply) => { reply.sse([err.message]); return await reply },
    'the connection, later': async (err, _request, reply) => reply.sse([err.message])
  }
  const failing = async function * (): AsyncGenerator<string> { throw new Error('no') }
  for (const [index, handler] of Object.values(handlers).entries()) {
    app.register(async (scope) => {
      scope.setErrorHandler(handler as never)
      scope.get('/none', async () => { throw new Error('no') })
      scope.get('/hook', { preHandler: async () => { throw new Error('no') } }, async () => 'x')
      scope.get('/at-once', (_request, reply) => { reply.sse(); throw new Error('no') })
      scope.get('/rejected', async (_request, reply) => { reply.sse(); throw new Error('no') })
      scope.get('/events', { sse: true }, async (_request, reply) => { reply.header('x-mine', '1').sse(); throw new Error('no') })
      scope.get('/generator', { sse: true }, failing)
      scope.get('/source', async (_request, reply) => { reply.sse(failing()) })
    }, { prefix: `/${index}` })
  }
  for (const [index, returned] of Object.keys(handlers).entries()) {
    for (const path of ['none', 'hook', 'at-once', 'rejected', 'events', 'generator', 'source']) {
      t.match(await app.inject(`/${index}/${path}`), { statusCode: 200, body: 'data: no\n\n', headers: { 'content-type': 'text/event-stream' } }, `${path}; it gives ${returned}`)
    }
  }
  t.equal(app.connections.size, 0)
})

t.test('an error handler whose stream fails as well is not asked again', async (t) => {
  const app = await build(t, { connections: { identify: async () => { throw new Error('nobody') } } })
  let asked = 0
  app.setErrorHandler((_err: Error, _request, reply) => { asked++; reply.sse(['x']) })
  app.get('/x', async (_request, reply) => { reply.sse() })
  t.match(await app.inject('/x'), { statusCode: 500, body: /nobody/ })
  t.equal(asked, 1)
})

t.test('what is thrown and is no Error is answered as Fastify does', async (t) => {
  const app = await build(t)
  const things: Record<string, unknown> = { string: 'no', object: { statusCode: 409, code: 'MINE', message: 'no' }, number: 5, undefined, null: null }
  for (const [name, thrown] of Object.entries(things)) {
    app.get(`/${name}`, async () => { throw thrown })
    app.get(`/sse/${name}`, { sse: true }, async function * () { throw thrown })
    app.get(`/called/${name}`, async (_request, reply) => { reply.sse(); throw thrown })
    app.get(`/late/${name}`, (_request, reply) => { setTimeout(() => reply.sse(async function * () { throw thrown }), 2) })
  }
  for (const name of Object.keys(things)) {
    const plain = await app.inject(`/${name}`)
    for (const path of ['/sse/', '/called/']) {
      const response = await app.inject(`${path}${name}`)
      t.equal(response.statusCode, plain.statusCode, `${path}${name}`)
      t.equal(response.body, plain.body)
    }
    t.equal((await app.inject(`/late/${name}`)).statusCode, 500)
  }
  t.equal(app.connections.size, 0)
})

t.test('a handlerTimeout ends what has not begun, and no stream', async (t) => {
  const app = await build(t)
  app.get('/stream', { sse: true, handlerTimeout: 150 }, async function * () { yield 'one'; await sleep(300); yield 'two' })
  app.get('/called', { sse: true, handlerTimeout: 150 }, async (_request, reply) => { const connection = reply.sse(); await sleep(300); connection.close() })
  app.post('/posted', { handlerTimeout: 150 }, (_request, reply) => reply.sse(async function * ({ signal }: { signal: AbortSignal }) { yield 'one'; await sleep(300, null, { signal }); yield 'two' }))
  app.get('/slow', { sse: { headStart: 60_000 }, handlerTimeout: 20 }, async function * (_request, _reply, { signal }) { yield await sleep(600_000, '', { signal }) })
  const port = await listen(app)
  const stream = await sseClient(port, '/stream')
  const called = await sseClient(port, '/called')
  const posted = await sseClient(port, '/posted', { 'content-type': 'application/json' }, 'POST', '{"a":1}')
  const slow = await sseClient(port, '/slow')
  await until(() => [stream, called, posted, slow].every(({ ended }) => ended))
  t.equal(stream.text, BODY)
  t.equal(posted.text, BODY)
  for (const { cut, response } of [stream, called, posted]) t.strictSame([cut, response.statusCode], [false, 200])
  t.equal(slow.response.statusCode, 503)
  t.equal(app.connections.size, 0)
})

t.test('the head goes out a head start after the call, though nothing has come yet', async (t) => {
  const app = await build(t)
  app.get('/generator', { sse: { broadcast: false } }, async function * (_request, _reply, { signal }) { yield await sleep(600_000, '', { signal }) })
  app.get('/handler', { sse: { broadcast: false, headStart: 1 } }, async (_request, reply) => { const { signal } = reply.sse(); await sleep(600_000, null, { signal }) })
  app.get('/reply', async (_request, reply) => { const { signal } = reply.sse(undefined, { broadcast: false, headStart: 0 }); await sleep(600_000, null, { signal }) })
  const port = await listen(app)
  for (const path of ['/generator', '/handler', '/reply']) {
    const client = await sseClient(port, path)
    t.equal(client.response.statusCode, 200)
    t.equal(client.text, '')
    client.close()
  }
})

t.test('a long head start keeps the answer of a slow source ordinary', async (t) => {
  const app = await build(t, { sse: { headStart: 10_000 } })
  app.get('/x', { sse: true }, async function * () { await sleep(50); throw Object.assign(new Error('no'), { statusCode: 418 }) })
  t.equal((await app.inject('/x')).statusCode, 418)
})

t.test('HEAD gives the head and starts nothing', async (t) => {
  const app = await build(t)
  let started = 0
  let connected = 0
  app.connections.on('connect', () => { connected++ })
  app.get('/generator', { sse: true }, async function * () { started++; yield 'one' })
  app.get('/handler', { sse: { allowedOrigins: ['https://example.com'] } }, async (_request, reply) => { started++; reply.sse() })
  app.head('/own', { sse: true }, async (_request, reply) => { started++; reply.sse() })
  app.get('/dual', { sse: { accept: 'dual' } }, async () => { started++; return { json: true } })
  const port = await listen(app)
  for (const path of ['/generator', '/handler', '/own']) {
    const [response] = await head(port, path)
    t.equal(response.statusCode, 200, path)
    t.match(response.headers, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache, no-transform', 'x-accel-buffering': 'no' })
  }
  t.equal((await head(port, '/handler', { origin: 'https://other.example' }))[0].statusCode, 403)
  t.equal((await head(port, '/handler', { accept: 'application/json' }))[0].statusCode, 406)
  t.strictSame([started, connected, app.connections.size], [0, 0, 0])
  const [wanted] = await head(port, '/dual')
  t.match(wanted.headers, { 'content-type': 'text/event-stream', vary: 'Accept' })
  t.equal(started, 0)
  const [json] = await head(port, '/dual', { accept: 'application/json' })
  t.match(json.headers, { 'content-type': 'application/json; charset=utf-8', vary: 'Accept' })
  t.strictSame([started, connected], [1, 0])
})

t.test('HEAD on a plain route runs the handler, which is given a connection that is closed', async (t) => {
  const app = await build(t)
  const heard: unknown[] = []
  app.connections.on('connect', () => { heard.push('connect') })
  app.connections.on('disconnect', () => { heard.push('disconnect') })
  const returned: unknown[] = []
  app.get('/open', async (_request, reply) => {
    const connection = reply.sse()
    returned.push(connection.open, connection.signal.aborted, connection.send('x'), await connection.join('room'), reply.connection === connection)
  })
  app.get('/source', (_request, reply) => reply.sse(async function * () { returned.push('started'); yield 'one' }))
  let cancelled: unknown = null
  app.get('/stream', (_request, reply) => reply.sse(new ReadableStream({ cancel () { cancelled = 'yes' } })))
  app.get('/signal', async (_request, reply) => { const { signal } = reply.sse(); await sleep(600_000, null, { signal }) })
  app.get('/late', (_request, reply) => { setTimeout(() => reply.sse(), 5) })
  app.get('/throws', async (_request, reply) => { reply.sse(); throw Object.assign(new Error('no'), { statusCode: 418 }) })
  const port = await listen(app)
  for (const path of ['/open', '/source', '/stream', '/signal', '/late']) {
    const [response] = await head(port, path)
    t.equal(response.statusCode, 200, path)
    t.equal(response.headers['content-type'], 'text/event-stream', path)
  }
  t.strictSame(returned, [false, true, false, false, true])
  t.equal(cancelled, 'yes')
  t.equal((await head(port, '/throws'))[0].statusCode, 418)
  t.strictSame(heard, [])
  t.equal(app.connections.size, 0)
  t.strictSame([...app.connections.rooms()], [])
})

async function head (port: number, path: string, headers: Record<string, string> = {}): Promise<[IncomingMessage]> {
  const outgoing = request({ port, host: '127.0.0.1', path, method: 'HEAD', agent: false, headers: { accept: 'text/event-stream', ...headers } })
  outgoing.end()
  const [response] = await once(outgoing, 'response') as [IncomingMessage]
  response.resume()
  await once(response, 'end')
  return [response]
}

t.test('Accept is heeded before the handler runs', async (t) => {
  const app = await build(t)
  let ran = 0
  app.get('/x', { sse: true }, async function * () { ran++; yield 'one' })
  app.get('/plain', (_request, reply) => reply.sse(['one']))
  for (const accept of [undefined, '*/*', 'text/*', 'text/event-stream', 'text/html, */*;q=0.1', 'application/json, text/event-stream;q=0.5']) {
    const { statusCode, body } = await app.inject({ url: '/x', headers: accept === undefined ? {} : { accept } })
    t.equal(statusCode, 200, String(accept))
    t.equal(body, 'data: one\n\n')
  }
  t.equal(ran, 6)
  for (const accept of ['text/event-stream;q=0', 'application/json', '*/*, text/event-stream; q=0', 'text/*;q=0.0, */*']) {
    const response = await app.inject({ url: '/x', headers: { accept } })
    t.equal(response.statusCode, 406, accept)
    t.equal(response.json().code, 'FST_ERR_REAL_NOT_ACCEPTABLE')
    t.equal((await app.inject({ url: '/plain', headers: { accept } })).body, 'data: one\n\n', 'a plain route streams whatever Accept says')
  }
  t.equal(ran, 6)
})

t.test('a dual route never refuses, says that it varies, and tells what is wanted', async (t) => {
  const app = await build(t)
  app.addHook('onRequest', async (request, reply) => { if (request.headers['x-vary'] !== undefined) reply.header('vary', request.headers['x-vary']) })
  app.get('/x', { sse: { accept: 'dual' } }, async (request) => request.wantsEvents ? finite() : { plain: true })
  app.get('/array', { sse: { accept: 'dual' } }, async () => ['one', 'two'])
  app.get('/generator', { sse: { accept: 'dual' } }, finite)
  app.get('/void', { sse: { accept: 'dual' } }, async () => {})
  const ask = (url: string, accept: string, vary?: string): ReturnType<typeof app.inject> => app.inject({ url, headers: { accept, ...(vary === undefined ? {} : { 'x-vary': vary }) } }) as never
  for (const accept of ['application/json', 'text/event-stream;q=0', '*/*', 'text/event-stream;q=0.1, application/json']) {
    t.strictSame((await ask('/x', accept)).json(), { plain: true }, accept)
    t.strictSame((await ask('/array', accept)).json(), ['one', 'two'])
    t.equal((await ask('/generator', accept)).body, BODY, 'a generator can answer in one way only')
    t.equal((await ask('/void', accept)).body, '')
    t.equal((await ask('/x', accept)).headers.vary, 'Accept')
  }
  for (const accept of ['text/event-stream', 'text/event-stream, application/json', 'application/json;q=0.9, text/event-stream']) {
    for (const url of ['/x', '/array', '/generator']) {
      const response = await ask(url, accept)
      t.equal(response.body, BODY, accept)
      t.equal(response.headers.vary, 'Accept')
    }
  }
  t.equal((await ask('/x', 'application/json', 'Origin')).headers.vary, 'Origin, Accept')
  t.equal((await ask('/x', 'application/json', 'origin, accept')).headers.vary, 'origin, accept')
  t.equal((await ask('/x', 'application/json', '*')).headers.vary, '*')
  const none = await app.inject('/x')
  t.strictSame(none.json(), { plain: true }, 'without Accept')
})

t.test('request.wantsEvents is there on every route', async (t) => {
  const app = await build(t)
  app.get('/x', async (request) => request.wantsEvents)
  t.equal((await app.inject({ url: '/x', headers: { accept: 'text/event-stream' } })).body, 'true')
  t.equal((await app.inject('/x')).body, 'false')
})

t.test('allowedOrigins refuses with 403 before anything opens', async (t) => {
  const app = await build(t, { sse: { allowedOrigins: ['https://example.com'] } })
  let ran = 0
  app.connections.on('connect', () => { ran++ })
  app.get('/x', { sse: true }, async function * () { ran++; yield 'one' })
  app.get('/own', { sse: { allowedOrigins: (origin, { headers }) => origin === headers['x-mine'] } }, async function * () { ran++; yield 'one' })
  app.get('/dual', { sse: { accept: 'dual' } }, async () => { ran++ })
  app.get('/plain', (_request, reply) => reply.sse(['one']))
  for (const url of ['/x', '/own', '/dual', '/plain']) {
    for (const origin of ['https://example.com.evil.example', 'http://example.com', 'null']) {
      const response = await app.inject({ url, headers: { origin } })
      t.equal(response.statusCode, 403, `${url} ${origin}`)
      t.equal(response.json().code, 'FST_ERR_REAL_ORIGIN')
    }
  }
  t.equal(ran, 0)
  t.equal((await app.inject({ url: '/x', headers: { origin: 'https://example.com' } })).statusCode, 200)
  t.equal((await app.inject({ url: '/plain', headers: { origin: 'https://example.com' } })).statusCode, 200)
  t.equal((await app.inject({ url: '/own', headers: { origin: 'https://me.example', 'x-mine': 'https://me.example' } })).statusCode, 200)
  t.equal((await app.inject('/x')).statusCode, 200, 'no Origin: no browser of another site')
})

t.test('reply.connection is what reply.sse() gave, and null before', async (t) => {
  const app = await build(t)
  const seen: unknown[] = []
  app.get('/x', async (_request, reply) => {
    seen.push(reply.connection)
    const connection = reply.sse(['x'])
    seen.push(reply.connection === connection, connection.request === reply.request, connection.transport)
  })
  await app.inject('/x')
  t.strictSame(seen, [null, true, true, 'sse'])
})

t.test('any method streams', async (t) => {
  const app = await build(t)
  const echo = async function * (request: { body: unknown }): AsyncGenerator<unknown> { for (const word of request.body as string[]) yield { data: word } }
  app.post('/plain', (request, reply) => reply.sse(request.body as string[], { map: (word) => ({ event: 'token', data: word }) }))
  app.route({ method: ['POST', 'PUT'], url: '/events', sse: true, handler: echo as never })
  app.delete('/gone', { sse: true }, async () => ['gone'])
  const port = await listen(app)
  const body = JSON.stringify(['a', 'b'])
  const plain = await sseClient(port, '/plain', { 'content-type': 'application/json' }, 'POST', body)
  await until(() => plain.ended)
  t.equal(plain.text, 'event: token\ndata: a\n\nevent: token\ndata: b\n\n')
  for (const method of ['POST', 'PUT']) {
    const client = await sseClient(port, '/events', { 'content-type': 'application/json' }, method, body)
    await until(() => client.ended)
    t.equal(client.text, 'data: a\n\ndata: b\n\n')
  }
  t.equal((await app.inject({ method: 'DELETE', url: '/gone' })).body, 'data: gone\n\n')
})

t.test('the mistakes of a caller are thrown at once, with a code', async (t) => {
  const app = await build(t)
  app.get('/twice', async (_request, reply) => { reply.sse(); reply.sse() })
  app.get('/sent', async (_request, reply) => { reply.send('x'); reply.sse() })
  app.get('/after', { sse: true, onSend: async () => { await sleep(1) } }, async (_request, reply) => { reply.send('x'); throws(() => reply.sse()) })
  const sources: Record<string, unknown> = { number: 42, null: null, boolean: true, symbol: Symbol('x'), promise: Promise.resolve(1), event: { bad: 1 }, name: { event: 'error' } }
  for (const [name, source] of Object.entries(sources)) {
    app.get(`/source/${name}`, async (_request, reply) => {
      try {
        reply.sse(source as never)
      } catch (err) {
        reply.sse(['a second try']) // nothing was begun
        throw err
      }
    })
  }
  app.get('/option', async (_request, reply) => { reply.sse([], { maxage: 5 } as never) })
  app.get('/value', async (_request, reply) => { reply.sse([], { retry: -1 }) })
  app.get('/map', async (_request, reply) => { reply.sse([], { map: 'x' } as never) })
  app.get('/none', async (_request, reply) => { reply.sse([], null as never) })
  const code = async (url: string): Promise<string> => (await app.inject(url)).json().code
  t.equal(await code('/twice'), 'FST_ERR_REAL_SSE_TWICE')
  t.equal((await app.inject('/sent')).body, 'x')
  t.equal((await app.inject('/after')).body, 'x')
  t.strictSame(thrown, ['FST_ERR_REAL_REPLY_SENT'])
  for (const name of Object.keys(sources)) t.equal(await code(`/source/${name}`), name === 'event' || name === 'name' ? 'FST_ERR_REAL_EVENT' : 'FST_ERR_REAL_SOURCE', name)
  for (const url of ['/option', '/value', '/map', '/none']) t.equal(await code(url), 'FST_ERR_REAL_OPTION', url)
  t.equal(app.connections.size, 0)
})

const thrown: unknown[] = []
function throws (work: () => unknown): void {
  try { work() } catch (err) { thrown.push((err as { code?: string }).code) }
}

t.test('what cannot be sent is refused before the head, and cuts the stream after it', async (t) => {
  const { lines, options } = logs()
  const app = await build(t, { fastify: options })
  let finallies = 0
  app.get('/first', { sse: true }, function * () { try { yield { oops: 1 } as never } finally { finallies++ } })
  app.get('/second', { sse: true }, function * () { try { yield 'one'; yield 5 as never; yield 'never' } finally { finallies++ } })
  app.get('/map', (_request, reply) => reply.sse(function * () { try { yield 1 } finally { finallies++ } }, { map: () => { throw new Error('mapped') } }))
  app.get('/circle', { sse: true }, async () => { const data: Record<string, unknown> = {}; data.self = data; return { data } })
  const port = await listen(app)
  t.equal((await app.inject('/first')).json().code, 'FST_ERR_REAL_EVENT')
  t.match((await app.inject('/map')).json(), { statusCode: 500, message: 'mapped' })
  t.equal((await app.inject('/circle')).json().code, 'FST_ERR_REAL_DATA')
  const client = await sseClient(port, '/second')
  await until(() => client.ended)
  t.equal(client.cut, true)
  t.equal(client.text, 'data: one\n\n')
  t.equal(finallies, 3)
  t.equal(lines.filter(({ msg, err }) => msg === 'a stream failed and was cut' && err?.code === 'FST_ERR_REAL_EVENT').length, 1)
})

t.test('names that another plugin has taken are refused with a code', async (t) => {
  for (const [decorate, name] of [['decorateReply', 'sse'], ['decorateReply', 'connection'], ['decorateRequest', 'wantsEvents']] as const) {
    const app = Fastify()
    ;(app[decorate] as (name: string, value: null) => unknown).call(app, name, null)
    await t.rejects(async () => await app.register(sseReal), { code: 'FST_ERR_REAL_NAME_TAKEN', message: new RegExp(name) })
    await app.close().catch(() => {})
  }
})

t.test('it is registered once in a scope; sibling scopes share one registry', async (t) => {
  const twice = Fastify()
  await twice.register(sseReal)
  await t.rejects(async () => await twice.register(sseReal), { code: 'FST_ERR_REAL_REGISTERED' })
  const nested = Fastify()
  await nested.register(sseReal)
  await t.rejects(async () => { nested.register(async (scope) => { await scope.register(sseReal) }); await nested.ready() }, { code: 'FST_ERR_REAL_REGISTERED' })
  const app = Fastify({ forceCloseConnections: true })
  t.after(() => app.close())
  const registries = new Set<unknown>()
  for (const retry of [1_000, 2_000]) {
    app.register(async (scope) => {
      await scope.register(sseReal, { retry })
      registries.add(scope.connections)
      scope.get(`/${retry}`, { sse: true }, async (_request, reply) => { await reply.sse().join('shared') })
    })
  }
  app.get('/outside', async (_request, reply) => 'sse' in reply)
  const port = await listen(app)
  t.equal(registries.size, 1)
  const clients = await Promise.all([sseClient(port, '/1000'), sseClient(port, '/2000')])
  await until(() => clients.every(({ parser }) => parser.retry !== undefined))
  t.ok(clients.every(({ parser: { retry = 0 } }, index) => retry >= 800 * (index + 1) && retry <= 1_200 * (index + 1)), 'each scope has its own options')
  t.equal((await app.inject('/outside')).body, 'false')
  const [registry] = registries as Set<FastifyInstance['connections']>
  t.equal((await registry?.room('shared').send('both'))?.members, 2)
  for (const client of clients) t.match(await client.wait(({ data }) => data === 'both'), {})
})

t.test('wrong options fail where they are given', async (t) => {
  await t.rejects(async () => await Fastify().register(sseReal, { headstart: 1 } as never), { code: 'FST_ERR_REAL_OPTION' })
  const app = await build(t)
  t.throws(() => app.get('/x', { sse: { accept: 'both' } as never }, async () => {}), { code: 'FST_ERR_REAL_OPTION', message: /route \/x sse\.accept/ })
})

t.test('a schema of the stream serializes what its source and direct sends give, and no room\'s event', async (t) => {
  const app = await build(t, { connections: { history: false } })
  const item = { type: 'object', properties: { a: { type: 'integer' } } }
  const schema = { response: { 200: { content: { 'text/event-stream': { schema: item } } } } }
  const data = { a: '1', secret: 2 }
  app.get('/source', { sse: true, schema }, async function * () { yield { data: data as never } })
  app.get('/direct', { sse: true, schema }, async (_request, reply) => { const connection = reply.sse(); connection.send({ data: data as never }); await connection.join('room') })
  app.get('/plain', { schema }, (_request, reply) => reply.sse({ event: 'x', data: data as never }))
  app.get('/other', { sse: true, schema: { response: { 200: item } } }, async () => [{ data: { b: 1 } }])
  app.get('/json', { sse: { accept: 'dual' }, schema: { response: { 200: { content: { 'application/json': { schema: item }, 'text/event-stream': { schema: item } } } } } }, async () => data)
  app.get('/refused', { sse: true, schema: { response: { 200: { content: { 'text/event-stream': { schema: { type: 'object', required: ['a'], properties: { a: { type: 'string' } } } } } } } } }, async () => ({ data: {} as never }))
  t.equal((await app.inject('/source')).body, 'data: {"a":1}\n\n')
  t.equal((await app.inject('/plain')).body, 'event: x\ndata: {"a":1}\n\n')
  t.equal((await app.inject('/other')).body, 'data: {"b":1}\n\n')
  t.strictSame((await app.inject({ url: '/json', headers: { accept: 'application/json' } })).json(), { a: 1 })
  t.equal((await app.inject('/refused')).json().code, 'FST_ERR_REAL_DATA')
  const client = await sseClient(await listen(app), '/direct')
  await until(() => app.connections.room('room').size === 1)
  await app.connections.room('room').send({ data })
  await client.wait(2)
  t.strictSame(client.events.map(({ data }) => JSON.parse(data)), [{ a: 1 }, data])
})

t.test('injecting a finite stream gives exactly its bytes', async (t) => {
  const app = await build(t)
  app.get('/x', { sse: true }, async function * () { yield 'a\r\nb\rc\n'; yield { id: 0, retry: 0, event: '', data: '' }; yield { comment: 'note\nmore' }; yield { data: null } })
  const { body, headers } = await app.inject('/x')
  t.equal(body, 'data: a\ndata: b\ndata: c\ndata: \n\nevent: \nid: 0\nretry: 0\ndata: \n\n: note\n: more\ndata: null\n\n')
  t.equal(headers['content-length'], undefined)
})

t.test('the registry may have been made before', async (t) => {
  const app = Fastify()
  t.after(() => app.close())
  await app.register(connections, { heartbeat: 5_000 })
  const { connections: registry } = app
  await app.register(sseReal)
  t.equal(app.connections, registry)
})

t.test('over HTTP/2 a heartbeat that comes too late for the timeout of a session is warned of', async (t) => {
  for (const [heartbeat, timeouts, warned] of [[15_000, {}, []], [80_000, {}, ['http2SessionTimeout']], [0, { connectionTimeout: 5_000 }, ['http2SessionTimeout', 'connectionTimeout']], [50, { http2SessionTimeout: 100, connectionTimeout: 0 }, []]] as const) {
    const { lines, options } = logs()
    const app = Fastify({ ...options, http2: true, ...timeouts } as never)
    await app.register(connections, { heartbeat })
    await app.register(sseReal)
    t.strictSame(lines.filter(({ msg }) => msg.includes('quiet streams will be cut')).map(({ msg }) => /than (\w+)/.exec(msg)?.[1]), warned)
    await app.close()
  }
  const { lines, options } = logs()
  const app = Fastify({ ...options, connectionTimeout: 10 })
  await app.register(sseReal)
  t.strictSame(lines.filter(({ level }) => level >= 40), [], 'over HTTP/1 a stream has its socket to itself')
  await app.close()
})
