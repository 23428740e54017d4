import { randomBytes } from 'node:crypto'
import type { Backplane, Delivery, Kept, Node, Parcel, Place, Publication, Range } from '../../types/backplane.ts'
import type { CheckedEvent } from '../event.ts'
import { decodeParcel, encodeParcel } from '../parcel.ts'
import { Topics } from '../topics.ts'
import { clientOf } from './redis-clients.ts'
import { close } from './redis-library.ts'
import type { Client } from './redis-library.ts'
import { Intake } from './redis-intake.ts'
import { Link } from './redis-link.ts'
import { Marks } from './redis-marks.ts'
import { checkRedis } from './redis-options.ts'
import type { RedisOptions, RedisSettings } from './redis-options.ts'
import { Keys, publishScript, rangeScript, run } from './redis-script.ts'
import type { Command } from './redis-script.ts'
import { Sender } from './redis-sender.ts'

const BOOT = 5_000
const NODES = 'nodes'
const ALL = 2 ** 32 // redis knows no Infinity
const TICKS = 5 // in an audit
const PERIOD = 86_400_000 // after which a topic that was not used is forgotten, unless it is kept longer

/** A publication of this node: it waits until it has come over the other connection, but not for ever. */
class Own {
  readonly parcel: Parcel
  readonly due: number
  hasArrived = false
  /** How many marks were sent before it was answered. */
  replied = Infinity
  done: () => void = () => {}

  constructor (parcel: Parcel, due: number) {
    this.parcel = parcel
    this.due = due
  }

  arrived (): void {
    this.hasArrived = true
    this.done()
  }
}

/** Redis 7 or Valkey 7.2: many processes and machines. */
export function redis (options: RedisOptions): Backplane {
  const settings = checkRedis(options)
  const keys = new Keys(settings.prefix)
  return new RedisBackplane(clientOf(options.client, keys.meta), keys, settings)
}

class RedisBackplane implements Backplane {
  readonly #id = randomBytes(9).toString('base64url')
  readonly #client: Client
  readonly #verb: 'PUBLISH' | 'SPUBLISH'
  readonly #settings: RedisSettings
  readonly #keys: Keys
  readonly #nodes = new Set<Node>()
  readonly #topics: Topics
  readonly #own = new Map<number, Own>()
  readonly #intake: Intake
  readonly #log: Node['log'] = { error: (fields, message) => this.#logger?.error(fields, message), warn: (fields, message) => this.#logger?.warn(fields, message) }
  #logger: Node['log'] | null = null
  #count = 0
  #unsure = false
  #opened = false // the client, by this
  #booting: Promise<void> | null = null
  #stopping: Promise<void> = Promise.resolve()
  #ticking: NodeJS.Timeout | null = null
  #sender: Sender
  #link: Link
  #marks: Marks

