import { OptionError } from '../errors.ts'
import { NodeRedisCluster } from './redis-cluster.ts'
import { BYTES, calm, listen } from './redis-library.ts'
import type { Client, IoRedisCalls, IoRedisLike, Listener, NodeRedisCalls, NodeRedisClusterLike, NodeRedisLike, Subscriber } from './redis-library.ts'
import type { Command } from './redis-script.ts'

const never = (): null => null

/** The client by its structure; a cluster is used where it has a key. */
export function clientOf (given: unknown, key: string): Client {
  const client = given as Partial<NodeRedisLike & NodeRedisClusterLike & IoRedisLike & { isCluster: boolean }> | null
  if (typeof client === 'object' && client !== null && typeof client.duplicate === 'function' && client.isCluster !== true) {
    if (typeof client.sendCommand === 'function' && typeof client.isReady === 'boolean') {
      return typeof client.nodeClient === 'function' ? new NodeRedisCluster(client as NodeRedisClusterLike, key) : new NodeRedis(client as NodeRedisLike)
    }
    if (typeof client.pipeline === 'function' && typeof client.status === 'string') return new IoRedis(client as IoRedisLike)
  }
  throw new OptionError('redis.client', 'must be a client of @redis/client, ioredis or iovalkey, or a cluster of @redis/client')
}

class NodeRedis implements Client {
  readonly isSharded = false
  readonly #client: NodeRedisCalls
  constructor (client: NodeRedisLike) {
    this.#client = client as unknown as NodeRedisCalls
    calm(client)
  }

  get closed (): boolean { return !this.#client.isOpen }
  get ready (): boolean { return this.#client.isReady }
  open (): Promise<unknown> { return this.#client.connect() }
  destroy (): void { this.#client.destroy() }
  hurry (): void {} // it waits two seconds at most

  run (commands: Command[]): Promise<unknown[]> {
    return Promise.all(commands.map((command) => this.#client.sendCommand(command, BYTES).catch((err: unknown) => err)))
  }

  subscriber (listener: Listener): Subscriber {
    return new NodeRedisSubscriber(this.#client.duplicate({ socket: { ...this.#client.options?.socket, reconnectStrategy: false } }), listener)
  }

  watch (changed: () => void, failed: (err: Error) => void): () => void {
    return listen(this.#client, { ready: changed, reconnecting: changed, end: changed, error: failed })
  }
}

class NodeRedisSubscriber implements Subscriber {
  readonly #client: NodeRedisCalls
  readonly #message: (message: Buffer, channel: Buffer) => void
  #isOver = false

  constructor (client: NodeRedisCalls, { message, ended }: Listener) {
    this.#client = client
    this.#message = (bytes, channel) => message(String(channel), bytes)
    // destroyed while it connects it connects all the same
    listen(client, { connect: () => { if (this.#isOver) client.destroy() }, error: ended, end: () => ended() })
  }

  connect (): Promise<unknown> { return this.#client.connect() }
  subscribe (channels: string[]): Promise<unknown> { return this.#client.subscribe(channels, this.#message, true) }
  unsubscribe (channels: string[]): Promise<unknown> { return this.#client.unsubscribe(channels) }

  destroy (): void {
    this.#isOver = true
    if (this.#client.isOpen) this.#client.destroy()
  }
}

const SUBSCRIBER = { autoResubscribe: false, retryStrategy: never, sentinelRetryStrategy: never, reconnectOnError: null, lazyConnect: true, maxRetriesPerRequest: null }

class IoRedis implements Client {
  readonly isSharded = false
  readonly #client: IoRedisCalls
  constructor (client: IoRedisLike) { this.#client = client as unknown as IoRedisCalls }

  get closed (): boolean { return this.#client.status === 'wait' || this.#client.status === 'end' }
  get ready (): boolean { return this.#client.status === 'ready' }
  open (): Promise<unknown> { return this.#client.connect() }
  destroy (): void {
    this.#client.disconnect()
    if (this.#client.status !== 'reconnecting') return
    this.hurry() // between two tries it would stay so, neither open nor closed, and nobody would open it
    this.#client.disconnect()
  }

  hurry (): void { if (this.#client.status === 'reconnecting') this.#client.connect().catch(never) }

  async run (commands: Command[]): Promise<unknown[]> {
    const pipeline = this.#client.pipeline()
    for (const command of commands) pipeline.callBuffer(...command)
    return (await pipeline.exec()).map(([err, reply]) => err ?? reply) // it rejects on a cluster only
  }

  subscriber (listener: Listener): Subscriber { return new IoRedisSubscriber(this.#client.duplicate(SUBSCRIBER), listener) }

  watch (changed: () => void, failed: (err: Error) => void): () => void {
    return listen(this.#client, { ready: changed, close: changed, end: changed, error: failed })
  }
}

class IoRedisSubscriber implements Subscriber {
  readonly #client: IoRedisCalls

  constructor (client: IoRedisCalls, { message, ended }: Listener) {
    this.#client = client
    listen(client, { messageBuffer: (channel: Buffer, bytes: Buffer) => message(String(channel), bytes), error: ended, end: () => ended() })
  }

  connect (): Promise<unknown> { return this.#client.connect() }
  subscribe (channels: string[]): Promise<unknown> { return this.#client.subscribe(...channels) }
  unsubscribe (channels: string[]): Promise<unknown> { return this.#client.unsubscribe(...channels) }
  destroy (): void { this.#client.disconnect() }
}
