import type { Client, Subscriber } from './redis-library.ts'

/** What it needs from above. */
export interface LinkHost {
  readonly log: { error (fields: object, message: string): void }
  /** Milliseconds that a connection may take to be there, with all its subscriptions. */
  readonly timeout: number
  /** Of all that is to be subscribed to. */
  channels (): string[]
  message (channel: string, message: Buffer): void
  /** All of them are acknowledged. */
  up (): void
  down (): void
}

const BATCH = 512
const PAUSE = 100 // milliseconds, more with each attempt
const LONGEST = 1_000

/** The connection that subscribes. It is never mended: when it is lost, another takes its place and subscribes to everything. */
export class Link {
  readonly #client: Client
  readonly #host: LinkHost
  readonly #waiting = new Map<string, () => void>()
  #subscriber: Subscriber | null = null
  #lost!: (err?: Error) => void
  #gone: Promise<unknown> | null = null // resolves when what is there now is lost
  #closed = false
  #logged = false
  #due = false

  constructor (client: Client, host: LinkHost) {
    this.#client = client
    this.#host = host
  }

  get up (): boolean { return this.#subscriber !== null }

  start (): void { void this.#run() }

  close (): void {
    this.#closed = true
    this.#lost()
  }

  /** Another connection takes over. */
  restart (err: Error): void { this.#lost(err) }

  /** Resolves when it is acknowledged, however long that takes. */
  subscribe (channel: string): Promise<void> {
    return new Promise((resolve) => {
      this.#waiting.set(channel, resolve)
      if (this.#due) return
      this.#due = true
      queueMicrotask(() => {
        this.#due = false
        if (this.#subscriber !== null) this.#flush(this.#subscriber)
      })
    })
  }

  /** Resolves when it is acknowledged, or the connection is lost, and with it the subscription: some libraries do not tell then. */
  async unsubscribe (channel: string): Promise<void> {
    this.#waiting.delete(channel)
    if (this.#subscriber === null) return
    const acknowledged = this.#subscriber.unsubscribe([channel])
    acknowledged.catch(this.#lost)
    await Promise.race([acknowledged, this.#gone])
  }

  async #run (): Promise<void> {
    for (let tries = 0; !this.#closed; tries++) {
      const { subscriber, lost } = this.#another()
      const err = await lost
      if (this.#subscriber === subscriber) tries = 0
      this.#subscriber = null
      subscriber.destroy()
      if (this.#closed) return
      if (!this.#logged) this.#host.log.error({ err }, 'the subscriptions to redis are lost')
      this.#logged = true
      this.#host.down()
      await new Promise((resolve) => setTimeout(resolve, Math.random() * Math.min(LONGEST, PAUSE * 2 ** tries)))
    }
  }

  /** One that is about to be there, and what resolves when it is lost. */
  #another (): { subscriber: Subscriber, lost: Promise<Error | undefined> } {
    let isLost = false
    const lost = new Promise<Error | undefined>((resolve) => { this.#lost = (err) => { isLost = true; resolve(err) } })
    this.#gone = lost
    const ended = this.#lost
    const subscriber = this.#client.subscriber({ ended, message: (channel, message) => { if (!isLost) this.#host.message(channel, message) } })
    const late = setTimeout(ended, this.#host.timeout, new Error('redis does not answer')).unref()
    void this.#open(subscriber).then(() => {
      if (isLost) return
      this.#subscriber = subscriber
      this.#logged = false
      this.#host.up()
      this.#flush(subscriber)
    }).catch(ended).finally(() => clearTimeout(late))
    return { subscriber, lost }
  }

  async #open (subscriber: Subscriber): Promise<void> {
    await subscriber.connect()
    await this.#subscribe(subscriber, this.#host.channels())
  }

  // what was asked for meanwhile
  #flush (subscriber: Subscriber): void {
    if (this.#waiting.size > 0) this.#subscribe(subscriber, [...this.#waiting.keys()]).catch(this.#lost)
  }

  async #subscribe (subscriber: Subscriber, channels: string[]): Promise<void> {
    for (let at = 0; at < channels.length; at += BATCH) {
      const batch = channels.slice(at, at + BATCH)
      await subscriber.subscribe(batch)
      for (const channel of batch) {
        this.#waiting.get(channel)?.()
        this.#waiting.delete(channel)
      }
    }
  }
}
