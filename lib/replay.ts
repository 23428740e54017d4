import type { Gap } from '../types/api.ts'
import type { Delivery, Range, Spared } from '../types/backplane.ts'
import type { Encoding } from '../types/transport.ts'
import type { Framed } from './frame.ts'
import type { Hold } from './hold.ts'

const BATCH = 200

/** Where a replay reads. */
export interface Reader {
  range (topic: string, after: number | { id: string }, limit: number): Promise<Range>
  /** `placed`: it moves the client's place. */
  framed (delivery: Delivery, placed: boolean): Framed
}

/** A kept topic that is to be replayed, with the name its gap is told by. */
export interface ReplayTopic {
  readonly topic: string
  readonly room: string | undefined
  /** Whoever is replayed is no longer in it. */
  readonly left: boolean
}

/** Who is replayed. */
export interface Replayed {
  readonly id: string
  readonly user: string | null
  readonly hold: Hold
  readonly wire: { readonly encoding: Encoding }
  /** False when it was closed: then the replay has lost its purpose. */
  readonly held: boolean
  readonly buffered: number
  /** Bytes that may wait for its reader before it is too far behind. */
  readonly limit: number
  /** It can take so many bytes more. */
  hasRoom (bytes: number): boolean
  drained (mark: number): Promise<void>
  put (framed: Framed): void
}

/**
 * Gives a connection what history has after a place, oldest first over all its topics, waiting for the reader; what comes live
 * meanwhile is on hold. Gives the offset it came to; -1 when the connection is no longer held. Subscribe first, then this.
 *
 * `began` is called once it is known what is gone, before the first event. With `until` it ends there, and its events go without
 * a cursor: the client is past them in its other rooms, and the cursors on one wire only grow.
 */
export async function replay (to: Replayed, reader: Reader, topics: readonly ReplayTopic[], after: number, began: (gaps: Gap[]) => void, until = Infinity): Promise<number> {
  const byTopic = new Map(topics.map((one) => [one.topic, one]))
  let position = after
  for (let first = true; ; first = false) {
    const present = topics.filter(({ left }) => !left)
    to.hold.forgetKept()
    const ranges = await Promise.all(present.map(({ topic }) => reader.range(topic, position, BATCH)))
    if (!to.held) return -1
    const gaps = present.filter((_, index) => !(ranges[index] as Range).complete).map(({ room }): Gap => room === undefined ? { reason: 'trimmed' } : { reason: 'trimmed', room })
    if (first || gaps.length > 0) began(gaps)
    const { deliveries, more } = merge(ranges)
    for (const delivery of deliveries) {
      if (delivery.offset > until) return until
      position = delivery.offset
      if (spares(delivery.except, to)) continue
      const framed = reader.framed(delivery, until === Infinity)
      while (!to.hasRoom(framed.frame(to.wire.encoding).length)) {
        await to.drained(0)
        if (!to.held) return -1
      }
      if (byTopic.get(delivery.topic)?.left === false) to.put(framed)
    }
    if (!more && until !== Infinity) return until
    const calm = to.buffered <= to.limit / 2
    if (calm && !more && !to.hold.missed) return position
    if (!calm) await to.drained(to.limit / 2) // live events would find it behind; what comes meanwhile is read here
    if (!to.held) return -1
  }
}

function spares (except: Spared | null, { id, user }: Replayed): boolean {
  return except !== null && (except.ids.includes(id) || (user !== null && except.users.includes(user)))
}

/**
 * One order over all ranges, up to where the first of them was cut, or ended when it was read: of what came later another of them
 * may know nothing.
 */
function merge (ranges: Range[]): { deliveries: Delivery[], more: boolean } {
  let horizon = Infinity
  for (const { deliveries, more, top } of ranges) horizon = Math.min(horizon, more ? (deliveries.at(-1) as Delivery).offset : top)
  const all = ranges.length === 1 ? (ranges[0] as Range).deliveries : ranges.flatMap(({ deliveries }) => deliveries).sort((a, b) => a.offset - b.offset)
  return { deliveries: all.filter(({ offset }) => offset <= horizon), more: ranges.some(({ more }) => more) }
}

/** Where an id of the application's stands: the earliest match among the topics wins. -1 when there is none. */
export async function find (reader: Reader, topics: readonly ReplayTopic[], id: string): Promise<number> {
  const ranges = await Promise.all(topics.map(({ topic }) => reader.range(topic, { id }, 1)))
  const found = ranges.map(({ from }) => from).filter((from) => from !== -1)
  return found.length === 0 ? -1 : Math.min(...found)
}
