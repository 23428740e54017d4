import { Buffer } from 'node:buffer' // the global one is a getter, asked each time
import type { Prepared, Sendable } from '../types/api.ts'
import type { RealEvent } from '../types/transport.ts'
import { isBuiltIn, kindOf } from './arguments.ts'
import { DataError, EventError, TooLargeError } from './errors.ts'
import { Framed } from './frame.ts'

/** What an event that is not checked yet is checked with. */
export interface Checks {
  readonly maxBytes: number
  readonly serialize?: ((data: unknown) => string) | undefined
}

const FIELDS = new Set(['event', 'data', 'id', 'retry', 'comment'])
const MAX_ID = 512
const unchecked: Checks = { maxBytes: Infinity }

/** An event, checked, its data fixed as text once for all transports, nodes and replays. */
export class CheckedEvent implements RealEvent {
  event: string | undefined = undefined
  text: string | undefined = undefined
  json = false
  bytes: Uint8Array | undefined = undefined
  id: string | undefined = undefined
  retry: number | undefined = undefined
  comment: string | undefined = undefined
  /** Where it stands in the sequence, once it is kept; 0 before. */
  offset = 0
  /** Identity of the sequence. */
  epoch = ''
  #size = -1
  #framed: Framed | null = null

  /** Something a client dispatches; what is not is never kept. */
  get hasData (): boolean { return this.text !== undefined || this.bytes !== undefined }

