import { setTimeout as sleep } from 'node:timers/promises'
import type { CloseReason } from '../types/transport.ts'
import * as reasons from './close-reasons.ts'
import { Crowd } from './crowd.ts'

const STEP = 5 // between two looks at what is left

/** Who is told to go. */
export interface Drained {
  readonly wire: { terminate (): void }
  end (reason: CloseReason, delay: number): void
  closed (reason: CloseReason, clean: boolean): void
}

/** A transport's sockets that are no connections, and end with the server all the same. */
export interface Guests { readonly size: number, close (): void, terminate (): void }

/** What else keeps the server open. */
export interface DrainHost {
  readonly connections: Iterable<Drained> & { readonly size: number }
  /** Clients come back spread over `within`, what has not ended after `grace` is cut. */
  readonly options: { readonly within: number, readonly grace: number }
}

/**
 * The end of all connections: no new sockets first, then every client is told when to come back, and cut when it has not gone
 * within the grace. It never comes back before that: a closing Fastify answers 503, which an EventSource takes for good.
 */
export class Drain {
  begun = false
  /** Out of everything, but their wires are not closed yet. */
  readonly closing = new Crowd<Drained>()
  readonly guests = new Set<Guests>()
  #working = 0
  readonly #settled = (): void => { this.#working-- }
  readonly #host: DrainHost

  constructor (host: DrainHost) { this.#host = host }

  /** It may be finished before the server is closed. */
  working (work: Promise<unknown>): void {
    this.#working++
    work.then(this.#settled, this.#settled)
  }

  async run (sockets: { readonly areOver: boolean, stop (): void, cut (): void }): Promise<void> {
    if (this.begun) return
    this.begun = true
    const { connections, options: { within, grace } } = this.#host
    const over = performance.now() + grace
    sockets.stop()
    for (const connection of connections) connection.end(reasons.shutdown, Math.max(0, over - performance.now()) + Math.random() * within)
    for (const guests of this.guests) guests.close()
    while (!(this.#isIdle && sockets.areOver) && performance.now() < over) await sleep(STEP)
    for (const connection of [...connections, ...this.closing]) {
      connection.wire.terminate()
      connection.closed(reasons.shutdown, false)
    }
    for (const guests of this.guests) guests.terminate()
    sockets.cut()
  }

  /** Every wire is closed, and nobody is at work for one. */
  get #isIdle (): boolean {
    for (const { size } of this.guests) if (size > 0) return false
    return this.#host.connections.size === 0 && this.closing.size === 0 && this.#working === 0
  }
}
