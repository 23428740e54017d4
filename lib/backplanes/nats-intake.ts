import type { Msg } from '@nats-io/transport-node'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Delivery, Kept, Node, Parcel, Place, Range } from '../../types/backplane.ts'
import { formatCursor } from '../event.ts'
import type { CheckedEvent } from '../event.ts'
import { decodeParcel } from '../parcel.ts'
import type { Received } from '../parcel.ts'
import { give } from '../topics.ts'
import type { Link } from './nats-link.ts'
import { Logs, readLog } from './nats-logs.ts'
import type { Log } from './nats-logs.ts'
import { within } from './nats-options.ts'
import { ID, KEEP, keepOf } from './nats-outgoing.ts'
import type { EventStream, Sequence, Stored } from './nats-stream.ts'
import { sequenceOf, tokenOf } from './nats-subject.ts'
import { NatsTopic } from './nats-topic.ts'

/** What what comes in needs from above. */
export interface IntakeHost {
  readonly log: Node['log']
  readonly name: string
  readonly epoch: string
  /** A parcel that was sent here and is not settled yet. */
  own (number: number): Parcel | undefined
  /** The sequence after everything that was sent until now; null when it is not known. */
  position (): Promise<Sequence | null>
  /** Something came that is of another epoch. */
  astray (): void
}

const LINGER = 1_000
const PATIENCE = 500 // with what has been kept and does not come
const STEP = 5

/** What comes from the server, in its order, to the nodes that have subscribed to it; and what came before. */
export class Intake {
  readonly topics = new Map<string, NatsTopic>()
  /** The greatest offset that has come. */
  seen = 0
  /** By which that event is known. */
  seenId = ''
  /** Nothing up to what was seen is missing. */
  isWhole = true
  readonly #host: IntakeHost
  readonly #link: Link
  readonly #stream: EventStream
  readonly #logs = new Logs()

  constructor (host: IntakeHost, link: Link, stream: EventStream) {
    this.#host = host
    this.#link = link
    this.#stream = stream
  }

