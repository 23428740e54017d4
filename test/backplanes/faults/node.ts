// One node of a cluster: a whole application in a process of its own, told what to do by the test and ended with it.
import { jump } from './clock.ts'
import { connect } from '@nats-io/transport-node'
import type { NatsConnection } from '@nats-io/transport-node'
import { createClient } from '@redis/client'
import Fastify from 'fastify'
import { Redis as IoRedis } from 'ioredis'
import { Redis as IoValkey } from 'iovalkey'
import type { AddressInfo } from 'node:net'
import { nats } from '../../../lib/backplanes/nats.ts'
import { redis } from '../../../lib/backplanes/redis.ts'
import { connections, sseReal, wsReal } from '../../../lib/index.ts'
import type { Backplane, Connection, ConnectionsOptions, Receipt, SendOptions } from '../../../lib/index.ts'
import type { Sent } from './verdict.ts'

export interface NodeConfig {
  broker: 'redis' | 'nats'
  library: '@redis/client' | 'ioredis' | 'iovalkey'
  port: number
  options: object
  connections: ConnectionsOptions
}

/** What a node can be told to do. */
export type Calls = typeof calls

const config = JSON.parse(process.argv[2] as string) as NodeConfig
const say = (message: object): void => { process.send?.(message) }
const isReady: Array<() => void> = []

function backplane (): Backplane {
  const { broker, library, port, options } = config
  if (broker === 'nats') return nats({ connection: async (safe) => watch(await connect({ servers: `127.0.0.1:${port}`, ...safe })), ...options })
  if (library === '@redis/client') {
    const client = createClient({ url: `redis://127.0.0.1:${port}` })
    client.on('error', () => {}).on('ready', ready)
    return redis({ client, ...options })
  }
  const client = library === 'ioredis' ? new IoRedis(port, '127.0.0.1') : new IoValkey(port, '127.0.0.1') as unknown as IoRedis
  client.on('error', () => {}).on('ready', ready)
  return redis({ client, ...options })
}

function watch (connection: NatsConnection): NatsConnection {
  void (async () => { for await (const { type } of connection.status()) if (type === 'reconnect') ready() })()
  return connection
}

function ready (): void { for (const listener of isReady) listener() }

const app = Fastify({
  forceCloseConnections: false,
  logger: { level: 'warn', stream: { write: (line: string) => { const { msg, err } = JSON.parse(line) as { msg: string, err?: { message: string } | null }; say({ line: err === undefined || err === null ? msg : `${msg}: ${err.message}` }) } } }
})
await app.register(connections, {
  identify: (request) => (request.query as { user?: string }).user,
  backplane: backplane(),
  ...config.connections
})
await app.register(sseReal)
await app.register(wsReal)

async function enter (connection: Connection): Promise<void> {
  const { rooms = '', key, watches } = connection.request.query as { rooms?: string, key?: string, watches?: string }
  const presence = key !== undefined ? { key } : watches !== undefined ? true : undefined
  await connection.join(rooms.split(','), presence === undefined ? {} : { presence })
}
app.get('/feed', { sse: true, ws: { onConnect: enter } }, async (_request, reply) => { await enter(reply.sse()) })

// began and ended are places in what this node did
let place = 0
let fresh: Sent[] = []
const open = new Set<string>()
const writers = new Map<string, NodeJS.Timeout>()

async function publish (token: string, room: string, options: SendOptions & { id?: string, size?: number } = {}): Promise<Sent> {
  const { id: key, size = 0, ...rest } = options
  const sent: Sent = { token, room, began: ++place, ended: 0, answer: 'doubt' }
  open.add(token)
  let receipt: Receipt | null = null
  try {
    receipt = await app.connections.room(room).send({ event: 'n', data: size === 0 ? token : `${token} ${'x'.repeat(size)}`, ...key === undefined ? {} : { id: key } }, rest)
  } catch (err) {
    say({ line: `a send rejected: ${(err as Error).message}` })
  }
  sent.ended = ++place
  if (receipt !== null) sent.answer = receipt.duplicate === true ? 'duplicate' : receipt.accepted ? 'accepted' : 'refused'
  sent.id = receipt?.id
  open.delete(token)
  fresh.push(sent)
  return sent
}

function tell (): void {
  if (fresh.length > 0) say({ sent: fresh })
  fresh = []
}
setInterval(tell, 20)

let tokens = 0

const calls = {
  /** Sends to each of the rooms in turn, at a rate, until it is stopped. */
  write (writer: string, rooms: string[], rate: number, size: number): void {
    let last = performance.now()
    let budget = 0
    writers.set(writer, setInterval(() => {
      const now = performance.now()
      budget = Math.min(budget + (now - last) / 1_000 * rate, rate / 10)
      last = now
      for (; budget >= 1; budget--) void publish(`${writer}:${tokens}`, rooms[tokens++ % rooms.length] as string, { size })
    }, 4))
  },
  stop (writer: string): void { clearInterval(writers.get(writer)) },
  /** Sends that have no answer yet. */
  open: (): number => open.size,
  async send (writer: string, room: string, options: SendOptions & { id?: string } = {}): Promise<Sent> { return await publish(`${writer}:${tokens++}`, room, options) },
  /** Sends at the very moment a client says that it is ready. */
  sendWhenReady (writer: string, room: string, count: number): void {
    isReady.push(() => { for (let i = 0; i < count; i++) void publish(`${writer}:${tokens++}`, room) })
  },
  async broadcast (data: string): Promise<Receipt> { return await app.connections.broadcast({ event: 'n', data }) },
  members: (room: string): Array<{ id: string, user: string | null }> => [...app.connections.room(room).members()].map(({ id, user }) => ({ id, user })),
  presence: (room: string): Promise<Array<{ key: string, metas: unknown[] }>> => app.connections.room(room).presence(),
  async history (room: string): Promise<{ complete: boolean, data: unknown[] }> {
    const { complete, events } = await app.connections.room(room).history()
    return { complete, data: events.map(({ data }) => data) }
  },
  sendTo: (id: string, data: string): Promise<boolean> => app.connections.send(id, { event: 'n', data }),
  close: (id: string, reason: string): Promise<boolean> => app.connections.close(id, reason),
  leave: (id: string, room: string): Promise<boolean> => app.connections.leave(id, room),
  disconnect: (user: string, reason: string): Promise<void> => app.connections.user(user).disconnect(reason),
  async sendToUser (user: string, data: string): Promise<Receipt> { return await app.connections.user(user).send({ event: 'n', data }) },
  /** The loop stands still. */
  block (milliseconds: number): void { for (const until = performance.now() + milliseconds; performance.now() < until;); },
  jump,
  memory: (): number => process.memoryUsage().rss
}

process.on('message', ({ ref, call, args }: { ref: number, call: keyof Calls, args: never[] }) => {
  void (async () => {
    try {
      const value = await (calls[call] as (...args: never[]) => unknown)(...args)
      tell()
      say({ ref, value })
    } catch (err) {
      say({ ref, error: (err as Error).message })
    }
  })()
})
process.on('disconnect', () => process.exit())

await app.listen({ port: 0, host: '127.0.0.1' })
say({ port: (app.server.address() as AddressInfo).port })
