import type { Except, SendOptions } from '../types/api.ts'
import type { Spared } from '../types/backplane.ts'
import type { CloseReason } from '../types/transport.ts'
import { closeText, isCloseCode } from './close-reasons.ts'
import { ArgumentError, RoomNameError } from './errors.ts'

const DEEPER = 32

/** A name of a room or user: a well-formed string of 1 to 256 characters, none of them a control character. */
export function checkRoomName (name: unknown): string {
  if (typeof name !== 'string') throw new RoomNameError(`must be a string, got ${kindOf(name)}`)
  if (name.length === 0 || name.length > 256) throw new RoomNameError(`must have 1 to 256 characters, got ${name.length}`)
  // eslint-disable-next-line no-control-regex
  if (/[\x00-\x1f\x7f]/.test(name) || !name.isWellFormed()) throw new RoomNameError('must have no control character or lone surrogate')
  return name
}

export function checkId (id: unknown): string {
  if (typeof id !== 'string') throw new ArgumentError('id', `must be that of a connection, a string, got ${kindOf(id)}`)
  return id
}

export function checkOptions<O extends object> (options: O, known: ReadonlyArray<keyof O & string>): O {
  if (typeof options !== 'object' || options === null || isBuiltIn(options)) throw new ArgumentError('options', `must be an object, got ${kindOf(options)}`)
  return checkKeys(options, known, 'options')
}

export function checkSend (options: SendOptions): SendOptions {
  const { once } = checkOptions(options, ['except', 'once'])
  if (once !== undefined && typeof once !== 'boolean') throw new ArgumentError('once', `must be true or false, got ${kindOf(once)}`)
  return options
}

function checkKeys<O extends object> (given: O, known: readonly string[], name: string): O {
  for (const key of Object.keys(given)) if (!known.includes(key)) throw new ArgumentError(`${name}.${key}`, `is not known; known: ${known.join(', ')}`)
  return given
}

export function checkLimit (limit: unknown): number {
  if (limit === undefined) return Infinity
  if (!Number.isSafeInteger(limit) || (limit as number) < 1) throw new ArgumentError('limit', 'must be a positive integer')
  return limit as number
}

export function checkClose (code: unknown, reason: unknown): CloseReason {
  if (!isCloseCode(code)) throw new ArgumentError('code', `must be a close code an endpoint may send (1000 to 1014 or 3000 to 4999), got ${typeof code === 'object' ? kindOf(code) : String(code)}`)
  return { code, reason: checkReason(reason) }
}

export function checkReason (reason: unknown): string {
  if (typeof reason !== 'string') throw new ArgumentError('reason', 'must be a string')
  return closeText(reason)
}

/** Whom an event spares, as it travels. */
export function sparedOf (except: Except | undefined): Spared | null {
  if (except === undefined) return null
  const spared: Spared = { ids: [], users: [] }
  for (const one of Array.isArray(except) ? except : [except]) {
    if (typeof one === 'string') spared.ids.push(one)
    else if (typeof one !== 'object' || one === null) throw new ArgumentError('except', 'takes connections, connection ids, { user } or an array of these')
    else if ('id' in one && typeof one.id === 'string') spared.ids.push(one.id)
    else if ('user' in one && typeof one.user === 'string') spared.users.push(one.user)
    else throw new ArgumentError('except', 'takes connections, connection ids, { user } or an array of these')
  }
  return spared
}

/** What stands behind a name in a room's presence; `key` is null for one that only watches. */
export interface Entry { readonly key: string | null, readonly meta: unknown }

export function entryOf (user: string | null, presence: true | { key?: string | undefined, meta?: unknown }, maxBytes: number = Infinity): Entry {
  if (presence === true) return { key: null, meta: null }
  if (typeof presence !== 'object' || presence === null) throw new ArgumentError('presence', 'must be true or { key, meta }')
  const { key = user, meta = null } = checkKeys(presence, ['key', 'meta'], 'presence')
  if (key === null) throw new ArgumentError('presence.key', 'is needed where the connection has no user')
  if (typeof key !== 'string' || key === '' || key.length > 256) throw new ArgumentError('presence.key', 'must be a string of 1 to 256 characters')
  const text = metaText(meta)
  if (Buffer.byteLength(text) > maxBytes) throw new ArgumentError('presence.meta', `must have at most maxEventBytes (${maxBytes})`)
  return { key, meta: JSON.parse(text) as unknown } // what the caller changes later is not announced
}

// nested deeper than it will be when it is told: JSON.stringify has an end, and is not to find it then
function metaText (meta: unknown): string {
  let nested: unknown = { meta }
  for (let i = 0; i < DEEPER; i++) nested = [nested]
  let text: string
  try {
    text = JSON.stringify(nested)
  } catch (cause) {
    throw new ArgumentError('presence.meta', `must be JSON: ${String(cause)}`)
  }
  const bare = text.slice(DEEPER + '{"meta":'.length, -DEEPER - '}'.length)
  if (bare === '' || (bare === '{}' && isBuiltIn(meta))) throw new ArgumentError('presence.meta', 'must be JSON')
  return bare
}

/** It can be awaited: a query builder is no Promise. */
export function isThenable<T> (value: unknown): value is PromiseLike<T> {
  return typeof value === 'object' && value !== null && typeof (value as { then?: unknown }).then === 'function'
}

/** A Map, a Date, a promise, bytes: what is looked for among the fields of an object is not there, nor in its JSON. */
export function isBuiltIn (value: unknown): value is object {
  return typeof value === 'object' && value !== null && Object.getPrototypeOf(value) !== Object.prototype && !/^(?:Object|Module)$/.test(tagOf(value))
}

export function kindOf (value: unknown): string {
  if (isBuiltIn(value)) return Array.isArray(value) ? 'an array' : tagOf(value)
  return value === null ? 'null' : typeof value === 'number' ? String(value) : typeof value
}

function tagOf (value: object): string { return Object.prototype.toString.call(value).slice('[object '.length, -1) }
