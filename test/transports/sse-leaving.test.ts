import type { IncomingMessage } from 'node:http'
import { Readable } from 'node:stream'
import { finished } from 'node:stream/promises'
import { setImmediate, setTimeout as sleep } from 'node:timers/promises'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import t from 'tap'
import type { Test } from 'tap'
import type { Connection, Disconnect } from '../../lib/index.ts'
import { build, listen, sseClient, until } from '../helper.ts'
import { logs } from '../logs.ts'
import type { Line } from '../logs.ts'
import { get, rawClient } from '../raw.ts'
import type { RawClient } from '../raw.ts'

const ways: Record<string, (client: RawClient) => void> = {
  'FIN of both halves': ({ socket }) => { socket.destroy() },
  'a half-close': ({ socket }) => { socket.end() },
  RST: ({ socket }) => { socket.resetAndDestroy() }
}

interface Seen { connection: Connection | null, finallies: number, reason: unknown, ends: Disconnect[], warnings: () => Line[] }

type Handler = (seen: Seen) => (this: FastifyInstance, request: FastifyRequest, reply: FastifyReply, connection: Connection) => unknown

const LARGE = 'x'.repeat(100_000)

const waiting: Record<string, Handler> = {
  'on a promise that follows the signal': (seen) => async function * (_request, _reply, { signal }) {
    try {
      yield 'begun'
      await new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason)))
    } finally { seen.finallies++ }
  },
  'on a sleep': (seen) => async function * (_request, _reply, { signal }) {
    try {
      yield 'begun'
      await sleep(600_000, null, { signal })
    } finally { seen.finallies++ }
  },
  'for the reader': (seen) => async function * () {
    try { for (;;) yield LARGE } finally { seen.finallies++ }
  },
  'for nothing': (seen) => function * () {
    try { for (let i = 0; ; i++) yield String(i) } finally { seen.finallies++ }
  },
  'between two events': (seen) => async function * () {
    try { for (;;) { yield 'begun'; await sleep(2) } } finally { seen.finallies++ }
  },
  'in a callback': (seen) => async () => async (connection: Connection) => {
    try {
      connection.send('begun')
      await sleep(600_000, null, { signal: connection.signal })
    } finally { seen.finallies++ }
  },
  'in a callback for the reader': (seen) => async () => async (connection: Connection) => {
    try {
      while (connection.open) {
        connection.send(LARGE)
        await connection.drained()
      }
    } finally { seen.finallies++ }
  },
  'in its handler for the reader': (seen) => async (_request, reply) => {
    const connection = reply.sse()
    try {
      while (connection.open) {
        connection.send(LARGE)
        await connection.drained()
      }
    } finally { seen.finallies++ }
  },
  'in its handler for the reader of what is on its way': (seen) => async (_request, reply) => {
    const connection = reply.sse()
    try {
      while (connection.open) {
        connection.send(LARGE)
        await setImmediate()
        await connection.drained()
      }
    } finally { seen.finallies++ }
  },
  'in its handler for connection.from()': (seen) => async (_request, reply) => {
    const connection = reply.sse()
    connection.send('begun')
    try { await connection.from((async function * () { yield await new Promise<never>(() => {}) })()) } finally { seen.finallies++ }
  },
  'for a Readable that says nothing': (seen) => async () => {
    const stream = new Readable({ read () {}, destroy (err, done) { seen.finallies++; done(err) }, encoding: 'utf8' })
    stream.push('begun')
    return stream
  },
  'for a ReadableStream that says nothing': (seen) => async () => new ReadableStream({
    start (controller) { controller.enqueue('begun') },
    cancel () { seen.finallies++ }
  }),
  'in an iterator whose next() never settles': (seen) => async () => ({
    [Symbol.asyncIterator]: () => ({ next: () => new Promise<never>(() => {}), async return () { seen.finallies++; return { done: true as const, value: undefined } } })
  })
}

