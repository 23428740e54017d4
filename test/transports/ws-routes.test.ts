import cookie from '@fastify/cookie'
import websocket from '@fastify/websocket'
import Fastify from 'fastify'
import type { FastifyInstance, FastifyReply, FastifyRequest, FastifyServerOptions } from 'fastify'
import t from 'tap'
import type { Test } from 'tap'
import { sseReal, wsReal } from '../../lib/index.ts'
import type { Connection } from '../../lib/index.ts'
import { build, listen, sseClient, until, wsClient } from '../helper.ts'
import type { Refusal } from '../helper.ts'
import { rawUpgrade } from '../raw-ws.ts'

const echo = { onMessage (connection: Connection, message: unknown) { connection.send(message as string | Buffer) } }

async function echoes (port: number, path: string): Promise<void> {
  const client = await wsClient(port, path)
  client.send('one')
  await client.wait((message) => message === 'one')
  client.close()
}

async function refusal (port: number, path: string, headers: Record<string, string> = {}): Promise<Refusal & { json: Record<string, unknown> }> {
  const refused = await wsClient(port, path, { headers }).then(() => { throw new Error('it was let in') }, (err: Refusal) => err)
  return { ...refused, json: JSON.parse(refused.body) as Record<string, unknown> }
}

/** The error of a declaration. */
async function declaring (t: Test, declare: (app: FastifyInstance) => void): Promise<{ code: string, message: string }> {
  const app = await build(t)
  try {
    declare(app)
  } catch (err) {
    return err as { code: string, message: string }
  }
  throw new Error('nothing was thrown')
}

t.test('handlers are declared as the last argument, as the value of ws, or with fastify.ws', async (t) => {
  const app = await build(t)
  app.get('/last', { ws: true }, echo)
  app.get('/last-with-options', { ws: { maxPayload: 10 } }, echo as never)
  app.route({ method: 'GET', url: '/route', ws: true, handler: echo })
  app.get('/value', { ws: echo }, async () => 'over http')
  app.route({ method: ['GET', 'POST'], url: '/value-route', ws: echo, handler: async () => 'over http' })
  t.equal(app.ws('/method', echo), app, 'it can be chained')
  app.ws('/method-with-options', { ws: { maxPayload: 10 }, preHandler: async () => {} }, echo)
  app.ws('/nothing', {})
  const port = await listen(app)
  for (const path of ['/last', '/last-with-options', '/route', '/value', '/value-route', '/method', '/method-with-options']) await echoes(port, path)
  const client = await wsClient(port, '/nothing')
  client.send('to nobody')
  app.connections.room('nobody')
  await app.connections.broadcast('still here')
  t.equal(await client.wait(1), 'still here', 'all handlers are optional')
})

t.test('handlers keep their this, also as methods of a class', async (t) => {
  class Counter {
    count = 0
    onMessage (connection: Connection): void { connection.send(String(++this.count)) }
  }
  class Methods {
    onMessage (connection: Connection): void { connection.send(String(this instanceof Methods)) }
  }
  const app = await build(t)
  t.throws(() => app.ws('/counter', new Counter() as never), { code: 'FST_ERR_REAL_ROUTE' }, 'a field that is no handler is refused')
  app.ws('/methods', new Methods())
  app.get('/last', { ws: true }, new Methods())
  const port = await listen(app)
  for (const path of ['/methods', '/last']) {
    const client = await wsClient(port, path)
    client.send('')
    t.equal(await client.wait(1), 'true', path)
  }
})

t.test('what is beside a WebSocket answers HTTP as ever', async (t) => {
  const app = await build(t)
  app.get('/value', { ws: echo }, async () => ({ over: 'http' }))
  app.route({ method: ['GET', 'POST'], url: '/several', ws: echo, handler: async (request) => request.method })
  t.strictSame((await app.inject('/value')).json(), { over: 'http' })
  t.equal((await app.inject({ method: 'HEAD', url: '/value' })).statusCode, 200)
  t.equal((await app.inject({ method: 'POST', url: '/several' })).body, 'POST')
})

