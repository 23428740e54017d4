import websocket from '@fastify/websocket'
import Fastify from 'fastify'
import type { FastifyInstance } from 'fastify'
import t from 'tap'
import type { Test } from 'tap'
import { BackplaneError } from '../lib/errors.ts'
import { connections, memory, openConnection, sharedRegistry, sseReal, wsReal } from '../lib/index.ts'
import type { Backplane, ConnectionsOptions, Disconnect, Registry } from '../lib/index.ts'
import { injectSSE } from '../lib/testing.ts'
import { encodings, FakeWire } from './fake.ts'
import { build } from './helper.ts'

function fastify (t: Test): FastifyInstance {
  const app = Fastify()
  t.after(() => app.close())
  return app
}

/** What a registration fails with. */
async function failure (app: FastifyInstance): Promise<{ code?: string, statusCode?: number, message: string }> {
  const found = await app.ready().then(() => null, (err: Error) => err)
  if (found === null) throw new Error('it did not fail')
  return found
}

const taken = { code: 'FST_ERR_REAL_CONNECTIONS_EXIST', statusCode: 500, message: /register connections, with its options, before sseReal and wsReal and only once/ }

t.test('the registry is made with defaults by whichever plugin comes first', async (t) => {
  for (const plugin of [sseReal, wsReal]) {
    const app = fastify(t)
    await app.register(plugin)
    t.equal(app.connections.size, 0)
    t.match(app.connections.stats(), { connections: 0, rooms: 0 })
  }
})

t.test('both plugins share one registry, and so does whoever asks for it', async (t) => {
  const app = fastify(t)
  await app.register(sseReal)
  const { connections: registry } = app
  await app.register(wsReal)
  t.equal(app.connections, registry)
  t.equal(await sharedRegistry(app), registry)
})

t.test('options are taken when connections comes first', async (t) => {
  const app = await build(t, { connections: { maxConnections: 1 } })
  app.get('/', { sse: true }, async (request, reply) => { reply.sse() })
  const first = await injectSSE(app, '/')
  t.teardown(() => first.close())
  const second = await app.inject({ url: '/', headers: { accept: '*/*' } })
  t.equal(second.statusCode, 503)
  t.match(second.json(), { code: 'FST_ERR_REAL_TOO_MANY_CONNECTIONS' })
})

t.test('options that come after the registry are refused, whoever made it', async (t) => {
  for (const plugin of [sseReal, wsReal, connections]) {
    const app = fastify(t)
    app.register(plugin as typeof connections)
    app.register(connections, { maxConnections: 5 })
    t.match(await failure(app), taken)
  }
})

t.test('connections cannot be registered twice where the registry is seen already', async (t) => {
  for (const child of [false, true]) {
    const app = fastify(t)
    app.register(connections, { maxConnections: 5 })
    if (child) app.register(async (scope) => { await scope.register(connections) })
    else app.register(connections)
    t.match(await failure(app), taken)
  }
})

t.test('options from a sibling scope come too late as well', async (t) => {
  const app = fastify(t)
  app.register(async (scope) => { await scope.register(sseReal) })
  app.register(async (scope) => { await scope.register(connections, { heartbeat: 1_000 }) })
  t.match(await failure(app), taken)
})

t.test('another scope is given the same registry, and what Fastify adds to options is none', async (t) => {
  const app = fastify(t)
  const seen: unknown[] = []
  await app.register(async (scope) => {
    await scope.register(connections, { maxConnections: 5 })
    seen.push(scope.connections)
  })
  await app.register(async (scope) => {
    await scope.register(connections, { prefix: '/x', logLevel: 'warn' } as ConnectionsOptions)
    seen.push(scope.connections)
  })
  await app.register(async (scope) => {
    await scope.register(sseReal)
    seen.push(scope.connections)
    await scope.register(async (child) => { seen.push(child.connections) })
  })
  t.equal(seen.length, 4)
  t.equal(new Set(seen).size, 1)
})

