import { setTimeout as sleep } from 'node:timers/promises'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import t from 'tap'
import type { Test } from 'tap'
import type { ConnectionsOptions, Disconnect } from '../../lib/index.ts'
import { build, listen, sseClient, until } from '../helper.ts'
import { logs } from '../logs.ts'

const EVENTS = { accept: 'text/event-stream' }
const routes = ['/handler', '/generator', '/plain', '/source', '/late']

interface Site { app: FastifyInstance, port: number, ends: Disconnect[], started: string[] }

async function serve (t: Test, options: ConnectionsOptions): Promise<Site> {
  const app = await build(t, { connections: { drain: { within: 0, grace: 100 }, ...options } })
  const ends: Disconnect[] = []
  const started: string[] = []
  app.connections.on('disconnect', (_connection, end) => { ends.push(end) })
  const forever = async function * (request: FastifyRequest, _reply: unknown, { signal }: { signal: AbortSignal }): AsyncGenerator<string> { started.push(request.url); yield 'one'; await sleep(600_000, null, { signal }) }
  app.get('/handler', { sse: true }, async (request, reply) => { started.push(request.url); reply.sse() })
  app.get('/generator', { sse: true }, forever as never)
  app.get('/plain', (_request, reply) => { reply.sse() })
  app.get('/source', (request, reply) => reply.sse((connection) => forever(request, reply, connection)))
  app.get('/late', (_request, reply) => { setTimeout(() => reply.sse(), 2) })
  return { app, port: await listen(app), ends, started }
}

const who = ({ headers }: FastifyRequest): string | null => (headers['x-user'] as string | undefined) ?? null

const identities: Record<string, ConnectionsOptions['identify']> = {
  sync: who,
  async: async (request) => { await sleep(5); return who(request) },
  'async with a right that ends': async (request) => ({ id: who(request) as string, expires: Date.now() + 600_000 })
}

for (const [kind, identify] of Object.entries(identities)) {
  t.test(`who a connection is comes from an ${kind} identify`, async (t) => {
    const { app, port } = await serve(t, { identify })
    for (const path of routes) {
      const client = await sseClient(port, path, { 'x-user': 'ada' })
      await until(() => [...app.connections].some(({ user }) => user === 'ada'))
      const [connection] = app.connections
      t.equal(connection?.user, 'ada', path)
      client.close()
      await until(() => app.connections.size === 0)
    }
    t.equal(app.connections.stats().users, 0)
  })
}

const unsound: Record<string, { identify: ConnectionsOptions['identify'], code: string | undefined, status: number }> = {
  throws: { identify: () => { throw Object.assign(new Error('who?'), { statusCode: 401 }) }, code: undefined, status: 401 },
  rejects: { identify: async () => { await sleep(2); throw Object.assign(new Error('who?'), { statusCode: 401 }) }, code: undefined, status: 401 },
  'gives a number': { identify: (() => 5) as never, code: 'FST_ERR_REAL_ARGUMENT', status: 500 },
  'gives no name': { identify: async () => 'a\nb', code: 'FST_ERR_REAL_ROOM_NAME', status: 500 }
}

for (const [kind, { identify, code, status }] of Object.entries(unsound)) {
  t.test(`an identify that ${kind} is an ordinary error, and nothing is left`, async (t) => {
    const { app, port, started } = await serve(t, { identify })
    for (const path of routes.filter((path) => path !== '/late' || (kind !== 'throws' && kind !== 'gives a number'))) {
      const client = await sseClient(port, path)
      await until(() => client.ended)
      t.equal(client.response.statusCode, status, path)
      t.equal(JSON.parse(client.text).code, code)
      t.equal(app.connections.size, 0)
      t.strictSame([...app.connections.rooms()], [])
    }
    t.strictSame(started, [], 'before anything is opened')
  })
}

t.test('an identify that rejects once the request is answered changes nothing of the answer', async (t) => {
  const { lines, options } = logs('warn')
  const app = await build(t, { fastify: options, connections: { identify: () => new Promise((_resolve, reject) => { asking.push(reject) }) } })
  const asking: Array<(err: Error) => void> = []
  app.addHook('onSend', async () => {
    asking.pop()?.(new Error('who?'))
    await until(() => lines.some(({ err }) => err?.message === 'who?'))
  })
  app.get('/sends', (_request, reply) => {
    reply.sse()
    void reply.send('mine')
  })
  app.get('/throws', (_request, reply) => {
    reply.sse()
    throw Object.assign(new Error('mine'), { statusCode: 409 })
  })
  const port = await listen(app)
  for (const [path, status] of [['/sends', 200], ['/throws', 409]] as const) {
    lines.length = 0
    const client = await sseClient(port, path)
    await until(() => client.ended)
    t.equal(client.response.statusCode, status)
    t.match(client.text, /mine/)
    t.strictSame(lines.map(({ msg }) => msg), ['identify failed after the request was answered'])
    t.equal(app.connections.size, 0)
  }
})

