import { randomBytes } from 'node:crypto'
import type { Backplane, Delivery, Kept, Node, Parcel, Place, Publication, Range } from '../../types/backplane.ts'
import { AgingMap } from '../aging-map.ts'
import type { CheckedEvent } from '../event.ts'
import { History } from '../history.ts'
import { checkMemory } from '../options.ts'
import { give } from '../topics.ts'

export interface MemoryOptions {
  /** Bytes of all logs together. Default: 64 MiB. */
  totalBytes?: number | undefined
  /** Topics with a log. Default: 100_000. */
  rooms?: number | undefined
}

const SWEEP = 10_000

interface Sent { readonly delivery: Delivery, readonly parcel: Parcel }

/** One process, no server. Several registries may share it: then it is their order and their log. */
export function memory (options: MemoryOptions = {}): Backplane {
  return new MemoryBackplane(checkMemory(options))
}

class MemoryBackplane implements Backplane {
  readonly epoch = randomBytes(6).toString('base64url')
  readonly #options: Required<{ totalBytes: number, rooms: number }>
  readonly #nodes = new Map<string, Set<Node>>()
  readonly #logs = new AgingMap<History>() // the oldest is the longest unused
  readonly #floors = new AgingMap<number>() // of logs that went
  #floor = 0 // of floors that went
  #offset = 0
  #bytes = 0
  #queue: Sent[] = []
  #delivering = false
  #sweep: NodeJS.Timeout | null = null
  #started = 0

  constructor (options: Required<{ totalBytes: number, rooms: number }>) {
    this.#options = options
  }

  async start (): Promise<void> {
    if (this.#started++ === 0) this.#sweep = setInterval(() => this.#expire(), SWEEP).unref()
  }

  async subscribe (node: Node, topic: string): Promise<number> {
    let nodes = this.#nodes.get(topic)
    if (nodes === undefined) this.#nodes.set(topic, nodes = new Set())
    nodes.add(node)
    const next = this.#queue.find(({ delivery: { offset } }) => offset > 0) // sent, but still to be delivered, to this node too
    return next === undefined ? this.#offset : next.delivery.offset - 1
  }

  async unsubscribe (node: Node, topic: string): Promise<void> {
    const nodes = this.#nodes.get(topic)
    if (nodes?.delete(node) === true && nodes.size === 0) this.#nodes.delete(topic)
  }

  async publish (topic: string, parcel: Parcel, { keep, once }: { keep: Kept | null, once: boolean }): Promise<Publication> {
    let delivery: Delivery
    if (keep === null) {
      delivery = { event: parcel.event, except: parcel.except, topic, offset: 0, prev: 0 }
    } else {
      const now = performance.now()
      const log = this.#log(topic, keep)
      if (once) this.#trim(log, now)
      const known = once ? log.holds(parcel.event.id as string) : -1
      if (known !== -1) return { accepted: true, offset: known, duplicate: true, nodes: 0 }
      const event = parcel.event as CheckedEvent
      const offset = ++this.#offset
      delivery = { event: event.at(this.epoch, offset), except: parcel.except, topic, offset, prev: log.last }
      this.#bytes -= log.bytes
      log.add(delivery, event.size, now)
      this.#bytes += log.bytes
      this.#bound()
    }
    this.#deliver(delivery, parcel)
    return { accepted: true, offset: delivery.offset, duplicate: false, nodes: this.#nodes.get(topic)?.size ?? 0 }
  }

  async range (topic: string, after: Place, limit: number): Promise<Range> {
    const log = this.#logs.get(topic)
    if (log !== undefined) {
      this.#trim(log, performance.now())
      return log.range(after, limit, this.#offset)
    }
    const floor = this.#floorOf(topic)
    if (after !== null && typeof after !== 'number') return { deliveries: [], complete: false, more: false, from: -1, top: this.#offset }
    return { deliveries: [], complete: after === null ? floor === 0 : after >= floor, more: false, from: after ?? 0, top: this.#offset }
  }

  async close (node: Node): Promise<void> {
    for (const topic of this.#nodes.keys()) await this.unsubscribe(node, topic)
    if (--this.#started === 0 && this.#sweep !== null) clearInterval(this.#sweep)
  }

  // an event sent while another is being delivered waits its turn, so that all members see one order
  #deliver (delivery: Delivery, parcel: Parcel): void {
    if (this.#delivering) {
      this.#queue.push({ delivery, parcel })
      return
    }
    this.#delivering = true
    this.#give(delivery, parcel)
    for (let next = this.#queue.shift(); next !== undefined; next = this.#queue.shift()) this.#give(next.delivery, next.parcel)
    this.#delivering = false
  }

  #give (delivery: Delivery, parcel: Parcel): void {
    const nodes = this.#nodes.get(delivery.topic)
    if (nodes !== undefined) for (const node of nodes) give(node, delivery, parcel)
  }

  #trim (log: History, now: number): void {
    this.#bytes -= log.bytes
    log.trim(now)
    this.#bytes += log.bytes
  }

  #log (topic: string, keep: Kept): History {
    const log = this.#logs.use(topic) ?? this.#begin(topic, keep)
    log.limits = keep
    return log
  }

  #begin (topic: string, keep: Kept): History {
    const log = new History(keep, this.#floorOf(topic), this.#floors.get(topic) ?? 0)
    this.#floors.delete(topic)
    this.#logs.set(topic, log)
    return log
  }

  #floorOf (topic: string): number {
    return this.#floors.get(topic) ?? this.#floor
  }

  #bound (): void {
    while (this.#logs.size > this.#options.rooms || this.#bytes > this.#options.totalBytes) {
      const [topic, log] = this.#logs.oldest as [string, History]
      this.#forget(topic, log, log.last)
    }
  }

  // a log that goes leaves one number: a cursor at or past it is complete, one before it is a gap
  #forget (topic: string, log: History, floor: number): void {
    this.#logs.delete(topic)
    this.#bytes -= log.bytes
    this.#floors.set(topic, floor)
    if (this.#floors.size <= this.#options.rooms) return
    const [oldest, offset] = this.#floors.oldest as [string, number]
    this.#floors.delete(oldest)
    this.#floor = Math.max(this.#floor, offset)
  }

  #expire (): void {
    const now = performance.now()
    for (const [topic, log] of this.#logs) {
      this.#trim(log, now)
      if (log.size === 0) this.#forget(topic, log, log.floor)
    }
  }
}
