import type { Gap } from '../types/api.ts'
import type { Delivery, Range, Spared } from '../types/backplane.ts'
import type { Encoding } from '../types/transport.ts'
import type { Framed } from './frame.ts'
import type { Hold } from './hold.ts'

const BATCH = 200

/** Where a replay reads. */
export interface Reader {
  /** How often the sequence has begun anew. */
  readonly resets: number
  range (topic: string, after: number | { id: string }, limit: number): Promise<Range>
  /** `placed`: it moves the client's place. */
  framed (delivery: Delivery, placed: boolean): Framed
}

/** A kept topic that is to be replayed, with the name its gap is told by. */
export interface ReplayTopic {
  readonly roster: { readonly topic: string, readonly last: number }
  readonly room: string | undefined
  /** What was kept up to there was before it was joined. */
  readonly start: number
  /** Whoever is replayed is no longer in it. */
  readonly left: boolean
  /** Offset of the last event of it that was given; 0 before. */
  gave: number
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

export interface ReplayOptions {
  /** Where it ends: its events go without a cursor, as the client is past them in its other rooms and the cursors on one wire only grow. */
  readonly until?: number
  /** Asked before each event: whether something else is to be given first. */
  readonly stops?: () => boolean
}

/**
 * Gives a connection what history has after a place, oldest first over all its topics, waiting for the reader; what comes live
 * meanwhile is on hold. Gives the offset it came to; -1 when the connection is no longer held, or the sequence has begun anew. Subscribe first, then this.
 *
 * `began` is called once it is known what is gone, before the first event.
 */
export async function replay (to: Replayed, reader: Reader, topics: readonly ReplayTopic[], after: number, began: (gaps: Gap[]) => void, { until = Infinity, stops }: ReplayOptions = {}): Promise<number> {
  const { resets } = reader
  const isOver = (): boolean => !to.held || reader.resets !== resets
  const byTopic = new Map(topics.map((one) => [one.roster.topic, one]))
  let position = after
  for (let first = true; ; first = false) {
    const present = topics.filter(({ left }) => !left)
    to.hold.forgetKept()
    const ranges = await Promise.all(present.map(({ roster: { topic }, start }) => reader.range(topic, Math.max(position, start), BATCH)))
    if (isOver()) return -1
    const gaps = present.filter((_, index) => !(ranges[index] as Range).complete).map(({ room }): Gap => room === undefined ? { reason: 'trimmed' } : { reason: 'trimmed', room })
    if (first || gaps.length > 0) began(gaps)
    const { deliveries, more } = merge(ranges)
    for (const delivery of deliveries) {
      if (delivery.offset > until) return until
      if (stops?.() === true) return position
      position = delivery.offset
      if (spares(delivery.except, to)) continue
      const framed = reader.framed(delivery, until === Infinity)
      while (!to.hasRoom(framed.frame(to.wire.encoding).length)) {
        await to.drained(0)
        if (isOver()) return -1
      }
      const topic = byTopic.get(delivery.topic) as ReplayTopic
      if (topic.left) continue
      topic.gave = delivery.offset
      to.put(framed)
    }
    if (!more && until !== Infinity) return until
    if (stops?.() === true) return position
    const calm = to.buffered <= to.limit / 2
    if (calm && !more && !to.hold.missed) return position
    if (!calm) await to.drained(to.limit / 2) // live events would find it behind; what comes meanwhile is read here
    if (isOver()) return -1
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
  const ranges = await Promise.all(topics.map(({ roster: { topic } }) => reader.range(topic, { id }, 1)))
  const found = ranges.map(({ from }) => from).filter((from) => from !== -1)
  return found.length === 0 ? -1 : Math.min(...found)
}