t.test('who is asked is asked once for a request', async (t) => {
  let asked = 0
  const { port } = await serve(t, { identify: async () => { asked++; return 'ada' } })
  for (const path of routes) (await sseClient(port, path)).close()
  t.equal(asked, routes.length)
})

t.test('the head waits for who it is, however short the head start', async (t) => {
  let known = false
  const app = await build(t, { connections: { identify: async () => { await sleep(30); known = true; return 'ada' } }, sse: { headStart: 1 } })
  app.get('/plain', (_request, reply) => { reply.sse() })
  app.get('/source', (_request, reply) => reply.sse(async function * ({ signal }) { t.equal(known, true); yield await sleep(600_000, '', { signal }) }))
  const port = await listen(app)
  for (const path of ['/plain', '/source']) {
    known = false
    const client = await sseClient(port, path)
    t.equal(known, true)
    t.equal(client.response.statusCode, 200)
    client.close()
  }
})

t.test('a client that leaves while it is asked who it is leaves nothing behind', async (t) => {
  const asking: Array<(user: string | null) => void> = []
  const { app, port, ends, started } = await serve(t, { identify: () => new Promise((resolve) => { asking.push(resolve) }) })
  for (const [index, path] of routes.entries()) {
    const leaving = new AbortController()
    const gone = fetch(`http://127.0.0.1:${port}${path}`, { signal: leaving.signal }).catch(() => 'gone')
    await until(() => asking.length === index + 1)
    leaving.abort()
    t.equal(await gone, 'gone')
    await sleep(5)
    asking[index]?.('ada')
    await sleep(5)
    t.equal(app.connections.size, 0, path)
  }
  t.ok(ends.every(({ reason }) => reason === 'client'))
  t.strictSame(started, ['/handler'], 'a source is not begun')
  t.equal(app.connections.stats().users, 0)
})

const limits: Record<string, { options: ConnectionsOptions, code: string, status: number }> = {
  maxConnections: { options: { maxConnections: 1 }, code: 'FST_ERR_REAL_TOO_MANY_CONNECTIONS', status: 503 },
  maxPerAddress: { options: { maxPerAddress: 1 }, code: 'FST_ERR_REAL_TOO_MANY_OF_ADDRESS', status: 429 },
  maxPerUser: { options: { maxPerUser: 1, identify: () => 'ada' }, code: 'FST_ERR_REAL_TOO_MANY_OF_USER', status: 429 },
  'maxPerUser of an async identify': { options: { maxPerUser: 1, identify: async () => { await sleep(1); return 'ada' } }, code: 'FST_ERR_REAL_TOO_MANY_OF_USER', status: 429 }
}

for (const [limit, { options, code, status }] of Object.entries(limits)) {
  t.test(`over ${limit} an EventSource is told to come back later, others are refused`, async (t) => {
    const { app, port, ends, started } = await serve(t, options)
    const first = await sseClient(port, '/handler')
    await until(() => app.connections.size === 1 && [...app.connections].every(({ user }) => options.identify === undefined || user === 'ada'))
    const before = started.length
    let refused = 0
    for (const path of routes) {
      const delays = new Set<string>()
      for (let i = 0; i < 5; i++) {
        const { statusCode, headers, body } = await app.inject({ url: path, headers: EVENTS })
        t.equal(statusCode, 200, path)
        t.equal(headers['content-type'], 'text/event-stream')
        const delay = /^retry: (\d+)\n\n$/.exec(body)?.[1]
        t.ok(Number(delay) >= 30_000 && Number(delay) <= 60_000, body)
        delays.add(String(delay))
      }
      t.ok(delays.size > 2, 'jittered')
      const response = await app.inject({ url: path, headers: { accept: '*/*' } })
      t.equal(response.statusCode, status, path)
      t.equal(response.json().code, code)
      t.ok(Number(response.headers['retry-after']) >= 30)
      refused += 6
    }
    t.equal(app.connections.stats().refused, refused)
    t.equal(started.length, before, 'nothing is begun')
    t.equal(app.connections.size, 1)
    t.equal(app.connections.stats().users, options.identify === undefined ? 0 : 1)
    first.close()
    await until(() => app.connections.size === 0)
    ends.length = 0
    const next = await sseClient(port, '/generator')
    t.match(await next.wait(1), {}, 'there is room again')
    t.equal(app.connections.size, 1)
  })
}

