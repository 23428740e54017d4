import type { FastifyInstance } from 'fastify'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import type { Test } from 'tap'
import type { Connection } from '../lib/index.ts'
import { EventParser, injectSSE, injectWS, RefusedError } from '../lib/testing.ts'
import { cert, key } from './fixtures/tls.ts'
import { build, until } from './helper.ts'

const echo = { onMessage (connection: Connection, message: unknown) { connection.send(message as string) } }

/** Endless, and says when its source was let go. */
function ticking (app: FastifyInstance): { over: string[] } {
  const over: string[] = []
  app.get('/ticks', { sse: true }, async function * (_request, _reply, connection) {
    try {
      yield { retry: 50, comment: 'begun' }
      for (let i = 0; ; i++) {
        yield { event: 'tick', id: i, data: String(i) }
        await sleep(1, null, { signal: connection.signal })
      }
    } finally {
      over.push('over')
    }
  })
  return { over }
}

async function gone (t: Test, app: FastifyInstance): Promise<void> {
  await until(() => app.connections.size === 0)
  t.equal(app.server.listening, false, 'nothing listens')
}

t.test('a wrong argument is refused', async (t) => {
  const app = await build(t)
  app.ws('/', echo)
  for (const path of [null, undefined, 5, '', 'x', 'ws://localhost/', { url: '/' }, ['/']]) await t.rejects(injectWS(app, path as never), { code: 'FST_ERR_REAL_ARGUMENT', message: /^path must be a string that begins with \/, got / })
  for (const options of [null, 5, [], new Map(), { header: {} }]) await t.rejects(injectWS(app, '/', options as never), { code: 'FST_ERR_REAL_ARGUMENT', message: /^options/ })
  for (const options of [null, undefined, 5, true]) await t.rejects(injectSSE(app, options as never), { code: 'FST_ERR_REAL_ARGUMENT', message: /^options must be a path or options of inject\(\), got / })
})

t.test('injectSSE opens an endless stream as an iterator of its events', async (t) => {
  const app = await build(t)
  const { over } = ticking(app)
  const events = await injectSSE(app, '/ticks')
  t.equal(events.statusCode, 200)
  t.equal(events.headers['content-type'], 'text/event-stream')
  const seen: string[] = []
  for await (const { event, id, data } of events) {
    seen.push(`${event} ${id} ${data}`)
    if (seen.length === 3) break
  }
  t.strictSame(seen, ['tick 0 0', 'tick 1 1', 'tick 2 2'])
  t.equal(events.retry, 50)
  t.strictSame(events.comments, ['begun'])
  await until(() => over.length >= 1)
  t.pass('to leave the loop is to leave')
  await gone(t, app)
})

t.test('close() leaves, at any time', async (t) => {
  const app = await build(t)
  const { over } = ticking(app)
  const unread = await injectSSE(app, '/ticks')
  unread.close()
  unread.close()
  await until(() => over.length >= 1)
  t.strictSame(await unread.next(), { value: undefined, done: true })
  const waiting = await injectSSE(app, '/ticks')
  await waiting.next()
  const pending = (async () => { for (let one = await waiting.next(); one.done !== true; one = await waiting.next()); return 'done' })()
  waiting.close()
  t.equal(await pending, 'done')
  const returned = await injectSSE(app, '/ticks')
  await returned.next()
  t.strictSame(await returned.return?.(), { value: undefined, done: true })
  await until(() => over.length >= 3)
  await gone(t, app)
})

t.test('a stream that ends is an iterator that ends; one that was cut does not throw', async (t) => {
  const app = await build(t, { fastify: { logger: { level: 'silent' } } })
  let told = (): void => {}
  const read = new Promise<void>((resolve) => { told = resolve })
  app.get('/finite', { sse: true }, async function * () { yield 'one'; yield { data: { two: 2 } } })
  app.get('/cut', { sse: true }, async function * () { yield 'one'; await read; throw new Error('boom') })
  app.get('/plain', async () => 'plain')
  app.post('/ask', async (request, reply) => { reply.sse([JSON.stringify(request.body), String(request.headers.accept), String(request.headers['x-a'])]) })
  const all = async (stream: AsyncIterable<{ data: string }>): Promise<string[]> => {
    const data: string[] = []
    for await (const event of stream) {
      data.push(event.data)
      if (data.length === 1) setImmediate(told)
    }
    return data
  }
  t.strictSame(await all(await injectSSE(app, '/cut')), ['one'])
  t.strictSame(await all(await injectSSE(app, '/finite')), ['one', '{"two":2}'])
  t.strictSame(await all(await injectSSE(app, { method: 'POST', url: '/ask', payload: { a: 1 }, headers: { 'x-a': '5' } })), ['{"a":1}', 'text/event-stream', '5'])
})

