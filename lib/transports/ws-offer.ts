import type { IncomingMessage } from 'node:http'
import * as ws from 'ws'
import { UpgradeError } from '../errors.ts'

const NAME = 'permessage-deflate'
const FLAGS = ['server_no_context_takeover', 'client_no_context_takeover']
const WINDOW = 15 // bits, where nothing is said

type Parameters = Record<string, Array<string | true>>

// public since 8.19, but not in its types
const { extension } = ws as unknown as {
  extension: { parse (header: string): Record<string, Parameters[]>, format (extensions: Record<string, Parameters[]>): string }
}

/** What was negotiated of permessage-deflate: bits of the window we may use, 0 when nothing is compressed. */
export interface Deflation {
  readonly request: IncomingMessage
  readonly windowBits: number
}

/**
 * Takes the first offer that we can keep; others are declined, as RFC 7692, section 7.1 has it, where `ws` would refuse the handshake.
 * The request given back is one for `ws` that offers nothing else.
 */
export function negotiate (request: IncomingMessage): Deflation {
  const header = request.headers['sec-websocket-extensions']
  if (header === undefined) return { request, windowBits: 0 }
  const taken = parse(header)[NAME]?.find(isTakable)
  const offer = taken === undefined ? undefined : extension.format({ [NAME]: [taken] })
  return {
    request: Object.create(request, { headers: { value: { ...request.headers, 'sec-websocket-extensions': offer } } }) as IncomingMessage,
    windowBits: taken === undefined ? 0 : Number(taken.server_max_window_bits?.[0] ?? WINDOW)
  }
}

/** Throws when a request has extensions that cannot be read. */
function parse (header: string): Record<string, Parameters[]> {
  try {
    return extension.parse(header)
  } catch {
    throw new UpgradeError('the Sec-WebSocket-Extensions header cannot be read')
  }
}

// a parameter that is not known, or has no sense, makes an offer void; zlib has no window of 8 bits to write with
function isTakable (parameters: Parameters): boolean {
  return Object.entries(parameters).every(([name, [value, ...more]]) => {
    if (more.length > 0) return false
    if (FLAGS.includes(name)) return value === true
    if (name === 'server_max_window_bits') return isBits(value, 9)
    return name === 'client_max_window_bits' && (value === true || isBits(value, 8))
  })
}

function isBits (value: string | true | undefined, least: number): boolean {
  return typeof value === 'string' && /^\d\d?$/.test(value) && !value.startsWith('0') && Number(value) >= least && Number(value) <= WINDOW
}