  /** Bytes of the data; counted when somebody asks, as for what a source gives nobody does. */
  get size (): number {
    if (this.#size === -1) this.#size = this.text === undefined ? this.bytes?.byteLength ?? 0 : Buffer.byteLength(this.text)
    return this.#size
  }

  /** No more bytes than `limit`. No character needs more than three, so mostly none are counted. */
  fits (limit: number): boolean { return (this.text !== undefined && this.text.length * 3 <= limit) || this.size <= limit }

  /** Not a field: as long as it is kept, it would weigh 80 bytes more. */
  get cursor (): string | undefined { return this.offset === 0 ? undefined : formatCursor(this.epoch, this.offset) }

  /** It and its frames where it is not kept: sent to one connection, or often. */
  get framed (): Framed { return (this.#framed ??= new Framed(this, 0)) }

  /** The same event at a place in the sequence. */
  at (epoch: string, offset: number): CheckedEvent {
    const placed = this.#copy(this.id)
    placed.epoch = epoch
    placed.offset = offset
    return placed
  }

  /** The same event with nothing that moves the client's place. */
  placeless (): CheckedEvent { return this.#copy(undefined) }

  #copy (id: string | undefined): CheckedEvent {
    const copy = new CheckedEvent()
    copy.event = this.event
    copy.text = this.text
    copy.json = this.json
    copy.bytes = this.bytes
    copy.id = id
    copy.retry = this.retry
    copy.comment = this.comment
    copy.#size = this.#size
    return copy
  }
}

class PreparedEvent implements Prepared {
  readonly prepared = true
  readonly checked: CheckedEvent
  constructor (checked: CheckedEvent) { this.checked = checked }
}

/** Checks and encodes an event once, to be sent often. */
export function event (fields: Sendable): Prepared {
  return new PreparedEvent(toEvent(fields, unchecked))
}

/** Checks what the application gave. Throws coded errors that say the rule. */
export function toEvent (given: Sendable | CheckedEvent, checks: Checks): CheckedEvent {
  if (given instanceof CheckedEvent) return given
  if (given instanceof PreparedEvent) {
    if (!given.checked.fits(checks.maxBytes)) throw new TooLargeError(given.checked.size, checks.maxBytes)
    return given.checked
  }
  const checked = new CheckedEvent()
  if (typeof given === 'string' || given instanceof Uint8Array) {
    setData(checked, given, checks)
    return checked
  }
  if (typeof given !== 'object' || given === null || Array.isArray(given)) {
    throw noEvent(given)
  }
  for (const key in given) {
    if (key !== 'data' && !FIELDS.has(key) && Object.hasOwn(given, key)) throw new EventError(`an event has the fields event, data, id, retry and comment only, not ${JSON.stringify(key.slice(0, 50))}: send { data: … }`)
  }
  const { event, data, id, retry, comment } = given as { event?: unknown, data?: unknown, id?: unknown, retry?: unknown, comment?: unknown }
  if (event !== undefined) checked.event = checkName(event)
  if (id !== undefined) checked.id = checkId(id)
  if (retry !== undefined) {
    if (!Number.isSafeInteger(retry) || (retry as number) < 0) throw new EventError(`retry must be a non-negative integer (milliseconds), got ${kindOf(retry)}`)
    checked.retry = retry as number
  }
  if (comment !== undefined) {
    if (typeof comment !== 'string') throw new EventError(`comment must be a string, got ${kindOf(comment)}`)
    checked.comment = comment
  }
  if (data !== undefined) setData(checked, data, checks)
  else if (event !== undefined) checked.text = '' // an event without data is never dispatched (WHATWG 9.2.6), so its name would be lost
  else if (id === undefined && retry === undefined && comment === undefined) throw isBuiltIn(given) ? noEvent(given) : new EventError('an event needs at least one of event, data, id, retry and comment')
  return checked
}

function noEvent (given: unknown): Error {
  return new EventError(`an event is a string, bytes or an object with event, data, id, retry or comment; got ${kindOf(given)}: send { data: … }`)
}

function setData (checked: CheckedEvent, data: unknown, { maxBytes, serialize }: Checks): void {
  if (data instanceof Uint8Array) {
    checked.bytes = Uint8Array.prototype.slice.call(data) // the caller's buffer may be used again
  } else {
    if (typeof data === 'string' && serialize === undefined) {
      checked.text = data
    } else {
      checked.text = toJson(data, serialize)
      checked.json = true
    }
  }
  if (!checked.fits(maxBytes)) throw new TooLargeError(checked.size, maxBytes)
}

function toJson (data: unknown, serialize: Checks['serialize']): string {
  let text: string | undefined
  try {
    text = serialize === undefined ? JSON.stringify(data) : serialize(data)
  } catch (cause) {
    const error = new DataError(cause instanceof Error ? cause.message : String(cause))
    error.cause = cause
    throw error
  }
  if (text === undefined || (text === '{}' && isBuiltIn(data))) throw new DataError(`${kindOf(data)} has no JSON`)
  return text
}

function checkName (name: unknown): string {
  if (typeof name !== 'string') throw new EventError(`event must be a string, got ${kindOf(name)}`)
  checkLine('event', name)
  if (name === 'error' || name === 'open') throw new EventError(`event must not be ${JSON.stringify(name)}: an EventSource fires events of this name itself`)
  return name
}

function checkId (id: unknown): string {
  if (typeof id === 'number' && Number.isFinite(id)) return String(id)
  if (typeof id !== 'string') throw new EventError(`id must be a string or a finite number, got ${kindOf(id)}`)
  checkLine('id', id)
  if (id.length > MAX_ID) throw new EventError(`id must have at most ${MAX_ID} characters, got ${id.length}`)
  return id
}

function checkLine (field: string, value: string): void {
  if (!isLine(value)) throw new EventError(`${field} must have no CR, LF, NUL or lone surrogate`)
}

// one line in the stream: nothing in it can end the field or begin another
function isLine (value: string): boolean { return !/[\r\n\0]/.test(value) && value.isWellFormed() }

/** The value of an event's data, as the application gave it. */
export function dataOf (event: RealEvent): unknown {
  if (event.bytes !== undefined) return Buffer.from(event.bytes)
  return event.json ? JSON.parse(event.text as string) : event.text
}

export interface Cursor { epoch: string, offset: number }

export function formatCursor (epoch: string, offset: number): string {
  return `${epoch}-${offset}`
}

/** `epoch-offset`, split at the last `-`; null for anything else. */
export function parseCursor (text: string): Cursor | null {
  const match = text.length <= 64 ? /^([A-Za-z0-9_-]+)-(\d{1,15})$/.exec(text) : null
  return match === null ? null : { epoch: match[1] as string, offset: Number(match[2]) }
}

/** What a client says it saw last: undefined when it says nothing, and U+FFFD, which is no place, for what cannot have been an id of ours. */
export function checkLastEventId (value: unknown): string | undefined {
  if (value === undefined) return undefined
  return typeof value === 'string' && value.length <= MAX_ID && isLine(value) ? value : '\uFFFD'
}

/** The `lastEventId` of a query: as the application's parser made it, or as it was sent where a schema has taken it away. */
export function lastEventIdIn ({ query, raw: { url = '' } }: { readonly query: unknown, readonly raw: { readonly url?: string | undefined } }): string | undefined {
  const { lastEventId } = (query ?? {}) as { lastEventId?: unknown }
  if (lastEventId !== undefined || !url.includes('lastEventId=')) return checkLastEventId(lastEventId)
  const sent = new URLSearchParams(url.slice(url.indexOf('?') + 1)).getAll('lastEventId')
  return checkLastEventId(sent.length > 1 ? sent : sent[0])
}