t.test('a scope that asked for nothing sees nothing', async (t) => {
  const app = fastify(t)
  await app.register(async (scope) => {
    await scope.register(sseReal)
    await scope.register(wsReal)
    t.ok(scope.hasDecorator('connections'))
    t.ok(scope.hasReplyDecorator('sse'))
  })
  await app.register(async (scope) => {
    t.notOk(scope.hasDecorator('connections'))
    t.notOk(scope.hasDecorator('ws'))
    t.notOk(scope.hasReplyDecorator('sse'))
    t.notOk(scope.hasReplyDecorator('connection'))
    t.notOk(scope.hasRequestDecorator('wantsEvents'))
  })
  t.notOk(app.hasDecorator('connections'))
})

t.test('connections of sibling scopes are in one registry, in the same rooms', async (t) => {
  const app = fastify(t)
  const seen: Registry[] = []
  for (const prefix of ['/a', '/b']) {
    await app.register(async (scope) => {
      await scope.register(sseReal)
      seen.push(scope.connections)
      scope.get('/live', { sse: true }, async (request, reply) => { await reply.sse().join('hall') })
    }, { prefix })
  }
  const streams = await Promise.all(['/a/live', '/b/live'].map((url) => injectSSE(app, url)))
  t.teardown(() => { for (const stream of streams) stream.close() })
  const [registry] = seen as [Registry]
  t.equal(registry.size, 2)
  t.match(await registry.room('hall').send('hello'), { accepted: true, members: 2 })
  for (const stream of streams) {
    t.match(await stream.next(), { value: { event: 'ready' } })
    t.match(await stream.next(), { value: { data: 'hello' } })
  }
})

t.test('two applications have two registries', async (t) => {
  const [one, two] = [await build(t), await build(t)]
  t.not(one.connections, two.connections)
})

t.test('each plugin is registered once in a scope and the scopes below it', async (t) => {
  for (const [plugin, name] of [[sseReal, 'sseReal'], [wsReal, 'wsReal']] as const) {
    for (const child of [false, true]) {
      const app = fastify(t)
      app.register(plugin as typeof sseReal)
      app.register(child ? async (scope) => { await scope.register(plugin as typeof sseReal) } : plugin as typeof sseReal)
      t.match(await failure(app), { code: 'FST_ERR_REAL_REGISTERED', message: new RegExp(`${name} is registered in this scope already`) })
    }
  }
})

t.test('a name that is taken is named', async (t) => {
  const byOther = (decorate: (app: FastifyInstance) => void, plugin: unknown) => {
    const app = fastify(t)
    decorate(app)
    app.register(plugin as typeof sseReal)
    return failure(app)
  }
  const cases: Array<[(app: FastifyInstance) => void, unknown, RegExp]> = [
    [(app) => { app.decorate('connections', 5 as never) }, connections, /fastify\.connections/],
    [(app) => { app.decorate('connections', 5 as never) }, sseReal, /fastify\.connections/],
    [(app) => { app.decorate('ws', (() => app) as never) }, wsReal, /fastify\.ws/],
    [(app) => { app.decorateReply('sse', (() => {}) as never) }, sseReal, /reply\.sse/]
  ]
  for (const [decorate, plugin, message] of cases) t.match(await byOther(decorate, plugin), { code: 'FST_ERR_REAL_NAME_TAKEN', message })
})

t.test('a name that is taken in one scope leaves the others their registry', async (t) => {
  const app = fastify(t)
  const errors: unknown[] = []
  app.register(async (scope) => {
    scope.decorate('connections', 5 as never)
    scope.register(connections, { maxConnections: 1 }).after((err) => { errors.push(err) })
  })
  app.register(async (scope) => { await scope.register(connections, { maxConnections: 2 }) })
  await app.ready()
  t.match(errors, [{ code: 'FST_ERR_REAL_NAME_TAKEN' }])
})

t.test('so does one in a scope that comes later', async (t) => {
  const app = fastify(t)
  app.register(async (scope) => { await scope.register(sseReal) })
  app.register(async (scope) => {
    scope.decorate('connections', 5 as never)
    await scope.register(sseReal)
  })
  t.match(await failure(app), { code: 'FST_ERR_REAL_NAME_TAKEN', message: /fastify\.connections/ })
})

t.test('@fastify/websocket registered first is an error that says what to do', async (t) => {
  const app = fastify(t)
  app.register(websocket)
  app.register(wsReal)
  t.match(await failure(app), { code: 'FST_ERR_REAL_WEBSOCKET_FIRST', message: /register wsReal only/ })
})

