import type { Delivery, Kept } from '../../types/backplane.ts'
import { AgingMap } from '../aging-map.ts'
import { History } from '../history.ts'
import type { EventStream, Sequence, Stored } from './nats-stream.ts'
import type { NatsTopic } from './nats-topic.ts'

/** What was kept of a topic up to `top`. */
export interface Log { readonly history: History, readonly top: number }

/** An event as it is added to a log. */
export interface Entry { readonly delivery: Delivery, readonly size: number, readonly keep: Kept }

const MAX_BYTES = 67_108_864

/** Logs of topics that are live here, each read from the stream once; then what comes live is added. Whoever resumes shares them. */
export class Logs {
  readonly #topics = new AgingMap<NatsTopic>()
  readonly #maxBytes: number
  #bytes = 0

  constructor (maxBytes = MAX_BYTES) { this.#maxBytes = maxBytes }

  put (topic: NatsTopic, log: Log): void {
    this.drop(topic)
    topic.log = log
    this.#bytes += log.history.bytes
    this.#topics.set(topic.name, topic)
    while (this.#bytes > this.#maxBytes && this.#topics.size > 1) this.drop((this.#topics.oldest as [string, NatsTopic])[1])
  }

  // what comes may have been read before it came
  add ({ log }: NatsTopic, { delivery, size, keep }: Entry): void {
    if (log === null || delivery.offset <= log.history.last) return
    this.#bytes -= log.history.bytes
    log.history.limits = keep
    log.history.add(delivery, size, performance.now())
    this.#bytes += log.history.bytes
  }

  /** It is asked for: what is too old goes. */
  use (topic: NatsTopic, { history }: Log): void {
    this.#bytes -= history.bytes
    history.trim(performance.now())
    this.#bytes += history.bytes
    this.#topics.set(topic.name, topic)
  }

  drop (topic: NatsTopic): void {
    if (topic.log === null) return
    this.#bytes -= topic.log.history.bytes
    topic.log = null
    this.#topics.delete(topic.name)
  }
}

/**
 * What the stream has of a subject. What cannot be proven complete is not: where fewer events are there than the stream keeps of a
 * subject, none was dropped for their number, so what is gone was before the first of the stream; else it may have been any before them.
 */
export async function readLog (stream: EventStream, subjectOf: (epoch: string) => string, entryOf: (stored: Stored, epoch: string) => Entry | null, keepOf: (stored: Stored) => Kept): Promise<Log & { epoch: string }> {
  const { last, epoch } = await stream.find()
  const { all, now: wall } = await stream.read(subjectOf(epoch))
  const after = await stream.find() // what was dropped meanwhile counts
  const [oldest] = all
  const newest = all.at(-1)
  const floor = oldest !== undefined && all.length >= after.perSubject ? oldest.offset - 1 : Math.max(0, after.first - 1)
  const history = new History(newest === undefined ? nothing : keepOf(newest), isWithin(after, floor) ? floor : 0)
  const now = performance.now()
  for (const stored of all) {
    const entry = entryOf(stored, epoch)
    if (entry !== null) history.add(entry.delivery, entry.size, now - Math.max(0, wall - stored.at)) // by the server's clock alone
  }
  history.trim(now)
  return { history, top: Math.max(last, newest?.offset ?? 0), epoch }
}

const nothing: Kept = { events: 0, bytes: 0, age: 0 }

// what is gone is of this epoch
function isWithin ({ base }: Sequence, floor: number): boolean { return floor > base }
