import type { Parcel, Spared } from '../types/backplane.ts'
import { toEvent } from './event.ts'
import type { CheckedEvent } from './event.ts'

/** Who sent a parcel, and the how manieth of theirs it is: it comes back to them by it, and is known when it comes twice. */
export interface Sender { readonly from: string, readonly count: number }

/** A parcel as another node sent it. Its place is for the backplane to say, by `event.at`. */
export interface Received extends Parcel, Sender { readonly event: CheckedEvent }

/** The head, as JSON: what is beside the data. */
interface Head { f: string, n: number, k: number, e?: string | undefined, i?: string | undefined, r?: number | undefined, c?: string | undefined, x?: [ids: string[], users: string[]] }

const VERSION = 1
const START = 5 // version, length of the head
const NONE = 0
const TEXT = 1
const JSON_TEXT = 2
const BYTES = 3
const any = { maxBytes: Infinity }

/** A parcel as bytes, made once for all nodes and all that is kept of it. The data stays as it is: no JSON in JSON, no base64. */
export function encodeParcel ({ event, except }: Parcel, { from, count }: Sender): Buffer {
  const { event: e, id: i, retry: r, comment: c, text, bytes } = event
  const head: Head = { f: from, n: count, k: bytes !== undefined ? BYTES : text === undefined ? NONE : event.json ? JSON_TEXT : TEXT, e, i, r, c }
  if (except !== null) head.x = [except.ids, except.users]
  const fields = JSON.stringify(head)
  const length = Buffer.byteLength(fields)
  const size = bytes !== undefined ? bytes.byteLength : text === undefined ? 0 : Buffer.byteLength(text)
  const encoded = Buffer.allocUnsafe(START + length + size)
  encoded[0] = VERSION
  encoded.writeUInt32BE(length, 1)
  encoded.write(fields, START)
  if (bytes !== undefined) encoded.set(bytes, START + length)
  else if (text !== undefined) encoded.write(text, START + length)
  return encoded
}

/** Throws an error that says why where it is no parcel: what comes from a broker may be anything. */
export function decodeParcel (encoded: Buffer, maxBytes: number): Received {
  if (encoded.length > maxBytes) throw new Error(`a parcel has ${encoded.length} bytes, more than ${maxBytes}`)
  if (encoded.length < START) throw new Error('a parcel ends early')
  if (encoded[0] !== VERSION) throw new Error(`a parcel of version ${encoded[0]}; this is ${VERSION}`)
  const end = START + encoded.readUInt32BE(1)
  if (end > encoded.length) throw new Error('a parcel ends early')
  const head = JSON.parse(encoded.toString('utf8', START, end)) as Head | null
  if (head === null || typeof head.f !== 'string' || !Number.isSafeInteger(head.n)) throw new Error('a parcel has no sender')
  const { f: from, n: count, k, e, i, r, c } = head
  const data = k === BYTES ? encoded.subarray(end) : k === TEXT || k === JSON_TEXT ? encoded.toString('utf8', end) : undefined
  if (data === undefined && (k !== NONE || end !== encoded.length)) throw new Error('a parcel has data of no known kind')
  const event = toEvent({ event: e, data, id: i, retry: r, comment: c }, any)
  event.json = k === JSON_TEXT
  return { from, count, event, except: head.x === undefined ? null : sparedOf(head.x) }
}

function sparedOf (given: unknown): Spared {
  const [ids, users] = Array.isArray(given) ? given as unknown[] : []
  if (!isTexts(ids) || !isTexts(users)) throw new Error('a parcel spares nobody known')
  return { ids, users }
}

function isTexts (given: unknown): given is string[] { return Array.isArray(given) && given.every((one) => typeof one === 'string') }
