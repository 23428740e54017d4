import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import type { Test } from 'tap'
import type { Connection, Disconnect } from '../../lib/index.ts'
import { build, listen, sseClient, until } from '../helper.ts'
import type { BuildOptions } from '../helper.ts'
import { logs } from '../logs.ts'
import { get, rawClient } from '../raw.ts'

const MARK = 16_384

t.test('a source is not asked while its reader is behind, and everything arrives when it reads again', async (t) => {
  const app = await build(t)
  const slow: unknown[] = []
  app.connections.on('slow', (connection) => { slow.push(connection) })
  const large = 'x'.repeat(50_000)
  for (const [path, size] of [['/large', 50_000], ['/small', 300]] as const) {
    const count = 12_000_000 / size
    const marks: number[] = []
    app.get(path, { sse: true }, async function * (_request, _reply, connection) {
      for (let i = 0; i < count; i++) {
        marks.push(connection.buffered)
        yield { id: i, data: large.slice(0, size) }
      }
    })

    Object.assign(app, { [path]: marks })
  }
  const port = await listen(app)
  for (const [path, size] of [['/large', 50_000], ['/small', 300]] as const) {
    const marks = (app as unknown as Record<string, number[]>)[path] as number[]
    const client = await rawClient(t, port, get(path))
    client.socket.pause()
    await until(() => [...app.connections].some(({ buffered }) => buffered >= MARK))
    let asked = -1
    await until(async () => { // what the kernel takes is taken
      const before = marks.length
      await sleep(10)
      asked = before
      return before === marks.length
    })
    for (let i = 0; i < 50; i++) await new Promise((resolve) => setImmediate(resolve))
    t.equal(marks.length, asked, 'it is not asked again')
    t.ok([...app.connections].every(({ buffered }) => buffered >= MARK && buffered < MARK + 2 * size))
    client.socket.resume()
    await client.wait('\r\n0\r\n\r\n')
    t.strictSame([...client.text.matchAll(/^id: (\d+)$/gm)].map(([, id]) => Number(id)), marks.map((_, index) => index))
    t.ok(Math.max(...marks) < MARK, `asked with ${Math.max(...marks)} bytes waiting`)
  }
  t.strictSame(slow, [])
})

t.test('a source is never too far behind, whatever maxBuffered and the size of its events', async (t) => {
  const COUNT = 200
  for (const maxBuffered of [1, 1_000, 20_000, 70_000]) {
    const app = await build(t, { connections: { maxBuffered, drain: { within: 0, grace: 50 } } })
    const slow: unknown[] = []
    app.connections.on('slow', (connection) => { slow.push(connection) })
    app.get('/x', { sse: true }, async function * () {
      for (let i = 0; i < COUNT; i++) {
        yield { id: i, data: 'x\n'.repeat(7_000) }
        yield 'small'
      }
    })
    const client = await rawClient(t, await listen(app), get('/x'))
    client.socket.pause()
    await until(() => [...app.connections].some(({ buffered }) => buffered > 0))
    t.equal((await app.inject('/nowhere')).statusCode, 404, 'and others are served meanwhile')
    client.socket.resume()
    await client.wait('\r\n0\r\n\r\n')
    t.equal([...client.text.matchAll(/^id: /gm)].length, COUNT)
    t.equal([...client.text.matchAll(/^data: small$/gm)].length, COUNT)
    t.strictSame(slow, [])
    t.equal(app.connections.stats().dropped, 0)
  }
})

t.test('an event of the largest size fits behind a small one', async (t) => {
  const app = await build(t)
  app.get('/x', { sse: true }, function * () { for (let i = 0; i < 20; i++) { yield 'y'.repeat(10_000); yield 'x'.repeat(1_048_576) } })
  const client = await rawClient(t, await listen(app), get('/x'))
  client.socket.pause()
  await until(() => [...app.connections].some(({ buffered }) => buffered > 100_000))
  client.socket.resume()
  await client.wait('\r\n0\r\n\r\n')
  t.equal([...client.text.matchAll(/^data: [xy]+$/gm)].length, 40)
})

