import type { FastifyRequest } from 'fastify'
import t from 'tap'
import { Identities } from '../lib/identity.ts'
import { build, listen, refusalOf, sseClient, until, wsClient } from './helper.ts'

function requestOf (): FastifyRequest { return {} as FastifyRequest }
function ask (said: unknown): ReturnType<Identities['of']> { return new Identities(() => said as never).of(requestOf()) }

t.test('nobody is asked for, and whoever is nothing, is nobody', async (t) => {
  const nobody = { user: null, expires: 0 }
  t.strictSame(new Identities(null).of(requestOf()), nobody)
  for (const said of [null, undefined]) t.strictSame(ask(said), nobody)
  t.strictSame(await ask(Promise.resolve(null)), nobody)
})

t.test('a user is an id, with the time its right ends', async (t) => {
  t.strictSame(ask('ada'), { user: 'ada', expires: 0 })
  t.strictSame(ask({ id: 'ada' }), { user: 'ada', expires: 0 })
  t.strictSame(ask({ id: 'ada', expires: 5_000 }), { user: 'ada', expires: 5_000 })
  t.strictSame(ask({ id: 'ada', expires: new Date(5_000) }), { user: 'ada', expires: 5_000 })
  t.strictSame(ask({ id: 'ada', expires: undefined }), { user: 'ada', expires: 0 })
  t.strictSame(ask({ id: 'ada', expires: Infinity }), { user: 'ada', expires: Infinity })
  t.strictSame(await ask(Promise.resolve({ id: 'ada' })), { user: 'ada', expires: 0 })
})

t.test('what can be awaited is awaited, though it is no Promise', async (t) => {
  const query = { then: (resolve: (row: unknown) => void) => { resolve({ id: 'ada' }) } }
  t.strictSame(await ask(query), { user: 'ada', expires: 0 })
})

t.test('a wrong identity is refused with the rule, at once or in the promise', async (t) => {
  for (const said of [42, true, 1n, () => 'ada', Symbol('ada')]) {
    const wrong = { code: 'FST_ERR_REAL_ARGUMENT', message: /^identify must give a user id \(a string\), \{ id, expires \} or nothing$/ }
    t.throws(() => ask(said), wrong)
    await t.rejects(ask(Promise.resolve(said)) as Promise<unknown>, wrong)
  }
  for (const said of ['', 'a\nb', {}, [], { id: 42 }, { id: '' }]) t.throws(() => ask(said), { code: 'FST_ERR_REAL_ROOM_NAME' })
  for (const expires of [NaN, 'tomorrow', '5000', true, {}, null, new Date('x')]) {
    t.throws(() => ask({ id: 'ada', expires }), { code: 'FST_ERR_REAL_ARGUMENT', message: 'identify must give expires as milliseconds since 1970 or a Date' }, String(expires))
  }
})

t.test('the application is asked once for a request, whatever it says and however', async (t) => {
  let asked = 0
  const says = async (given: () => unknown): Promise<unknown[]> => {
    asked = 0
    const identities = new Identities(() => {
      asked++
      return given() as never
    })
    const request = requestOf()
    const first = identities.of(request)
    await first
    return [identities.of(request), await identities.of(requestOf()), asked]
  }
  t.strictSame(await says(() => 'ada'), [{ user: 'ada', expires: 0 }, { user: 'ada', expires: 0 }, 2])
  t.strictSame(await says(async () => 'ada'), [{ user: 'ada', expires: 0 }, { user: 'ada', expires: 0 }, 2], 'what is known does not have to be awaited again')
})

t.test('a rejection is everybody\'s who asks, and nobody else\'s', async (t) => {
  const identities = new Identities(async () => { throw new Error('database down') })
  const request = requestOf()
  await t.rejects(identities.of(request) as Promise<unknown>, { message: 'database down' })
  await t.rejects(identities.of(request) as Promise<unknown>, { message: 'database down' })
})

t.test('an identity that cannot be had is an ordinary error, before anything is opened', async (t) => {
  const app = await build(t, { connections: { identify: async ({ query }) => { throw Object.assign(new Error((query as { why: string }).why), { statusCode: 401 }) } } })
  app.get('/events', { sse: true }, async (_request, reply) => { reply.sse() })
  app.get('/ws', { ws: true }, { onMessage () {} })
  const port = await listen(app)
  const { response } = await sseClient(port, '/events?why=token')
  t.equal(response.statusCode, 401)
  t.match(await refusalOf(wsClient(port, '/ws?why=token')), { statusCode: 401, body: /"message":"token"/ })
  t.equal(app.connections.size, 0)
})

t.test('both transports know the user before the first handler runs', async (t) => {
  const users: unknown[] = []
  const app = await build(t, { connections: { identify: async ({ headers }) => String(headers.user) } })
  app.connections.on('connect', (connection) => { users.push(connection.transport) })
  app.get('/events', { sse: true }, async (_request, reply) => { users.push(reply.sse().user) })
  app.get('/ws', { ws: true }, { onConnect: (connection) => users.push(connection.user) })
  const port = await listen(app)
  const events = await sseClient(port, '/events', { user: 'ada' })
  const socket = await wsClient(port, '/ws', { headers: { user: 'bob' } })
  await until(() => users.length === 4)
  t.strictSame(users, ['sse', 'ada', 'ws', 'bob'])
  t.equal(app.connections.user('ada').size, 1)
  events.close()
  socket.close()
  await until(() => app.connections.stats().users === 0)
})

t.test('who is not known when the server stops is turned away at once, and a close does not wait for the answer', async (t) => {
  let asked = 0
  const app = await build(t, { fastify: { pluginTimeout: 0 }, connections: { drain: { grace: 3_600_000 }, identify: () => { asked++; return new Promise(() => {}) } } })
  app.get('/events', { sse: true }, async (_request, reply) => { reply.sse() })
  app.get('/plain', async (_request, reply) => reply.sse())
  app.get('/source', async (_request, reply) => reply.sse(['never']))
  app.get('/ws', { ws: true }, { onMessage () {} })
  const port = await listen(app)
  const all = Promise.all(['/events', '/plain', '/source'].map((path) => sseClient(port, path)))
  const dual = sseClient(port, '/events', { accept: 'application/json, text/event-stream' })
  const socket = refusalOf(wsClient(port, '/ws'))
  await until(() => asked === 5)
  await app.close()
  for (const client of [...await all, await dual]) {
    await until(() => client.ended)
    t.equal(client.response.statusCode, 200, 'an EventSource never comes back after any other')
    t.match(client.text, /^retry: \d+$/m)
  }
  t.match(await socket, { statusCode: 503, body: /FST_ERR_REAL_SHUTTING_DOWN/ })
})

t.test('nobody is asked any more once the server stops', async (t) => {
  let asked = 0
  const identities = new Identities(() => { asked++; return 'ada' })
  const before = requestOf()
  identities.of(before)
  identities.stop()
  t.strictSame(identities.of(before), { user: 'ada', expires: 0 }, 'what is known stays known')
  t.strictSame(identities.of(requestOf()), { user: null, expires: 0 })
  t.equal(asked, 1)
})