  constructor (client: Client, keys: Keys, settings: RedisSettings) {
    this.#client = client
    this.#verb = client.isSharded ? 'SPUBLISH' : 'PUBLISH'
    this.#settings = settings
    this.#keys = keys
    this.#topics = new Topics({
      subscribe: ({ name }) => this.#link.subscribe(this.#keys.channel(name)),
      unsubscribe: ({ name }) => this.#link.unsubscribe(this.#keys.channel(name))
    })
    this.#intake = new Intake({
      log: this.#log,
      topics: this.#topics,
      nodes: this.#nodes,
      maxBytes: settings.maxBytes,
      maxHeld: settings.maxHeld,
      audit: () => this.#marks.need(),
      own: (from, count) => from === this.#id ? this.#own.get(count) : undefined
    })
    ;[this.#sender, this.#link, this.#marks] = this.#parts()
  }

  get epoch (): string { return this.#intake.epoch }

  #parts (): [Sender, Link, Marks] {
    const intake = this.#intake
    const own = this.#keys.own(this.#id)
    const sender = new Sender(this.#client, {
      log: this.#log,
      verify: () => this.#marks.verify(),
      verified: ([, epoch, server, top]) => {
        intake.server = String(server)
        intake.adopt(String(epoch), Number(top))
      },
      opened: () => this.#reopened()
    }, this.#settings)
    const link = new Link(this.#client, {
      log: this.#log,
      timeout: this.#settings.timeout,
      channels: () => [own, ...[...this.#topics].map(({ name }) => this.#keys.channel(name))],
      message: (channel, message) => { if (channel === own) this.#mark(String(message)); else intake.hear(channel.slice(this.#keys.channels.length), message) },
      up: () => {
        this.#client.hurry()
        this.#marks.want(true)
      },
      down: () => {
        intake.hold()
        this.#marks.lost()
      }
    })
    const marks = new Marks({
      keys: [this.#keys.meta, this.#keys.old],
      own,
      verb: this.#verb,
      topics: this.#topics,
      intake,
      ask: (command) => sender.ask(command),
      get ready () { return sender.open && link.up },
      settled: (since) => { for (const own of this.#own.values()) if (own.replied < since) own.done() },
      deaf: () => link.restart(new Error('nothing comes back'))
    })
    return [sender, link, marks]
  }

  #mark (message: string): void {
    try {
      this.#marks.heard(message)
    } catch (err) {
      this.#intake.complain(err, NODES)
    }
  }

  async start (node: Node): Promise<void> {
    this.#logger ??= node.log
    await (this.#booting ??= this.#stopping.then(() => this.#boot())) // what is being stopped would take it along
    this.#nodes.add(node)
  }

  async #boot (): Promise<void> {
    const { timeout, audit, onUnavailable } = this.#settings
    this.#ticking = setInterval(() => this.#tick(), Math.ceil(audit / TICKS)).unref()
    this.#sender.start()
    if (this.#client.closed) this.#open()
    this.#link.start()
    const until = performance.now() + Math.min(timeout, BOOT)
    while (!this.#marks.done) {
      if (performance.now() > until) {
        const { problem } = this.#sender
        if (onUnavailable === 'degrade') return this.#logger?.warn({ err: problem }, 'there is no redis yet')
        await this.#stop()
        throw new Error(`redis does not answer${problem instanceof Error ? `: ${problem.message}` : ''}`)
      }
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
  }

  // some libraries give up: it is tried again with each tick
  #open (): void {
    this.#opened = true
    this.#client.open().catch((err: unknown) => { this.#sender.problem = err })
  }

  async #stop (): Promise<void> {
    this.#booting = null
    clearInterval(this.#ticking as NodeJS.Timeout)
    this.#topics.clear()
    this.#link.close()
    this.#sender.close()
    for (const own of this.#own.values()) own.arrived()
    this.#intake.clear()
    if (this.#opened) await close(this.#client)
    ;[this.#sender, this.#link, this.#marks] = this.#parts()
  }

  async subscribe (node: Node, name: string): Promise<number> {
    const topic = this.#topics.join(node, name)
    if (topic.live) return this.#intake.delivered
    topic.joining.add(node)
    const joined = topic.subscribed.then(() => this.#marks.join(topic, node))
    return this.#marks.done || name !== NODES ? await joined : 0 // a node that starts without Redis does not wait for it
  }

  async unsubscribe (node: Node, name: string): Promise<void> { this.#topics.leave(node, name) }

  async publish (name: string, parcel: Parcel, { keep, once }: { keep: Kept | null, once: boolean }): Promise<Publication> {
    if (this.#booting === null) return { accepted: false, offset: 0, duplicate: false } // it has ended
    const count = ++this.#count
    const body = encodeParcel(parcel, { from: this.#id, count })
    if (body.length > this.#settings.maxBytes) throw new Error(`an event has ${body.length} bytes on its way, more than redis.maxBytes (${this.#settings.maxBytes})`)
    const topic = this.#topics.get(name)
    const isAwaited = topic?.live === true && topic.nodes.size > 0
    const own = new Own(parcel, performance.now() + this.#settings.timeout)
    this.#own.set(count, own)
    let { epoch } = this
    const plain = keep === null ? Buffer.concat([Buffer.from('1 - 0 0\n'), body]) : body
    try {
      const reply = await this.#sender.publish(count, body.length, (isInDoubt) => {
        if (isInDoubt && keep !== null && epoch !== this.epoch) { // it may have been delivered before the sequence began anew
          this.#log.warn({ topic: name }, 'what became of an event is not known, so it is refused')
          return null
        }
        epoch = this.epoch
        return keep === null ? [this.#verb, this.#keys.channel(name), plain] : this.#keeping(name, parcel, body, keep, once, count)
      })
      if (reply === null) {
        this.#unsure = true
        return { accepted: false, offset: 0, duplicate: false }
      }
      const [status, offset, reached] = Array.isArray(reply) ? reply as [unknown, number, number | undefined] : ['plain', 0, Number(reply)] as const
      const duplicate = String(status) === 'duplicate'
      if (!duplicate && isAwaited && !own.hasArrived) await this.#arrival(own)
      const nodes = reached === undefined ? undefined : this.#nodesOf(name, Number(reached))
      return { accepted: true, offset: epoch === this.epoch ? Number(offset) : 0, duplicate, nodes: duplicate ? 0 : nodes }
    } finally {
      this.#own.delete(count)
    }
  }

  #keeping (name: string, parcel: Parcel, body: Buffer, keep: Kept, once: boolean, count: number): Command {
    const { meta, old } = this.#keys
    const keys = [meta, old, this.#keys.stream(name), this.#keys.ids(name), this.#keys.sent(this.#id)]
    const { id = '', size } = parcel.event as CheckedEvent
    const numbers = [this.epoch, this.#intake.server, this.#intake.top, once ? 1 : 0, keep.events, keep.bytes, keep.age, size, this.#verb, count, this.#settings.topics, PERIOD]
    return run(publishScript, keys, [`${numbers.join(' ')} `, name, body, id, this.#keys.channel(name)])
  }

  // it comes over the other connection
  #arrival (own: Own): Promise<void> {
    own.replied = this.#marks.begun // what has not come with the next does not come any more, but from the log
    return new Promise((resolve) => { own.done = resolve })
  }

  #nodesOf (name: string, reached: number): number {
    const here = this.#topics.get(name)
    return here?.live === true ? reached - 1 + here.nodes.size : reached
  }

  // what nodes say of presence may have been refused meanwhile
  #reopened (): void {
    this.#marks.want(true)
    if (!this.#unsure) return
    this.#unsure = false
    for (const { name, nodes } of this.#topics) if (name.startsWith('presence/')) for (const node of nodes) node.missed(name, 0)
  }

  #tick (): void {
    const now = performance.now()
    if (this.#opened && this.#client.closed) this.#open()
    this.#sender.tick(now)
    this.#marks.tick()
    for (const own of this.#own.values()) if (own.due <= now) own.done()
  }

  async range (name: string, after: Place, limit: number): Promise<Range> {
    const { epoch } = this
    const [kind, place] = after === null ? ['last', '0'] : typeof after === 'number' ? ['after', String(after)] : ['id', after.id]
    const { meta, old } = this.#keys
    const keys = [meta, old, this.#keys.stream(name), this.#keys.ids(name)]
    const reply = await this.#sender.read(() => run(rangeScript, keys, [this.epoch, this.#intake.server, name, kind, place, Math.min(limit, ALL)]))
    const [, complete, more, from, top, found] = reply as [unknown, number, number, number, number, Buffer[]]
    if (epoch !== this.epoch) return { deliveries: [], complete: false, more: false, from: -1, top }
    this.#intake.adopt(epoch, top)
    const deliveries: Delivery[] = []
    let isWhole = complete === 1
    for (let at = 0; at < found.length; at += 2) {
      try {
        const [offset, prev] = String(found[at]).split('-').map(Number) as [number, number]
        const { event, except } = decodeParcel(found[at + 1] as Buffer, this.#settings.maxBytes)
        deliveries.push({ topic: name, event: event.at(epoch, offset), except, offset, prev })
      } catch (err) {
        this.#intake.complain(err, name)
        isWhole = false
      }
    }
    return { deliveries, complete: isWhole, more: more === 1 && deliveries.length > 0, from, top }
  }

  async close (node: Node): Promise<void> {
    this.#topics.leaveAll(node)
    if (this.#nodes.delete(node) && this.#nodes.size === 0) await (this.#stopping = this.#stop())
  }
}

export type { RedisOptions }
