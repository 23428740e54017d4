import { execFile } from 'node:child_process'
import type { Socket } from 'node:net'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import t from 'tap'
import { sseChunked } from '../lib/transports/sse-frame.ts'
import { wsBare } from '../lib/transports/ws-frame.ts'
import type { Encoding, RealEvent } from '../types/transport.ts'
import { uncovered } from './child.ts'
import { build, listen, sseClient, until, wsClient } from './helper.ts'

const EACH = 20
const TIMES = 10

t.test('one turn is one write on every socket and one frame for each event and encoding', async (t) => {
  const app = await build(t, { connections: { heartbeat: 0 } })
  app.get('/live', { sse: true, ws: { onConnect: (connection) => connection.join(['a', 'b']) } }, async (_request, reply) => { await reply.sse().join(['a', 'b']) })
  const writes = new Map<Socket, number>()
  app.server.on('connection', (socket: Socket) => {
    const { write } = socket
    socket.write = function (this: Socket, ...args: Parameters<Socket['write']>) {
      writes.set(socket, (writes.get(socket) ?? 0) + 1)
      return write.apply(this, args)
    } as Socket['write']
  })
  const made = [sseChunked, wsBare].map((encoding) => counted(t, encoding))
  const port = await listen(app)
  const streams = await Promise.all(Array.from({ length: EACH }, () => sseClient(port, '/live')))
  const sockets = await Promise.all(Array.from({ length: EACH }, () => wsClient(port, '/live')))
  await until(() => app.connections.room('b').size === EACH * 2)
  await Promise.all(streams.map((stream) => stream.wait(({ event }) => event === 'ready')))
  await new Promise((resolve) => setImmediate(resolve)) // what the joins wrote is written
  writes.clear()
  for (const frames of made) frames.clear()

  const expected: string[] = []
  for (let i = 0; i < TIMES; i++) {
    const texts = ['a', 'b', 'all', 'direct'].map((to) => `${to} ${i}`)
    expected.push(...texts)
    const [a, b, all, direct] = texts as [string, string, string, string]
    void app.connections.room('a').send(a)
    void app.connections.room('b').send(b)
    void app.connections.broadcast(all)
    for (const connection of app.connections) connection.send(direct)
  }
  t.equal(writes.size, 0, 'nothing is written before the turn ends')
  await Promise.all([...streams, ...sockets].map((client) => client.wait((given: unknown) => (typeof given === 'string' ? given : (given as { data: string }).data) === expected.at(-1))))
  t.equal(writes.size, EACH * 2)
  t.strictSame([...new Set(writes.values())], [1])
  for (const frames of made) {
    t.equal(frames.size, TIMES * (3 + EACH)) // what is sent to one connection is an event of its own
    t.strictSame([...new Set(frames.values())], [1])
  }
  for (const { events } of streams) t.strictSame(events.filter(({ event }) => event !== 'ready').map(({ data }) => data), expected)
  for (const { messages } of sockets) t.strictSame(messages, expected)
  for (const client of [...streams, ...sockets]) client.close()
})

t.test('what a handler sends before it settles goes out with the head, in one system call', async (t) => {
  const app = await build(t, { connections: { heartbeat: 0 } })
  app.get('/sync', { sse: true }, (_request, reply) => { reply.sse().send('first') })
  app.get('/joins', { sse: true }, async (_request, reply) => {
    const connection = reply.sse()
    await connection.join('a')
    connection.send('first')
  })
  const calls: number[] = []
  app.server.on('connection', (socket: Socket) => {
    const at = calls.push(0) - 1
    for (const name of ['_write', '_writev'] as const) {
      const write = socket[name] as (...args: unknown[]) => void
      socket[name] = (...args: unknown[]) => {
        calls[at] = (calls[at] as number) + 1
        write.apply(socket, args)
      }
    }
  })
  const port = await listen(app)
  for (const path of ['/sync', '/joins']) {
    const client = await sseClient(port, path)
    await client.wait(({ data }) => data === 'first')
    t.equal(calls.at(-1), 1, path)
    client.close()
  }
})

/** How often a frame was made of each event. */
function counted (t: { teardown (restore: () => void): void }, encoding: Encoding): Map<RealEvent, number> {
  const made = new Map<RealEvent, number>()
  const { frame } = encoding
  encoding.frame = (event) => {
    made.set(event, (made.get(event) ?? 0) + 1)
    return frame.call(encoding, event)
  }
  t.teardown(() => { encoding.frame = frame })
  return made
}

/** What a fixture prints, in a process of its own, where nothing else allocates and the collector can be called. */
async function measured<T> (fixture: string): Promise<T> {
  const file = fileURLToPath(new URL(`./fixtures/${fixture}`, import.meta.url))
  const args = ['--expose-gc', '--min-semi-space-size=64', '--max-semi-space-size=64', '--import', 'tsx', file]
  const { stdout } = await promisify(execFile)(process.execPath, args, { env: { PATH: process.env.PATH, ...uncovered } })
  return JSON.parse(stdout) as T
}

t.test('a fan-out allocates nothing for a member', async (t) => {
  const { one, fifty } = await measured<{ one: number, fifty: number }>('fan-out.ts')
  t.comment(`bytes for each member: ${Math.round(one)} in a turn of one event, ${Math.round(fifty)} in one of fifty`)
  t.ok(one < 4, 'not even a place in an array, let alone an object, closure or promise')
  t.ok(fifty < 4, 'whatever the number of events')
})

t.test('an idle connection holds what it is, its id and its places in the maps', async (t) => {
  const { none, two } = await measured<{ none: number, two: number }>('idle.ts')
  t.comment(`bytes without wire and request: ${Math.round(none)}, ${Math.round(two)} in two rooms`)
  t.ok(none < 490, 'no signal, set, array or number of its own that nobody has asked for')
  t.ok(two < 580, 'a room is a place in a list and in a table')
})
