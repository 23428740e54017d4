import type { Backplane, Delivery, Place, Range } from '../types/backplane.ts'
import { formatCursor, toEvent } from './event.ts'
import type { CheckedEvent } from './event.ts'
import { Framed } from './frame.ts'
import type { Reader } from './replay.ts'

const READY = 100 // of them are kept: who comes while nothing is sent is told the same

/** What it needs from above. */
export interface LogReaderHost {
  /** The greatest offset this node has seen. */
  readonly offset: number
  readonly heartbeat: number
}

/** The log of the backplane, as replays read it. */
export class LogReader implements Reader {
  resets = 0
  readonly #backplane: Backplane
  readonly #host: LogReaderHost
  // of this turn: a crowd that is replayed the same shares its frames, and what is joined of them
  readonly #placed = new Map<Delivery, Framed>()
  readonly #placeless = new Map<Delivery, Framed>()
  readonly #reads = new Map<string, Promise<Range>>()
  readonly #ready = new Map<string, Framed>()

  constructor (backplane: Backplane, host: LogReaderHost) {
    this.#backplane = backplane
    this.#host = host
  }

  /** Who asks for the same as long as nothing has come since shares one read. */
  range (topic: string, after: Place, limit: number): Promise<Range> {
    const key = `${this.resets} ${this.#host.offset} ${JSON.stringify(after)} ${limit} ${topic}`
    const reading = this.#reads.get(key)
    if (reading !== undefined) return reading
    const read = this.#backplane.range(topic, after, limit)
    this.#reads.set(key, read)
    const forget = (): void => { this.#reads.delete(key) }
    read.then(forget, forget)
    return read
  }

  framed (delivery: Delivery, placed: boolean): Framed {
    const made = placed ? this.#placed : this.#placeless
    let framed = made.get(delivery)
    if (framed === undefined) made.set(delivery, framed = placed ? new Framed(delivery.event, delivery.offset) : (delivery.event as CheckedEvent).placeless().framed)
    return framed
  }

  /** The cursor a client has before its first event. */
  ready (offset: number, resumed: boolean): Framed {
    const id = formatCursor(this.#backplane.epoch, offset)
    const key = `${id} ${resumed}`
    let framed = this.#ready.get(key)
    if (framed === undefined) this.#ready.set(key, framed = toEvent({ event: 'ready', id, data: { resumed, heartbeat: this.#host.heartbeat } }, { maxBytes: Infinity }).framed)
    return framed
  }

  /** The turn is over. */
  forgetFrames (): void {
    if (this.#placed.size > 0) this.#placed.clear() // one that is empty would get another table
    if (this.#placeless.size > 0) this.#placeless.clear()
    if (this.#ready.size > READY) this.#ready.clear()
  }
}