for (const [how, leave] of Object.entries(ways)) {
  for (const [what, handler] of Object.entries(waiting)) {
    t.test(`${how} ends a stream whose source waits ${what}`, async (t) => {
      const { app, port, seen } = await serve(t, handler)
      const client = await rawClient(t, port, get('/x'))
      if (what.includes('for the reader')) client.socket.pause()
      else if (!what.includes('never settles')) await client.wait(what === 'for nothing' ? '1000' : 'begun')
      await until(() => app.connections.room('room').size === 1)
      if (what.includes('for the reader')) await untilStuck(() => (seen.connection as Connection).buffered)
      leave(client)
      await until(() => seen.ends.length > 0)
      client.socket.resume()
      t.equal(app.connections.size, 0)
      t.strictSame([...app.connections.rooms()], [])
      t.strictSame(await app.connections.room('room').presence(), [])
      t.match(seen.reason, { name: 'AbortError', message: 'the connection ended: client' })
      await until(() => seen.finallies === 1)
      t.match(seen.ends, [{ code: 1005, reason: 'client', clean: false, rooms: ['room'], duration: Number, events: Number, bytes: Number }])
      const [{ events, bytes } = { events: 0, bytes: 0 }] = seen.ends
      t.ok(events > 0 && bytes > 0 && bytes >= events, `${events} events, ${bytes} bytes`)
      t.equal(seen.connection?.send('late'), false, 'a late write is none')
      t.equal(seen.connection?.open, false)
      await until(() => client.ended || client.closed)
      await sleep(10)
      t.equal(seen.ends.length, 1)
      t.equal(seen.finallies, 1)
      t.strictSame(seen.warnings(), [])
    })
  }
}

/** What the kernel takes is taken: the rest is on its way, and a source waits for it. */
async function untilStuck (buffered: () => number): Promise<void> {
  let before = -1
  await until(async () => {
    before = buffered()
    await sleep(20)
    return before > 16_384 && buffered() === before
  })
}

async function serve (t: Test, handler: Handler, install: (app: FastifyInstance) => void = () => {}): Promise<{ app: FastifyInstance, port: number, seen: Seen }> {
  const { lines, options } = logs()
  const app = await build(t, { fastify: options, connections: { drain: { within: 0, grace: 50 } } })
  install(app)
  const seen: Seen = { connection: null, finallies: 0, reason: null, ends: [], warnings: () => lines.filter(({ level }) => level >= 40) }
  app.connections.on('connect', (connection) => {
    seen.connection = connection
    connection.signal.addEventListener('abort', () => { seen.reason = connection.signal.reason })
    void connection.join('room', { presence: { key: 'somebody' } })
  })
  app.connections.on('disconnect', (_connection, end) => { seen.ends.push(end) })
  app.get('/x', { sse: true }, handler(seen) as never)
  return { app, port: await listen(app), seen }
}

for (const [how, leave] of Object.entries(ways)) {
  t.test(`who listens to the request of a stream hears once of ${how}`, async (t) => {
    for (const names of [['aborted', 'close'], ['aborted', 'close', 'error']]) {
      const heard: string[] = []
      let raw: IncomingMessage | null = null
      const app = await build(t)
      app.addHook('onRequestAbort', async (_request) => { heard.push('onRequestAbort') })
      app.get('/x', { sse: true }, async (request, reply) => {
        raw = request.raw
        for (const name of names) request.raw.on(name, () => { heard.push(name) })
        reply.raw.on('close', () => { heard.push('close of the response') })
        reply.sse()
      })
      const client = await rawClient(t, await listen(app), get('/x'))
      await until(() => app.connections.size === 1)
      await client.wait('event-stream')
      leave(client)
      const meant = [...names, 'close of the response', 'onRequestAbort']
      await until(() => meant.every((name) => heard.includes(name)))
      t.equal(app.connections.size, 0)
      if (how === 'a half-close' && !names.includes('error')) t.equal((raw as IncomingMessage | null)?.errored, null, 'no stack is written') // the others may come as a reset, which is one
      t.strictSame(heard.sort(), meant.sort())
    }
  })

  t.test(`who reads the body of a stream's request hears of ${how}`, async (t) => {
    const readers: Record<string, (body: IncomingMessage) => Promise<unknown>> = {
      listeners: (body) => new Promise((resolve, reject) => body.on('data', () => {}).on('end', resolve).on('error', reject)),
      'finished()': (body) => finished(body.resume())
    }
    for (const [what, read] of Object.entries(readers)) {
      const app = await build(t)
      app.addContentTypeParser('*', (_request: FastifyRequest, payload: IncomingMessage, done: (err: null, body: IncomingMessage) => void) => done(null, payload))
      let told: unknown = null
      app.post<{ Body: IncomingMessage }>('/x', { sse: true }, async ({ body }, reply) => {
        reply.sse().send('begun')
        told = await read(body).catch((err: unknown) => err)
      })
      const client = await rawClient(t, await listen(app), 'POST /x HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/x\r\ncontent-length: 100\r\n\r\nsome')
      await client.wait('begun')
      leave(client)
      await until(() => told !== null)
      t.match(told, { code: 'ECONNRESET', message: 'aborted' }, what)
    }
  })
}

