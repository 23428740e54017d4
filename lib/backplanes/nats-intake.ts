import type { Msg, MsgHdrs, Subscription } from '@nats-io/transport-node'
import type { Node, Parcel } from '../../types/backplane.ts'
import type { CheckedEvent } from '../event.ts'
import type { Received } from '../parcel.ts'
import { give } from '../topics.ts'
import type { Link } from './nats-link.ts'
import { Order } from './nats-order.ts'
import type { Heard } from './nats-order.ts'
import { StreamReader } from './nats-reader.ts'
import { ID } from './nats-stream.ts'
import type { EventStream, Sequence } from './nats-stream.ts'
import { tokenOf } from './nats-subject.ts'
import { NatsTopic } from './nats-topic.ts'

/** What what comes in needs from above. */
export interface IntakeHost {
  readonly log: Node['log']
  readonly epoch: string
  /** The stream can be asked. */
  readonly isReady: boolean
  /** A parcel that was sent here and is not settled yet. */
  own (number: number): Parcel | undefined
  /** A kept event has come that may have been sent here with this number. */
  seen (number: number, offset: number): void
  /** Asks the stream what the sequence is. */
  agree (): Promise<void>
  /** The sequence after everything that was sent until now; null when it is not known. */
  position (): Promise<Sequence | null>
  /** Something came that is of another epoch, or does not come: the stream has to be asked. */
  astray (): void
}

const LINGER = 1_000
const AT_ONCE = 64 // topics that are looked after at a time

/** What comes from the server, in the order of the sequence, to the nodes that have subscribed to it. */
export class Intake {
  /** By their tokens. */
  readonly topics = new Map<string, NatsTopic>()
  readonly order: Order
  readonly reader: StreamReader
  readonly #host: IntakeHost
  readonly #link: Link
  readonly #stream: EventStream
  #all: Subscription | null = null

  constructor (host: IntakeHost, link: Link, stream: EventStream) {
    this.#host = host
    this.#link = link
    this.#stream = stream
    const order = this.order = new Order({
      pass: (heard) => this.#pass(heard),
      fits: ({ token, prev }) => {
        const topic = this.topics.get(token)
        return topic?.isLive !== true || prev <= topic.last
      },
      doubt: () => host.astray()
    })
    this.reader = new StreamReader({
      log: host.log,
      get epoch () { return host.epoch },
      get seen () { return order.last },
      get isWhole () { return !order.isShut },
      topic: (token) => this.topics.get(token),
      agree: () => host.agree()
    }, link, stream)
  }

  /** There is a connection that has no subscriptions yet. */
  attend (): void {
    this.order.isAll = this.#link.follows === 'all'
    this.order.shut()
    this.#all = this.order.isAll ? this.#link.subscribe(this.#link.subjects.all, (msg) => this.#hear(msg)) : null
    for (const topic of this.topics.values()) this.#listen(topic)
  }

