import type { Spared } from '../types/backplane.ts'
import type { Framed } from './frame.ts'
import { Crowd } from './crowd.ts'

/** One of the connections of a topic. */
export interface Member {
  readonly id: string
  readonly user: string | null
  deliver (framed: Framed): void
}

/** Offsets after which nothing is missed: in some of the topics that are joined at once, and in all of them. */
export interface Reached { readonly earliest: number, readonly latest: number }

/** The members of one topic on this node. */
export class Roster<M extends Member = Member> {
  readonly topic: string
  /** Name of the room or user; empty for `all`. */
  readonly name: string
  /** What is sent to it is kept. */
  readonly kept: boolean
  readonly isRoom: boolean
  readonly members = new Crowd<M>()
  /** Settles when the backplane has acknowledged it; the offset from which nothing is missed. */
  subscribed: Promise<number> | null = null
  /** That offset, once it has settled. */
  start = 0
  /** Offset of the last kept event that was delivered, or of the subscription; Infinity before. */
  last = Infinity
  #before: ReadonlyArray<Roster<M>> | null = null
  #after: ReadonlyArray<Roster<M>> = []

  constructor (topic: string, name: string, kept: boolean) {
    this.topic = topic
    this.name = name
    this.kept = kept
    this.isRoom = topic.startsWith('room/')
  }

  /** A member's rosters with this one. Most come from the same ones, and share the array: of their own it would weigh 56 bytes in each. */
  after (rosters: ReadonlyArray<Roster<M>>): ReadonlyArray<Roster<M>> {
    if (rosters !== this.#before) {
      this.#before = rosters
      this.#after = rosters.concat(this)
    }
    return this.#after
  }

  /** Nobody is in it: what it remembers would hold the rosters that its members were in. */
  forget (): void {
    this.#before = null
    this.#after = []
  }

  deliver (framed: Framed): void {
    for (const member of this.members.list) member?.deliver(framed)
  }

  deliverExcept (framed: Framed, { ids, users }: Spared): void {
    for (const member of this.members.list) {
      if (member !== null && !ids.includes(member.id) && (member.user === null || !users.includes(member.user))) member.deliver(framed)
    }
  }

  /** How many are given an event that spares these. */
  count (except: Spared | null): number {
    if (except === null) return this.members.size
    let count = 0
    for (const { id, user } of this.members) if (!except.ids.includes(id) && (user === null || !except.users.includes(user))) count++
    return count
  }
}
