import type { Command } from './redis-script.ts'

/** A connection of our own that subscribes, once: when it is lost there is another. */
export interface Subscriber {
  /** Resolves when it is ready. */
  connect (): Promise<unknown>
  /** Resolves when all of them are acknowledged. */
  subscribe (channels: string[]): Promise<unknown>
  unsubscribe (channels: string[]): Promise<unknown>
  destroy (): void
}

/** What a subscriber tells. */
export interface Listener {
  message (channel: string, message: Buffer): void
  /** It is lost. */
  ended (err?: Error): void
}

/** The client that was given, whichever library it is of. */
export interface Client {
  /** Its channels belong to a shard. */
  readonly isSharded: boolean
  /** It was never opened, or was closed. */
  readonly closed: boolean
  /** Commands reach the server now. */
  readonly ready: boolean
  open (): Promise<unknown>
  /** What is not answered yet is not waited for. */
  destroy (): void
  /** The server is there: where the library would wait long before it tries again, it tries now. */
  hurry (): void
  /** One reply each, an error where it failed; texts are bytes. All are written at once. */
  run (commands: Command[]): Promise<unknown[]>
  subscriber (listener: Listener): Subscriber
  /** Calls back when it may be ready, or no longer. Gives what ends that. */
  watch (changed: () => void, failed: (err: Error) => void): () => void
}

type Handler = (...args: any[]) => void // as the libraries have it: each event has other arguments
interface Emitter { on (event: string, handler: Handler): unknown, off (event: string, handler: Handler): unknown }

/** What is used of `@redis/client`. */
export interface NodeRedisLike extends Emitter {
  readonly isOpen: boolean
  readonly isReady: boolean
  readonly options?: object | undefined
  connect (): Promise<unknown>
  destroy (): unknown
  sendCommand (...args: never[]): Promise<unknown>
  duplicate (options?: never): unknown
  subscribe (...args: never[]): Promise<unknown>
  unsubscribe (...args: never[]): Promise<unknown>
}

/** What is used of a `createCluster()` of `@redis/client`. */
export interface NodeRedisClusterLike extends Emitter {
  readonly isOpen: boolean
  readonly isReady: boolean
  readonly slots: object
  connect (): Promise<unknown>
  destroy (): unknown
  sendCommand (...args: never[]): Promise<unknown>
  duplicate (options?: never): unknown
  nodeClient (...args: never[]): unknown
}

/** What is used of `ioredis` and `iovalkey`. */
export interface IoRedisLike extends Emitter {
  readonly status: string
  connect (): Promise<unknown>
  disconnect (): void
  pipeline (): unknown
  duplicate (options?: never): unknown
  subscribe (...args: never[]): unknown
  unsubscribe (...args: never[]): unknown
}

/** RESP's bulk strings, `$`, are bytes. No timer for each command, which costs a quarter of it: there are deadlines of our own. */
export const BYTES = { typeMapping: { 36: Buffer }, timeout: 0 }

export interface NodeRedisCalls extends Emitter, Pick<NodeRedisLike, 'isOpen' | 'isReady' | 'connect' | 'destroy'> {
  readonly options?: { socket?: object }
  sendCommand (command: Command, options: object): Promise<unknown>
  duplicate (options: object): NodeRedisCalls
  subscribe (channels: string[], listener: (message: Buffer, channel: Buffer) => void, bytes: true): Promise<unknown>
  unsubscribe (channels: string[]): Promise<unknown>
  sSubscribe: NodeRedisCalls['subscribe']
  sUnsubscribe: NodeRedisCalls['unsubscribe']
}

export interface IoRedisCalls extends Emitter, Pick<IoRedisLike, 'status' | 'connect' | 'disconnect'> {
  pipeline (): { callBuffer (...command: Command): unknown, exec (): Promise<Array<[Error | null, unknown]>> }
  duplicate (options: object): IoRedisCalls
  subscribe (...channels: string[]): Promise<unknown>
  unsubscribe (...channels: string[]): Promise<unknown>
}

const FAREWELL = 1_000 // milliseconds that what was sent last may take

/** Ends it when what it was given before is answered. What the libraries have for that waits for ever where no answer comes. */
export async function close (client: Client): Promise<void> {
  if (client.ready) {
    let timer: NodeJS.Timeout | undefined
    const late = new Promise((resolve) => { timer = setTimeout(resolve, FAREWELL) })
    await Promise.race([client.run([['PING']]), late])
    clearTimeout(timer)
  }
  client.destroy()
}

/**
 * Errors of one of `@redis/client` do not end the process when nobody watches it. It has to be before all others: what `createClient()`
 * gives only inherits from what emits, so where its last handler is taken away that stays, and those that come later are never called.
 */
export function calm (emitter: Emitter): void { emitter.on('error', () => {}) }

/** Gives what ends it. */
export function listen (emitter: Emitter, handlers: Record<string, Handler>): () => void {
  for (const [name, handler] of Object.entries(handlers)) emitter.on(name, handler)
  return () => { for (const [name, handler] of Object.entries(handlers)) emitter.off(name, handler) }
}
