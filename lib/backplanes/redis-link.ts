import type { Client, Subscriber } from './redis-like.ts'

/** What it needs from above. */
export interface LinkHost {
  readonly log: { error (fields: object, message: string): void }
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
  #lost: (err?: Error) => void = () => {}
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
        if (this.#subscriber !== null) this.#subscribe(this.#subscriber, [...this.#waiting.keys()]).catch(this.#lost)
      })
    })
  }

  async unsubscribe (channel: string): Promise<void> {
    this.#waiting.delete(channel)
    try {
      await this.#subscriber?.unsubscribe([channel])
    } catch {} // then it is lost, and with it the subscription
  }

  async #run (): Promise<void> {
    for (let tries = 0; !this.#closed; tries++) {
      const subscriber = this.#client.subscriber()
      let isLost = false
      const lost = new Promise<Error | undefined>((resolve) => { this.#lost = (err) => { isLost = true; resolve(err) } })
      const opening = this.#open(subscriber, this.#lost)
      opening.catch(this.#lost)
      if (await Promise.race([opening, lost]).then(() => !isLost, () => false)) {
        tries = 0
        this.#subscriber = subscriber
        this.#logged = false
        this.#host.up()
        if (this.#waiting.size > 0) this.#subscribe(subscriber, [...this.#waiting.keys()]).catch(this.#lost)
      }
      const err = await lost
      this.#subscriber = null
      subscriber.destroy()
      if (this.#closed) return
      if (!this.#logged) this.#host.log.error({ err }, 'the subscriptions to redis are lost')
      this.#logged = true
      this.#host.down()
      await new Promise((resolve) => setTimeout(resolve, Math.random() * Math.min(LONGEST, PAUSE * 2 ** tries)))
    }
  }

  async #open (subscriber: Subscriber, lost: (err?: Error) => void): Promise<void> {
    await subscriber.connect((channel, message) => this.#host.message(channel, message), lost)
    await this.#subscribe(subscriber, this.#host.channels())
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