t.test('drained() waits for the reader, and settles when the connection closes', async (t) => {
  const app = await build(t, { connections: { maxBuffered: 100_000_000 } })
  let drained = 0
  let connection = null as Connection | null
  app.get('/x', { sse: true }, async (_request, reply) => { connection = reply.sse() })
  const port = await listen(app)
  const client = await sseClient(port, '/x')
  await (connection as unknown as Connection).drained()
  client.response.pause()
  for (let i = 0; i < 100; i++) connection?.send('x'.repeat(100_000))
  for (let i = 0; i < 3; i++) void connection?.drained().then(() => { drained++ })
  await until(() => (connection as unknown as Connection).buffered < 10_000_000)
  await sleep(10)
  t.equal(drained, 0)
  client.response.resume()
  await until(() => drained === 3)
  client.response.pause()
  for (let i = 0; i < 100; i++) connection?.send('x'.repeat(100_000))
  void connection?.drained().then(() => { drained++ })
  await sleep(10)
  t.equal(drained, 3)
  client.close()
  await until(() => drained === 4)
  await connection?.drained()
})

t.test('a source that never waits leaves the others their turn', async (t) => {
  const app = await build(t, { connections: { drain: { within: 0, grace: 50 } } })
  const all = { sse: { broadcast: false } }
  app.get('/async', all, async function * () { for (let i = 0; ; i++) yield String(i) })
  app.get('/sync', all, function * () { for (let i = 0; ; i++) yield String(i) })
  app.get('/comments', all, function * () { for (;;) yield { comment: '' } })
  app.get('/from', all, async (_request, reply) => { await reply.sse().from((function * () { for (;;) yield 'x' })()) })
  app.get('/ping', async () => 'pong')
  const port = await listen(app)
  const clients = await Promise.all(['/async', '/sync', '/comments', '/from'].map((path) => rawClient(t, port, get(path))))
  await until(() => clients.every(({ text }) => text.length > 100_000))
  for (let i = 0; i < 20; i++) t.equal((await app.inject('/ping')).body, 'pong')
  t.equal(app.connections.size, 4)
  for (const { socket } of clients) socket.destroy()
  await until(() => app.connections.size === 0)
})

t.test('a heartbeat is a colon and a line end, and comes only after silence', async (t) => {
  const app = await build(t, { connections: { heartbeat: 20 } })
  app.get('/x', { sse: { broadcast: false } }, async (_request, reply) => { reply.sse() })
  app.get('/early', { sse: { broadcast: false } }, async (_request, reply) => { reply.sse(undefined, { headStart: 60_000 }); await sleep(100) })
  app.get('/busy', { sse: { broadcast: false } }, async function * () { for (let i = 0; i < 40; i++) { yield 'x'; await sleep(2) } })
  const port = await listen(app)
  const client = await rawClient(t, port, get('/x'))
  await client.wait('2\r\n:\n\r\n2\r\n:\n\r\n')
  t.match(client.text, /\r\n\r\n(?:2\r\n:\n\r\n)+$/)
  const old = await rawClient(t, port, get('/x', {}, '1.0'))
  await old.wait(':\n:\n')
  t.match(old.text, /\r\n\r\n(?::\n)+$/)
  const early = await rawClient(t, port, get('/early'))
  await early.wait(':\n')
  t.match(early.text, /^HTTP\/1.1 200 OK/, 'and not before the head')
  const busy = await sseClient(port, '/busy')
  await until(() => busy.ended)
  t.equal(busy.events.length, 40)
  t.equal(busy.text.replace(/^:\n/gm, ''), 'data: x\n\n'.repeat(40))
})

t.test('maxAge ends a stream without a source, and no other', async (t) => {
  const { app, port, ends } = await serve(t, { connections: { heartbeat: 40 }, sse: { maxAge: 40, broadcast: false } })
  app.get('/open', { sse: true }, async (_request, reply) => { reply.sse() })
  app.get('/own', (_request, reply) => reply.sse(undefined, { maxAge: 60 }))
  app.get('/source', { sse: true }, async function * (_request, _reply, { signal }) { await sleep(300, null, { signal }); yield 'end' })
  app.get('/never', { sse: { maxAge: 0 } }, async (_request, reply) => { const connection = reply.sse(); setTimeout(() => connection.close(), 300) })
  for (const [path, reason] of [['/open', 'age'], ['/own', 'age'], ['/source', 'done'], ['/never', 'closed']] as const) {
    const client = await sseClient(await port(), path)
    await until(() => client.ended && ends.has(path))
    t.equal(client.cut, false)
    t.match(ends.get(path), { code: 1000, reason, clean: true }, path)
  }
})

