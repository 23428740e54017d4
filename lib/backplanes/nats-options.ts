import type { ConnectionOptions, NatsConnection } from '@nats-io/transport-node'
import type { Kept, Node } from '../../types/backplane.ts'
import { OptionError } from '../errors.ts'
import { defaults, Reader } from '../options.ts'

/** What keeps the client from giving up, and lets it notice a server that is silent. */
export const safe = Object.freeze({
  maxReconnectAttempts: -1,
  reconnectTimeWait: 500,
  reconnectJitter: 250,
  timeout: 5_000,
  pingInterval: 5_000,
  maxPingOut: 2,
  noEcho: false,
  ignoreAuthErrorAbort: true
} satisfies ConnectionOptions)

export interface NatsOptions {
  /**
   * A connection of `@nats-io/transport-node`, which stays open when the server closes; or a function that makes one with the options
   * it is given, `(safe) => connect({ servers, ...safe })`: it is called again when the connection cannot be made or has closed for good.
   */
  connection: NatsConnection | ((safe: ConnectionOptions) => NatsConnection | Promise<NatsConnection>)
  /** Name of the stream and first token of every subject: one for each application. Default: `fastify-real`. */
  name?: string | undefined
  /**
   * What JetStream keeps, the same of every room: events of each, milliseconds, and bytes of all together. Default: `events` and `age`
   * of the `history` of `connections`, which must not exceed them, and 256 MiB. Needed where that `history` is a function.
   */
  history?: { events?: number | undefined, age?: number | undefined, totalBytes?: number | undefined } | undefined
  /** Milliseconds for which the stream remembers what was before that age, so that a quiet room can be proven complete. Default: 1 hour, at least the age. */
  remember?: number | undefined
  /** Where the stream is. Default: `file`. */
  storage?: 'file' | 'memory' | undefined
  /** Servers that have it. Default: 1. */
  replicas?: number | undefined
  /**
   * What of the kept events a node is sent: those of its rooms, or all of them. Before 2.10 a server may hand on what several nodes
   * send at the same time in another order than it kept it: only who is sent all can put it right. Default: `auto`, by the version of the server.
   */
  follow?: 'auto' | 'rooms' | 'all' | undefined
  /** At the start: `fail` rejects (the default), `degrade` starts without the server and goes on trying. */
  onUnavailable?: 'fail' | 'degrade' | undefined
  /** What is sent while the server is away waits for it (`queue`, the default) or is refused at once. */
  whenAway?: 'queue' | 'refuse' | undefined
  /** Bytes that may wait for the server; what is sent beyond is refused. Default: 8 MiB. */
  maxPending?: number | undefined
  /** Milliseconds after which what the server has not acknowledged is refused, and a start fails. Default: 5_000. */
  timeout?: number | undefined
  /** Milliseconds between two looks for what did not come, give or take a fifth. Default: 15_000. */
  audit?: number | undefined
  /** Milliseconds of silence after which the connection is tried, and as long again until it is made anew. Default: 5_000. */
  probe?: number | undefined
}

export interface NatsSettings {
  connection: NatsOptions['connection']
  name: string
  history: { events: number | undefined, age: number | undefined, totalBytes: number }
  remember: number
  storage: 'file' | 'memory'
  replicas: number
  follow: 'auto' | 'rooms' | 'all'
  onUnavailable: 'fail' | 'degrade'
  whenAway: 'queue' | 'refuse'
  maxPending: number
  timeout: number
  audit: number
  probe: number
}

/** What the stream keeps of each subject. */
export interface Bounds { readonly events: number, readonly age: number }

const PATH = 'nats.'

export function checkNats (given: NatsOptions): NatsSettings {
  const reader = new Reader(given, PATH)
  const connection = reader.take('connection') as NatsOptions['connection'] | null | undefined
  if (typeof connection !== 'function' && typeof connection?.publish !== 'function') reader.fail('connection', 'must be a connection of @nats-io/transport-node, or a function that makes one')
  if (typeof connection !== 'function' && (connection as { options?: ConnectionOptions }).options?.noEcho === true) reader.fail('connection', 'must be made without noEcho: what a node sends comes back to it through the server')
  const name = reader.take('name', 'fastify-real')
  if (typeof name !== 'string' || !/^[A-Za-z0-9_-]{1,64}$/.test(name)) reader.fail('name', 'must be 1 to 64 of A-Z, a-z, 0-9, _ and -')
  const group = reader.group('history')
  const isGiven = (key: string): boolean => group.take(key) !== undefined
  const settings: NatsSettings = {
    connection: connection as NatsOptions['connection'],
    name: name as string,
    history: { events: isGiven('events') ? group.number('events', 0, { min: 1 }) : undefined, age: isGiven('age') ? group.milliseconds('age', 0, 1) : undefined, totalBytes: group.number('totalBytes', 268_435_456, { min: 1, unit: 'bytes' }) },
    remember: reader.milliseconds('remember', 3_600_000, 1),
    storage: reader.oneOf('storage', 'file', ['file', 'memory']),
    replicas: replicas(reader),
    follow: reader.oneOf('follow', 'auto', ['auto', 'rooms', 'all']),
    onUnavailable: reader.oneOf('onUnavailable', 'fail', ['fail', 'degrade']),
    whenAway: reader.oneOf('whenAway', 'queue', ['queue', 'refuse']),
    maxPending: reader.number('maxPending', 8_388_608, { min: 1, unit: 'bytes' }),
    timeout: reader.milliseconds('timeout', 5_000, 1),
    audit: reader.milliseconds('audit', 15_000, 1),
    probe: reader.milliseconds('probe', 5_000, 1)
  }
  group.done()
  reader.done()
  return Object.freeze(settings)
}

function replicas (reader: Reader): number {
  const count = reader.number('replicas', 1, { min: 1 })
  if (count > 5) reader.fail('replicas', `must be at most 5, as JetStream says, got ${count}`)
  return count
}

/** A connection that was passed in comes back however long the server is away; where that cannot be told it is believed. */
export function isPersistent (connection: NatsOptions['connection']): boolean {
  const { options } = connection as { options?: ConnectionOptions }
  return options === undefined || (options.reconnect !== false && options.maxReconnectAttempts === -1)
}

/** JetStream's bounds are those of the stream: what a node wants to keep beyond them is refused. */
export function boundsOf ({ history }: NatsSettings, keeps: Node['keeps']): Bounds {
  if (keeps === 'varies' && (history.events === undefined || history.age === undefined)) throw new OptionError('nats.history', 'must say events and age where the history of connections is a function: a stream keeps the same of every room')
  const wanted = keeps === 'varies' || keeps === null || keeps === undefined ? defaults.history : keeps
  const bounds = { events: history.events ?? wanted.events, age: history.age ?? wanted.age }
  checkWithin(bounds, keeps)
  return bounds
}

export function checkWithin (bounds: Bounds, wanted: Node['keeps']): void {
  if (wanted === undefined || wanted === null || wanted === 'varies') return
  checkKept(bounds, wanted)
}

export function checkKept (bounds: Bounds, wanted: Kept): void {
  for (const key of ['events', 'age'] as const) {
    if (wanted[key] > bounds[key]) throw new OptionError(`history.${key}`, `(${wanted[key]}) is more than the stream keeps of a room: raise nats.history.${key} (${bounds[key]})`)
  }
}

/** What is kept of a topic within what is kept of all. */
export function within (bounds: Bounds, keep: Kept): Kept {
  return keep.events <= bounds.events && keep.age <= bounds.age ? keep : { events: Math.min(keep.events, bounds.events), bytes: keep.bytes, age: Math.min(keep.age, bounds.age) }
}
