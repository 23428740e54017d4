import { Reader } from '../options.ts'
import type { IoRedisLike, NodeRedisClusterLike, NodeRedisLike } from './redis-library.ts'

export interface RedisOptions {
  /** A client of `@redis/client`, `ioredis` or `iovalkey`, or a cluster of `@redis/client`; open or not. What subscribes is a `duplicate()` of it; one that was open stays open. */
  client: NodeRedisLike | NodeRedisClusterLike | IoRedisLike
  /** Before the names of all keys and channels, as their hash tag: one for each application. Default: `fastify-real`. */
  prefix?: string | undefined
  /** When there is no Redis at the start: `connections` does not register, or goes on without until there is. Default: `fail`. */
  onUnavailable?: 'fail' | 'degrade' | undefined
  /** What is sent while there is no Redis waits, or is refused; `accepted` of the receipt tells. Default: `queue`. */
  whenAway?: 'queue' | 'refuse' | undefined
  /** Bounds of what waits or is on its way; what is over them is refused. Default: 50_000 events, 64 MiB. */
  queue?: { events?: number | undefined, bytes?: number | undefined } | undefined
  /** Milliseconds after which what waits is refused, and the start fails. Default: 10_000; the start never waits longer than 5_000. */
  timeout?: number | undefined
  /** Milliseconds between two looks for what was lost on the way. Default: 5_000. */
  audit?: number | undefined
  /** Topics whose last offset is remembered while nothing of them is kept. Default: 100_000. */
  topics?: number | undefined
  /** Bytes of an event as it travels; a larger one is refused. Default: 16 MiB. */
  maxBytes?: number | undefined
  /** Bytes of what comes while it has to be found out what was lost on the way; what is kept beyond them is read from the log. Default: 16 MiB. */
  maxHeld?: number | undefined
}

export interface RedisSettings {
  prefix: string
  onUnavailable: 'fail' | 'degrade'
  whenAway: 'queue' | 'refuse'
  queue: { events: number, bytes: number }
  timeout: number
  audit: number
  topics: number
  maxBytes: number
  maxHeld: number
}

const MiB = 1_048_576

export function checkRedis (given: RedisOptions): RedisSettings {
  const reader = new Reader(given, 'redis.', ['client'])
  const prefix = reader.take('prefix', 'fastify-real')
  if (typeof prefix !== 'string' || !/^[^{}\s]{1,64}$/.test(prefix)) reader.fail('prefix', 'must be a string of 1 to 64 characters, without braces and blanks')
  const queue = reader.group('queue')
  const settings: RedisSettings = {
    prefix: prefix as string,
    onUnavailable: reader.oneOf('onUnavailable', 'fail', ['fail', 'degrade']),
    whenAway: reader.oneOf('whenAway', 'queue', ['queue', 'refuse']),
    queue: { events: queue.number('events', 50_000, { min: 1 }), bytes: queue.number('bytes', 64 * MiB, { min: 1, unit: 'bytes' }) },
    timeout: reader.milliseconds('timeout', 10_000, 1),
    audit: reader.milliseconds('audit', 5_000, 1),
    topics: reader.number('topics', 100_000, { min: 1 }),
    maxBytes: reader.number('maxBytes', 16 * MiB, { min: 1, unit: 'bytes' }),
    maxHeld: reader.number('maxHeld', 16 * MiB, { min: 1, unit: 'bytes' })
  }
  queue.done()
  reader.done()
  return Object.freeze(settings)
}