t.test('a client that leaves before the head is out leaves nothing behind', async (t) => {
  for (const [how, leave] of Object.entries(ways)) {
    const { app, port, seen } = await serve(t, (seen) => async (_request, reply) => {
      const connection = reply.sse(undefined, { headStart: 600_000 })
      try { await sleep(600_000, null, { signal: connection.signal }) } finally { seen.finallies++ }
    })
    const client = await rawClient(t, port, get('/x'))
    await until(() => app.connections.size === 1)
    leave(client)
    await until(() => seen.ends.length > 0)
    await until(() => seen.finallies === 1)
    t.match(seen.ends, [{ reason: 'client', clean: false }], how)
    t.equal(client.text, '')
    t.equal(app.connections.size, 0)
    t.strictSame(seen.warnings(), [])
  }
})

t.test('whoever waits for a reader whose socket is cut waits for its close, and keeps nobody from running', async (t) => {
  const { app, port, seen } = await serve(t, () => async (_request, reply) => { reply.sse() })
  const client = await rawClient(t, port, get('/x'))
  await client.wait('HTTP/1.1 200')
  client.socket.pause()
  const connection = seen.connection as unknown as Connection
  await until(async () => {
    if (connection.buffered === 0) connection.send(LARGE)
    await setImmediate()
    return connection.buffered > 0
  })
  connection.request.raw.socket.destroy() // its close comes with a later phase of the loop
  const drained = connection.drained()
  void app.connections.broadcast('to all')
  await drained
  t.equal(connection.open, false)
  await until(() => seen.ends.length > 0)
  client.socket.resume()
})

t.test('a client that leaves while the head is on its way through the hooks leaves nothing behind', async (t) => {
  for (const fails of [false, true]) {
    let release: (() => void) | null = null
    const { app, port, seen } = await serve(t, () => async (_request, reply) => { reply.sse() }, (app) => {
      app.addHook('onSend', async () => {
        await new Promise<void>((resolve) => { release = resolve })
        if (fails) throw new Error('no')
      })
    })
    const client = await rawClient(t, port, get('/x'))
    await until(() => release !== null && app.connections.size === 1)
    client.socket.resetAndDestroy()
    await until(() => app.connections.size === 0)
    ;(release as unknown as () => void)()
    await sleep(20)
    t.match(seen.ends, [{ reason: 'client' }])
    t.equal(seen.ends.length, 1)
  }
})

t.test('what is begun for a client that has left already is given a connection that is closed', async (t) => {
  const given: Array<Connection | null> = []
  let started = 0
  const { app, port, seen } = await serve(t, () => async (request, reply) => {
    await until(() => request.raw.socket.destroyed)
    if (request.url === '/x') given.push(reply.sse())
    else given.push(reply.sse(async function * () { started++; yield 'x' }))
  })
  for (const url of ['/x', '/x?source']) (await rawClient(t, port, get(url))).socket.resetAndDestroy()
  await until(() => given.length === 2)
  t.strictSame(given.map((connection) => connection?.open), [false, false])
  await sleep(10)
  t.equal(started, 0)
  t.equal(app.connections.size, 0)
  t.strictSame(seen.ends, [])
  t.strictSame(seen.warnings(), [])
})

t.test('a sync handler that calls reply.sse() after its client has left is given a connection that is closed', async (t) => {
  let given: Connection | null = null
  const { app, port, seen } = await serve(t, () => (request, reply) => { void until(() => request.raw.socket.destroyed).then(() => { given = reply.sse() }) })
  ;(await rawClient(t, port, get('/x'))).socket.destroy()
  await until(() => given !== null)
  t.equal((given as unknown as Connection).open, false)
  t.equal(app.connections.size, 0)
  t.strictSame(seen.ends, [])
})

