import type { CheckedEvent } from './event.ts'
import type { Framed } from './frame.ts'

/**
 * What a connection waits for before live events reach it, and the events that wait meanwhile, bounded in bytes.
 * A returning connection waits until it has joined what it joins: until its handler settles, or some time after the last join.
 */
export class Hold {
  /** A kept event did not fit: it is to be read again from history. */
  missed = false
  #waiting: Framed[] = []
  #bytes = 0
  #joins = 0
  #dropped = 0
  #settled = false
  #timer: NodeJS.Timeout | null = null
  #waiters: Array<() => void> = []
  readonly #limit: number
  readonly #time: number
  readonly #release: () => void

  /** `release` is called when nothing more has to be waited for, and again when what was joined after that is acknowledged. */
  constructor (limit: number, time: number, release: () => void) {
    this.#limit = limit
    this.#time = time
    this.#release = release
  }

  /** No join waits for its acknowledgement. */
  get idle (): boolean { return this.#joins === 0 }

  joining (): void {
    this.#joins++
    this.#stop()
  }

  joined (): void {
    this.#joins--
    this.#check()
  }

  settle (): void {
    this.#settled = true
    this.#check()
  }

  #check (): void {
    this.#stop()
    if (this.#joins > 0) return
    if (this.#settled) this.#release()
    else this.#timer = setTimeout(() => this.settle(), this.#time).unref()
  }

  #stop (): void {
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#timer = null
  }

  /** Resolves when it is over. Whoever waits for it may join nothing before, so it does not last for ever. */
  whenOver (): Promise<void> {
    if (this.#timer === null && !this.#settled) this.#check()
    return new Promise((resolve) => { this.#waiters.push(resolve) })
  }

  /** False: it does not wait here. */
  add (framed: Framed): boolean {
    const { size } = framed.event as CheckedEvent
    const fits = this.#bytes === 0 || this.#bytes + size <= this.#limit
    if (!fits) {
      if (framed.offset === 0) this.#dropped++
      else this.missed = true
    }
    if (!fits || (framed.offset !== 0 && this.missed)) return false // after one was missed the next may not overtake it
    this.#waiting.push(framed)
    this.#bytes += size
    return true
  }

  /** Offset of the first kept event that waits; Infinity when none does. */
  get first (): number { return this.#waiting.find(({ offset }) => offset > 0)?.offset ?? Infinity }

  /** How many events that are not kept did not fit, told once. */
  takeDropped (): number {
    const dropped = this.#dropped
    this.#dropped = 0
    return dropped
  }

  /** Called where history is about to be read: that covers every kept event there was until now. */
  forgetKept (): void {
    this.missed = false
    this.#waiting = this.#waiting.filter((framed) => framed.offset === 0)
    this.#bytes = this.#waiting.reduce((bytes, { event }) => bytes + (event as CheckedEvent).size, 0)
  }

  /** It is over: gives what waited, in its order. */
  end (): Framed[] {
    this.#stop()
    const waiting = this.#waiting
    this.#waiting = []
    this.#bytes = 0
    const waiters = this.#waiters
    this.#waiters = []
    for (const resolve of waiters) resolve()
    return waiting
  }
}
