import { randomBytes } from 'node:crypto'
import type { Node } from '../../types/backplane.ts'
import type { Intake } from './nats-intake.ts'
import type { Link } from './nats-link.ts'
import type { Order } from './nats-order.ts'
import type { EventStream, Sequence } from './nats-stream.ts'

/** What it needs from above. */
export interface AgreementHost {
  readonly log: Node['log']
  /** The server is there, and it is known what the sequence is. */
  agreed (): void
  /** The sequence has another epoch. */
  reset (): void
}

/** What was known of a sequence before the stream was asked. */
interface Known { readonly top: number, readonly last: number, readonly mark: Order['mark'] }

const MARK_EVERY = 15_000

/** This node and the stream agree: on one epoch, and that nothing is missing here. */
export class Agreement {
  epoch = randomBytes(9).toString('base64url') // until the stream says
  /** The stream has been heard of since the connection was made. */
  isReady = false
  /** The greatest offset that was heard of. */
  top = 0
  readonly #host: AgreementHost
  readonly #link: Link
  readonly #stream: EventStream
  readonly #intake: () => Intake
  #isSettled = false
  #created = ''
  #marked = -1
  #markAt = 0
  #again = false
  #server: string | undefined
  #running: Promise<void> | null = null
  #positioning: Promise<Sequence> | null = null

  constructor (host: AgreementHost, link: Link, stream: EventStream, intake: () => Intake) {
    this.#host = host
    this.#link = link
    this.#stream = stream
    this.#intake = intake
  }

  lost (): void { this.isReady = false }

  /** The stream has to be asked. */
  get isDue (): boolean { return !this.isReady || this.#intake().order.isShut }

  /** The sequence after everything that was sent until now, asked for once a turn; null when it is not known. */
  async position (): Promise<Sequence | null> {
    if (!this.isReady) return null
    this.#positioning ??= Promise.resolve().then(async () => {
      this.#positioning = null
      const sequence = await this.#stream.find()
      if (!this.#intake().order.isAll) await this.#stream.fence(sequence.epoch) // what was kept before it has come
      return sequence
    })
    try {
      return await this.#positioning
    } catch (err) {
      this.#failed(err)
      return null
    }
  }

  #failed (err: unknown): void {
    this.isReady = false
    this.#intake().order.yield()
    this.#host.log.warn({ err }, 'the stream of NATS cannot be reached')
  }

  /** Rejects when the stream cannot be reached. */
  reach (): Promise<void> {
    this.#running ??= this.#agree().finally(() => {
      this.#running = null
      if (this.#again) this.seek()
    })
    return this.#running
  }

  /** The same where nobody waits for it; what is found out meanwhile may be too old. */
  seek (): void {
    this.#again = this.#running !== null
    if (!this.#again) this.reach().catch(() => {})
  }

  async #agree (): Promise<void> {
    const intake = this.#intake()
    try {
      intake.order.ask()
      const known = { top: this.top, last: intake.order.last, mark: intake.order.mark } // what comes while it is asked may be later than the answer
      const sequence = this.#isSettled ? await this.#stream.find((found) => this.#isRewound(found, known)) : await this.#stream.settle()
      if (sequence.epoch !== this.epoch) this.#adopt(sequence)
      this.#isSettled = true
      this.#server = this.#link.server
      this.#created = sequence.created
      this.top = Math.max(this.top, sequence.last)
      await this.#mark(sequence)
      const wasReady = this.isReady
      this.isReady = this.#link.up
      this.#host.agreed()
      if (!wasReady) intake.unsure()
      if (intake.order.isShut) await intake.recover(sequence)
      else await intake.check(sequence)
    } catch (err) {
      this.#failed(err)
      throw err
    }
  }

  // a server that has lost what it acknowledged gives its offsets again, to other events
  async #isRewound (found: Sequence, { top, last, mark: { offset, id } }: Known): Promise<boolean> {
    if (found.epoch !== this.epoch) return false
    if (found.created !== this.#created) return true
    if (this.#link.server === this.#server) return false
    if (found.last < Math.max(top, last)) return true
    const stored = id === '' ? null : await this.#stream.at(offset)
    return stored !== null && stored.id !== id
  }

  // the first of the stream is then as old as it may be, though rooms drop theirs for number
  async #mark ({ epoch, last }: Sequence): Promise<void> {
    const now = performance.now()
    if (last === this.#marked || now < this.#markAt) return
    try {
      this.#marked = await this.#stream.mark(epoch)
      this.#markAt = now + MARK_EVERY
    } catch {} // the next time: one that has just been made may not be listening yet
  }

  // before it was known what the sequence is, nobody was given a place in it: it is taken as it is
  #adopt ({ epoch, base, last }: Sequence): void {
    const intake = this.#intake()
    const isNew = !this.#isSettled && intake.topics.size === 0
    this.epoch = epoch
    this.top = base
    this.#markAt = 0
    intake.begin(this.#isSettled ? base : last)
    if (!isNew) this.#host.reset()
  }
}
