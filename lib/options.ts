import type { FastifyRequest } from 'fastify'
import type { AllowedOrigins, ConnectionsOptions, SseOptions, Topic, WsOptions } from '../types/api.ts'
import type { Kept } from '../types/backplane.ts'
import { isBuiltIn } from './arguments.ts'
import { OptionError } from './errors.ts'

const MiB = 1_048_576

/** Every default. Milliseconds and bytes are plain numbers; `0` and `false` are off. */
export const defaults = Object.freeze({
  history: Object.freeze({ events: 100, bytes: MiB, age: 120_000, totalBytes: 64 * MiB, rooms: 100_000 }),
  slow: 'close',
  maxBuffered: MiB,
  hold: 1_000,
  heartbeat: 15_000,
  presence: Object.freeze({ timeout: 15_000 }),
  drain: Object.freeze({ within: 5_000, grace: 5_000 }),
  maxConnections: 0,
  maxPerUser: 0,
  maxPerAddress: 0,
  maxRooms: 100,
  maxEventBytes: MiB,
  sse: Object.freeze({ accept: 'sse', retry: 0, maxAge: 900_000, inactivity: 0, headStart: 20, compression: false }),
  ws: Object.freeze({ maxPayload: MiB, maxPending: 16, messageRate: 0, compression: false })
} as const)

/** What Fastify itself puts among a plugin's options. */
export const FASTIFY = ['prefix', 'logLevel', 'logSerializers']
const HANDLERS = ['onConnect', 'onMessage', 'onDisconnect', 'onError']

export interface RegistryOptions {
  identify: NonNullable<ConnectionsOptions['identify']> | null
  /** What is kept of a topic; null for nothing. */
  keep: (topic: Topic) => Kept | null
  /** What is kept of every topic, where that is the same. */
  keeps: Kept | null | 'varies'
  memory: { totalBytes: number, rooms: number }
  slow: 'close' | 'drop' | 'catch-up'
  maxBuffered: number
  hold: number
  heartbeat: number
  presence: { timeout: number }
  drain: { within: number, grace: number }
  maxConnections: number
  maxPerUser: number
  maxPerAddress: number
  maxRooms: number
  maxEventBytes: number
}

type Given = Record<string, unknown>

/** Options of one plugin or route, read one by one; `done` refuses what was not asked for. */
export class Reader {
  readonly #given: Given
  readonly #path: string
  readonly #known: Set<string>

  constructor (given: unknown, path: string, known: string[] = []) {
    this.#known = new Set(known)
    if (typeof given !== 'object' || given === null || isBuiltIn(given)) throw new OptionError(path === '' ? 'connections' : path.slice(0, -1), 'must be an object')
    this.#given = given as Given
    this.#path = path
  }

  take (name: string, fallback?: unknown): unknown {
    this.#known.add(name)
    return this.#given[name] === undefined ? fallback : this.#given[name]
  }

