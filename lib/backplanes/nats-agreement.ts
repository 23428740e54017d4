import { randomBytes } from 'node:crypto'
import type { Node } from '../../types/backplane.ts'
import type { Intake } from './nats-intake.ts'
import type { Link } from './nats-link.ts'
import { ID } from './nats-outgoing.ts'
import type { EventStream, Sequence } from './nats-stream.ts'
import type { NatsTopic } from './nats-topic.ts'

/** What it needs from above. */
export interface AgreementHost {
  readonly log: Node['log']
  /** The server is there, and it is known what the sequence is. */
  agreed (): void
  /** The sequence has another epoch. */
  reset (): void
}

const AT_ONCE = 64 // topics that are looked after at a time

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

  /** The sequence after everything that was sent until now, asked for once a turn; null when it is not known. */
  async position (): Promise<Sequence | null> {
    if (!this.isReady) return null
    this.#positioning ??= Promise.resolve().then(() => {
      this.#positioning = null
      return this.#stream.find()
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
    this.#host.log.warn({ err }, 'the stream of NATS cannot be reached')
  }

  /** Rejects when the stream cannot be reached. */
  reach (): Promise<void> {
    this.#running ??= this.#agree().finally(() => { this.#running = null })
    return this.#running
  }

  /** The same where nobody waits for it. */
  seek (): void { this.reach().catch(() => {}) }

  async #agree (): Promise<void> {
    try {
      const sequence = this.#isSettled ? await this.#stream.find((found) => this.#isRewound(found)) : await this.#stream.settle()
      if (sequence.epoch !== this.epoch) this.#adopt(sequence)
      this.#isSettled = true
      this.#server = this.#link.server
      this.top = Math.max(this.top, sequence.last)
      const wasReady = this.isReady
      this.isReady = this.#link.up
      this.#host.agreed()
      if (!wasReady) this.#intake().unsure()
      await this.#audit(sequence, !wasReady || !this.#intake().isWhole)
    } catch (err) {
      this.#failed(err)
      throw err
    }
  }

  // a server that has lost what it acknowledged gives its offsets again, to other events
  async #isRewound ({ epoch, first, last }: Sequence): Promise<boolean> {
    const { seen, seenId } = this.#intake()
    if (epoch !== this.epoch) return false
    if (last < this.top) return true
    if (this.#link.server === this.#server || seen < first || seenId === '') return false
    const stored = await this.#stream.at(seen)
    return stored?.msg.headers?.get(ID) !== seenId
  }

  #adopt ({ epoch, base }: Sequence): void {
    const intake = this.#intake()
    const isNew = !this.#isSettled && intake.topics.size === 0
    this.epoch = epoch
    this.top = base
    intake.begin(base)
    if (!isNew) this.#host.reset()
  }

  // a topic in which something comes tells by itself what is missing; one that is quiet is looked after, unless nothing was kept since
  async #audit ({ epoch, last }: Sequence, all: boolean): Promise<void> {
    const intake = this.#intake()
    const topics = [...intake.topics.values()].filter((topic) => {
      if (!topic.isLive || topic.nodes.length === 0 || topic.verified >= last || !isOfApp(topic.name)) return false
      const isQuiet = topic.last === topic.audited
      topic.audited = topic.last
      return all || isQuiet
    })
    const behind: Array<[NatsTopic, number]> = []
    for (let start = 0; start < topics.length && epoch === this.epoch; start += AT_ONCE) {
      await Promise.all(topics.slice(start, start + AT_ONCE).map(async (topic) => {
        const stored = await this.#stream.last(this.#link.subjects.kept(epoch, topic.token))
        if (stored !== null && stored.offset > topic.last) behind.push([topic, stored.offset])
        topic.verified = last
      }))
    }
    await intake.fetch(behind) // together: a connection that is in several of them is given what it missed with one replay
    if (epoch === this.epoch && this.isReady) intake.isWhole = true
  }
}

// what nodes tell each other is not kept
function isOfApp (topic: string): boolean { return topic !== 'nodes' && !topic.startsWith('presence/') }
