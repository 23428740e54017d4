const MAX_SEEN = 1_000

/** A client that comes back with the place it had: what it is still to be sent of what it missed. */
export class Returning<R extends { readonly topic: string }> {
  /** The offset it had come to: undefined until it was looked up, Infinity when nobody knows. */
  place: number | undefined = undefined
  /** Joined, but not replayed yet. */
  readonly late = new Set<R>()
  readonly #seen = new Set<string>()

  /** A room that it left and joins again is not replayed again; nor are any more once it has been in so many. */
  joining (rosters: Iterable<R>): void {
    if (this.#seen.size >= MAX_SEEN) return
    for (const roster of rosters) if (!this.#seen.has(roster.topic)) this.late.add(roster)
  }

  /** What is to be replayed now, of what it is still in. */
  take (isIn: (roster: R) => boolean): R[] {
    const rosters = [...this.late].filter(isIn)
    this.late.clear()
    for (const { topic } of rosters) this.#seen.add(topic)
    return rosters
  }
}