t.test('what is no stream can be read as a body', async (t) => {
  const app = await build(t)
  app.get('/events', { sse: true, preHandler: async () => { throw Object.assign(new Error('no ticket'), { statusCode: 401 }) } }, async function * () { yield 'one' })
  app.get('/json', { sse: { accept: 'dual' } }, async (request) => ({ wants: request.wantsEvents }))
  const refused = await injectSSE(app, '/events')
  t.equal(refused.statusCode, 401)
  t.match(JSON.parse(await refused.body()), { message: 'no ticket' })
  const json = await injectSSE(app, { url: '/json', headers: { accept: 'application/json' } })
  t.equal(await json.body(), '{"wants":false}')
  t.equal((await injectSSE(app, { url: '/events', headers: { accept: 'application/json' } })).statusCode, 401)
})

t.test('a stream is resumed in-process as over a socket', async (t) => {
  const app = await build(t)
  app.get('/feed', { sse: true }, async (_request, reply) => { await reply.sse().join('news') })
  const first = await injectSSE(app, '/feed')
  t.equal((await first.next()).value?.event, 'ready')
  await app.connections.room('news').send({ event: 'a', data: '1' })
  const { value } = await first.next()
  first.close()
  await until(() => app.connections.size === 0)
  await app.connections.room('news').send({ event: 'b', data: '2' })
  const second = await injectSSE(app, { url: '/feed', headers: { 'last-event-id': (value as { id: string }).id } })
  t.match((await second.next()).value, { event: 'ready', data: /"resumed":true/ })
  t.match((await second.next()).value, { event: 'b', data: '2' })
  second.close()
})

t.test('the parser is there for tests of other kinds', async (t) => {
  t.strictSame(new EventParser().push('data: a\n\n'), [{ event: 'message', data: 'a', id: '' }])
})

t.test('injectWS loses nothing that was sent at the start', async (t) => {
  const app = await build(t)
  app.ws('/x', {
    onConnect (connection) { for (let i = 0; i < 50; i++) connection.send(`early ${i}`) },
    ...echo
  })
  const client = await injectWS(app, '/x')
  await sleep(20)
  for (let i = 0; i < 50; i++) t.equal((await client.next()).value, `early ${i}`)
  client.send('text')
  client.send(Buffer.from('binary'))
  t.equal((await client.next()).value, 'text')
  t.strictSame((await client.next()).value, Buffer.from('binary'))
  client.close(1000, 'enough')
  t.strictSame(await client.closed, { code: 1000, reason: 'enough' })
  t.strictSame(await client.next(), { value: undefined, done: true })
  await gone(t, app)
})

t.test('it is an iterator that ends with the connection, and a loop that is left closes it', async (t) => {
  const app = await build(t)
  app.ws('/three', { onConnect (connection) { for (const text of ['1', '2', '3']) connection.send(text); connection.close(4000, 'that was all') } })
  app.ws('/x', { onConnect (connection) { connection.send('1'); connection.send('2') } })
  const three = await injectWS(app, '/three')
  const seen: unknown[] = []
  for await (const message of three) seen.push(message)
  t.strictSame(seen, ['1', '2', '3'])
  t.strictSame(await three.closed, { code: 4000, reason: 'that was all' })
  const left = await injectWS(app, '/x')
  const loop = async (): Promise<unknown> => { for await (const message of left) if (message === '1') return message }
  t.equal(await loop(), '1')
  t.equal((await left.closed).code, 1005)
  const waiting = await injectWS(app, '/x')
  const [one, two, none] = [waiting.next(), waiting.next(), waiting.next()]
  t.strictSame([(await one).value, (await two).value], ['1', '2'])
  waiting.close()
  t.equal((await none).done, true)
})

