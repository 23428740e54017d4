import type { ReplayTopic } from './replay.ts'
import type { Roster } from './roster.ts'

/** Events of a topic after an offset, up to another. */
export interface Span { readonly roster: Roster, readonly after: number, readonly until: number }

/** Of a doubtful one nothing can be given any more: what comes after it was given already, or nobody knows what of it was. */
export interface Lack extends Span { readonly isDoubtful: boolean }

/** A topic that it is in from an offset on, or from that of the acknowledgement. */
export interface Joining {
  readonly roster: Roster
  readonly offset: number
  readonly subscribed: Promise<number>
  /** Up to there it was given what came. */
  gave: number
}

/** What a replay gave, or is giving: all of these topics after an offset, up to another. */
interface Given { readonly topics: readonly ReplayTopic[], readonly after: number, until: number }

const MAX_GIVEN = 16 // replays that are remembered

/** What a connection is to be given from the log beside what comes, and what it was given of it, so that nothing is given twice. */
export class Ledger {
  /** It is being replayed. */
  busy = false
  #joining: Joining[] = []
  #starts: Array<[Roster, number]> = []
  #lacking: Lack[] = []
  #given: Given[] = []
  #forgotten = 0 // nobody knows what replays gave up to here

  /** There is something that a replay of all its topics does not give. */
  get isOpen (): boolean { return this.#lacking.length > 0 || this.#joining.length > 0 }

  /** It joins a topic while it is not live. Of what it was in before, and is in no more, nothing is remembered. */
  join (joining: Joining, rosters: readonly Roster[]): void {
    this.#joining = [...this.#joining.filter(({ roster }) => roster !== joining.roster), joining].filter(({ roster }) => rosters.includes(roster))
  }

  isJoining (roster: Roster): boolean { return this.#joining.some((one) => one.roster === roster) }
  takeJoining (): Joining[] { return this.#joining.splice(0) }

  /** It is in a topic from this offset on. */
  begin (roster: Roster, offset: number, rosters: readonly Roster[]): void {
    this.#starts = this.#starts.filter(([other]) => other !== roster && rosters.includes(other))
    this.#starts.push([roster, offset])
  }

  /** What was kept of it up to there is not for it. */
  startOf (roster: Roster): number { return this.#starts.find(([other]) => other === roster)?.[1] ?? 0 }

  /** What replays gave of it is left out, and what is lacking already. */
  lack ({ roster, after, until }: Span): void {
    const known = Math.max(after, Math.min(this.#forgotten, until))
    let left: Span[] = [{ roster, after, until: known }, { roster, after: known, until }]
    let gave = this.#forgotten
    for (const given of this.#given) {
      const topic = given.topics.find((one) => one.roster.topic === roster.topic)
      if (topic === undefined) continue
      left = without(left, given)
      gave = Math.max(gave, topic.gave)
    }
    for (const lack of this.#lacking) if (lack.roster.topic === roster.topic) left = without(left, lack)
    for (const span of left) if (span.after < span.until) this.#lacking.push({ ...span, isDoubtful: span.after < gave })
  }

  /** The first of it, to be given now. */
  takeLack (): Lack | undefined { return this.#lacking.shift() }

  /** A replay begins; without `until` it gives all that comes until it is over. */
  give (topics: readonly ReplayTopic[], after: number, until = Infinity): void {
    this.#given.push({ topics, after, until })
    if (this.#given.length <= MAX_GIVEN) return
    this.#given = this.#given.filter((given) => given.topics.some(({ roster }) => roster.last < given.until)) // of the others nothing can be found missing
    if (this.#given.length > MAX_GIVEN) this.#forgotten = Math.max(this.#forgotten, (this.#given.shift() as Given).until)
  }

  /** It is over. */
  gave (until: number): void {
    const given = this.#given.at(-1)
    if (given?.until !== Infinity) return // the sequence has begun anew meanwhile
    given.until = until
    if (until <= given.after) this.#given.pop()
  }

  /** It could not be read: what was to be given is not any more. */
  giveUp (until: number): void {
    this.gave(until)
    this.#joining = []
    this.#lacking = []
  }

  /** It is live, and has been given all up to an offset. */
  live (offset: number): void { this.#starts = this.#starts.filter(([, start]) => start > offset) }

  /** There is nothing to remember. */
  get isEmpty (): boolean { return !this.isOpen && this.#starts.length === 0 && this.#given.length === 0 && this.#forgotten === 0 }

  /** The sequence is another one. */
  clear (): void {
    this.#joining = []
    this.#lacking = []
    this.#given = []
    this.#forgotten = 0
    this.#starts = []
  }
}

function without (spans: Span[], { after, until }: { readonly after: number, readonly until: number }): Span[] {
  return spans.flatMap((span) => [{ ...span, until: Math.min(span.until, after) }, { ...span, after: Math.max(span.after, until) }])
}