  fail (name: string, rule: string): never { throw new OptionError(this.#path + name, rule) }

  number (name: string, fallback: number, { min = 0, unit = '' }: { min?: number, unit?: string } = {}): number {
    const value = this.take(name, fallback)
    if (value === false && min === 0) return 0
    if (!Number.isSafeInteger(value) || (value as number) < min) this.fail(name, `must be ${min === 0 ? 'a non-negative' : 'a positive'} integer${unit === '' ? '' : ` (${unit}${min === 0 ? '; 0 is off' : ''})`}, got ${show(value)}`)
    return value as number
  }

  milliseconds (name: string, fallback: number, min: number = 0): number {
    const value = this.number(name, fallback, { min, unit: 'milliseconds' })
    if (value > 2_147_483_647) this.fail(name, 'must be at most 2147483647 milliseconds') // what a timer can wait
    return value
  }

  flag<F extends boolean | undefined> (name: string, fallback: F): boolean | F {
    const value = this.take(name)
    if (value === undefined) return fallback
    if (typeof value !== 'boolean') this.fail(name, `must be true or false, got ${show(value)}`)
    return value
  }

  oneOf<T extends string> (name: string, fallback: T, values: readonly T[]): T {
    const value = this.take(name, fallback)
    if (!values.includes(value as T)) this.fail(name, `must be one of ${values.join(', ')}, got ${show(value)}`)
    return value as T
  }

  function<T> (name: string): T | undefined {
    const value = this.take(name)
    if (value !== undefined && typeof value !== 'function') this.fail(name, `must be a function, got ${show(value)}`)
    return value as T | undefined
  }

  group (name: string): Reader { return new Reader(this.take(name, {}), `${this.#path}${name}.`) }

  origins (): AllowedOrigins | undefined {
    const value = this.take('allowedOrigins')
    if (value === undefined || typeof value === 'function') return value as AllowedOrigins | undefined
    if (!Array.isArray(value) || value.some((origin) => typeof origin !== 'string')) this.fail('allowedOrigins', 'must be an array of origins or a function')
    for (const origin of value as string[]) if (!isOrigin(origin)) this.fail('allowedOrigins', `must hold origins like https://example.com, got ${show(origin)}`)
    return value as string[]
  }

  done (): void {
    const known = [...this.#known].filter((name) => !FASTIFY.includes(name)).join(', ')
    for (const name of Object.keys(this.#given)) if (!this.#known.has(name)) this.fail(name, `is not known; known: ${known}`)
  }
}

function show (value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.slice(0, 50))
  return value !== null && (typeof value === 'object' || typeof value === 'function') ? typeof value : String(value)
}

// as a browser writes it, since it is compared as it is; a scheme of an app (capacitor:, chrome-extension:) has none in URL
function isOrigin (text: string): boolean {
  if (text === 'null') return true
  if (text.includes('*') || !URL.canParse(text)) return false
  const { origin } = new URL(text)
  return origin === text || (origin === 'null' && /^[a-z][a-z0-9+.-]*:\/\/[^/?#@\s]*$/.test(text))
}

export function checkConnections (given: ConnectionsOptions): RegistryOptions {
  const reader = new Reader(given, '', FASTIFY)
  const backplane = reader.take('backplane') as { publish?: unknown } | null | undefined
  if (backplane !== undefined && typeof backplane?.publish !== 'function') reader.fail('backplane', 'must be a backplane, like memory()')
  const options: RegistryOptions = {
    identify: reader.function<RegistryOptions['identify']>('identify') ?? null,
    ...history(reader),
    slow: reader.oneOf('slow', defaults.slow, ['close', 'drop', 'catch-up']),
    maxBuffered: reader.number('maxBuffered', defaults.maxBuffered, { min: 1, unit: 'bytes' }),
    hold: reader.milliseconds('hold', defaults.hold),
    heartbeat: reader.milliseconds('heartbeat', defaults.heartbeat),
    presence: presence(reader.group('presence')),
    drain: drain(reader.group('drain')),
    maxConnections: reader.number('maxConnections', defaults.maxConnections),
    maxPerUser: reader.number('maxPerUser', defaults.maxPerUser),
    maxPerAddress: reader.number('maxPerAddress', defaults.maxPerAddress),
    maxRooms: reader.number('maxRooms', defaults.maxRooms),
    maxEventBytes: reader.number('maxEventBytes', defaults.maxEventBytes, { min: 1, unit: 'bytes' })
  }
  reader.done()
  return Object.freeze(options)
}

function presence (group: Reader): { timeout: number } {
  const timeout = group.milliseconds('timeout', defaults.presence.timeout, 1)
  group.done()
  return Object.freeze({ timeout })
}

function drain (group: Reader): { within: number, grace: number } {
  const within = group.milliseconds('within', defaults.drain.within)
  const grace = group.milliseconds('grace', defaults.drain.grace)
  group.done()
  return Object.freeze({ within, grace })
}

function history (reader: Reader): Pick<RegistryOptions, 'keep' | 'keeps' | 'memory'> {
  const given = reader.take('history')
  const { totalBytes, rooms } = defaults.history
  const memory = Object.freeze({ totalBytes, rooms })
  if (given === false) return { keep: () => null, keeps: null, memory }
  if (typeof given === 'function') {
    const choose = given as (topic: Topic) => unknown
    return {
      memory,
      keeps: 'varies',
      keep (topic) {
        const chosen = choose(topic)
        return chosen === false ? null : limits(new Reader(chosen, 'history().'))
      }
    }
  }
  const group = reader.group('history')
  const bounds = memoryBounds(group)
  const keep = limits(group)
  return { keep: () => keep, keeps: keep, memory: bounds }
}

function memoryBounds (group: Reader): RegistryOptions['memory'] {
  const { totalBytes, rooms } = defaults.history
  return Object.freeze({ totalBytes: group.number('totalBytes', totalBytes, { min: 1, unit: 'bytes' }), rooms: group.number('rooms', rooms, { min: 1 }) })
}

function limits (group: Reader): Kept {
  const { events, bytes, age } = defaults.history
  const kept = {
    events: group.number('events', events, { min: 1 }),
    bytes: group.number('bytes', bytes, { min: 1, unit: 'bytes' }),
    age: group.number('age', age, { min: 1, unit: 'milliseconds' })
  }
  group.done()
  return Object.freeze(kept)
}

export function checkMemory (given: object): RegistryOptions['memory'] {
  const group = new Reader(given, 'memory.')
  const bounds = memoryBounds(group)
  group.done()
  return bounds
}

export interface SseSettings {
  accept: 'sse' | 'dual'
  retry: number
  maxAge: number
  inactivity: number
  headStart: number
  allowedOrigins: AllowedOrigins | undefined
  broadcast: boolean | undefined
  compression: boolean
}

/** Options of `sseReal`, of a route over those of its plugin, or of one reply over those of its route. */
export function checkSse (given: SseOptions, path: string, over: SseSettings | null): SseSettings {
  const reader = new Reader(given, path, over === null ? FASTIFY : [])
  const isReply = path === 'reply.sse.'
  const base = over ?? { ...defaults.sse, allowedOrigins: undefined, broadcast: undefined }
  const settings: SseSettings = {
    accept: isReply ? base.accept : reader.oneOf('accept', base.accept, ['sse', 'dual']),
    retry: reader.milliseconds('retry', base.retry),
    maxAge: reader.milliseconds('maxAge', base.maxAge),
    inactivity: reader.milliseconds('inactivity', base.inactivity),
    headStart: reader.milliseconds('headStart', base.headStart),
    allowedOrigins: (isReply ? undefined : reader.origins()) ?? base.allowedOrigins,
    broadcast: reader.flag('broadcast', base.broadcast),
    compression: reader.flag('compression', base.compression)
  }
  if (isReply) reader.function('map')
  reader.done()
  return Object.freeze(settings)
}

export interface WsSettings {
  maxPayload: number
  maxPending: number
  messageRate: number
  protocols: string[] | ((offered: Set<string>, request: FastifyRequest) => string | false) | undefined
  allowedOrigins: AllowedOrigins | undefined
  broadcast: boolean
  compression: boolean
}

/** Options of `wsReal`, or of a route over those of its plugin. */
export function checkWs (given: WsOptions, path: string, over: WsSettings | null): WsSettings {
  const reader = new Reader(given, path, over === null ? FASTIFY : [])
  const base = over ?? { ...defaults.ws, protocols: undefined, allowedOrigins: undefined, broadcast: true }
  const protocols = reader.take('protocols')
  if (protocols !== undefined && typeof protocols !== 'function' && (!Array.isArray(protocols) || protocols.some((name) => typeof name !== 'string' || !/^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/.test(name)))) {
    reader.fail('protocols', 'must be an array of subprotocol names or a function')
  }
  const settings: WsSettings = {
    maxPayload: reader.number('maxPayload', base.maxPayload, { min: 1, unit: 'bytes' }),
    maxPending: reader.number('maxPending', base.maxPending, { min: 1 }),
    messageRate: reader.number('messageRate', base.messageRate),
    protocols: (protocols as WsSettings['protocols']) ?? base.protocols,
    allowedOrigins: reader.origins() ?? base.allowedOrigins,
    broadcast: reader.flag('broadcast', base.broadcast),
    compression: reader.flag('compression', base.compression)
  }
  if (over !== null) for (const name of HANDLERS) reader.function(name)
  reader.done()
  return Object.freeze(settings)
}
