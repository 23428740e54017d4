import type { Msg } from '@nats-io/transport-node'

/** A kept event as it came. */
export interface Heard { readonly token: string, readonly msg: Msg, readonly offset: number, readonly prev: number }

interface Waiting {
  readonly heard: Heard
  /** How often the stream had been asked by then. */
  readonly round: number
  /** What is not kept and came after it. */
  readonly followers: Array<() => void>
}
interface Waiter { readonly since: number, readonly isOver: () => boolean, readonly resolve: () => void }

/** What the order needs from above. */
export interface OrderHost {
  /** It is its turn. */
  pass (heard: Heard): void
  /** Nothing of its topic is missing before it. */
  fits (heard: Heard): boolean
  /** Something does not come: it is shut until the stream was asked. */
  doubt (): void
}

const PATIENCE = 500 // with what has been kept and does not come
const MAX_BYTES = 16_777_216
const MAX_FOLLOWERS = 1_000
const OVERHEAD = 256

/**
 * Kept events in the order of the sequence. Up to 2.9 the server may hand on those of several senders in another order than it kept
 * them, so where it sends all of them, each waits for the one before it. While it is shut, all wait.
 */
export class Order {
  /** Everything up to here has passed. */
  last = 0
  /** The last that passed, by the id under which the stream knows it. */
  mark = { offset: 0, id: '' }
  /** What comes is all that is kept, without a hole. */
  isAll = false
  isShut = true
  readonly #host: OrderHost
  #waiting: Waiting[] = [] // by offset
  #bytes = 0
  readonly #followers: Array<() => void> = [] // of what has passed
  #following = 0
  #round = 0
  #waiters: Waiter[] = []
  #timer: NodeJS.Timeout | null = null

  constructor (host: OrderHost) { this.#host = host }

  hear (heard: Heard): void {
    if (this.isAll && heard.offset <= this.last) return
    if (this.isShut || this.isAll || !this.#host.fits(heard)) this.#wait(heard)
    else this.#pass(heard)
    if (!this.isShut) this.#advance()
  }

  #pass (heard: Heard): void {
    if (heard.offset > this.last) this.last = heard.offset
    this.#host.pass(heard)
  }

  // what is too much is left out, and found missing
  #wait (heard: Heard): void {
    const size = sizeOf(heard)
    if (this.#bytes + size > MAX_BYTES) return
    let place = this.#waiting.length
    while (place > 0 && (this.#waiting[place - 1] as Waiting).heard.offset > heard.offset) place--
    if (this.#waiting[place - 1]?.heard.offset === heard.offset) return
    this.#waiting.splice(place, 0, { heard, round: this.#round, followers: [] })
    this.#bytes += size
  }

  #advance (): void {
    let count = 0
    for (const { heard, followers } of this.#waiting) {
      if (this.isAll ? heard.offset > this.last + 1 : !this.#host.fits(heard)) break
      count++
      this.#bytes -= sizeOf(heard)
      this.#pass(heard)
      this.#follow(followers)
    }
    if (count > 0) this.#waiting.splice(0, count)
    if (!this.isAll && this.#waiting.length > 0) return this.#doubt()
    this.#settle()
    if (this.#waiting.length > 0 || this.#waiters.length > 0) this.#watch()
  }

  /** What is not kept comes after what came before it. */
  after (follower: () => void): void {
    const before = this.#waiting.at(-1)?.followers ?? (this.isShut ? this.#followers : null)
    if (before === null || this.#following === MAX_FOLLOWERS) return follower()
    this.#following++
    before.push(follower)
  }

  #follow (followers: Array<() => void>): void {
    this.#following -= followers.length
    for (const follower of followers.splice(0)) follower()
  }

  /** Resolves when what is not kept and came until now has passed. */
  async passed (): Promise<void> { await this.when(() => this.#following === 0) }

  /** The stream cannot be asked: what is not kept does not wait for that. */
  yield (): void {
    this.#follow(this.#followers)
    for (const { followers } of this.#waiting) this.#follow(followers)
    this.#settle()
  }

  #settle (): void {
    if (this.#waiters.length === 0) return
    const over = this.#waiters.filter(({ isOver }) => isOver())
    if (over.length === 0) return
    this.#waiters = this.#waiters.filter((waiter) => !over.includes(waiter))
    for (const { resolve } of over) resolve()
  }

  /** Resolves when it has come so far, whether that came or was found missing. */
  when (isOver: () => boolean): Promise<void> {
    if (isOver()) return Promise.resolve()
    this.#watch()
    return new Promise((resolve) => { this.#waiters.push({ since: performance.now(), isOver, resolve }) })
  }

  #watch (): void {
    if (this.#timer !== null || this.isShut) return
    const first = this.#waiting[0]
    this.#timer = setTimeout(() => {
      this.#timer = null
      const stands = first !== undefined && first === this.#waiting[0]
      const [waiter] = this.#waiters
      if (stands || (waiter !== undefined && performance.now() - waiter.since >= PATIENCE)) this.#doubt()
      else if (this.#waiting.length > 0 || waiter !== undefined) this.#watch()
    }, PATIENCE).unref()
  }

  #doubt (): void {
    this.shut()
    this.#host.doubt()
  }

  shut (): void {
    this.isShut = true
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#timer = null
    this.#settle()
  }

  /** The connection is lost: what waits may be lost too, and is read from the stream when it is not. */
  lose (): void {
    this.yield()
    this.#waiting = []
    this.#bytes = 0
    this.shut()
  }

  /** The stream is asked: what it does not know of has not been kept. */
  ask (): void { this.#round++ }

  /** What waits, of one topic, by offset. */
  waiting (token: string): Heard[] { return this.#waiting.filter(({ heard }) => heard.token === token).map(({ heard }) => heard) }

  /** Of what is sent here, everything up to there has come: what was kept in between is of other rooms. */
  reach (offset: number): void { if (!this.isAll && !this.isShut && offset > this.last) this.last = offset }

  /** Everything up to `last`, which the stream said it has kept, has come, waits, or was told as missed. */
  open (last: number): void {
    this.isShut = false
    this.#follow(this.#followers)
    const forged = this.#waiting.filter(({ heard, round }) => heard.offset > last && round < this.#round)
    this.#waiting = this.#waiting.filter((one) => !forged.includes(one))
    for (const { heard, followers } of forged) {
      this.#bytes -= sizeOf(heard)
      this.#follow(followers)
    }
    if (last > this.last) this.last = last
    this.#advance()
  }

  /** The sequence is another one, of which nothing is known after an offset. */
  begin (base: number): void {
    this.lose()
    this.end()
    this.last = base
    this.mark = { offset: 0, id: '' }
  }

  /** Nobody has to wait any longer. */
  end (): void {
    this.shut()
    this.yield()
    for (const { resolve } of this.#waiters.splice(0)) resolve()
  }
}

function sizeOf ({ msg }: Heard): number { return msg.data.length + OVERHEAD }