t.test('plain HTTP on a route that is only a WebSocket is answered with 426', async (t) => {
  const app = await build(t)
  app.get('/last', { ws: true }, echo)
  app.ws('/method', echo)
  await app.register(async (scope) => { scope.ws('/scoped', echo) }, { prefix: '/v1' })
  for (const url of ['/last', '/method', '/v1/scoped']) {
    for (const method of ['GET', 'HEAD'] as const) {
      const response = await app.inject({ method, url })
      t.equal(response.statusCode, 426, `${method} ${url}`)
      t.equal(response.headers.upgrade, 'websocket')
      t.equal(response.headers.connection, 'upgrade')
      if (method === 'GET') t.equal(response.json().code, 'FST_ERR_REAL_UPGRADE_REQUIRED')
    }
    t.equal((await app.inject({ method: 'POST', url })).statusCode, 404, 'other methods have no route')
  }
})

t.test('a route that cannot work is refused when it is declared', async (t) => {
  const cases: Array<[string, (app: FastifyInstance) => void, string, RegExp]> = [
    ['ws: true with a function', (app) => app.get('/x', { ws: true } as never, async () => 'x'), 'FST_ERR_REAL_ROUTE', /GET \/x has ws: true and so needs an object of handlers/],
    ['fastify.ws with a function', (app) => app.ws('/x', (() => {}) as never), 'FST_ERR_REAL_ROUTE', /needs an object of handlers/],
    ['fastify.ws with options and a function', (app) => app.ws('/x', {}, (() => {}) as never), 'FST_ERR_REAL_ROUTE', /needs an object of handlers/],
    ['fastify.ws with nothing', (app) => app.ws('/x', undefined as never), 'FST_ERR_REAL_ROUTE', /needs an object of handlers/],
    ['fastify.ws with options and null', (app) => app.ws('/x', {}, null as never), 'FST_ERR_REAL_ROUTE', /needs an object of handlers/],
    ['a misspelt handler', (app) => app.get('/x', { ws: true }, { onMesage () {} } as never), 'FST_ERR_REAL_ROUTE', /"onMesage" among its handlers/],
    ['a misspelt handler with fastify.ws', (app) => app.ws('/x', { onmessage () {} } as never), 'FST_ERR_REAL_ROUTE', /"onmessage"/],
    ['a misspelt handler as the value of ws', (app) => app.get('/x', { ws: { onMesage () {} } } as never, async () => 'x'), 'FST_ERR_REAL_OPTION', /ws\.onMesage is not known/],
    ['a handler that is no function', (app) => app.get('/x', { ws: true }, { onMessage: 'echo' } as never), 'FST_ERR_REAL_ROUTE', /"onMessage"/],
    ['a handler that is no function as the value of ws', (app) => app.get('/x', { ws: { onMessage: 5 } } as never, async () => 'x'), 'FST_ERR_REAL_OPTION', /onMessage/],
    ['handlers in both places', (app) => app.get('/x', { ws: { onConnect () {} } } as never, echo as never), 'FST_ERR_REAL_ROUTE', /one of the two/],
    ['handlers without ws', (app) => app.get('/x', {}, echo as never), 'FST_ERR_REAL_ROUTE', /needs ws: true/],
    ['handlers with ws: false', (app) => app.get('/x', { ws: false }, echo as never), 'FST_ERR_REAL_ROUTE', /needs ws: true/],
    ['handlers and sse', (app) => app.get('/x', { sse: true, ws: true } as never, echo as never), 'FST_ERR_REAL_ROUTE', /has sse and so needs a handler/],
    ['POST', (app) => app.post('/x', { ws: true } as never, echo as never), 'FST_ERR_REAL_ROUTE', /POST \/x takes WebSockets, so its method must be GET/],
    ['several methods without GET', (app) => app.route({ method: ['PUT', 'PATCH'], url: '/x', ws: echo, handler: async () => 'x' } as never), 'FST_ERR_REAL_ROUTE', /PUT, PATCH \/x takes/],
    ['an option that is wrong', (app) => app.ws('/x', { ws: { maxPayload: 0 } }, echo), 'FST_ERR_REAL_OPTION', /maxPayload must be a positive integer/],
    ['an option that is not known', (app) => app.ws('/x', { ws: { maxPaylod: 1 } as never }, echo), 'FST_ERR_REAL_OPTION', /maxPaylod is not known/],
    ['ws: null', (app) => app.get('/x', { ws: null } as never, async () => 'x'), 'FST_ERR_REAL_OPTION', /must be an object/],
    ['ws and websocket', (app) => app.get('/x', { ws: echo, websocket: true } as never, () => {}), 'FST_ERR_REAL_ROUTE', /@fastify\/websocket/]
  ]
  for (const [name, declare, code, message] of cases) t.match(await declaring(t, declare), { code, message }, name)
})

