import { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import type { FastifyReply, FastifyRequest } from 'fastify'
import t from 'tap'
import type { Connection, Sendable } from '../../lib/index.ts'
import { build, listen, sseClient, until } from '../helper.ts'
import { logs } from '../logs.ts'
import { get, rawClient } from '../raw.ts'

// every number comes from the seed, which is printed when it fails
const seed = Number(process.env.SEED ?? Date.now() % 1_000_000_007)

function dice (from: number): (sides: number) => number {
  let state = from
  return (sides) => {
    state = (Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + 0x6d2b79f5) | 0
    return ((state ^ (state >>> 13)) >>> 0) % sides
  }
}

t.test('whatever clients and handlers do, nothing stays behind and nobody else is harmed', async (t) => {
  t.comment(`SEED=${seed}`)
  const roll = dice(seed)
  const { lines, options } = logs()
  const app = await build(t, { fastify: { ...options, connectionTimeout: 2_000 }, connections: { heartbeat: 20, maxBuffered: 200_000, identify: async ({ url }) => { if (url.length % 3 === 0) await sleep(1); return url.length % 2 === 0 ? 'ada' : null } } })
  const crashes: unknown[] = []
  const trap = (err: unknown): void => { crashes.push(err) }
  process.on('uncaughtException', trap).on('unhandledRejection', trap)
  t.teardown(() => { process.removeListener('uncaughtException', trap).removeListener('unhandledRejection', trap) })
  const state = new Map<Connection, { ends: number }>()
  app.connections.on('connect', (connection) => { state.set(connection, { ends: 0 }) })
  app.connections.on('disconnect', (connection) => { (state.get(connection) as { ends: number }).ends++ })
  app.addHook('onSend', async (request) => {
    await sleep(roll(4))
    if (request.url.includes('hook')) throw new Error('hook')
  })
  let [begun, finallies] = [0, 0]
  async function * source (kind: number, { signal, send }: Connection): AsyncGenerator<Sendable> {
    begun++
    try {
      for (let i = 0; i < 6; i++) {
        if (kind === 1) await sleep(roll(8), null, { signal })
        if (kind === 2 && i === 3) throw new Error('source')
        if (kind === 3) yield 'x'.repeat(60_000)
        if (kind === 4) yield { bad: i } as never
        yield { event: 'e', data: { i, size: typeof send } }
      }
      if (kind === 5) await sleep(600_000, null, { signal })
    } finally { finallies++ }
  }
  const kindOf = ({ query }: FastifyRequest): number => Number((query as { kind?: string }).kind ?? 0)
  app.get('/generator', { sse: true }, async function * (request, _reply, connection) { yield * source(kindOf(request), connection) })
  app.get('/open', { sse: true }, async (request, reply) => {
    const connection = reply.sse()
    await connection.join([`room ${roll(5)}`, 'all of them'], { presence: { key: `key ${roll(5)}` } })
    if (kindOf(request) === 2) throw new Error('handler')
    if (kindOf(request) === 3) connection.close()
    if (kindOf(request) === 4) await connection.from(source(5, connection))
  })
  app.get('/late', (request, reply) => { setTimeout(() => reply.sse((connection) => source(kindOf(request), connection)), roll(10)) })
  app.post('/post', async (request, reply) => reply.sse(Readable.from(['a', 'b', 'c']), { broadcast: kindOf(request) === 1 }))
  app.get('/decline', { sse: true }, async function * (request: FastifyRequest, reply: FastifyReply, connection: Connection) { if (kindOf(request) % 2 === 0) { reply.code(401).send({ no: true }); return } yield * source(5, connection) } as never)
  app.get('/ping', async () => 'pong')
  const port = await listen(app)
  const witness = await sseClient(port, '/open')
  await until(() => witness.events.length > 0)
  const chat = { over: false }
  const chatter = (async () => { while (!chat.over) { await app.connections.broadcast({ event: 'tick' }); await app.connections.room(`room ${roll(5)}`).send('x'.repeat(roll(20_000))); await sleep(1) } })()
  async function client (): Promise<void> {
    const path = ['/generator', '/open', '/late', '/decline', '/nowhere'][roll(5)] as string
    const request = roll(8) === 0
      ? 'POST /post HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}'
      : get(`${path}?kind=${roll(6)}${roll(6) === 0 ? '&hook' : ''}`, roll(4) === 0 ? { 'last-event-id': ['mine', 'abc-1', '\xff\xfe', '-', 'x'.repeat(600)][roll(5)] as string } : {}, roll(6) === 0 ? '1.0' : '1.1')
    const whole = request + (roll(4) === 0 ? get('/open') : '') + (roll(6) === 0 ? get('/ping') : '')
    const { socket } = await rawClient(t, port, roll(5) === 0 ? whole.slice(0, roll(whole.length)) : whole)
    if (roll(4) === 0) socket.pause()
    await sleep(roll(25))
    if (roll(5) === 0) socket.write(['GARBAGE\r\n\r\n', '\0\0\0', get('/open'), 'GET '][roll(4)] as string)
    await sleep(roll(10))
    const end = roll(5)
    if (end === 0) socket.end()
    else if (end === 1) socket.resetAndDestroy()
    else if (end === 2) socket.destroy()
    else if (end === 3) socket.end('GET /open HTTP/1.1\r\nhost: x\r\n\r\n')
    else {
      await sleep(roll(20))
      socket.destroy()
    }
  }
  for (let round = 0; round < 20; round++) {
    await Promise.all(Array.from({ length: 15 }, client))
    t.equal(await (await fetch(`http://127.0.0.1:${port}/ping`)).text(), 'pong')
  }
  chat.over = true
  await chatter
  await until(() => app.connections.size === 1)
  await until(() => [...state.values()].filter(({ ends }) => ends === 0).length === 1)
  t.ok(state.size > 100, `${state.size} connections`)
  t.ok([...state.values()].every(({ ends }) => ends <= 1))
  await until(() => begun === finallies)
  t.ok(begun > 20, `${begun} sources`)
  t.strictSame([...app.connections.rooms()].length, 2, 'the rooms of the witness')
  t.equal((await app.connections.room('all of them').presence()).length, 1)
  t.equal(app.connections.stats().users <= 1, true)
  t.equal(witness.ended, false)
  witness.close()
  await until(() => app.connections.size === 0)
  t.strictSame([...app.connections.rooms()], [])
  t.equal(app.connections.stats().users, 0)
  const expected = /a stream failed and was cut|^hook$|no free|too far behind|client error|^Promise errored/
  t.strictSame(lines.filter(({ level, msg, err }) => level >= 40 && !expected.test(msg) && !['hook', 'handler', 'source'].includes(err?.message ?? '') && err?.code !== 'FST_ERR_REAL_EVENT').map(({ msg, err }) => [msg, err]), [])
  t.strictSame(crashes, [])
})

t.test('garbage on the socket of a stream ends it, once', async (t) => {
  const app = await build(t)
  const ends: string[] = []
  app.connections.on('disconnect', (_connection, { reason }) => { ends.push(reason) })
  app.get('/x', { sse: { broadcast: false } }, async (_request, reply) => { reply.sse().send('one') })
  const client = await rawClient(t, await listen(app), get('/x'))
  await client.wait('one')
  client.socket.write('\0\0\r\n\r\nGET GARBAGE')
  await until(() => client.closed || client.ended)
  await until(() => ends.length > 0)
  t.strictSame(ends, ['client'])
  t.equal(app.connections.size, 0)
})

t.test('a head that is never read, a body that never comes and a request in pieces hold nothing up', async (t) => {
  const app = await build(t)
  app.post('/x', (_request, reply) => reply.sse(['one']))
  app.get('/open', { sse: true }, async (_request, reply) => { reply.sse() })
  const port = await listen(app)
  await rawClient(t, port, 'POST /x HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{"a"')
  const { socket } = await rawClient(t, port, 'POST /x HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n')
  await sleep(5)
  t.equal(app.connections.size, 0)
  socket.write('2\r\n{}\r\n0\r\n\r\n')
  const pieces = await rawClient(t, port, '')
  for (const piece of get('/open').match(/[^]{1,7}/g) ?? []) {
    pieces.socket.write(piece)
    await sleep(1)
  }
  await pieces.wait('ready')
  t.equal(app.connections.size, 1)
})
