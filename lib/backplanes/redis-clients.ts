import { OptionError } from '../errors.ts'
import type { Command } from './redis-script.ts'

/** A connection of our own that subscribes, once: when it is lost there is another. */
export interface Subscriber {
  /** Resolves when it is ready. `ended` is called once, when it is lost. */
  connect (message: (channel: string, message: Buffer) => void, ended: (err?: Error) => void): Promise<void>
  /** Resolves when all of them are acknowledged. */
  subscribe (channels: string[]): Promise<unknown>
  unsubscribe (channels: string[]): Promise<unknown>
  destroy (): void
}

/** The client that was given, whichever library it is of. */
export interface Client {
  /** It was never opened, or was closed. */
  readonly closed: boolean
  /** Commands reach the server now. */
  readonly ready: boolean
  open (): Promise<unknown>
  close (): Promise<unknown>
  /** One reply each, an error where it failed; texts are bytes. All are written at once. */
  run (commands: Command[]): Promise<unknown[]>
  subscriber (): Subscriber
  /** Calls back when it may be ready, or no longer. Gives what ends that. */
  watch (changed: () => void, failed: (err: Error) => void): () => void
}

type Listener = (...args: any[]) => void // as the libraries have it: each event has other arguments
interface Emitter { on (event: string, listener: Listener): unknown, off (event: string, listener: Listener): unknown }

/** What is used of `@redis/client`. */
export interface NodeRedisLike extends Emitter {
  readonly isOpen: boolean
  readonly isReady: boolean
  readonly options?: object | undefined
  connect (): Promise<unknown>
  close (): unknown
  destroy (): unknown
  sendCommand (...args: never[]): Promise<unknown>
  duplicate (options?: never): unknown
  subscribe (...args: never[]): Promise<unknown>
  unsubscribe (...args: never[]): Promise<unknown>
}

/** What is used of `ioredis` and `iovalkey`. */
export interface IoRedisLike extends Emitter {
  readonly status: string
  connect (): Promise<unknown>
  quit (): Promise<unknown>
  disconnect (): void
  pipeline (): unknown
  duplicate (options?: never): unknown
  subscribe (...args: never[]): unknown
  unsubscribe (...args: never[]): unknown
}

/** The client by its structure. */
export function clientOf (given: unknown): Client {
  const client = given as Partial<NodeRedisLike & IoRedisLike & { isCluster: boolean, nodeClient: unknown }> | null
  if (typeof client === 'object' && client !== null && typeof client.duplicate === 'function' && client.isCluster !== true && client.nodeClient === undefined) {
    if (typeof client.sendCommand === 'function' && typeof client.isReady === 'boolean') return new NodeRedis(client as NodeRedisLike)
    if (typeof client.pipeline === 'function' && typeof client.status === 'string') return new IoRedis(client as IoRedisLike)
  }
  throw new OptionError('redis.client', 'must be a client of @redis/client, ioredis or iovalkey')
}

const BYTES = { typeMapping: { 36: Buffer } } // RESP's bulk strings, `$`

interface NodeRedisCalls extends Emitter, Pick<NodeRedisLike, 'isOpen' | 'isReady' | 'options' | 'connect' | 'close' | 'destroy'> {
  sendCommand (command: Command, options: object): Promise<unknown>
  duplicate (options: object): NodeRedisCalls
  subscribe (channels: string[], listener: (message: Buffer, channel: Buffer) => void, bytes: true): Promise<unknown>
  unsubscribe (channels: string[]): Promise<unknown>
}

