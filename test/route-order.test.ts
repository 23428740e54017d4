import Fastify from 'fastify'
import type { FastifyInstance, FastifyReply } from 'fastify'
import t from 'tap'
import { sseReal } from '../lib/index.ts'

const forms: Record<string, unknown> = {
  'an async generator': async function * () { yield 'x' },
  'a sync generator': function * () { yield 'x' },
  'an async function': async () => 'answered',
  'a sync function': () => 'answered',
  'an async function calling reply.sse()': async (_request: unknown, reply: FastifyReply) => { reply.sse(['x']) },
  'a sync function calling reply.sse()': (_request: unknown, reply: FastifyReply) => reply.sse(['x']),
  'a function returning a source': async () => ['x'],
  'a function that throws': async () => { throw new Error('mine') }
}

const orders: Record<string, (app: FastifyInstance, declare: () => void) => Promise<void>> = {
  'before it': async (app, declare) => { declare(); await app.register(sseReal) },
  'after it, without await': async (app, declare) => { app.register(sseReal); declare(); await app.ready() },
  'before it, without await': async (app, declare) => { declare(); app.register(sseReal); await app.ready() }
}

for (const [order, build] of Object.entries(orders)) {
  t.test(`a route with sse that was declared ${order} says so`, async (t) => {
    for (const [form, handler] of Object.entries(forms)) {
      for (const sse of [true, { accept: 'dual' }]) {
        const app = Fastify()
        await build(app, () => app.get('/x', { sse } as never, handler as never))
        for (const method of ['GET', 'HEAD'] as const) {
          const response = await app.inject({ method, url: '/x', headers: { accept: 'text/event-stream' } })
          t.equal(response.statusCode, 500, form)
          if (method === 'GET') t.match(response.json(), { code: 'FST_ERR_REAL_ROUTE_ORDER', message: /GET \/x.*sseReal.*await app\.register.*before the routes/ })
        }
        await app.close()
      }
    }
  })

  t.test(`reply.sse() in a plain route that was declared ${order} says so`, async (t) => {
    const app = Fastify()
    await build(app, () => {
      app.get('/x', async (_request, reply) => { reply.sse() })
      app.route({ method: ['POST', 'PUT'], url: '/y', handler: (_request, reply) => reply.sse(['x']) })
      app.get('/z', async () => 'plain')
    })
    t.match((await app.inject('/x')).json(), { statusCode: 500, code: 'FST_ERR_REAL_ROUTE_ORDER', message: /GET \/x/ })
    t.match((await app.inject({ method: 'PUT', url: '/y' })).json(), { statusCode: 500, code: 'FST_ERR_REAL_ROUTE_ORDER', message: /PUT \/y/ })
    t.equal((await app.inject('/z')).body, 'plain')
    await app.close()
  })
}

t.test('a handler of the unknown cannot stream, and is told', async (t) => {
  const app = Fastify()
  await app.register(sseReal)
  app.setNotFoundHandler((_request, reply) => reply.sse(['x']))
  t.match((await app.inject('/x')).json(), { code: 'FST_ERR_REAL_ROUTE_ORDER' })
  await app.close()
})

t.test('a route of several methods is named with all of them', async (t) => {
  const app = Fastify()
  app.route({ method: ['POST', 'PUT'], url: '/x', sse: true, handler: async () => {} } as never)
  await app.register(sseReal)
  t.match((await app.inject({ method: 'PUT', url: '/x' })).json(), { message: /POST, PUT \/x/ })
  await app.close()
})

t.test('a generator where the plugin is in another scope says so; the option of another plugin is left alone', async (t) => {
  const app = Fastify()
  app.register(async (scope) => { await scope.register(sseReal) })
  app.get('/generator', { sse: true } as never, async function * () { yield 'x' } as never)
  app.get('/other', { sse: true } as never, async () => 'another plugin answers')
  app.get('/object', { sse: { kind: 'only' } } as never, () => 'another plugin answers')
  app.get('/off', { sse: false }, async () => 'plain')
  app.get('/text', { sse: 'only' } as never, async () => 'plain')
  app.get('/null', { sse: null } as never, async () => 'plain')
  t.match((await app.inject('/generator')).json(), { statusCode: 500, code: 'FST_ERR_REAL_ROUTE_ORDER' })
  for (const url of ['/other', '/object']) t.equal((await app.inject(url)).body, 'another plugin answers')
  for (const url of ['/off', '/text', '/null']) t.equal((await app.inject(url)).body, 'plain')
  await app.close()
  const alone = Fastify()
  alone.get('/generator', { sse: true } as never, async function * () { yield 'x' } as never)
  t.match((await alone.inject('/generator')).json(), { code: 'FST_ERR_REAL_ROUTE_ORDER' })
  await alone.close()
})

t.test('a route that was declared after it in its scope, or in one below, is a stream', async (t) => {
  const app = Fastify()
  await app.register(sseReal)
  app.get('/x', { sse: true }, async function * () { yield 'x' })
  app.register(async (scope) => { scope.get('/below', { sse: true }, async function * () { yield 'x' }) }, { prefix: '/scope' })
  app.get('/', { sse: true }, async function * () { yield 'x' })
  app.register(async (scope) => { scope.get('/', { sse: true }, async function * () { yield 'x' }) }, { prefix: '/both' })
  for (const url of ['/x', '/scope/below', '/', '/both', '/both/']) t.equal((await app.inject(url)).body, 'data: x\n\n', url)
  await app.close()
})