  #listen (topic: NatsTopic): void {
    const { subjects } = this.#link
    topic.subscription = this.#link.subscribe(this.order.isAll ? subjects.unkept(topic.token) : subjects.live(topic.token), (msg) => this.#hear(msg))
  }

  async subscribe (node: Node, name: string): Promise<number> {
    const token = tokenOf(name)
    let topic = this.topics.get(token)
    if (topic === undefined) this.topics.set(token, topic = new NatsTopic(name, token))
    topic.add(node)
    if (!topic.isLive) topic.opening ??= this.#open(topic)
    await topic.opening
    return Math.max(this.order.last, topic.last)
  }

  unsubscribe (node: Node, name: string): void {
    const topic = this.topics.get(tokenOf(name))
    if (topic === undefined || !topic.nodes.includes(node)) return
    topic.remove(node)
    if (topic.nodes.length === 0) topic.linger = setTimeout(() => this.#drop(topic), LINGER).unref()
  }

  unsubscribeAll (node: Node): void { for (const { name } of this.topics.values()) this.unsubscribe(node, name) }

  #drop (topic: NatsTopic): void {
    if (topic.linger !== null) clearTimeout(topic.linger)
    topic.subscription?.unsubscribe()
    this.reader.drop(topic)
    if (this.topics.get(topic.token) === topic) this.topics.delete(topic.token)
  }

  // where the server is away it is live from what came last: what was missed is read when the server is back
  async #open (topic: NatsTopic): Promise<void> {
    this.#listen(topic)
    const sequence = await this.#host.position()
    const isKnown = sequence?.epoch === this.#host.epoch
    const { last } = this.order
    topic.last = topic.verified = topic.checked = isKnown ? Math.max(last, sequence.last) : last
    topic.isLive = true
    if (sequence !== null && !isKnown) this.#host.astray()
    // what was kept before it, in other topics, comes before whoever subscribes is told
    if (isKnown) await this.order.when(() => !this.#host.isReady || (this.order.isAll ? this.order.last >= sequence.last : !this.order.isShut))
    if (isKnown) this.order.reach(sequence.last)
    topic.opening = null
  }

  /** The sequence has another epoch, of which everything after an offset is to be delivered. */
  begin (base: number): void {
    for (const topic of this.topics.values()) {
      topic.last = topic.verified = base
      this.reader.drop(topic)
    }
    this.order.begin(base)
  }

  close (): void {
    for (const topic of this.topics.values()) this.#drop(topic)
    this.#all?.unsubscribe()
    this.#all = null
    this.order.end()
  }

  #hear (msg: Msg): void {
    try {
      const { epoch, token } = this.#link.subjects.read(msg.subject)
      if (epoch === 'u') return this.#hearUnkept(token, msg)
      if (epoch !== this.#host.epoch) return this.#host.astray()
      const offset = Number(msg.headers?.get('Nats-Sequence'))
      const prev = Number(msg.headers?.get('Nats-Last-Sequence'))
      if (!Number.isSafeInteger(offset) || !Number.isSafeInteger(prev) || prev < 0 || offset <= prev) throw new Error('it has no place')
      this.order.hear({ token, msg, offset, prev })
    } catch (err) {
      this.#misunderstood(err, msg)
    }
  }

  #hearUnkept (token: string, msg: Msg): void {
    const topic = this.topics.get(token)
    if (topic?.isKept === true) this.order.after(() => this.#give(topic, msg, 0, 0))
    else if (topic !== undefined) this.#give(topic, msg, 0, 0)
  }

  #misunderstood (err: unknown, { subject }: Msg): void { this.#host.log.warn({ err, subject: subject.slice(0, 200) }, 'what came from NATS was not understood') }

  #pass ({ token, msg, offset, prev }: Heard): void {
    const id = (msg.headers as MsgHdrs).get(ID)
    this.order.mark = { offset, id }
    const { instance } = this.#link
    if (id.startsWith(instance)) this.#host.seen(Number(id.slice(instance.length + 1)), offset)
    const topic = this.topics.get(token)
    if (topic?.isLive !== true || offset <= topic.last) return
    topic.last = offset
    this.#give(topic, msg, offset, prev)
  }

  #give (topic: NatsTopic, msg: Msg, offset: number, prev: number): void {
    try {
      const received = this.reader.decode(msg.data)
      this.#deliver(topic, received, msg, offset, prev)
    } catch (err) {
      this.#misunderstood(err, msg)
    }
  }

  #deliver (topic: NatsTopic, { from, count, event, except }: Received, msg: Msg, offset: number, prev: number): void {
    const parcel = from === this.#link.instance ? this.#host.own(count) : undefined
    if (parcel !== undefined && offset > 0) this.#host.seen(count, offset)
    const delivery = this.reader.delivery(topic.name, parcel === undefined ? event : parcel.event as CheckedEvent, except, offset, prev)
    if (offset > 0) this.reader.add(topic, delivery, event.size, msg)
    for (const node of topic.nodes) give(node, delivery, parcel)
  }

  /** Whether a kept event is the one that was sent from here with this number. */
  async isOwn (offset: number, number: number): Promise<boolean> {
    const found = await this.#link.insist(() => this.#stream.at(offset))
    if (found === null) return false
    const { from, count } = this.reader.decode(found.data)
    return from === this.#link.instance && count === number
  }

  /** Resolves when what was kept there has been delivered here, or told as missed, where somebody has subscribed to it. */
  async delivered (token: string, offset: number): Promise<void> {
    const topic = this.topics.get(token)
    if (topic === undefined || topic.nodes.length === 0) return
    await topic.opening
    await this.order.when(() => topic.last >= offset || topic.nodes.length === 0)
  }

  /** What nodes said of presence while the server was away may be lost. */
  unsure (): void { for (const topic of this.topics.values()) if (topic.name.startsWith('presence/')) topic.tellMissed(0) }

  /** A topic in which something comes tells by itself what is missing: those that are quiet are looked after. */
  async check ({ epoch, last }: Sequence): Promise<void> {
    if (this.order.isAll) return this.#expect(() => this.order.last >= last)
    const quiet = [...this.topics.values()].filter((topic) => {
      const isQuiet = topic.last === topic.checked
      topic.checked = topic.last
      return isQuiet && topic.isLive && topic.isKept && topic.verified < last
    })
    const kept = await this.#lastOf(quiet, epoch)
    for (const topic of quiet) if (topic.last >= (kept.get(topic) as number)) topic.verified = last
    this.#expect(() => quiet.every((topic) => topic.last >= (kept.get(topic) as number)))
  }

  // where it does not come the order is in doubt
  #expect (isOver: () => boolean): void { void this.order.when(isOver) }

  /**
   * Finds what is missing, of all topics, and tells it in one turn: a connection that is in several of them is given what it missed
   * with one replay. Then what waited comes, in its order.
   */
  async recover ({ epoch, first, last }: Sequence): Promise<void> {
    const isBehind = this.order.last < last || !this.order.isAll
    const topics = isBehind ? [...this.topics.values()].filter((topic) => topic.isLive && topic.isKept && topic.verified < last) : []
    const kept = await this.#lastOf(topics, epoch)
    await this.#stream.fence(epoch) // what is on its way has come
    const missed: Array<[NatsTopic, number]> = []
    for (const [topic, offset] of kept) {
      const until = this.#missedUntil(topic, offset, first - 1)
      topic.verified = Math.max(last, topic.verified)
      if (until === 0) continue
      topic.last = until
      this.reader.drop(topic)
      missed.push([topic, until])
    }
    for (const [topic, until] of missed) topic.tellMissed(until)
    if (missed.length > 0) this.#host.log.warn({ topics: missed.length }, 'events did not come and are read from the stream')
    this.order.open(last)
  }

  async #lastOf (topics: NatsTopic[], epoch: string): Promise<Map<NatsTopic, number>> {
    const kept = new Map<NatsTopic, number>()
    for (let start = 0; start < topics.length; start += AT_ONCE) {
      await Promise.all(topics.slice(start, start + AT_ONCE).map(async (topic) => {
        const found = await this.#stream.last(this.#link.subjects.kept(epoch, topic.token))
        kept.set(topic, found?.offset ?? 0)
      }))
    }
    return kept
  }

  // what waits may follow what came without a hole; what the stream had up to an offset is gone, and nobody knows whose it was
  #missedUntil (topic: NatsTopic, kept: number, gone: number): number {
    let reach = topic.last
    let missed = gone > Math.max(reach, topic.verified) ? gone : 0
    for (const { offset, prev } of this.order.waiting(topic.token)) {
      if (prev > reach) missed = Math.max(missed, prev)
      reach = Math.max(reach, offset)
    }
    return reach < kept ? kept : missed
  }
}