class NodeRedis implements Client {
  readonly #client: NodeRedisCalls
  constructor (client: NodeRedisLike) { this.#client = client as unknown as NodeRedisCalls }

  get closed (): boolean { return !this.#client.isOpen }
  get ready (): boolean { return this.#client.isReady }
  open (): Promise<unknown> { return this.#client.connect() }
  async close (): Promise<unknown> { return this.#client.close() }

  run (commands: Command[]): Promise<unknown[]> {
    return Promise.all(commands.map((command) => this.#client.sendCommand(command, BYTES).catch((err: unknown) => err)))
  }

  subscriber (): Subscriber {
    const { socket } = (this.#client.options ?? {}) as { socket?: object }
    return new NodeRedisSubscriber(this.#client.duplicate({ socket: { ...socket, reconnectStrategy: false } }))
  }

  watch (changed: () => void, failed: (err: Error) => void): () => void {
    return listen(this.#client, { ready: changed, reconnecting: changed, end: changed, error: failed })
  }
}

class NodeRedisSubscriber implements Subscriber {
  readonly #client: NodeRedisCalls
  #message: (message: Buffer, channel: Buffer) => void = () => {}
  constructor (client: NodeRedisCalls) { this.#client = client }

  connect (message: (channel: string, message: Buffer) => void, ended: (err?: Error) => void): Promise<void> {
    this.#message = (bytes, channel) => message(String(channel), bytes)
    listen(this.#client, { error: ended, end: () => ended() })
    return this.#client.connect() as Promise<void>
  }

  subscribe (channels: string[]): Promise<unknown> { return this.#client.subscribe(channels, this.#message, true) }
  unsubscribe (channels: string[]): Promise<unknown> { return this.#client.unsubscribe(channels) }
  destroy (): void { if (this.#client.isOpen) this.#client.destroy() }
}

interface IoRedisCalls extends Emitter, Pick<IoRedisLike, 'status' | 'connect' | 'quit' | 'disconnect'> {
  pipeline (): { callBuffer (...command: Command): unknown, exec (): Promise<Array<[Error | null, unknown]>> }
  duplicate (options: object): IoRedisCalls
  subscribe (...channels: string[]): Promise<unknown>
  unsubscribe (...channels: string[]): Promise<unknown>
}

const SUBSCRIBER = { autoResubscribe: false, retryStrategy: () => null, sentinelRetryStrategy: () => null, reconnectOnError: () => false, lazyConnect: true, maxRetriesPerRequest: null }

class IoRedis implements Client {
  readonly #client: IoRedisCalls
  constructor (client: IoRedisLike) { this.#client = client as unknown as IoRedisCalls }

  get closed (): boolean { return this.#client.status === 'wait' || this.#client.status === 'end' }
  get ready (): boolean { return this.#client.status === 'ready' }
  open (): Promise<unknown> { return this.#client.connect() }
  close (): Promise<unknown> { return this.#client.quit() }

  async run (commands: Command[]): Promise<unknown[]> {
    const pipeline = this.#client.pipeline()
    for (const command of commands) pipeline.callBuffer(...command)
    try {
      return (await pipeline.exec()).map(([err, reply]) => err ?? reply)
    } catch (err) {
      return commands.map(() => err)
    }
  }

  subscriber (): Subscriber { return new IoRedisSubscriber(this.#client.duplicate(SUBSCRIBER)) }

  watch (changed: () => void, failed: (err: Error) => void): () => void {
    return listen(this.#client, { ready: changed, close: changed, end: changed, error: failed })
  }
}

class IoRedisSubscriber implements Subscriber {
  readonly #client: IoRedisCalls
  constructor (client: IoRedisCalls) { this.#client = client }

  connect (message: (channel: string, message: Buffer) => void, ended: (err?: Error) => void): Promise<void> {
    listen(this.#client, { messageBuffer: (channel: Buffer, bytes: Buffer) => message(String(channel), bytes), error: ended, end: () => ended() })
    return this.#client.connect() as Promise<void>
  }

  subscribe (channels: string[]): Promise<unknown> { return this.#client.subscribe(...channels) }
  unsubscribe (channels: string[]): Promise<unknown> { return this.#client.unsubscribe(...channels) }
  destroy (): void { this.#client.disconnect() }
}

function listen (emitter: Emitter, listeners: Record<string, Listener>): () => void {
  for (const [name, listener] of Object.entries(listeners)) emitter.on(name, listener)
  return () => { for (const [name, listener] of Object.entries(listeners)) emitter.off(name, listener) }
}
