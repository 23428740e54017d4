import type { CloseReason } from '../types/transport.ts'

/** A reason, and whether the client may come back. Codes are of RFC 6455, section 7.4.1, and above 4000 our own. */
export interface KnownReason extends CloseReason { readonly comeBack: boolean }

const known = (code: number, reason: string, comeBack: boolean): KnownReason => Object.freeze({ code, reason, comeBack })

// what we do
export const done = known(1000, 'done', false)
export const closed = known(1000, 'closed', false)
export const shutdown = known(1001, 'shutdown', true)
export const flooding = known(1008, 'too many messages', false)
export const offending = known(1008, 'too many bad messages', false)
export const crowded = known(1008, 'too many connections', false)
export const failed = known(1011, 'error', true)
export const slow = known(1013, 'slow', true)
export const expired = known(4401, 'expired', false)
export const age = known(1000, 'age', true)
export const inactive = known(1000, 'inactive', true)

// what we report and never send
export const client = known(1005, 'client', true)
export const lost = known(1006, 'lost', true)
export const refused = known(1006, 'refused', false)

/** The other end broke the protocol; the code says how. */
export function broken (code: 1002 | 1007 | 1008 | 1009): KnownReason { return known(code, 'protocol error', false) }

/** A reason fits a close frame: at most 123 bytes of UTF-8, cut on a character. RFC 6455, section 5.5.1. */
export function closeText (reason: string): string {
  const text = reason.toWellFormed()
  if (Buffer.byteLength(text) <= 123) return text
  return new TextDecoder('utf-8', { ignoreBOM: true }).decode(Buffer.from(text).subarray(0, 123), { stream: true })
}

/** Codes an application may close with. RFC 6455, section 7.4. */
export function isCloseCode (code: unknown): code is number {
  return Number.isInteger(code) && ((code as number) >= 3000 ? (code as number) <= 4999 : [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014].includes(code as number))
}