t.test('inactivity ends a stream to which no event is sent, heartbeats or not', async (t) => {
  const { app, port, ends } = await serve(t, { connections: { heartbeat: 20 }, sse: { inactivity: 100, broadcast: false } })
  app.get('/quiet', { sse: true }, async (_request, reply) => { reply.sse() })
  app.get('/source', { sse: true }, async function * (_request, _reply, { signal }) { yield await sleep(600_000, '', { signal }) })
  app.get('/busy', { sse: true }, async function * () { for (let i = 0; i < 40; i++) { yield 'x'; await sleep(5) } })
  for (const [path, reason] of [['/quiet', 'inactive'], ['/source', 'inactive'], ['/busy', 'done']] as const) {
    const client = await sseClient(await port(), path)
    await until(() => client.ended && ends.has(path))
    t.match(ends.get(path), { code: 1000, reason, clean: true }, path)
    if (path !== '/busy') t.match(client.text, /^(?::\n){2,}$/, 'heartbeats do not count')
  }
})

t.test('retry is told first, with jitter', async (t) => {
  const app = await build(t, { sse: { retry: 1_000, broadcast: false } })
  app.get('/x', { sse: true }, async () => ['one'])
  app.get('/own', { sse: { retry: 0 } }, async () => ['one'])
  app.get('/reply', { sse: true }, (_request, reply) => reply.sse(['one'], { retry: 5_000 }))
  const told = new Set<number>()
  for (let i = 0; i < 50; i++) {
    const { body } = await app.inject('/x')
    const retry = Number(/^retry: (\d+)\n+data: one\n\n$/.exec(body)?.[1])
    t.ok(retry >= 800 && retry <= 1_200, String(retry))
    told.add(retry)
  }
  t.ok(told.size > 10)
  t.equal((await app.inject('/own')).body, 'data: one\n\n')
  const reply = Number(/^retry: (\d+)/.exec((await app.inject('/reply')).body)?.[1])
  t.ok(reply >= 4_000 && reply <= 6_000)
})

t.test('a stream without a source takes broadcasts, one with a source does not, and the option decides', async (t) => {
  const app = await build(t)
  app.get('/open', { sse: true }, async (_request, reply) => { reply.sse() })
  app.get('/source', { sse: true }, async function * (_request, _reply, { signal }) { yield await sleep(600_000, '', { signal }) })
  app.get('/closed', (_request, reply) => reply.sse(undefined, { broadcast: false }))
  app.get('/both', (_request, reply) => reply.sse(async function * ({ signal }) { yield await sleep(600_000, '', { signal }) }, { broadcast: true }))
  const port = await listen(app)
  const clients = await Promise.all(['/open', '/source', '/closed', '/both'].map((path) => sseClient(port, path)))
  await until(() => app.connections.size === 4)
  const { members } = await app.connections.broadcast('news')
  t.equal(members, 2)
  for (const connection of app.connections) connection.send('bye')
  for (const [index, expected] of [true, false, false, true].entries()) {
    await clients[index]?.wait(({ data }) => data === 'bye')
    t.equal(clients[index]?.events.some(({ data }) => data === 'news'), expected)
  }
})

t.test('a returning client whose handler waits for connection.from() is not waited for', async (t) => {
  const app = await build(t, { connections: { hold: 20 } })
  app.get('/from', { sse: { broadcast: false } }, async (_request, reply) => { const connection = reply.sse(); await connection.from(['one']); connection.close() })
  app.get('/joined', { sse: true }, async (_request, reply) => { const connection = reply.sse(); await connection.join('room'); await connection.from(['one']); connection.close() })
  const port = await listen(app)
  for (const path of ['/from', '/joined']) {
    const client = await sseClient(port, path, { 'last-event-id': 'mine' })
    await until(() => client.ended)
    t.match(client.events.at(-1), { data: 'one' }, path)
  }
})

async function serve (t: Test, options: BuildOptions): Promise<{ app: Awaited<ReturnType<typeof build>>, port: () => Promise<number>, ends: Map<string | undefined, Disconnect> }> {
  const { options: logging } = logs()
  const app = await build(t, { ...options, fastify: logging })
  const ends = new Map<string | undefined, Disconnect>()
  app.connections.on('disconnect', (connection, end) => { ends.set(connection.request.routeOptions.url, end) })
  let port: Promise<number> | null = null
  return { app, ends, port: () => (port ??= listen(app)) }
}
