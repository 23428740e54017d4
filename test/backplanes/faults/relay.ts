// What stands between a node and its broker. A link is what the node's connections are for: those that subscribe, and the others.
import { once } from 'node:events'
import { createConnection, createServer } from 'node:net'
import type { AddressInfo, Socket } from 'node:net'
import type { Test } from 'tap'

export type Side = 'publisher' | 'subscriber'
export type Both = Side | 'both'
/** `cut`: ended, and nobody gets through. `frozen`: open, and what is sent waits. `deaf`: what the broker sends is lost. */
export type State = 'open' | 'cut' | 'frozen' | 'deaf'

interface Trap { pattern: RegExp, sprung (): void }

export class Relay {
  port = 0
  target: number
  /** Milliseconds that what goes over a link takes. */
  readonly delay: Record<Side, number> = { publisher: 0, subscriber: 0 }
  readonly states: Record<Side, State> = { publisher: 'open', subscriber: 'open' }
  readonly pairs = new Set<Pair>()
  #trap: Trap | null = null

  constructor (target: number) { this.target = target }

  async start (t: Test): Promise<this> {
    const server = createServer((near) => { this.pairs.add(new Pair(this, near, createConnection(this.target, '127.0.0.1'))) }).listen(0, '127.0.0.1')
    await once(server, 'listening')
    this.port = (server.address() as AddressInfo).port
    t.after(() => {
      server.close()
      for (const pair of this.pairs) pair.end()
    })
    return this
  }

  set (side: Both, state: State): void {
    for (const one of ['publisher', 'subscriber'] as const) if (side === 'both' || side === one) this.states[one] = state
    for (const pair of this.pairs) pair.changed()
  }

  /** What is connected now hears nothing any more; what connects later does. */
  deafen (side: Both): void { for (const pair of this.pairs) pair.deafen(side) }

  /** All that is connected now is cut, once. */
  reset (): void { for (const pair of this.pairs) pair.end() }

  /** The next command that fits is carried out; its answer, and that connection, are lost. Resolves when they are. */
  loseReply (pattern: RegExp): Promise<void> {
    return new Promise((resolve) => { this.#trap = { pattern, sprung: resolve } })
  }

  /** No reply is lost any more. */
  disarm (): void { this.#trap = null }

  /** Whether the reply to this command is to be lost. */
  springs (chunk: Buffer): (() => void) | null {
    const trap = this.#trap
    if (trap === null || !trap.pattern.test(chunk.toString('latin1'))) return null
    this.#trap = null
    return () => trap.sprung()
  }
}

/** One connection of a node, and the one to the broker that stands for it. */
class Pair {
  #side: Side = 'publisher'
  readonly #relay: Relay
  readonly #near: Socket
  readonly #far: Socket
  readonly #ways: Way[]
  #lost: (() => void) | null = null
  #isDeaf = false

  constructor (relay: Relay, near: Socket, far: Socket) {
    this.#relay = relay
    this.#near = near
    this.#far = far
    this.#ways = [new Way(near, far), new Way(far, near)]
    for (const socket of [near, far]) socket.setNoDelay().on('error', () => {}).on('close', () => this.end())
    near.on('data', (chunk: Buffer) => {
      if (this.#side === 'publisher' && /subscribe\r\n/i.test(chunk.toString('latin1'))) {
        this.#side = 'subscriber'
        this.changed()
      }
      this.#lost ??= relay.springs(chunk)
      this.#ways[0]?.take(chunk, relay.delay[this.#side])
    })
    far.on('data', (chunk: Buffer) => {
      if (this.#lost !== null) {
        this.#lost()
        this.end()
      } else if (!this.#isDeaf && relay.states[this.#side] !== 'deaf') this.#ways[1]?.take(chunk, relay.delay[this.#side])
    })
    this.changed()
  }

  changed (): void {
    const state = this.#relay.states[this.#side]
    if (state === 'cut') this.end()
    else for (const way of this.#ways) way.hold(state === 'frozen')
  }

  deafen (side: Both): void { this.#isDeaf ||= side === 'both' || side === this.#side }

  end (): void {
    this.#relay.pairs.delete(this)
    this.#near.destroy()
    this.#far.destroy()
  }
}

/** What goes one way, in order. */
class Way {
  readonly #from: Socket
  readonly #to: Socket
  readonly #waiting: Array<{ chunk: Buffer, due: number }> = []
  #held = false
  #timer: NodeJS.Timeout | null = null

  constructor (from: Socket, to: Socket) {
    this.#from = from
    this.#to = to
    to.on('drain', () => { if (!this.#held) from.resume() })
  }

  take (chunk: Buffer, delay: number): void {
    this.#waiting.push({ chunk, due: performance.now() + delay })
    this.#flush()
  }

  hold (held: boolean): void {
    this.#held = held
    if (held) this.#from.pause()
    else this.#from.resume()
    this.#flush()
  }

  #flush (): void {
    if (this.#timer !== null) return
    while (!this.#held && this.#waiting.length > 0) {
      const [{ chunk, due }] = this.#waiting as [{ chunk: Buffer, due: number }]
      const left = due - performance.now()
      if (left > 0) {
        this.#timer = setTimeout(() => {
          this.#timer = null
          this.#flush()
        }, left)
        return
      }
      this.#waiting.shift()
      if (!this.#to.write(chunk)) this.#from.pause() // as the sockets would without us: whoever does not read is felt by who writes
    }
  }
}
