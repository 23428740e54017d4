import { randomBytes } from 'node:crypto'
import type { Node } from '../../types/backplane.ts'
import type { Intake } from './nats-intake.ts'
import type { Link } from './nats-link.ts'
import type { EventStream, Sequence } from './nats-stream.ts'

/** What it needs from above. */
export interface AgreementHost {
  readonly log: Node['log']
  /** The server is there, and it is known what the sequence is. */
  agreed (): void
  /** The sequence has another epoch. */
  reset (): void
}

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
      const sequence = this.#isSettled ? await this.#stream.find((found) => this.#isRewound(found)) : await this.#stream.settle()
      if (sequence.epoch !== this.epoch) this.#adopt(sequence)
      this.#isSettled = true
      this.#server = this.#link.server
      this.top = Math.max(this.top, sequence.last)
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
  async #isRewound ({ epoch, first, last }: Sequence): Promise<boolean> {
    const { offset, id } = this.#intake().order.mark
    if (epoch !== this.epoch) return false
    if (last < this.top) return true
    if (this.#link.server === this.#server || offset < first || id === '') return false
    return (await this.#stream.at(offset))?.id !== id
  }

  // before it was known what the sequence is, nobody was given a place in it: it is taken as it is
  #adopt ({ epoch, base, last }: Sequence): void {
    const intake = this.#intake()
    const isNew = !this.#isSettled && intake.topics.size === 0
    this.epoch = epoch
    this.top = base
    intake.begin(this.#isSettled ? base : last)
    if (!isNew) this.#host.reset()
  }
}