t.test('wrong options of the plugin are refused at its registration', async (t) => {
  const app = Fastify()
  t.after(() => app.close())
  await t.rejects(async () => await app.register(wsReal, { maxPending: -1 }), { code: 'FST_ERR_REAL_OPTION', message: /wsReal\.maxPending/ })
})

t.test('params, query, headers and cookies reach the handlers', async (t) => {
  const app = await build(t)
  await app.register(cookie)
  app.get<{ Params: { team: string }, Querystring: { a: string } }>('/teams/:team', { ws: true }, {
    onConnect (connection, request) {
      connection.send(`${request.params.team} ${request.query.a} ${request.headers['x-a']} ${request.cookies.c} ${connection.request === request} ${request.id !== undefined}`)
    }
  })
  const client = await wsClient(await listen(app), '/teams/blue?a=1', { headers: { 'x-a': '2', cookie: 'c=3' } })
  t.equal(await client.wait(1), 'blue 1 2 3 true true')
})

t.test('every hook up to the handler runs before the 101, in the order of a route', async (t) => {
  const app = await build(t)
  const ran: string[] = []
  for (const name of ['onRequest', 'preValidation', 'preHandler'] as const) {
    app.addHook(name, async () => { ran.push(name) })
  }
  app.addHook('preParsing', async () => { ran.push('preParsing') })
  app.addHook('onSend', async () => { ran.push('onSend') })
  app.ws('/x', {
    onRequest: async () => { ran.push('route onRequest') },
    preHandler: (_request: FastifyRequest, _reply: FastifyReply, done: () => void) => { ran.push('route preHandler'); done() },
    onSend: async () => { ran.push('route onSend') }
  }, { onConnect () { ran.push('onConnect') } })
  await wsClient(await listen(app), '/x')
  t.strictSame(ran, ['onRequest', 'route onRequest', 'preParsing', 'preValidation', 'preHandler', 'route preHandler', 'onSend', 'route onSend', 'onConnect'])
})

t.test('a hook, a schema or the error handler refuses with an ordinary HTTP answer', async (t) => {
  const app = await build(t)
  const opened: string[] = []
  const handlers = { onConnect () { opened.push('opened') }, onDisconnect () { opened.push('closed') } }
  app.ws('/throws', { preHandler: async () => { throw Object.assign(new Error('no ticket'), { statusCode: 401, code: 'NO_TICKET' }) } }, handlers)
  app.ws('/sends', { onRequest: async (_request, reply) => reply.code(402).header('x-why', 'poor').send({ pay: true }) }, handlers)
  app.ws('/schema', { schema: { querystring: { type: 'object', required: ['token'], properties: { token: { type: 'string' } } } } }, handlers)
  app.ws('/headers', { schema: { headers: { type: 'object', required: ['x-token'] } } }, handlers)
  app.ws('/on-send', { onSend: async () => { throw new Error('in onSend') } }, handlers)
  app.ws('/own', { errorHandler: (error, _request, reply) => { void reply.code(418).send({ own: error.message }) }, preValidation: async () => { throw new Error('teapot') } }, handlers)
  app.ws('/quiet', { errorHandler: (_error, _request, reply) => { void reply.code(200).send() }, onSend: async (_request, _reply, payload) => { if (payload === undefined && !('failed' in app)) { Object.assign(app, { failed: true }); throw new Error('once') } return payload } }, handlers)
  const port = await listen(app)
  t.match(await refusal(port, '/throws'), { statusCode: 401, json: { code: 'NO_TICKET', message: 'no ticket' }, headers: { connection: 'close' } })
  t.match(await refusal(port, '/sends'), { statusCode: 402, json: { pay: true }, headers: { 'x-why': 'poor' } })
  t.match(await refusal(port, '/schema'), { statusCode: 400, json: { code: 'FST_ERR_VALIDATION' } })
  t.match(await refusal(port, '/headers'), { statusCode: 400, json: { code: 'FST_ERR_VALIDATION' } })
  t.match(await refusal(port, '/on-send'), { statusCode: 500, json: { message: 'in onSend' } })
  t.match(await refusal(port, '/own'), { statusCode: 418, json: { own: 'teapot' } })
  const quiet = await rawUpgrade(t, port, '/quiet')
  t.equal(quiet.status, 200, 'once a hook has failed an empty answer is no invitation')
  t.strictSame(opened, [])
  t.equal(app.connections.size, 0)
})