  async subscribe (node: Node, name: string): Promise<number> {
    let topic = this.topics.get(name)
    if (topic === undefined) this.topics.set(name, topic = new NatsTopic(name, tokenOf(name)))
    topic.add(node)
    if (!topic.isLive) await (topic.opening ??= this.#open(topic))
    return Math.max(this.seen, topic.last)
  }

  unsubscribe (node: Node, name: string): void {
    const topic = this.topics.get(name)
    if (topic === undefined || !topic.nodes.includes(node)) return
    topic.remove(node)
    if (topic.nodes.length === 0) topic.linger = setTimeout(() => this.#drop(topic), LINGER).unref()
  }

  #drop (topic: NatsTopic): void {
    if (topic.linger !== null) clearTimeout(topic.linger)
    topic.subscription?.unsubscribe()
    this.#logs.drop(topic)
    if (this.topics.get(topic.name) === topic) this.topics.delete(topic.name)
  }

  listen (topic: NatsTopic): void {
    topic.subscription = this.#link.subscribe(this.#link.subjects.live(topic.token), (msg) => this.#hear(topic, msg))
  }

  // where the server is away it is live from what came last: what was missed is read when the server is back
  async #open (topic: NatsTopic): Promise<void> {
    const { epoch } = this.#host
    const { seen } = this
    this.listen(topic)
    const sequence = await this.#host.position()
    if (sequence?.epoch === epoch && epoch === this.#host.epoch) topic.last = sequence.last
    else topic.last = epoch === this.#host.epoch ? seen : this.seen
    topic.verified = topic.audited = topic.last
    topic.isLive = true
    topic.opening = null
    const { early } = topic
    topic.early = []
    for (const { msg, offset, prev } of early) if (offset > topic.last) this.#accept(topic, msg, offset, prev)
    if (sequence !== null && sequence.epoch !== epoch) this.#host.astray()
  }

  /** The sequence has another epoch, of which everything is delivered. */
  begin (base: number): void {
    this.seen = base
    this.seenId = ''
    for (const topic of this.topics.values()) {
      topic.last = topic.verified = base
      topic.early = []
      this.#hole(topic)
    }
  }

  lost (): void {
    this.isWhole = false
    for (const topic of this.topics.values()) if (topic.nodes.length === 0) this.#drop(topic)
  }

  close (): void { for (const topic of this.topics.values()) this.#drop(topic) }

  #hear (topic: NatsTopic, msg: Msg): void {
    try {
      const sequence = sequenceOf(msg.subject, this.#host.name)
      if (sequence === 'u') return this.#give(topic, msg, 0, 0)
      if (sequence !== this.#host.epoch) return this.#host.astray()
      const offset = Number(msg.headers?.get('Nats-Sequence'))
      const prev = Number(msg.headers?.get('Nats-Last-Sequence'))
      if (!Number.isSafeInteger(offset) || !Number.isSafeInteger(prev) || prev < 0 || offset <= prev) throw new Error('it has no place')
      if (!topic.isLive) topic.early.push({ msg, offset, prev })
      else if (offset > topic.last) this.#accept(topic, msg, offset, prev)
    } catch (err) {
      this.#host.log.warn({ err, topic: topic.name }, 'what came from NATS was not understood')
    }
  }

  #accept (topic: NatsTopic, msg: Msg, offset: number, prev: number): void {
    if (prev > topic.last) this.#hole(topic)
    topic.last = offset
    if (offset > this.seen) {
      this.seen = offset
      this.seenId = msg.headers?.get(ID) ?? ''
    }
    this.#give(topic, msg, offset, prev)
  }

  #hole (topic: NatsTopic): void {
    this.#logs.drop(topic)
    topic.recent = null
  }

  #give (topic: NatsTopic, msg: Msg, offset: number, prev: number): void {
    const { from, count, event, except } = this.#decode(msg)
    const parcel = from === this.#link.instance ? this.#host.own(count) : undefined
    const delivery = this.#delivery(topic.name, parcel === undefined ? event : parcel.event as CheckedEvent, except, offset, prev)
    if (offset > 0 && (topic.log !== null || topic.recent !== null)) {
      const entry = { delivery, size: event.size, keep: this.#keepOf(msg) }
      topic.recent?.push(entry)
      this.#logs.add(topic, entry)
    }
    for (const node of topic.nodes) give(node, delivery, parcel)
  }

  #delivery (topic: string, event: CheckedEvent, except: Parcel['except'], offset: number, prev: number): Delivery {
    return { event: offset === 0 ? event : event.at(formatCursor(this.#host.epoch, offset)), except, topic, offset, prev }
  }

  #decode ({ data }: Msg): Received { return decodeParcel(Buffer.from(data.buffer, data.byteOffset, data.byteLength), this.#link.maxPayload) }

  #keepOf (msg: Msg): Kept {
    const { bounds } = this.#stream
    return within(bounds, keepOf(msg.headers?.get(KEEP), { ...bounds, bytes: Infinity }))
  }

  /** Whether a kept event is the one that was sent from here with this number. */
  async isOwn (offset: number, number: number): Promise<boolean> {
    const stored = await this.#stream.at(offset)
    if (stored === null) return false
    const { from, count } = this.#decode(stored.msg)
    return from === this.#link.instance && count === number
  }

  /** Resolves when what was kept there has been delivered here, where somebody has subscribed to it. */
  async delivered (name: string, offset: number): Promise<void> {
    const topic = this.topics.get(name)
    if (topic === undefined || topic.nodes.length === 0) return
    if (topic.opening !== null) await topic.opening
    if (topic.last < offset) await this.fetch([[topic, offset]])
  }

  /** What is on its way has come soon after the server answers a flush; what has not by then was lost, and the nodes read it. */
  async fetch (expected: ReadonlyArray<readonly [topic: NatsTopic, offset: number]>): Promise<void> {
    if (expected.length === 0) return
    const { epoch } = this.#host
    await this.#link.flush()
    // the server hands on what it has kept by a queue of its own, which a flush does not go through
    const over = performance.now() + PATIENCE
    while (epoch === this.#host.epoch && this.#link.up && performance.now() < over && expected.some(([{ last }, offset]) => last < offset)) await sleep(STEP)
    if (epoch !== this.#host.epoch) return
    const missed = expected.filter(([{ last }, offset]) => last < offset)
    if (missed.length > 0) this.#host.log.warn({ topics: missed.length }, 'events did not come and are read from the stream')
    for (const [topic, offset] of missed) {
      this.#hole(topic)
      topic.last = offset
      this.#tellMissed(topic, offset)
    }
  }

  /** What nodes said of presence while the server was away may be lost. */
  unsure (): void { for (const topic of this.topics.values()) if (topic.name.startsWith('presence/')) this.#tellMissed(topic, 0) }

  #tellMissed (topic: NatsTopic, offset: number): void { for (const node of topic.nodes) node.missed(topic.name, offset) }

  async range (name: string, after: Place, limit: number): Promise<Range> {
    const topic = this.topics.get(name)
    if (topic?.isLive === true && (this.isWhole || !this.#link.up)) {
      const log = topic.log ?? await (topic.loading ??= this.#load(topic))
      if (topic.log === log) this.#logs.use(topic, log)
      const top = topic.log === log ? Math.max(this.seen, log.top) : log.top
      if (after === null || (typeof after === 'number' ? after <= top : log.history.find(after.id) !== -1)) return log.history.range(after, limit, top)
    }
    const { history, top } = await this.#read(name, tokenOf(name))
    return history.range(after, limit, top)
  }

  async #load (topic: NatsTopic): Promise<Log> {
    topic.recent = []
    try {
      const log = await this.#read(topic.name, topic.token)
      if (topic.recent === null || log.epoch !== this.#host.epoch) return log
      this.#logs.put(topic, log)
      for (const entry of topic.recent) if (entry.delivery.offset > log.history.last) this.#logs.add(topic, entry)
      return log
    } finally {
      topic.recent = null
      topic.loading = null
    }
  }

  #read (name: string, token: string): ReturnType<typeof readLog> {
    return readLog(this.#stream, (epoch) => this.#link.subjects.kept(epoch, token), (stored) => this.#entryOf(name, stored), ({ msg }) => this.#keepOf(msg))
  }

  #entryOf (name: string, { msg, offset }: Stored): { delivery: Delivery, size: number, keep: Kept } | null {
    try {
      const { event, except } = this.#decode(msg)
      return { delivery: this.#delivery(name, event, except, offset, 0), size: event.size, keep: this.#keepOf(msg) }
    } catch (err) {
      this.#host.log.warn({ err, topic: name, offset }, 'what the stream keeps was not understood')
      return null
    }
  }
}
