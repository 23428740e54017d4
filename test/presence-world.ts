import { setImmediate } from 'node:timers/promises'
import { memory } from '../lib/index.ts'
import type { Backplane, Node } from '../lib/index.ts'
import type { Delivery, Parcel } from '../types/backplane.ts'

interface Timer { readonly run: () => void, readonly every: number, due: number }

/** Time that passes only when it is told to: a timeout is reached at once, and never by a machine that is slow. */
export class Clock {
  now = 0
  readonly timers = new Set<Timer>()
  readonly #real = { setTimeout: globalThis.setTimeout, setInterval: globalThis.setInterval, clearTimeout: globalThis.clearTimeout, clearInterval: globalThis.clearInterval }

  install (): void {
    const set = (isRepeated: boolean) => (run: () => void, ms = 0) => {
      const timer = { run, every: isRepeated ? ms : 0, due: this.now + ms, unref () { return timer }, ref () { return timer } }
      this.timers.add(timer)
      return timer
    }
    const clear = (timer: Timer): void => { this.timers.delete(timer) }
    Object.assign(globalThis, { setTimeout: set(false), setInterval: set(true), clearTimeout: clear, clearInterval: clear })
    performance.now = () => this.now
  }

  remove (): void {
    Object.assign(globalThis, this.#real)
    delete (performance as { now?: unknown }).now
  }

  async pass (ms: number): Promise<void> {
    for (const end = this.now + ms; this.now < end; this.now++) {
      await setImmediate()
      for (const timer of this.timers) {
        if (timer.due > this.now || !this.timers.has(timer)) continue
        if (timer.every > 0) timer.due = this.now + timer.every
        else this.timers.delete(timer)
        timer.run()
      }
    }
  }
}

export interface LinkOptions {
  /** How many turns something takes. */
  lag (): number
  /** Whether a topic cannot be subscribed to this time. */
  fails (topic: string): boolean
  /** Whether what comes is lost, while the link is bad. */
  loses (): boolean
}

export type Fault = 'none' | 'cut' | 'deaf' | 'lossy' | 'crashed'

/** What stands between one node and the backplane of all: it takes its time, loses, refuses, and says so when it is well again. */
export class Link implements Backplane {
  fault: Fault = 'none'
  /** The fault began, and the last one ended then. */
  since = 0
  until = -Infinity
  /** How long the last one lasted. */
  lasted = 0
  readonly followed = new Set<string>()
  /** What was subscribed to in vain. */
  readonly failed: string[] = []
  /** Data of the messages to nodes that were lost, as text. */
  readonly lost: string[] = []
  /** Of those it sent. */
  readonly publications: string[] = []
  readonly #inner: Backplane
  readonly #options: LinkOptions
  readonly #clock: Clock
  #node: Node | null = null
  #proxy: Node | null = null
  readonly #kept = new Map<string, number>() // lost
  readonly #come: Array<{ delivery: Delivery, parcel: Parcel | undefined }> = []
  readonly #arrivals = new Map<Parcel, () => void>()
  #order: Promise<unknown> = Promise.resolve()
  #pumping = false
  #healers: Array<() => void> = []

  constructor (inner: Backplane, clock: Clock, options: LinkOptions) {
    this.#inner = inner
    this.#clock = clock
    this.#options = options
  }

  get epoch (): string { return this.#inner.epoch }
  get #mute (): boolean { return this.fault === 'cut' || this.fault === 'crashed' }

  start (node: Node): Promise<void> {
    this.#node = node
    this.#proxy = {
      id: node.id,
      log: node.log,
      missed: () => {},
      reset: () => {},
      deliver: (delivery, parcel) => this.#take(delivery, parcel)
    }
    return this.#inner.start(this.#proxy)
  }

  // one after the other, as on one wire
  #queue<T> (work: () => Promise<T>): Promise<T> {
    const done = this.#order.then(async () => {
      await this.#wait()
      if (this.fault === 'cut') await new Promise<void>((resolve) => { this.#healers.push(resolve) })
      return await work()
    })
    this.#order = done.catch(() => {})
    return done
  }

