import { randomBytes } from 'node:crypto'
import type { Node, Parcel } from '../../types/backplane.ts'
import { decodeParcel } from '../parcel.ts'
import type { Received } from '../parcel.ts'
import type { Topic, Topics } from '../topics.ts'
import { isNew, readPlace } from './redis-wire.ts'
import type { Seen } from './redis-wire.ts'

/** What what comes in needs from above. */
export interface IntakeHost {
  readonly log: Node['log']
  readonly topics: Topics
  /** Those of this process. */
  readonly nodes: Iterable<Node>
  /** Bytes of an event, and of what may wait. */
  readonly maxBytes: number
  readonly maxHeld: number
  /** What was lost has to be found out: `settle` is called then. */
  audit (): void
  /** What was sent here and is not settled yet. */
  own (from: string, count: number): Own | undefined
}

/** A publication of this node that has not come back yet. */
export interface Own { readonly parcel: Parcel, arrived (): void }

/** What came of a topic; `offset` is 0 where it is not kept. */
interface Item { readonly name: string, readonly epoch: string, readonly offset: number, readonly prev: number, readonly received: Received, readonly size: number }

const DEAD = 16 // identities that are remembered as past
const OVERHEAD = 512 // of what waits, beside its bytes

/**
 * What comes over the subscriptions, in its order, to the nodes. Where something may have been lost on the way, all waits until it is
 * known what: the nodes are told of every topic first, so that nothing overtakes what they read from the log.
 */
export class Intake {
  epoch = randomBytes(9).toString('base64url')
  /** On which server the sequence runs. */
  server = ''
  /** The end of the sequence, as far as it is known. */
  top = 0
  /** All up to here has been delivered, or told as missed. */
  delivered = 0
  holding = true
  readonly #host: IntakeHost
  readonly #dead: string[] = []
  readonly #seen: Seen = new Map()
  readonly #lost = new Map<string, Item>() // of each topic the last one that there was no room for
  #waiting: Item[] = []
  #bytes = 0
  #isFull = false
  #complained = false