t.test('a source that fails after its client has left is warned of, and nobody else hears of it', async (t) => {
  const { lines, options } = logs()
  const app = await build(t, { fastify: options })
  const failing = async (signal: AbortSignal): Promise<never> => {
    await new Promise((resolve) => signal.addEventListener('abort', resolve))
    throw new Error('too late')
  }
  app.get('/generator', { sse: true }, async function * (_request, _reply, { signal }) { yield await failing(signal) })
  app.get('/finally', { sse: true }, async function * () { try { for (;;) { yield 'x'; await sleep(1) } } finally { await Promise.reject(new Error('too late')) } })
  app.get('/callback', { sse: true }, async () => async ({ signal }: Connection) => await failing(signal))
  app.get('/handler', { sse: true }, async (_request, reply) => { await failing(reply.sse().signal) })
  app.get('/from', { sse: true }, async (_request, reply) => { const connection = reply.sse(); await connection.from(async function * () { yield await failing(connection.signal) }) })
  const port = await listen(app)
  for (const path of ['/generator', '/finally', '/callback', '/handler', '/from']) {
    const before = lines.length
    const client = await sseClient(port, path)
    client.close()
    await until(() => lines.slice(before).some(({ level }) => level >= 40))
    t.match(lines.slice(before).filter(({ level }) => level >= 40), [{ level: 40, msg: /failed after its connection had ended/, err: { message: 'too late' }, reqId: String }], path)
  }
})

t.test('a source that ignores its signal holds only itself, and a warning names the route', async (t) => {
  const { lines, options } = logs()
  const app = await build(t, { fastify: options })
  let release: (value?: unknown) => void = () => {}
  const forever = new Promise((resolve) => { release = resolve })
  let finallies = 0
  app.get('/deaf/:id', { sse: true }, async function * () { try { yield 'begun'; await forever } finally { finallies++ } })
  app.get('/callback', { sse: true }, async () => async () => { await forever })
  app.get('/good', { sse: true }, async function * (_request, _reply, { signal }) { yield 'begun'; await sleep(600_000, null, { signal }) })
  const port = await listen(app)
  const { setTimeout: real } = globalThis
  globalThis.setTimeout = ((work: () => void, delay: number, ...rest: []) => real(work, delay === 5_000 ? 50 : delay, ...rest)) as never // the patience, shortened
  t.teardown(() => { globalThis.setTimeout = real })
  const clients = await Promise.all(['/deaf/1', '/callback', '/good'].map((path) => sseClient(port, path)))
  await until(() => app.connections.size === 3)
  for (const client of clients) client.close()
  await until(() => app.connections.size === 0)
  await until(() => lines.filter(({ level }) => level >= 40).length === 2)
  t.match(lines.filter(({ level }) => level >= 40).sort((a, b) => String(a.route) < String(b.route) ? -1 : 1), [{ level: 40, route: '/callback', reqId: String, msg: /ignores connection.signal/ }, { route: '/deaf/:id' }])
  t.equal(finallies, 0)
  release()
  await until(() => finallies === 1)
})

t.test('a throw after the first byte is logged once, cuts the stream, and says nothing to the client', async (t) => {
  const { lines, options } = logs()
  const app = await build(t, { fastify: options })
  const ends: Disconnect[] = []
  app.connections.on('disconnect', (_connection, end) => { ends.push(end) })
  let onError = 0
  app.addHook('onError', async () => { onError++ })
  let finallies = 0
  const secret = (): never => { throw new Error('the password is 1234') }
  const events = { sse: { broadcast: false } }
  app.get('/generator', events, async function * () { try { yield 'one'; await sleep(5); secret() } finally { finallies++ } })
  app.get('/sync', events, function * () { try { yield 'one'; secret() } finally { finallies++ } })
  app.get('/called', async (_request, reply) => reply.sse(async function * () { try { yield 'one'; secret() } finally { finallies++ } }))
  app.get('/handler', events, async (_request, reply) => { reply.sse().send('one'); try { await sleep(60); secret() } finally { finallies++ } })
  app.get('/callback', events, async () => async (connection: Connection) => { connection.send('one'); try { await sleep(60); secret() } finally { finallies++ } })
  app.get('/from', events, async (_request, reply) => { await reply.sse().from((function * () { try { yield 'one'; yield 'x'.repeat(20_000); secret() } finally { finallies++ } })()) })
  app.get('/readable', events, async () => { const stream = new Readable({ read () {}, encoding: 'utf8', destroy (err, done) { finallies++; done(err) } }); stream.push('one'); setTimeout(() => stream.destroy(new Error('the password is 1234')), 50); return stream })
  const port = await listen(app)
  for (const [index, path] of ['/generator', '/sync', '/called', '/handler', '/callback', '/from', '/readable'].entries()) {
    const before = lines.length
    const client = await rawClient(t, port, get(path))
    await until(() => client.ended || client.closed)
    t.match(client.text, /^HTTP\/1.1 200 OK/, path)
    t.match(client.text, 'data: one\n\n')
    t.notMatch(client.text, '0\r\n\r\n', 'there is no final chunk')
    t.notMatch(client.text, /password/)
    t.match(lines.slice(before).filter(({ level }) => level >= 40), [{ level: 50, msg: 'a stream failed and was cut', reqId: String, err: { message: 'the password is 1234' } }])
    await until(() => ends.length === index + 1)
    t.match(ends.at(-1), { code: 1011, reason: 'error', clean: false })
    t.equal(finallies, index + 1)
    t.equal(app.connections.size, 0)
  }
  t.equal(onError, 0)
  const client = await sseClient(port, '/generator')
  await until(() => client.ended)
  t.equal(client.cut, true, 'and the client can tell')
})