  async #wait (): Promise<void> { for (let n = this.#options.lag(); n > 0; n--) await setImmediate() }

  async subscribe (_node: Node, topic: string): Promise<number> {
    const offset = await this.#queue(async () => {
      if (this.fault === 'crashed') throw new Error('the node has crashed')
      if (this.#options.fails(topic)) {
        this.failed.push(topic)
        throw new Error('subscribe failed')
      }
      this.followed.add(topic)
      return await this.#inner.subscribe(this.#proxy as Node, topic)
    })
    await this.#wait()
    return offset
  }

  async unsubscribe (_node: Node, topic: string): Promise<void> {
    await this.#queue(async () => {
      this.followed.delete(topic)
      await this.#inner.unsubscribe(this.#proxy as Node, topic)
    })
  }

  async publish (...args: Parameters<Backplane['publish']>): ReturnType<Backplane['publish']> {
    if (this.#mute) return { accepted: false, offset: 0, duplicate: false }
    return await this.#order.then(() => this.#publish(...args))
  }

  async #publish (...args: Parameters<Backplane['publish']>): ReturnType<Backplane['publish']> {
    if (this.#mute) return { accepted: false, offset: 0, duplicate: false }
    const [topic, parcel] = args
    if (topic === 'nodes') this.publications.push(parcel.event.text as string)
    const arrived = this.followed.has(topic) ? new Promise<void>((resolve) => { this.#arrivals.set(parcel, resolve) }) : undefined
    const publication = await this.#inner.publish(...args)
    await arrived
    await this.#wait()
    return publication
  }

  range (...args: Parameters<Backplane['range']>): ReturnType<Backplane['range']> { return this.#inner.range(...args) }

  async close (): Promise<void> {
    this.followed.clear()
    for (const parcel of this.#arrivals.keys()) this.#arrived(parcel)
    for (const go of this.#healers.splice(0)) go()
    await this.#inner.close(this.#proxy as Node)
  }

  #take (delivery: Delivery, parcel: Parcel | undefined): void {
    if (this.#mute || this.fault === 'deaf' || (this.fault === 'lossy' && this.#options.loses())) {
      if (delivery.offset > 0) this.#kept.set(delivery.topic, delivery.offset)
      if (delivery.topic === 'nodes') this.lost.push(delivery.event.text as string)
      if (parcel !== undefined) this.#arrived(parcel)
      return
    }
    this.#come.push({ delivery, parcel })
    if (!this.#pumping) void this.#pump()
  }

  #arrived (parcel: Parcel): void {
    this.#arrivals.get(parcel)?.()
    this.#arrivals.delete(parcel)
  }

  async #pump (): Promise<void> {
    this.#pumping = true
    for (let next = this.#come.shift(); next !== undefined; next = this.#come.shift()) {
      await this.#wait()
      if (this.fault !== 'crashed' && this.followed.has(next.delivery.topic)) this.#node?.deliver(next.delivery, next.parcel)
      if (next.parcel !== undefined) this.#arrived(next.parcel)
    }
    this.#pumping = false
  }

  begin (fault: Fault): void {
    if (this.fault !== 'none' && fault !== 'crashed') return
    this.fault = fault
    this.since = this.#clock.now
    if (fault === 'crashed') void this.close()
  }

  /** It is well again, and says what may not have come. */
  heal (): void {
    if (this.fault === 'none' || this.fault === 'crashed') return
    this.fault = 'none'
    this.until = this.#clock.now
    this.lasted = this.until - this.since
    for (const go of this.#healers.splice(0)) go()
    for (const topic of this.followed) {
      const offset = this.#kept.get(topic)
      if (topic.startsWith('presence/')) this.#node?.missed(topic, 0)
      else if (offset !== undefined) this.#node?.missed(topic, offset)
    }
    this.#kept.clear()
  }

  /** How long it was away, of late. */
  away (within: number): number {
    const { now } = this.#clock
    if (this.fault !== 'none') return Math.max(now - this.since, this.until > now - within ? this.lasted : 0)
    return this.until > now - within ? this.lasted : 0
  }
}

/** What the nodes of a test share. */
export function shared (): Backplane { return memory() }