t.test('encapsulation and prefixes apply', async (t) => {
  const app = await build(t)
  await app.register(async (scope) => {
    scope.decorate('word', 'inner')
    scope.addHook('onRequest', async (request) => { if (request.headers['x-key'] !== 'k') throw Object.assign(new Error('closed'), { statusCode: 403 }) })
    scope.ws('/room', { onConnect (connection) { connection.send((scope as unknown as { word: string }).word) } })
  }, { prefix: '/v1' })
  await app.register(async (scope) => { scope.ws('/', echo) }, { prefix: '/v2' })
  await app.register(async (scope) => { scope.ws('/', { prefixTrailingSlash: 'slash' } as never, echo) }, { prefix: '/v3' })
  app.ws('/open', echo)
  const port = await listen(app)
  const client = await wsClient(port, '/v1/room', { headers: { 'x-key': 'k' } })
  t.equal(await client.wait(1), 'inner')
  t.equal((await refusal(port, '/v1/room')).statusCode, 403)
  for (const path of ['/open', '/v2', '/v2/', '/v3/']) await echoes(port, path)
  t.equal((await refusal(port, '/v3')).statusCode, 404)
  t.equal((await refusal(port, '/room')).statusCode, 404)
})

t.test('paths are found as Fastify finds them', async (t) => {
  const settings: Array<[FastifyServerOptions, string, string]> = [
    [{ routerOptions: { ignoreTrailingSlash: true } }, '/a', '/a/'],
    [{ routerOptions: { ignoreDuplicateSlashes: true } }, '/a/b', '/a//b'],
    [{ routerOptions: { caseSensitive: false } }, '/Ab', '/aB'],
    [{ routerOptions: { useSemicolonDelimiter: true } as never }, '/a', '/a;b=1'],
    [{ routerOptions: { maxParamLength: 200 } }, '/:id', `/${'x'.repeat(150)}`],
    [{}, '/files/*', '/files/a/b/c'],
    [{}, '/at/:hour(^\\d{2})h', '/at/12h'],
    [{}, '/ä', '/%C3%A4']
  ]
  for (const [fastify, path, url] of settings) {
    const app = await build(t, { fastify })
    app.ws(path, echo)
    await echoes(await listen(app), url)
  }
  const nested = await build(t, { fastify: { routerOptions: { ignoreTrailingSlash: true } } })
  nested.register(async (scope) => { scope.ws('/', echo) }, { prefix: '/a' })
  const nestedPort = await listen(nested)
  for (const path of ['/a', '/a/']) await echoes(nestedPort, path)
  const app = await build(t)
  app.ws('/a', echo)
  app.ws('/:id', echo)
  const port = await listen(app)
  for (const path of ['/a/', '/A', `/${'x'.repeat(150)}/y`, '/%']) {
    if (path === '/A') await echoes(port, path)
    else t.equal((await rawUpgrade(t, port, path)).status, 404, path)
  }
})

t.test('what is no object of handlers, options or `ws` is refused with the route', async (t) => {
  const app = await build(t)
  const wrong: Record<string, unknown> = { number: 1, text: 'yes', array: [], map: new Map(), promise: Promise.resolve({}), date: new Date() }
  for (const [name, value] of Object.entries({ ...wrong, null: null, zero: 0 })) {
    t.throws(() => app.get('/x', { ws: value } as never, echo as never), { code: 'FST_ERR_REAL_OPTION', message: 'option route /x ws must be an object' }, name)
    t.throws(() => app.ws('/x', { ws: value } as never, echo), { code: 'FST_ERR_REAL_OPTION', message: 'option route /x ws must be an object' }, name)
    t.throws(() => app.ws('/x', value as never, echo), { code: 'FST_ERR_REAL_ROUTE', message: 'route GET /x has options that are no object' }, name)
    t.throws(() => app.ws('/x', {}, value as never), { code: 'FST_ERR_REAL_ROUTE', message: /^route GET \/x has ws: true and so needs an object of handlers/ }, name)
  }
  for (const [name, value] of Object.entries(wrong)) t.throws(() => app.get('/x', { ws: true }, value as never), { code: 'FST_ERR_REAL_ROUTE', message: /^route GET \/x has ws: true and so needs an object of handlers/ }, name)
  app.ws('/undefined', { onConnect: undefined, onMessage: echo.onMessage })
  app.ws('/class', new class { onMessage = echo.onMessage }())
  const port = await listen(app)
  for (const path of ['/undefined', '/class']) await echoes(port, path)
})