t.test('while the server stops an EventSource is told when to come back, others are refused', async (t) => {
  const app = await build(t, { connections: { drain: { within: 400, grace: 2_000 } } })
  const waiting: Array<() => void> = []
  const wait = (): Promise<void> => new Promise((resolve) => { waiting.push(resolve) })
  app.get('/called', async (_request, reply) => { await wait(); reply.sse() })
  app.get('/sse', { sse: true, preHandler: wait }, async function * () { yield 'never' })
  app.get('/open', { sse: { headStart: 600_000 } }, async (_request, reply) => { const { signal } = reply.sse(); await sleep(600_000, null, { signal }) })
  const port = await listen(app)
  const clients = ['/called', '/sse'].flatMap((path) => [sseClient(port, path), sseClient(port, path, { accept: '*/*' })])
  const open = sseClient(port, '/open')
  await until(() => waiting.length === 4 && app.connections.size === 1)
  const closed = app.close()
  await until(() => app.connections.size === 0)
  for (const resolve of waiting) resolve()
  for (const [index, pending] of clients.entries()) {
    const client = await pending
    await until(() => client.ended)
    t.equal(client.response.headers.connection, 'close')
    if (index % 2 === 0) {
      t.equal(client.response.statusCode, 200)
      const delay = Number(/^retry: (\d+)\n\n$/.exec(client.text)?.[1])
      t.ok(delay >= 2_000 && delay <= 2_400, client.text)
    } else {
      t.equal(client.response.statusCode, 503)
      t.equal(client.response.headers['retry-after'], '3')
      t.equal(JSON.parse(client.text).code, 'FST_ERR_REAL_SHUTTING_DOWN')
    }
  }
  const begun = await open
  await until(() => begun.ended)
  t.equal(begun.cut, false, 'one that had begun is ended properly')
  t.match(begun.text, /retry: \d+\n/)
  await closed
})

t.test('a request over a limit that a dual route answers otherwise is answered', async (t) => {
  const { app, port } = await serve(t, { maxConnections: 1 })
  const open = await sseClient(port, '/handler')
  const other = await build(t, { connections: { maxConnections: 1 } })
  other.get('/dual', { sse: { accept: 'dual' } }, async () => ({ json: true }))
  other.get('/open', { sse: true }, async (_request, reply) => { reply.sse() })
  const client = await sseClient(await listen(other), '/open')
  t.strictSame((await other.inject({ url: '/dual', headers: { accept: 'application/json' } })).json(), { json: true })
  t.match((await other.inject({ url: '/dual', headers: EVENTS })).body, /^retry: /)
  client.close()
  open.close()
  await until(() => app.connections.size === 0)
})

t.test('a connection whose right has ended is closed, though it was never idle', async (t) => {
  const { port, ends } = await serve(t, { heartbeat: 40, identify: () => ({ id: 'ada', expires: new Date(Date.now() + 50) }) })
  const client = await sseClient(port, '/source')
  await until(() => client.ended)
  t.equal(client.cut, false)
  t.match(ends, [{ code: 4401, reason: 'expired', clean: true }])
})

t.test('hooks come first: who is refused there is not asked who they are', async (t) => {
  let asked = 0
  const app = await build(t, { connections: { identify: () => { asked++; return 'ada' } } })
  app.get('/x', { sse: true, preHandler: async (_request, reply) => reply.code(401).send({ no: true }) }, async function * () { yield 'one' })
  app.get('/throws', { sse: true, onRequest: async () => { throw Object.assign(new Error('no'), { statusCode: 403 }) } }, async function * () { yield 'one' })
  app.get('/schema', { sse: true, schema: { querystring: { type: 'object', required: ['a'] } } }, async function * () { yield 'one' })
  t.equal((await app.inject('/x')).statusCode, 401)
  t.equal((await app.inject('/throws')).statusCode, 403)
  t.equal((await app.inject('/schema')).statusCode, 400)
  t.equal(asked, 0)
})

t.test('a hook may begin the stream itself', async (t) => {
  const app = await build(t)
  let ran = 0
  app.get('/async', { preHandler: async (_request, reply) => { reply.sse(['hook']); return await reply } }, async () => { ran++ })
  app.get('/callback', { onRequest: (_request, reply) => { reply.sse(['hook']) } }, async () => { ran++ })
  for (const path of ['/async', '/callback']) {
    const { body, headers } = await app.inject(path)
    t.equal(body, 'data: hook\n\n', path)
    t.equal(headers['content-type'], 'text/event-stream')
  }
  t.equal(ran, 0)
})
