import type { Delivery, Kept, Place, Range } from '../types/backplane.ts'

const OVERHEAD = 256 // what an entry weighs beside its data, so that many small events count too

interface Entry { readonly delivery: Delivery, readonly bytes: number, readonly at: number }

/** The bounded log of one topic in memory. It keeps text, not frames: small frames would pin node's buffer pool. */
export class History {
  /** Bytes of all entries, overhead included. */
  bytes = 0
  /** Offset of the last event that was dropped; 0 when none was. */
  floor: number
  /** Offset of the last event that was added; 0 when none is known. */
  last: number
  limits: Kept
  #entries: Entry[] = []
  #start = 0
  #ids: Map<string, number> | null = null // the earliest of each; -1 where that is gone and later ones are here
  #again: Map<string, number> | null = null // the latest of those that were used more than once
  #data = 0

  /** `last` differs from the floor where that is of other topics too. */
  constructor (limits: Kept, floor: number, last = floor) {
    this.limits = limits
    this.floor = floor
    this.last = last
  }

  get size (): number { return this.#entries.length - this.#start }

  add (delivery: Delivery, bytes: number, now: number): void {
    this.#entries.push({ delivery, bytes, at: Math.trunc(now) }) // a number that is not whole would be an object of its own
    this.#data += bytes
    this.bytes += bytes + OVERHEAD
    this.last = delivery.offset
    const { id } = delivery.event
    if (id !== undefined) this.#index(id, delivery.offset)
    this.trim(now)
  }

  // the earliest: whoever saw a later one is sent too much, never too little
  #index (id: string, offset: number): void {
    this.#ids ??= new Map()
    if (this.#ids.has(id)) (this.#again ??= new Map()).set(id, offset)
    else this.#ids.set(id, offset)
  }

  /** Offset of the event with an id of the application's; -1 when there is none. */
  find (id: string): number {
    return this.#ids?.get(id) ?? -1
  }

  /** Offset of an event with it that is here, whichever; -1 when there is none. */
  holds (id: string): number {
    const first = this.find(id)
    return first === -1 ? this.#again?.get(id) ?? -1 : first
  }

  /** Drops what is over a bound. */
  trim (now: number): void {
    const { events, bytes, age } = this.limits
    while (this.size > 0 && (this.size > events || this.#data > bytes || now - (this.#entries[this.#start] as Entry).at >= age)) this.#drop()
    if (this.#start > 64 && this.#start * 2 > this.#entries.length) {
      this.#entries = this.#entries.slice(this.#start)
      this.#start = 0
    }
  }

  #drop (): void {
    const { delivery, bytes } = this.#entries[this.#start] as Entry
    this.#entries[this.#start++] = undefined as unknown as Entry
    this.#data -= bytes
    this.bytes -= bytes + OVERHEAD
    this.floor = delivery.offset
    const { id } = delivery.event
    if (id !== undefined) this.#forget(this.#ids as Map<string, number>, id, delivery.offset)
  }

  #forget (ids: Map<string, number>, id: string, offset: number): void {
    const last = this.#again?.get(id)
    if (last === undefined || last === offset) {
      ids.delete(id)
      this.#again?.delete(id)
    } else {
      ids.set(id, -1) // whoever saw this one would be sent too little by the next
    }
  }

  range (after: Place, limit: number, top: number): Range {
    const from = typeof after === 'number' ? after : after === null ? 0 : this.find(after.id)
    if (from === -1) return { deliveries: [], complete: false, more: false, from, top }
    let start = after === null ? Math.max(this.#start, this.#entries.length - limit) : this.#after(from)
    const more = after !== null && this.#entries.length - start > limit
    const deliveries: Delivery[] = []
    for (; start < this.#entries.length && deliveries.length < limit; start++) deliveries.push((this.#entries[start] as Entry).delivery)
    return { deliveries, complete: after === null ? deliveries.length === this.size && this.floor === 0 : from >= this.floor, more, from, top }
  }

  // index of the first entry with a greater offset
  #after (offset: number): number {
    let low = this.#start
    let high = this.#entries.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((this.#entries[middle] as Entry).delivery.offset > offset) high = middle
      else low = middle + 1
    }
    return low
  }
}