t.test('an upgrade is rewritten as any request', async (t) => {
  const app = Fastify({ rewriteUrl (request) { return this.log === undefined ? '/' : (request.url as string).replace(/^\/api/, '') } })
  t.after(() => app.close())
  app.register(async (scope) => {
    await scope.register(wsReal)
    scope.ws('/x', { onConnect (connection) { connection.send(connection.request.originalUrl) } })
    scope.get('/neighbour', { websocket: true }, (socket, request) => { socket.send(request.originalUrl) })
  })
  const port = await listen(app)
  for (const path of ['/api/x?a=1', '/x', '/api/neighbour']) t.equal(await (await wsClient(port, path)).wait(1), path)
  t.equal((await rawUpgrade(t, port, '/api/y')).status, 404)
})

t.test('routes of one path that differ in their constraints stay apart', async (t) => {
  const app = await build(t)
  app.ws('/x', { constraints: { host: 'a.test' } }, { onConnect (connection) { connection.send('a') } })
  app.ws('/x', { constraints: { host: 'b.test' } }, { onConnect (connection) { connection.send('b') } })
  app.get('/x', { constraints: { host: 'plain.test' } }, async () => 'plain')
  app.get('/events', { constraints: { host: 'plain.test' }, sse: true }, async function * () { yield 'one' })
  app.ws('/events', { constraints: { host: 'a.test' } }, echo)
  const port = await listen(app)
  for (const name of ['a', 'b']) t.equal(await (await wsClient(port, '/x', { headers: { host: `${name}.test` } })).wait(1), name)
  t.match(await rawUpgrade(t, port, '/x', { headers: { host: 'plain.test' } }), { status: 200, body: 'plain' }, 'a plain route answers, and opens nothing')
  t.equal((await rawUpgrade(t, port, '/x', { headers: { host: 'c.test' } })).status, 404)
  t.not((await rawUpgrade(t, port, '/events', { headers: { host: 'plain.test' } })).status, 101)
})

t.test('an event stream and a WebSocket share a path, whichever plugin comes first', async (t) => {
  for (const order of [[sseReal, wsReal], [wsReal, sseReal]]) {
    const app = Fastify()
    t.after(() => app.close())
    for (const plugin of order) await app.register(plugin as never, {})
    const seen: string[] = []
    app.get('/feed', { sse: true, ws: { onConnect (connection) { connection.send('to ws') } } }, async (_request, reply) => { reply.sse().send('to sse') })
    app.get('/generator', { sse: true, ws: echo }, async function * (_request, _reply, connection) {
      seen.push(connection.transport)
      yield 'one'
    })
    app.get('/only-events', { sse: true }, async function * (_request, _reply, connection) {
      seen.push(connection.transport)
      yield 'one'
    })
    app.get('/sync-generator', { sse: true, ws: echo }, function * (_request: FastifyRequest, _reply: FastifyReply, connection: Connection) {
      seen.push(connection.transport)
      yield 'one'
    } as never)
    const port = await listen(app)
    t.equal(await (await wsClient(port, '/feed')).wait(1), 'to ws')
    const stream = await sseClient(port, '/feed')
    t.equal((await stream.wait(1)).data, 'to sse')
    stream.close()
    for (const path of ['/generator', '/only-events', '/sync-generator']) t.equal((await (await sseClient(port, path)).wait(1)).data, 'one', path)
    t.strictSame(seen, ['sse', 'sse', 'sse'])
    await echoes(port, '/generator')
    t.equal((await app.inject({ method: 'HEAD', url: '/feed' })).statusCode, 200)
    await until(() => app.connections.size === 1)
  }
})

t.test('the second registration in a scope is refused, in that scope and below it', async (t) => {
  const app = await build(t)
  await t.rejects(async () => await app.register(wsReal), { code: 'FST_ERR_REAL_REGISTERED', message: /wsReal is registered/ })
  const other = await build(t)
  other.register(async (scope) => { await scope.register(wsReal) })
  await t.rejects(async () => await other.ready(), { code: 'FST_ERR_REAL_REGISTERED' })
})

