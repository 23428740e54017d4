import { randomBytes } from 'node:crypto'
import type { Node } from '../../types/backplane.ts'
import type { Topic, Topics } from '../topics.ts'
import type { Intake } from './redis-intake.ts'
import { markScript, run } from './redis-script.ts'
import type { Command } from './redis-script.ts'
import { readMark } from './redis-wire.ts'

/** What marks need from above. */
export interface MarksHost {
  readonly keys: string[]
  /** The channel they come back on, and the command that sends them there. */
  readonly own: string
  readonly verb: string
  readonly topics: Topics
  readonly intake: Intake
  /** Both connections are there. */
  readonly ready: boolean
  ask (command: () => Command): Promise<unknown[]>
  /** What was answered before a mark was sent has come, or does not come. */
  settled (since: number): void
  /** What was sent does not come back. */
  deaf (): void
}

interface Joiner { readonly topic: Topic, readonly node: Node, readonly resolve: (offset: number) => void }

interface Mark {
  readonly token: string
  readonly since: number
  readonly joiners: Joiner[]
  readonly audited: Topic[]
  /** It audits all topics there were. */
  readonly isAudit: boolean
  readonly again: boolean
  /** The last offset of each topic, as far as they have come. */
  readonly lasts: number[]
  epoch: string
  ticks: number
  sent: boolean
}

const TICKS = 5
const CHUNK = 500

/**
 * A mark is sent through Redis and comes back between the events: it tells where the sequence and each topic were at that point. So it
 * acknowledges joins, finds what was lost on the way, also the last event before a silence, and a connection that has gone deaf. One at a time.
 */
export class Marks {
  readonly #host: MarksHost
  #mark: Mark | null = null
  #joiners: Joiner[] = []
  #wanted = false
  #again = false // the subscriptions are new
  #due = false
  #ticks = 0
  #needed = 0 // a later one is, for what waits
  /** How many were sent. */
  begun = 0
  /** One has come back. */
  done = false

  constructor (host: MarksHost) { this.#host = host }

  /** Of which server this is; makes a new identity where it is another one or the old is lost. */
  verify (): Command {
    const { epoch, server, top } = this.#host.intake
    return run(markScript, this.#host.keys, [epoch, server, top, randomBytes(9).toString('base64url'), '1', '', '', '']).with(0, 'EVAL').with(1, markScript.text)
  }

  /** Resolves with the offset after which the node is given everything of a topic, and nothing before. */
  join (topic: Topic, node: Node): Promise<number> {
    return new Promise((resolve) => {
      this.#joiners.push({ topic, node, resolve })
      this.#soon()
    })
  }

  want (again: boolean): void {
    this.#wanted = true
    this.#again ||= again
    this.#soon()
  }

  /** What waits needs one that is sent from now on. */
  need (): void {
    this.#needed = this.begun
    this.want(false)
  }

  /** The subscriptions are lost: what is on its way does not come back. */
  lost (): void {
    if (this.#mark !== null) this.#abandon(this.#mark)
    this.#needed = this.begun
  }

  tick (): void {
    const mark = this.#mark
    if (++this.#ticks % TICKS === 0) this.#wanted = true
    if (mark !== null && ++mark.ticks > TICKS) {
      this.#abandon(mark)
      if (mark.sent) this.#host.deaf()
    }
    this.#soon()
  }

  /** Throws where it is none. */
  heard (message: string): void {
    const { token, epoch, top, lasts } = readMark(message)
    const mark = this.#mark
    if (mark === null || token !== mark.token) return
    const { intake } = this.#host
    const isSame = (mark.epoch ||= epoch) === epoch
    mark.lasts.push(...lasts)
    if (isSame && mark.lasts.length < mark.audited.length) return
    if (!isSame || intake.isPast(epoch) || (intake.holding && (!mark.isAudit || mark.since <= this.#needed))) {
      this.#abandon(mark)
      return this.#soon()
    }
    this.#mark = null
    intake.adopt(epoch, top)
    intake.settle(top, mark.audited, mark.lasts, mark.again)
    for (const { topic, node, resolve } of mark.joiners) {
      if (!topic.live) topic.last = Math.max(topic.last, top)
      topic.live = true
      topic.joining.delete(node)
      resolve(top)
    }
    this.done = true
    this.#host.settled(mark.since)
    if (this.#wanted || this.#joiners.length > 0) this.#soon()
  }

  #soon (): void {
    if (this.#due || this.#mark !== null) return
    this.#due = true
    setImmediate(() => {
      this.#due = false
      void this.#send()
    })
  }

  async #send (): Promise<void> {
    const isAudit = this.#wanted
    if (this.#mark !== null || !this.#host.ready || (!isAudit && this.#joiners.length === 0)) return
    const audited = isAudit ? [...this.#host.topics] : []
    const mark: Mark = this.#mark = { token: randomBytes(9).toString('base64url'), since: ++this.begun, joiners: this.#joiners, audited, isAudit, again: this.#again, lasts: [], epoch: '', ticks: 0, sent: false }
    this.#joiners = []
    this.#wanted = this.#again = false
    try {
      let at = 0
      do await this.#ask(audited.slice(at, at + CHUNK), mark); while ((at += CHUNK) < audited.length)
      mark.sent = true
    } catch {
      this.#abandon(mark) // it is tried again with the next tick
    }
  }

  async #ask (topics: Topic[], mark: Mark): Promise<void> {
    const { keys, own, verb, intake } = this.#host
    const [, epoch,, top] = await this.#host.ask(() => {
      return run(markScript, keys, [intake.epoch, intake.server, intake.top, '', '0', own, verb, mark.token, ...topics.map(({ name }) => name)])
    })
    if (this.#mark === mark) intake.adopt(String(epoch), Number(top)) // else what it says may be over
  }

  #abandon (mark: Mark): void {
    if (this.#mark !== mark) return
    this.#mark = null
    this.#joiners.unshift(...mark.joiners)
    this.#wanted = true
    this.#again ||= mark.again
  }
}