t.test('headers, cookies, subprotocols, params and the address are those of the request', async (t) => {
  const app = await build(t)
  app.ws<{ Params: { id: string } }>('/x/:id', {
    ws: { protocols: ['v2'] },
    onRequest: async (_request, reply) => { reply.header('x-set', 'by a hook').header('set-cookie', ['a=1', 'b=2']) }
  }, {
    onConnect (connection, request) { connection.send(`${request.params.id} ${request.headers['x-a']} ${request.ip} ${request.url} ${request.protocol}`) }
  })
  const client = await injectWS(app, '/x/5?q=1', { headers: { 'x-a': 'mine' }, protocols: ['v1', 'v2'] })
  t.equal((await client.next()).value, '5 mine 127.0.0.1 /x/5?q=1 http')
  t.equal(client.socket.protocol, 'v2')
  t.match(client.headers, { 'x-set': 'by a hook', 'set-cookie': ['a=1', 'b=2'] })
  client.close()
})

t.test('a refusal is rejected with the answer', async (t) => {
  const app = await build(t)
  app.ws('/x', { preHandler: async (_request, reply) => { reply.header('x-why', 'closed'); throw Object.assign(new Error('no ticket'), { statusCode: 401 }) } }, {})
  app.get('/destroys', { ws: {}, onRequest: async (request) => { request.raw.socket.destroy(); await new Promise(() => {}) } }, async () => '')
  const refused = await injectWS(app, '/x').catch((err: unknown) => err) as RefusedError
  t.ok(refused instanceof RefusedError)
  t.match(refused, { name: 'RefusedError', message: /401 instead of 101/, statusCode: 401, headers: { 'x-why': 'closed' } })
  t.match(JSON.parse(refused.body), { message: 'no ticket' })
  await t.rejects(injectWS(app, '/nowhere'), { message: /404/ })
  await t.rejects(injectWS(app, '/destroys'), { message: /hang up|reset/ })
})

t.test('large messages pass in both directions, with backpressure', async (t) => {
  const app = await build(t, { ws: { maxPayload: 5_000_000 }, connections: { maxEventBytes: 5_000_000, maxBuffered: 10_000_000 } })
  app.ws('/x', echo)
  const client = await injectWS(app, '/x')
  const large = 'x'.repeat(3_000_000)
  client.send(large)
  client.send('small')
  t.equal((await client.next()).value === large, true)
  t.equal((await client.next()).value, 'small')
  client.socket.pause()
  for (let i = 0; i < 20; i++) client.send('y'.repeat(100_000))
  await sleep(30)
  client.socket.resume()
  for (let i = 0; i < 20; i++) t.equal(String((await client.next()).value).length, 100_000)
  client.close()
})

t.test('the end of the server is the end of what was injected', async (t) => {
  const app = await build(t)
  app.ws('/x', echo)
  ticking(app)
  const client = await injectWS(app, '/x')
  const events = await injectSSE(app, '/ticks')
  await app.close()
  t.strictSame(await client.closed, { code: 1001, reason: 'shutdown' })
  for await (const { event } of events) t.equal(event, 'tick')
})

t.test('a client that is destroyed was lost, and so is a server', async (t) => {
  const app = await build(t)
  const ends: number[] = []
  app.ws('/x', { onDisconnect (_connection, { code }) { ends.push(code) } })
  const client = await injectWS(app, '/x')
  client.socket.terminate()
  await until(() => ends.length >= 1)
  t.strictSame(ends, [1006])
  t.equal((await client.closed).code, 1006)
  const other = await injectWS(app, '/x')
  for (const connection of app.connections) (connection as unknown as { wire: { terminate (): void } }).wire.terminate()
  t.equal((await other.closed).code, 1006)
})

t.test('it works before the application is ready, and on servers with TLS', async (t) => {
  for (const fastify of [{ https: { key, cert } }, { http2: true, https: { key, cert, allowHTTP1: true } }]) {
    const app = await build(t, { fastify: fastify as never })
    app.ws('/x', { onConnect (connection, request) { connection.send(request.protocol) } })
    const client = await injectWS(app, '/x', { headers: { origin: 'https://localhost' } })
    t.equal((await client.next()).value, 'https')
    client.close()
    await client.closed
  }
})