t.test('@fastify/websocket before wsReal is refused with the way out', async (t) => {
  const app = Fastify()
  t.after(() => app.close())
  await app.register(websocket)
  await t.rejects(async () => await app.register(wsReal), { code: 'FST_ERR_REAL_WEBSOCKET_FIRST', message: /register wsReal only/ })
})

t.test('a name that is taken is refused', async (t) => {
  const app = Fastify()
  t.after(() => app.close())
  app.decorate('ws', 1 as never)
  await t.rejects(async () => await app.register(wsReal), { code: 'FST_ERR_REAL_NAME_TAKEN', message: /fastify\.ws/ })
})

t.test('two sibling scopes have their own options and one registry', async (t) => {
  const app = Fastify()
  t.after(() => app.close())
  const registries: unknown[] = []
  for (const [prefix, maxPayload] of [['/a', 10], ['/b', 100]] as const) {
    await app.register(async (scope) => {
      await scope.register(wsReal, { maxPayload })
      registries.push(scope.connections)
      scope.ws('/x', echo)
      scope.get('/stock', { websocket: true }, (socket) => { socket.on('message', (data: Buffer) => socket.send(data)) })
    }, { prefix })
  }
  const port = await listen(app)
  t.equal(registries[0], registries[1])
  const [a, b] = [await wsClient(port, '/a/x'), await wsClient(port, '/b/x')]
  for (const client of [a, b]) client.send('x'.repeat(50))
  t.equal(await b.wait(1), 'x'.repeat(50))
  await until(() => a.closed)
  t.equal(a.closed?.code, 1009)
  const [stockA, stockB] = [await wsClient(port, '/a/stock'), await wsClient(port, '/b/stock')]
  for (const client of [stockA, stockB]) client.send('x'.repeat(50))
  t.ok(await stockB.wait(1))
  await until(() => stockA.closed)
  t.equal(stockA.closed?.code, 1009)
})

t.test('a route with ws that was declared before the plugin never answers silently', async (t) => {
  const app = Fastify()
  t.after(() => app.close())
  app.get('/handlers', { ws: true }, echo)
  app.get('/beside', { ws: echo }, async () => 'over http')
  app.get('/plain', async () => 'plain')
  await app.register(wsReal)
  const port = await listen(app)
  for (const path of ['/handlers', '/beside']) {
    const response = await app.inject(path)
    t.equal(response.statusCode, 500)
    t.match(response.json(), { code: 'FST_ERR_REAL_ROUTE_ORDER', message: /wsReal was not loaded; `await app\.register/ })
    const raw = await rawUpgrade(t, port, path)
    t.equal(raw.status, 500, 'an upgrade is told the same')
    t.match(raw.body, /FST_ERR_REAL_ROUTE_ORDER/)
  }
  t.equal((await app.inject('/plain')).body, 'plain')
})

t.test('without the plugin an object of handlers answers with the reason, and somebody else\'s ws is left alone', async (t) => {
  const app = Fastify()
  t.after(() => app.close())
  app.get('/handlers', { ws: true }, echo)
  app.get('/foreign', { ws: { of: 'another plugin' } } as never, async () => 'as ever')
  app.get('/off', { ws: false }, async () => 'off')
  const port = await listen(app)
  t.match((await app.inject('/handlers')).json(), { code: 'FST_ERR_REAL_ROUTE_ORDER', message: /GET \/handlers/ })
  t.equal((await rawUpgrade(t, port, '/handlers')).status, 500)
  t.equal((await app.inject('/foreign')).body, 'as ever')
  t.equal((await app.inject('/off')).body, 'off')
})

t.test('handlerTimeout and the signal of the request leave an open WebSocket alone', async (t) => {
  const app = await build(t, { fastify: { handlerTimeout: 40 } })
  let aborted = false
  app.ws('/x', { onConnect (_connection, request) { request.signal.addEventListener('abort', () => { aborted = true }) }, ...echo })
  app.ws('/slow', { preHandler: async () => { await new Promise((resolve) => setTimeout(resolve, 20)) } }, echo)
  app.get('/late', async () => await new Promise((resolve) => setTimeout(resolve, 120)))
  const port = await listen(app)
  const client = await wsClient(port, '/x')
  await echoes(port, '/slow')
  t.equal((await app.inject('/late')).statusCode, 503)
  client.send('one')
  t.equal(await client.wait(1), 'one')
  t.notOk(aborted)
})