t.test('a handler that throws while the head is on its way through the hooks cuts the stream', async (t) => {
  const { lines, options } = logs()
  const app = await build(t, { fastify: options })
  app.addHook('onSend', async () => { await sleep(30) })
  app.get('/handler', async (_request, reply) => { reply.sse(undefined, { headStart: 1 }).send('one'); await sleep(15); throw new Error('late') })
  app.get('/source', (_request, reply) => reply.sse(async function * () { await sleep(15); throw new Error('late') }, { headStart: 1 }))
  const port = await listen(app)
  for (const path of ['/handler', '/source']) {
    const before = lines.length
    const client = await sseClient(port, path)
    await until(() => client.ended)
    t.equal(client.response.statusCode, 200)
    t.equal(client.cut, true, path)
    t.match(lines.slice(before).filter(({ level }) => level >= 40), [{ level: 50, err: { message: 'late' } }])
  }
})

t.test('an answer that comes while the head is on its way through the hooks is the one that is sent', async (t) => {
  const { lines, options } = logs()
  const app = await build(t, { fastify: options })
  const ends: Disconnect[] = []
  app.connections.on('disconnect', (_connection, end) => { ends.push(end) })
  app.addHook('onSend', async () => { await sleep(20) })
  app.get('/x', { sse: { headStart: 1 } }, async function * (_request, reply) { await sleep(10); reply.code(401).send({ who: 'you' }) })
  const client = await sseClient(await listen(app), '/x')
  await until(() => client.ended)
  t.equal(client.response.statusCode, 401)
  t.equal(client.text, '{"who":"you"}')
  t.match(ends, [{ reason: 'refused' }])
  await sleep(30)
  t.strictSame(lines.filter(({ level }) => level >= 40), [])
})

t.test('a close by the application is clean and told once', async (t) => {
  const app = await build(t)
  const ends: Disconnect[] = []
  app.connections.on('disconnect', (_connection, end) => { ends.push(end) })
  app.get('/x', { sse: { broadcast: false } }, async (_request, reply) => { const connection = reply.sse(); connection.send('one'); setTimeout(() => { connection.close(4000, 'enough'); connection.close() }, 30) })
  const client = await sseClient(await listen(app), '/x')
  await until(() => client.ended)
  t.equal(client.text, 'data: one\n\n')
  t.equal(client.cut, false)
  await until(() => ends.length > 0)
  t.match(ends, [{ code: 4000, reason: 'enough', clean: true, events: 1, bytes: Number }])
})

t.test('a client that leaves is heard of though nobody reads the body of its request', async (t) => {
  const app = await build(t)
  let signal: AbortSignal | undefined
  app.get('/x', { sse: true }, async (request, reply) => {
    signal = request.signal
    reply.sse()
  })
  const port = await listen(app)
  for (const leave of Object.values(ways)) {
    for (const [head, body] of [['content-length: 3000000', LARGE.repeat(10)], ['transfer-encoding: chunked', `f4240\r\n${LARGE.repeat(10)}\r\n`], ['content-length: 100000', LARGE]] as const) {
      const client = await rawClient(t, port, `GET /x HTTP/1.1\r\nhost: x\r\n${head}\r\n\r\n`)
      await client.wait('\r\n\r\n')
      client.socket.write(body)
      await until(() => client.socket.writableLength === 0)
      t.equal(app.connections.size, 1)
      leave(client)
      await until(() => app.connections.size === 0)
    }
  }
  const client = await rawClient(t, port, get('/x'))
  await client.wait('ready')
  t.equal(signal?.aborted, false, 'a request without a body is left as it is')
})
