import { randomBytes } from 'node:crypto'
import type * as api from '../types/api.ts'
import type { Backplane, Delivery, Kept, Node, Parcel, Spared } from '../types/backplane.ts'
import { dataOf, formatCursor, toEvent } from './event.ts'
import type { CheckedEvent } from './event.ts'
import { Framed } from './frame.ts'
import type { Roster } from './roster.ts'
import { historyEvent } from './resume.ts'

/** What a node needs from above. */
export interface NodeHost {
  readonly backplane: Backplane
  readonly log: Node['log']
  readonly keeps: NonNullable<Node['keeps']> | null
  roster (topic: string): Roster | undefined
  /** What a topic had after an offset did not come. */
  missed (roster: Roster, after: number): void
  /** What nodes said on a topic of presence did not come, or what this one said did not reach them. */
  unsure (topic: string): void
  /** A message of a node to the nodes: on `nodes`, or on `presence/…`. */
  heard (topic: string, message: unknown): void
  /** Somebody listens to every event there is. */
  readonly isTapped: boolean
  tap (topic: string, event: api.HistoryEvent): void
  reset (): void
}

export const NODES = 'nodes'

/** What was sent here. */
class Own implements Parcel {
  readonly event: CheckedEvent
  readonly except: Spared | null
  readonly node: BackplaneNode
  /** To how many members it was given here; undefined until it has come back. */
  given: number | undefined = undefined

  constructor (node: BackplaneNode, event: CheckedEvent, except: Spared | null) {
    this.node = node
    this.event = event
    this.except = except
  }
}

/** This registry as the backplane sees it: everything that is sent goes out here, everything that is delivered comes in here. */
export class BackplaneNode implements Node {
  readonly id: string = randomBytes(9).toString('base64url')
  readonly log: Node['log']
  readonly keeps: NonNullable<Node['keeps']> | null
  /** The greatest offset it has seen. */
  offset = 0
  readonly #backplane: Backplane
  readonly #host: NodeHost

  constructor (host: NodeHost) {
    this.#host = host
    this.#backplane = host.backplane
    this.log = host.log
    this.keeps = host.keeps
  }

  async start (): Promise<void> {
    await this.#backplane.start(this)
    await this.#backplane.subscribe(this, NODES)
  }

  async stop (): Promise<void> { await this.#guard(NODES, () => this.#backplane.close(this)) }

  async subscribe (topic: string): Promise<number> {
    const offset = await this.#backplane.subscribe(this, topic)
    if (offset > this.offset) this.offset = offset
    return offset
  }

  /** The same where nobody waits for it. */
  follow (topic: string): Promise<number | undefined> { return this.#guard(topic, () => this.subscribe(topic)) }

  unsubscribe (topic: string): void { void this.#guard(topic, () => this.#backplane.unsubscribe(this, topic)) }

  async publish (topic: string, event: CheckedEvent, except: Spared | null, keep: Kept | null, once: boolean): Promise<api.Receipt> {
    const parcel = new Own(this, event, except)
    try {
      const { accepted, offset, duplicate, nodes } = await this.#backplane.publish(topic, parcel, { keep, once })
      const { given } = parcel
      const receipt: api.Receipt = { accepted, members: given ?? 0 }
      if (offset > 0) receipt.id = formatCursor(this.#backplane.epoch, offset)
      if (duplicate) receipt.duplicate = true
      if (nodes !== undefined) receipt.nodes = nodes
      if (accepted && !duplicate && given === undefined) this.#tap(topic, event, receipt.id) // nothing of it came back here
      return receipt
    } catch (err) {
      this.log.error({ err, topic }, 'the backplane did not take an event')
      return { accepted: false, members: 0 }
    }
  }

  /** Tells the other nodes something; gives how many nodes there are, where the backplane can tell, 0 when none was told. */
  async tell (topic: string, message: object): Promise<number | undefined> {
    const published = await this.#guard(topic, () => {
      const event = toEvent({ data: message }, { maxBytes: Infinity })
      return this.#backplane.publish(topic, { event, except: null }, { keep: null, once: false })
    })
    return published?.accepted === true ? published.nodes : 0
  }

  /** One path for every event, this node's own too. */
  deliver ({ topic, event, except, offset, prev }: Delivery, parcel?: Parcel): void {
    if (offset > this.offset) this.offset = offset
    if (topic === NODES || topic.startsWith('presence/')) return this.#hear(topic, event)
    const roster = this.#host.roster(topic)
    if (roster !== undefined && offset > 0) {
      if (prev > roster.last) this.#host.missed(roster, roster.last)
      roster.last = offset
    }
    if (parcel instanceof Own && parcel.node === this) parcel.given = roster?.count(except) ?? 0
    if (except === null) roster?.deliver(new Framed(event, offset))
    else roster?.deliverExcept(new Framed(event, offset), except)
    this.#tap(topic, event, event.cursor)
  }

  missed (topic: string, offset: number): void {
    if (offset > this.offset) this.offset = offset
    if (topic.startsWith('presence/')) return this.#host.unsure(topic)
    const roster = this.#host.roster(topic)
    if (roster === undefined || offset <= roster.last) return
    this.#host.missed(roster, roster.last)
    roster.last = offset
  }

  reset (): void {
    this.offset = 0
    this.#host.reset()
  }

  // what is not understood came from another version of this
  #hear (topic: string, event: Delivery['event']): void {
    try {
      this.#host.heard(topic, dataOf(event))
    } catch (err) {
      this.log.warn({ err, topic }, 'a message between nodes was not understood')
    }
  }

  #tap (topic: string, event: Delivery['event'], cursor: string | undefined): void {
    if (this.#host.isTapped) this.#host.tap(topic, historyEvent(event, cursor))
  }

  async #guard<T> (topic: string, work: () => Promise<T>): Promise<T | undefined> {
    try {
      return await work()
    } catch (err) {
      this.log.error({ err, topic }, 'the backplane failed')
      return undefined
    }
  }
}