t.test('wrong options fail the registration, and name the option and the rule', async (t) => {
  const wrong: Array<[object, RegExp]> = [
    [{ heartbeat: -1 }, /option heartbeat must be a non-negative integer/],
    [{ drain: { grace: '5s' } }, /option drain\.grace must be/],
    [{ drain: { grace: 2 ** 31 } }, /option drain\.grace must be at most 2147483647/],
    [{ drain: { wait: 5 } }, /option drain\.wait is not known/],
    [{ slow: 'wait' }, /option slow must be one of close, drop, catch-up/],
    [{ backplane: {} }, /option backplane must be a backplane, like memory\(\)/],
    [{ maxConnexions: 5 }, /option maxConnexions is not known/]
  ]
  for (const [options, message] of wrong) {
    const app = fastify(t)
    app.register(connections, options as ConnectionsOptions)
    t.match(await failure(app), { code: 'FST_ERR_REAL_OPTION', message })
  }
})

t.test('wrong options leave no registry behind', async (t) => {
  const app = fastify(t)
  const errors: unknown[] = []
  app.register(connections, { heartbeat: -1 }).after((err) => { errors.push(err) })
  app.register(connections, { heartbeat: 1_000 })
  await app.ready()
  t.match(errors, [{ code: 'FST_ERR_REAL_OPTION' }])
  t.equal(app.connections.size, 0)
})

/** A backplane whose start is given; tells what was called. */
function stubborn (start: () => Promise<void>): { backplane: Backplane, calls: string[] } {
  const calls: string[] = []
  const inner = memory()
  const backplane = new Proxy(inner, {
    get (target, name: keyof Backplane) {
      if (name === 'epoch') return target.epoch
      return (...args: never[]) => {
        calls.push(name)
        return name === 'start' ? start() : (target[name] as (...args: never[]) => unknown)(...args)
      }
    }
  })
  return { backplane, calls }
}

t.test('a backplane that does not start fails the registration with its reason', async (t) => {
  const reasons: Array<[unknown, RegExp]> = [[new Error('no route to host'), /the backplane did not start: no route to host/], ['no word', /the backplane did not start: no word/], [new BackplaneError('no stream'), /^the backplane did not start: no stream$/]]
  for (const [reason, message] of reasons) {
    const app = fastify(t)
    const { backplane } = stubborn(async () => { throw reason })
    app.register(connections, { backplane })
    t.match(await failure(app), { code: 'FST_ERR_REAL_BACKPLANE', message })
  }
})

t.test('another backplane may be tried after one that did not start', async (t) => {
  const app = fastify(t)
  const errors: unknown[] = []
  const { backplane } = stubborn(() => Promise.reject(new Error('down')))
  app.register(connections, { backplane }).after((err) => { errors.push(err) })
  app.register(connections, { backplane: memory() })
  app.register(sseReal)
  await app.ready()
  t.match(errors, [{ code: 'FST_ERR_REAL_BACKPLANE' }])
  t.match(await app.connections.room('a').send('x'), { accepted: true })
})

t.test('the plugins wait for a backplane that starts slowly', async (t) => {
  const app = fastify(t)
  let started = false
  const { backplane } = stubborn(() => new Promise((resolve) => setTimeout(() => { started = true; resolve() }, 20)))
  app.register(connections, { backplane })
  app.register(sseReal)
  await app.ready()
  t.ok(started)
})

t.test('the backplane is closed after every route has been, and once', async (t) => {
  const app = Fastify()
  const { backplane, calls } = stubborn(async () => {})
  const order: string[] = []
  app.addHook('onClose', async () => { order.push(`the application's own onClose, backplane ${calls.includes('close') ? 'closed' : 'open'}`) })
  await app.register(connections, { backplane })
  app.addHook('preClose', async () => { order.push(`preClose, backplane ${calls.includes('close') ? 'closed' : 'open'}`) })
  await app.ready()
  await app.close()
  t.same(order, ['preClose, backplane open', 'the application\'s own onClose, backplane closed'])
  t.equal(calls.filter((name) => name === 'close').length, 1)
})

