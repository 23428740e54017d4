import { randomBytes } from 'node:crypto'
import type { Node } from '../../types/backplane.ts'
import type { Topic, Topics } from '../topics.ts'
import { markScript, run } from './redis-script.ts'
import type { Command } from './redis-script.ts'

/** What marks need from above. */
export interface MarksHost {
  readonly keys: string[]
  /** The channel they come back on. */
  readonly own: string
  readonly topics: Topics
  /** Both connections are there. */
  readonly ready: boolean
  place (): { epoch: string, server: string, top: number }
  ask (command: () => Command): Promise<unknown[]>
  adopt (epoch: string, top: number): void
  /** All up to here has been delivered. */
  reached (top: number): void
  missed (topic: Topic, offset: number): void
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
  readonly again: boolean
  ticks: number
  heard: boolean
  lasts: number[] | null
}

const TICKS = 5
const CHUNK = 500

/**
 * A mark is sent through Redis and comes back between the events: it tells where the sequence was at that point. So it acknowledges
 * joins, finds what was lost on the way, also the last event before a silence, and a connection that has gone deaf. One at a time.
 */
export class Marks {
  readonly #host: MarksHost
  #mark: Mark | null = null
  #joiners: Joiner[] = []
  #wanted = false
  #again = false // the subscriptions are new
  #due = false
  #ticks = 0
  /** How many were sent. */
  begun = 0
  /** One has come back. */
  done = false

  constructor (host: MarksHost) { this.#host = host }

  /** Of which server this is; makes a new identity where it is another one or the old is lost. */
  verify (): Command {
    const { epoch, server, top } = this.#host.place()
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

  tick (): void {
    const mark = this.#mark
    if (++this.#ticks % TICKS === 0) this.#wanted = true
    if (mark !== null && ++mark.ticks > TICKS) {
      this.#abandon(mark)
      if (mark.lasts !== null) this.#host.deaf()
    }
    this.#soon()
  }

  heard (message: string): void {
    const [token, epoch, top] = message.split(' ')
    const mark = this.#mark
    if (mark === null || token !== mark.token || mark.heard) return
    mark.heard = true
    this.#host.adopt(String(epoch), Number(top))
    this.#host.reached(Number(top))
    for (const { topic, node, resolve } of mark.joiners) {
      if (!topic.live) topic.last = Math.max(topic.last, Number(top))
      topic.live = true
      topic.joining.delete(node)
      resolve(Number(top))
    }
    for (const topic of mark.audited) if (mark.again && topic.joining.size < topic.nodes.size) topic.live = true
    this.#settle(mark)
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
    if (this.#mark !== null || !this.#host.ready || (!this.#wanted && this.#joiners.length === 0)) return
    const joiners = this.#joiners
    const audited = this.#wanted ? [...this.#host.topics] : []
    const mark: Mark = this.#mark = { token: randomBytes(9).toString('base64url'), since: ++this.begun, joiners, audited, again: this.#again, ticks: 0, heard: false, lasts: null }
    this.#joiners = []
    this.#wanted = this.#again = false
    try {
      const lasts: number[] = []
      for (let at = CHUNK; at < audited.length; at += CHUNK) lasts.push(...await this.#ask(audited.slice(at, at + CHUNK), ''))
      lasts.unshift(...await this.#ask(audited.slice(0, CHUNK), mark.token)) // the mark comes after all of them
      mark.lasts = lasts
      this.#settle(mark)
    } catch {
      this.#abandon(mark) // it is tried again with the next tick
    }
  }

  async #ask (topics: Topic[], token: string): Promise<number[]> {
    const reply = await this.#host.ask(() => {
      const { epoch, server, top } = this.#host.place()
      return run(markScript, this.#host.keys, [epoch, server, top, '', '0', token === '' ? '' : this.#host.own, 'PUBLISH', token, ...topics.map(({ name }) => name)])
    })
    return reply[4] as number[]
  }

  #abandon (mark: Mark): void {
    if (this.#mark !== mark) return
    this.#mark = null
    if (!mark.heard) this.#joiners.unshift(...mark.joiners)
    this.#wanted = true
    this.#again ||= mark.again
  }

  #settle (mark: Mark): void {
    if (this.#mark !== mark || !mark.heard || mark.lasts === null) return
    this.#mark = null
    this.done = true
    // in chunks asked first the last may be older than what has come since: that is no loss
    for (const [at, topic] of mark.audited.entries()) {
      const last = mark.lasts[at] as number
      if (this.#host.topics.get(topic.name) !== topic || !topic.live) continue
      if (last > topic.last) {
        topic.last = last
        this.#host.missed(topic, last)
      } else if (mark.again && last === 0) {
        this.#host.missed(topic, 0)
      }
    }
    this.#host.settled(mark.since)
    if (this.#wanted || this.#joiners.length > 0) this.#soon()
  }
}
