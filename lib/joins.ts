import type { Joining } from './ledger.ts'
import type { Member, Roster } from './roster.ts'

/** Kept topics that are joined at once. */
export interface Join {
  readonly topics: readonly Joining[]
  /** How often the sequence had begun anew. */
  readonly resets: number
}

/** Somebody who joins. Of what comes in the topics of joins that the backplane has not acknowledged yet, nobody knows yet what is for it. */
export interface Joiner { joins: readonly Join[] }

export const none: readonly never[] = []

/** It joins them at this offset, or at that of their acknowledgement. */
export function begin<M extends Member> (member: Joiner, rosters: ReadonlyArray<Roster<M>>, offset: number, resets: number): Join {
  const join = { topics: rosters.map((roster) => ({ roster, offset, subscribed: roster.subscribed as Promise<number>, gave: 0 })), resets }
  if (rosters.length > 0) member.joins = [...member.joins, join]
  return join
}

/** They are acknowledged, or never will be. */
export function end (member: Joiner, join: Join): void {
  const left = member.joins.filter((one) => one !== join)
  member.joins = left.length > 0 ? left : none
}

export function of ({ joins }: Joiner): Joining[] { return joins.flatMap(({ topics }) => topics) }

/** What came up to now it was given as it came. */
export function gave (member: Joiner): void {
  for (const topic of of(member)) if (topic.roster.last !== Infinity) topic.gave = topic.roster.last
}

/** The sequence is another one, and all of it is for it. */
export function forget (member: Joiner): void { member.joins = none }
