/** How far a reader is behind: who waits for it, and what it was not given. */
export class Backlog {
  /** Events dropped since the client was told last. */
  dropped = 0
  #waiters: Array<{ mark: number, resolve: () => void }> = []

  /** Resolves when no more than `mark` bytes wait for the reader. */
  wait (mark: number): Promise<void> { return new Promise((resolve) => { this.#waiters.push({ mark, resolve }) }) }

  /** So many bytes wait for it still; none, when it never will take them. True while somebody waits on. */
  over (buffered: number): boolean {
    const waiters = this.#waiters
    if (waiters.length === 0) return false
    this.#waiters = waiters.filter(({ mark }) => buffered > mark)
    for (const { mark, resolve } of waiters) if (buffered <= mark) resolve()
    return this.#waiters.length > 0
  }

  drop (count: number): number {
    this.dropped += count
    return count
  }

  /** How many were dropped, told once. */
  take (): number {
    const { dropped } = this
    this.dropped = 0
    return dropped
  }
}
