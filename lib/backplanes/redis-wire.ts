/** Where a message stands, before the parcel: `version epoch offset prev`, and a line end. */
export interface Place { readonly epoch: string, readonly offset: number, readonly prev: number, readonly body: Buffer }

const LONGEST = 128

/** Throws where it is none. */
export function readPlace (message: Buffer): Place {
  const end = message.subarray(0, LONGEST).indexOf(10)
  const [, epoch, offset, prev] = /^1 ([A-Za-z0-9_-]{1,40}) (\d{1,15}) (\d{1,15})$/.exec(message.toString('latin1', 0, Math.max(end, 0))) ?? []
  if (epoch === undefined || Number(prev) > Number(offset)) throw new Error('a message without a place, or of another version')
  return { epoch, offset: Number(offset), prev: Number(prev), body: message.subarray(end + 1) }
}

/** Where the sequence stands, and of each topic that was asked for its last offset. */
export interface Standing { readonly token: string, readonly epoch: string, readonly top: number, readonly lasts: number[] }

/** Throws where it is none: `token epoch top`, and the last offsets. */
export function readMark (message: string): Standing {
  const [, token, epoch, top, lasts] = /^([A-Za-z0-9_-]{12}) ([A-Za-z0-9_-]{1,40}) (\d{1,15})((?: \d{1,15})*)$/.exec(message) ?? []
  if (token === undefined || epoch === undefined || lasts === undefined) throw new Error('a mark of another version')
  return { token, epoch, top: Number(top), lasts: lasts === '' ? [] : lasts.slice(1).split(' ').map(Number) }
}

/** Which publications of each node have come: the last ones, each where it falls. */
export type Seen = Map<string, Float64Array>

const REMEMBERED = 2_048 // more than can be on their way
const NODES = 1_000

/** What is sent again because its answer was lost comes once. */
export function isNew (seen: Seen, from: string, count: number): boolean {
  let slots = seen.get(from)
  if (slots === undefined) {
    seen.set(from, slots = new Float64Array(REMEMBERED))
    if (seen.size > NODES) seen.delete(seen.keys().next().value as string)
  }
  const at = Math.abs(count) % REMEMBERED
  if (slots[at] === count) return false
  slots[at] = count
  return true
}