  constructor (host: IntakeHost) { this.#host = host }

  hear (name: string, message: Buffer): void {
    const topic = this.#host.topics.get(name)
    if (topic === undefined) return
    try {
      const { epoch, offset, prev, body } = readPlace(message)
      if (offset > 0 && (this.isPast(epoch) || (epoch === this.epoch && offset <= topic.last))) return
      const received = decodeParcel(body, this.#host.maxBytes)
      if (offset === 0 && !isNew(this.#seen, received.from, received.count)) return
      this.#take(topic, { name, epoch, offset, prev, received, size: message.length + OVERHEAD })
    } catch (err) {
      this.complain(err, name)
    }
  }

  complain (err: unknown, topic: string): void {
    if (!this.#complained) this.#host.log.warn({ err, topic }, 'what came from redis was not understood')
    this.#complained = true
  }

  /** From now on all that comes waits. */
  hold (): void { this.holding = true }

  /** Nothing waits any more, nor is there anybody to be given it. */
  clear (): void {
    this.hold()
    this.#waiting = []
    this.#bytes = 0
    this.#lost.clear()
  }

  #take (topic: Topic, item: Item): void {
    const { epoch, offset, prev } = item
    if (!this.holding && offset > 0 && (epoch !== this.epoch || (topic.live && prev > topic.last))) {
      this.hold()
      this.#host.audit()
    }
    if (this.holding && !isAside(item)) this.#wait(item)
    else this.#give(topic, item)
  }

  #wait (item: Item): void {
    if (this.#bytes + item.size > this.#host.maxHeld) this.#shed()
    if (this.#bytes + item.size > this.#host.maxHeld) return this.#lose(item)
    this.#waiting.push(item)
    this.#bytes += item.size
  }

  // what is kept is in the log
  #shed (): void {
    if (!this.#isFull) this.#host.log.warn({ bytes: this.#bytes }, 'more came from redis than may wait, and is read from the log')
    this.#isFull = true
    const waiting = this.#waiting
    this.#waiting = []
    this.#bytes = 0
    for (const item of waiting) if (item.offset > 0) this.#lose(item); else this.#wait(item)
  }

  #lose (item: Item): void { if (item.offset > 0) this.#lost.set(item.name, item) }

  #give (topic: Topic, { name, epoch, offset, prev, received: { event, except, from, count } }: Item): void {
    if (offset > 0) {
      if (epoch !== this.epoch || offset <= topic.last) return
      this.top = Math.max(this.top, offset)
      this.delivered = Math.max(this.delivered, offset)
      topic.last = offset
    }
    const own = this.#host.own(from, count)
    topic.deliver({ topic: name, event: offset > 0 ? event.at(epoch, offset) : event, except, offset, prev }, own?.parcel)
    own?.arrived()
  }

  isPast (epoch: string): boolean { return this.#dead.includes(epoch) }

  /** The identity of the sequence as Redis says it. */
  adopt (epoch: string, top: number): void {
    if (epoch === this.epoch) {
      this.top = Math.max(this.top, top)
      return
    }
    this.#dead.push(this.epoch)
    const back = this.#dead.indexOf(epoch)
    if (back !== -1) this.#dead.splice(back, 1)
    if (this.#dead.length > DEAD) this.#dead.shift()
    this.epoch = epoch
    this.top = top
    this.delivered = 0
    for (const topic of this.#host.topics) topic.last = 0
    for (const node of this.#host.nodes) node.reset()
  }

  /**
   * All that was sent until the sequence stood at `top` has come, or does not come: the last offset of each topic says which. `isNew`:
   * the subscriptions are, so that also what is not kept may be lost.
   */
  settle (top: number, topics: readonly Topic[], lasts: readonly number[], isNew: boolean): void {
    const reached = this.#reached(top)
    for (const [at, topic] of topics.entries()) {
      if (this.#host.topics.get(topic.name) !== topic || !topic.live) continue
      const last = lasts[at] as number
      const { last: come, hole } = reached.get(topic) ?? { last: topic.last, hole: 0 }
      const missed = last > come ? last : hole
      if (missed > topic.last) {
        topic.last = missed
        tell(topic, missed)
      } else if (isNew && last === 0) {
        tell(topic, 0)
      }
    }
    this.delivered = Math.max(this.delivered, top)
    if (this.holding) this.#release(top)
  }

  // what of each topic has come, and up to where something of it has not
  #reached (top: number): Map<Topic, { last: number, hole: number }> {
    const reached = new Map<Topic, { last: number, hole: number }>()
    const of = ({ name, epoch, offset }: Item): { last: number, hole: number } | undefined => {
      const topic = this.#host.topics.get(name)
      if (topic === undefined || epoch !== this.epoch || offset > top) return undefined
      let its = reached.get(topic)
      if (its === undefined) reached.set(topic, its = { last: topic.last, hole: 0 })
      return its
    }
    for (const item of this.#lost.values()) {
      const its = of(item)
      if (its !== undefined) its.last = its.hole = Math.max(its.last, item.offset)
    }
    for (const item of this.#waiting) {
      const its = of(item)
      if (its === undefined || item.offset <= its.last) continue
      if (item.prev > its.last) its.hole = item.prev
      its.last = item.offset
    }
    return reached
  }

  #release (top: number): void {
    const waiting = this.#waiting
    this.clear()
    this.holding = this.#isFull = false
    for (const item of waiting) {
      const topic = this.#host.topics.get(item.name)
      const isOther = item.offset > 0 && item.epoch !== this.epoch // a sequence that was lost before this one was known
      if (topic !== undefined && item.offset <= top && !isOther) this.#take(topic, item)
    }
  }
}

// between nodes: it has no order with events
function isAside ({ name, offset }: Item): boolean { return offset === 0 && (name === 'nodes' || name.startsWith('presence/')) }

// a node that fails harms no other
function tell ({ name, nodes }: Topic, offset: number): void {
  for (const node of nodes) {
    try {
      node.missed(name, offset)
    } catch (err) {
      node.log.error({ err, topic: name }, 'a node could not be told what it missed')
    }
  }
}