t.test('a backplane that fails to close does not fail the close', async (t) => {
  const lines: string[] = []
  const app = Fastify({ logger: { level: 'error', stream: { write: (line: string) => { lines.push(line) } } } })
  const backplane = Object.assign(Object.create(memory()) as Backplane, {})
  const inner = memory()
  for (const name of ['start', 'subscribe', 'unsubscribe', 'publish', 'range'] as const) Object.defineProperty(backplane, name, { value: (inner[name] as (...args: never[]) => unknown).bind(inner) })
  Object.defineProperty(backplane, 'epoch', { value: 'e' })
  Object.defineProperty(backplane, 'close', { value: async () => { throw new Error('it hangs on') } })
  await app.register(connections, { backplane })
  await app.close()
  t.equal(lines.length, 1)
  t.match(JSON.parse(lines[0] as string), { err: { message: 'it hangs on' } })
})

t.test('a transport of another package opens connections like our own', async (t) => {
  const app = await build(t, { connections: { identify: ({ query }) => (query as { user?: string }).user, maxPerUser: 1, drain: { within: 0, grace: 5_000 } } })
  const ends: Disconnect[] = []
  const drained: number[] = []
  class Poll extends FakeWire {
    override drain (delay = 0): void {
      drained.push(delay)
      super.drain()
    }
  }
  const wires: Poll[] = []
  app.get('/poll', async (request) => {
    const wire = new Poll('poll', encodings.one, false)
    const link = wire.link = await openConnection(app, { request, wire, broadcast: true, onDisconnect: (end) => { ends.push(end) } })
    wires.push(wire)
    link.opened()
    await link.join('hall')
    return { id: link.id, user: link.user }
  })
  const answer = await app.inject('/poll?user=ada')
  const { id, user } = answer.json<{ id: string, user: string }>()
  t.equal(user, 'ada')
  t.equal(app.connections.get(id)?.transport, 'poll')
  t.match(await app.connections.room('hall').send('hello'), { members: 1 })
  const refused = await app.inject('/poll?user=ada')
  t.equal(refused.statusCode, 429)
  t.match(refused.json(), { code: 'FST_ERR_REAL_TOO_MANY_OF_USER' })
  await app.close()
  t.match(wires[0]?.events, [{ event: 'ready' }, { data: 'hello' }])
  t.match(ends, [{ code: 1001, reason: 'shutdown', clean: true, rooms: ['hall'] }])
  t.equal(drained.length, 1)
  t.ok((drained[0] as number) > 0)
})

t.test('but not on a server that has no registry', async (t) => {
  const app = fastify(t)
  app.get('/poll', async (request) => { await openConnection(app, { request, wire: new FakeWire('poll', encodings.one, true), broadcast: true }) })
  const { code, message } = (await app.inject('/poll')).json<{ code: string, message: string }>()
  t.equal(code, 'FST_ERR_REAL_ARGUMENT')
  t.match(message, /fastify has no registry of connections; register connections before its routes/)
})

t.test('a grace that Fastify would not wait for is refused; the default gives way', async (t) => {
  const app = Fastify({ pluginTimeout: 2_000 })
  t.after(() => app.close())
  app.register(connections, { drain: { grace: 2_000 } })
  t.match(await failure(app), { code: 'FST_ERR_REAL_OPTION', message: /option drain\.grace must be shorter than Fastify's pluginTimeout \(2000 milliseconds\)/ })

  for (const [pluginTimeout, grace] of [[2_000, 1_000], [0, 5_000], [10_000, 5_000]]) {
    const other = Fastify({ pluginTimeout: pluginTimeout as number })
    t.after(() => other.close())
    await other.register(connections)
    t.match(other.connections, { options: { drain: { grace, within: 5_000 } } })
  }
})

t.test('the JSON of a connection says who it is, and nothing that its client has sent', async (t) => {
  const app = await build(t, { connections: { identify: () => 'ada' } })
  app.get('/feed', { sse: true }, async (_request, reply) => { await reply.sse().join('lobby') })
  app.get('/list', async () => [...app.connections])
  const stream = await injectSSE(app, { url: '/feed', headers: { cookie: 'secret=1' } })
  const [connection] = app.connections
  t.strictSame((await app.inject('/list')).json(), [{ id: connection?.id, transport: 'sse', user: 'ada', open: true, rooms: ['lobby'] }])
  stream.close()
})
