import type { Joining } from './ledger.ts'
import type { Member, Roster } from './roster.ts'

/** Kept topics that are joined at once. */
export interface Join {
  readonly topics: readonly Joining[]
  /** How often the sequence had begun anew. */
  readonly resets: number
}

const none: readonly Join[] = []

/** Joins that the backplane has not acknowledged yet: of what comes in their topics, nobody knows yet what is for those who join. */
export class Joins<M extends Member> {
  readonly #joins = new Map<M, readonly Join[]>()

  /** It joins them at this offset, or at that of their acknowledgement. */
  begin (member: M, rosters: ReadonlyArray<Roster<M>>, offset: number, resets: number): Join {
    const join = { topics: rosters.map((roster) => ({ roster, offset, subscribed: roster.subscribed as Promise<number>, gave: 0 })), resets }
    if (rosters.length > 0) this.#joins.set(member, [...this.#of(member), join])
    return join
  }

  /** They are acknowledged, or never will be. */
  end (member: M, join: Join): void {
    const left = this.#of(member).filter((one) => one !== join)
    if (left.length > 0) this.#joins.set(member, left)
    else this.#joins.delete(member)
  }

  of (member: M): Joining[] { return this.#of(member).flatMap(({ topics }) => topics) }

  /** What came up to now it was given as it came. */
  gave (member: M): void {
    for (const topic of this.of(member)) if (topic.roster.last !== Infinity) topic.gave = topic.roster.last
  }

  /** The sequence is another one, and all of it is for it. */
  forget (member: M): void { this.#joins.delete(member) }

  #of (member: M): readonly Join[] { return this.#joins.get(member) ?? none }
}
