import type { Backplane, Kept, Node, Parcel, Place, Publication, Range } from '../../types/backplane.ts'
import { Agreement } from './nats-agreement.ts'
import { Intake } from './nats-intake.ts'
import { Link } from './nats-link.ts'
import { boundsOf, checkKept, checkNats, checkWithin, isPersistent } from './nats-options.ts'
import type { NatsOptions, NatsSettings } from './nats-options.ts'
import { Outbound } from './nats-outgoing.ts'
import { EventStream } from './nats-stream.ts'
import { tokenOf } from './nats-subject.ts'

export type { NatsOptions } from './nats-options.ts'

const TICK = 250
const FAREWELL = 1_000 // how long what is on its way may take when it ends

/** Several processes and machines over NATS with JetStream, 2.9 or later. */
export function nats (options: NatsOptions): Backplane {
  return new NatsBackplane(checkNats(options))
}

class NatsBackplane implements Backplane {
  readonly #settings: NatsSettings
  readonly #link: Link
  readonly #stream: EventStream
  readonly #agreement: Agreement
  readonly #intake: Intake
  readonly #outbound: Outbound
  readonly #nodes = new Set<Node>()
  #starting: Promise<void> | null = null
  #ending: Promise<void> = Promise.resolve()
  #ticking: NodeJS.Timeout | null = null
  #auditAt = 0

  constructor (settings: NatsSettings) {
    this.#settings = settings
    // that of any node: they are of one process
    const log: Node['log'] = {
      error: (fields, message) => { this.#anyLog?.error(fields, message) },
      warn: (fields, message) => { this.#anyLog?.warn(fields, message) }
    }
    const link = this.#link = new Link({
      log,
      connected: () => this.#intake.attend(),
      returned: () => this.#agreement.seek(),
      lost: () => {
        this.#agreement.lost()
        this.#outbound.lost()
        this.#intake.order.lose()
      },
      answered: (number, msg) => this.#outbound.answered(number, msg)
    }, settings)
    const stream = this.#stream = new EventStream(link, settings)
    const agreement = this.#agreement = new Agreement({
      log,
      agreed: () => this.#outbound.resend(),
      reset: () => {
        log.warn({ epoch: this.epoch }, 'the sequence begins anew: what was kept before is lost')
        for (const node of this.#nodes) node.reset()
      }
    }, link, stream, () => this.#intake)
    this.#intake = new Intake({
      log,
      get epoch () { return agreement.epoch },
      get isReady () { return agreement.isReady },
      own: (number) => this.#outbound.get(number)?.parcel,
      seen: (number, offset) => this.#outbound.seen(number, offset),
      agree: () => agreement.reach(),
      position: () => agreement.position(),
      astray: () => agreement.seek()
    }, link, stream)
    this.#outbound = new Outbound({
      log,
      get epoch () { return agreement.epoch },
      get away () { return !agreement.isReady },
      unheard: () => agreement.seek(),
      delivered: (token, offset) => {
        agreement.top = Math.max(agreement.top, offset)
        return this.#intake.delivered(token, offset)
      },
      passed: () => this.#intake.order.passed(),
      isOwn: (offset, number) => this.#intake.isOwn(offset, number)
    }, link, settings)
  }

  get #anyLog (): Node['log'] | undefined {
    const [node] = this.#nodes
    return node?.log
  }

  get epoch (): string { return this.#agreement.epoch }

  async start (node: Node): Promise<void> {
    const bounds = boundsOf(this.#settings, node.keeps)
    if (this.#nodes.size === 0) this.#stream.bounds = bounds
    else checkWithin(this.#stream.bounds, node.keeps)
    this.#nodes.add(node)
    try {
      await (this.#starting ??= this.#ending.then(() => this.#begin())) // what is being closed would take it along
    } catch (err) {
      await this.close(node)
      throw err
    }
  }

  async #begin (): Promise<void> {
    if (!isPersistent(this.#settings.connection)) this.#anyLog?.warn({ stream: this.#settings.name }, 'the connection to NATS gives up when the server is away: make it with maxReconnectAttempts -1, or give a function that makes it')
    this.#auditLater(performance.now())
    this.#ticking = setInterval(() => this.#tick(performance.now()), TICK).unref()
    try {
      await this.#link.open()
      await this.#agreement.reach()
    } catch (err) {
      if (this.#settings.onUnavailable === 'fail') throw err
      this.#anyLog?.warn({ err }, 'NATS is not there yet: nothing is sent beyond this node')
    }
  }

  #auditLater (now: number): void { this.#auditAt = now + this.#settings.audit * (0.8 + 0.4 * Math.random()) }

  #tick (now: number): void {
    this.#outbound.expire(now)
    this.#link.probe(now)
    if (this.#agreement.isReady) this.#outbound.retry(now)
    if (!this.#link.up || (!this.#agreement.isDue && now < this.#auditAt)) return
    this.#auditLater(now)
    this.#agreement.seek()
  }

  async subscribe (node: Node, topic: string): Promise<number> { return await this.#intake.subscribe(node, topic) }

  async unsubscribe (node: Node, topic: string): Promise<void> { this.#intake.unsubscribe(node, topic) }

  async publish (topic: string, parcel: Parcel, { keep, once }: { keep: Kept | null, once: boolean }): Promise<Publication> {
    if (keep !== null) checkKept(this.#stream.bounds, keep)
    return await this.#outbound.send(topic, tokenOf(topic), parcel, keep, once)
  }

  async range (topic: string, after: Place, limit: number): Promise<Range> { return await this.#intake.reader.range(topic, after, limit) }

  async close (node: Node): Promise<void> {
    this.#intake.unsubscribeAll(node)
    if (!this.#nodes.delete(node) || this.#nodes.size > 0) return
    this.#starting = null
    await (this.#ending = this.#ending.then(() => this.#end()))
  }

  async #end (): Promise<void> {
    if (this.#ticking !== null) clearInterval(this.#ticking)
    this.#intake.close()
    if (this.#link.up) await Promise.race([this.#link.flush().catch(() => {}), new Promise((resolve) => { setTimeout(resolve, FAREWELL).unref() })])
    this.#outbound.close()
    await this.#link.close()
  }
}
