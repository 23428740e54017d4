import { Buffer } from 'node:buffer'
import type { Encoding, RealEvent } from '../../types/transport.ts'

const LINE_END = /\r\n|\r|\n/

/**
 * An event as text/event-stream. Names and ids have been checked to be one line; data and comments are split at every line end.
 * @see https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
 */
export function sseText ({ event, text, bytes, id, cursor, retry, comment }: RealEvent): string {
  if (text !== undefined && event === undefined && id === undefined && cursor === undefined && retry === undefined && comment === undefined && isLine(text)) return `data: ${text}\n\n` // most, and all that is joined is to be copied
  let out = comment === undefined ? '' : lines(':', comment)
  if (event !== undefined) out += `event: ${event}\n`
  const place = id ?? cursor
  if (place !== undefined) out += `id: ${place}\n`
  if (retry !== undefined) out += `retry: ${retry}\n`
  if (text !== undefined) out += lines('data:', text)
  else if (bytes !== undefined) out += `data: ${Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('base64')}\n`
  // no empty line where nothing is to be dispatched: clients that read themselves take it for an empty event
  const isNotice = (comment !== undefined || retry !== undefined) && event === undefined && place === undefined && text === undefined && bytes === undefined
  return isNotice ? out : out + '\n'
}

// one space after the colon always: a parser removes exactly one. Most have one line, and asking a regular expression costs 3 to 30 times as much
function lines (field: string, value: string): string {
  if (isLine(value)) return `${field} ${value}\n`
  let out = ''
  for (const line of value.split(LINE_END)) out += `${field} ${line}\n`
  return out
}

function isLine (value: string): boolean { return !value.includes('\n') && !value.includes('\r') }

/** Bytes that every client can read, wherever it came in. */
export interface SseEncoding extends Encoding {
  /** Begins each stream. */
  readonly head: Uint8Array | null
  text (event: RealEvent): string
  pack (text: string): Uint8Array
}

export function sseEncoding (name: string, pack: (text: string) => Buffer, head: Buffer | null = null): SseEncoding {
  return { name, head, text: sseText, pack, frame: (event) => pack(sseText(event)) }
}

/** For a response that frames its own body: HTTP/2, HTTP/1.0, inject. */
export const sse = sseEncoding('sse', (text) => Buffer.from(text))

/** With the header of an HTTP/1.1 chunk, so that one shared buffer goes straight to every socket. RFC 9112, section 7.1. */
export const sseChunked = sseEncoding('sse-chunked', chunk)

export function chunk (body: string | Uint8Array): Buffer {
  const length = Buffer.byteLength(body)
  const size = `${length.toString(16)}\r\n`
  const bytes = Buffer.allocUnsafe(size.length + length + 2)
  bytes.write(size, 'latin1')
  if (typeof body !== 'string') bytes.set(body, size.length)
  else bytes.write(body, size.length, length === body.length ? 'latin1' : 'utf8')
  bytes.write('\r\n', size.length + length, 'latin1')
  return bytes
}
