import { inspect } from 'node:util'
import type { Disconnect, WsHandlers } from '../../types/api.ts'
import { isThenable } from '../arguments.ts'
import * as reasons from '../close-reasons.ts'
import type { Connection } from '../connection.ts'
import type { WsSettings } from '../options.ts'
import { isAbort } from '../source.ts'
import type { Read } from './ws-schema.ts'
import type { Receiver, WsWire } from './ws-wire.ts'

const MAX_BYTES = 65_536 // of messages that wait
const STRIKES = 10 // bad messages, one after another
const PATIENCE = 5_000 // with a handler that does not settle, before what has to follow it does

/** Who waits for handlers at a shutdown. */
interface Drain { working (work: Promise<unknown>): void }

/** What the inboxes of a route have in common. */
export interface InboxHost {
  readonly handlers: WsHandlers<unknown>
  readonly settings: WsSettings
  readonly read: Read | null
  readonly drain: Drain
}

interface Waiting { readonly data: Buffer, readonly isBinary: boolean }

/**
 * The handlers of one connection and the messages on their way to them: one at a time, in order, none lost. When too many wait the
 * socket is not read until there is room. What a client sent before it left is still handled; then comes onDisconnect.
 */
export class Inbox implements Receiver {
  readonly #connection: Connection
  readonly #wire: WsWire
  readonly #host: InboxHost
  #waiting: Waiting[] = nothing // one that was ever filled has room for 17
  #bytes = 0
  #busy = false // a handler is at work
  #work: Promise<void> | null = null
  #over = false
  #strikes = 0
  #tokens: number
  #filledAt: number

  constructor (connection: Connection, wire: WsWire, host: InboxHost) {
    this.#connection = connection
    this.#wire = wire
    this.#host = host
    this.#tokens = host.settings.messageRate
    this.#filledAt = clock()
  }

  connect (): void { this.#begin(true) }

  message (data: Buffer, isBinary: boolean): void {
    if (this.#wire.closing || this.#over) return
    if (this.#host.settings.messageRate > 0 && !this.#pay()) return this.#connection.end(reasons.flooding)
    if (this.#host.handlers.onMessage === undefined) return
    if (this.#waiting === nothing) this.#waiting = []
    this.#waiting.push({ data, isBinary })
    this.#bytes += data.byteLength
    if (!this.#busy) this.#begin(false)
    if (this.#isFull) this.#wire.pause()
  }

  get #isFull (): boolean { return this.#waiting.length >= this.#host.settings.maxPending || this.#bytes >= MAX_BYTES }

  #begin (connects: boolean): void {
    const work = this.#run(connects)
    if (!this.#busy) return // handlers that are not async are done already
    this.#work = work
    this.#host.drain.working(work)
  }

  async #run (connects: boolean): Promise<void> {
    this.#busy = true
    try {
      if (connects) {
        await this.#host.handlers.onConnect?.(this.#connection, this.#connection.request)
        this.#connection.settled()
      }
      for (let next = this.#next(); next !== undefined; next = this.#next()) {
        const handled = this.#handle(next)
        if (isThenable(handled)) await handled
      }
    } catch (err) {
      await this.#fail(err)
    }
    this.#busy = false
    this.#work = null
  }

  #next (): Waiting | undefined {
    if (this.#waiting === nothing) return undefined
    if (this.#wire.closing || this.#over) this.#waiting = nothing
    const next = this.#waiting.shift()
    if (next !== undefined) this.#bytes -= next.data.byteLength
    if (this.#wire.paused && !this.#isFull) this.#wire.resume()
    return next
  }

  #handle ({ data, isBinary }: Waiting): unknown {
    const { read } = this.#host
    if (read === null) return this.#host.handlers.onMessage?.(this.#connection, isBinary ? data : data.toString())
    const { value, error } = read(data, isBinary)
    if (error !== null) return this.#refuse(error)
    this.#strikes = 0
    return this.#host.handlers.onMessage?.(this.#connection, value)
  }

  async #refuse (error: Error & { code: string }): Promise<void> {
    this.#connection.say({ event: 'refused', data: { code: error.code, message: error.message } })
    await this.#tell(error)
    if (++this.#strikes >= STRIKES) this.#connection.end(reasons.offending)
  }

  /** A handler failed: the application hears of it, and the connection ends. */
  async #fail (err: unknown): Promise<void> {
    if (!this.#connection.open && isAbort(err)) return // it did as the signal said
    this.#connection.request.log.error({ err, connection: this.#connection.id }, 'a handler of a WebSocket route failed')
    await within(PATIENCE, this.#tell(err))
    this.#connection.end(reasons.failed)
  }

  async #tell (err: unknown): Promise<void> {
    try {
      await this.#host.handlers.onError?.(this.#connection, err instanceof Error ? err : new Error(typeof err === 'string' ? err : inspect(err)))
    } catch (error) {
      this.#connection.request.log.error({ err: error, connection: this.#connection.id }, 'onError itself failed')
      this.#connection.end(reasons.failed)
    }
  }

  /** The wire is closed. What it gives resolves when the application has been told; null when it is not to be. */
  disconnected (end: Disconnect): Promise<void> | null {
    if (this.#work !== null || this.#host.handlers.onDisconnect !== undefined) return this.#disconnect(end)
    this.#over = true
    return null
  }

  async #disconnect (end: Disconnect): Promise<void> {
    if (this.#work !== null) await within(PATIENCE, this.#work)
    this.#over = true
    try {
      await this.#host.handlers.onDisconnect?.(this.#connection, end)
    } catch (err) {
      this.#connection.request.log.error({ err, connection: this.#connection.id }, 'onDisconnect failed')
      await this.#tell(err)
    }
  }

  // a bucket of `messageRate` tokens, filled at `messageRate` a second
  #pay (): boolean {
    const now = clock()
    const { messageRate } = this.#host.settings
    this.#tokens = Math.min(messageRate, this.#tokens + (now - this.#filledAt) / 1000 * messageRate)
    this.#filledAt = now
    if (this.#tokens < 1) return false
    this.#tokens--
    return true
  }
}

const nothing: Waiting[] = []

// whole: any other number would be an object of its own for each
function clock (): number { return Math.trunc(performance.now()) }

/** Waits for what never rejects, but not for ever. */
function within (milliseconds: number, work: Promise<void>): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds)
    void work.then(() => {
      clearTimeout(timer)
      resolve()
    })
  })
}
