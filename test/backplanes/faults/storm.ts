// Faults at random moments, several at once, while nodes send and clients come and go. A seed gives what happens, not how the machine takes it.
import type { Test } from 'tap'
import { until } from '../../helper.ts'
import type { Broker, Make } from './brokers.ts'
import { cluster, pause } from './cluster.ts'
import type { Cluster, ClusterNode } from './cluster.ts'
import type { NodeConfig } from './node.ts'
import type { Both } from './relay.ts'
import type { Sent } from './verdict.ts'

export interface StormOptions {
  seed: number
  library?: NodeConfig['library']
  /** Milliseconds. */
  time: number
  /** How the broker loses what it keeps; without, it never does. */
  loses?: (broker: never) => Promise<unknown>
}

const ROOMS = ['a', 'b', 'c', 'd']
const FOUND = 12_000 // milliseconds after which a node knows that its connection is deaf
const SIDES: readonly Both[] = ['both', 'publisher', 'subscriber']

export const time = Number(process.env.TIME ?? 5_000)
export const seeds = (first: number): number[] => Array.from({ length: Number(process.env.SEEDS ?? 1) }, (_, n) => Number(process.env.FIRST ?? first) + n)

/** Numbers that a seed gives (mulberry32). */
export class Dice {
  #state: number
  constructor (seed: number) { this.#state = seed }

  /** From 0 to 1. */
  roll (): number {
    this.#state = this.#state + 0x6D2B79F5 | 0
    let z = Math.imul(this.#state ^ this.#state >>> 15, 1 | this.#state)
    z = z + Math.imul(z ^ z >>> 7, 61 | z) ^ z
    return ((z ^ z >>> 14) >>> 0) / 4_294_967_296
  }

  between (least: number, most: number): number { return least + Math.floor(this.roll() * (most - least + 1)) }
  of<T> (all: readonly T[]): T { return all[this.between(0, all.length - 1)] as T }
}

class Storm {
  readonly told: string[] = []
  readonly #dice: Dice
  readonly #all: Cluster
  readonly #broker: Broker
  readonly #loses: StormOptions['loses']
  readonly #open = new Set<Promise<void>>()
  readonly #since = performance.now()
  readonly #keyed = new Map<string, Sent[]>()
  #kills = 0
  #stopped = false // the broker
  #until: number

  constructor (dice: Dice, all: Cluster, broker: Broker, { time, loses }: StormOptions) {
    this.#dice = dice
    this.#all = all
    this.#broker = broker
    this.#loses = loses
    this.#until = this.#since + time
  }

  get #here (): ClusterNode[] { return this.#all.nodes.filter(({ isGone, port }) => !isGone && port !== 0) }

  #begin (what: string, work: () => Promise<unknown>): void {
    this.told.push(`${Math.round(performance.now() - this.#since)} ${what}`)
    const done: Promise<void> = work().then(() => {}, (err: Error) => { this.told.push(`${what} failed: ${err.message}`) }).finally(() => { this.#open.delete(done) })
    this.#open.add(done)
  }

  /** Until its time is over and nothing of it is left. */
  async rage (): Promise<void> {
    const dice = this.#dice
    const losses = this.#loses === undefined ? [] : [dice.between(20, 50), dice.between(51, 90)].map((percent) => percent / 100)
    while (performance.now() < this.#until) {
      await pause(dice.of([0, 30, 150, 400, 900]))
      const left = (this.#until - performance.now()) / (this.#until - this.#since)
      if (losses.length > 0 && 1 - left >= (losses[0] as number)) {
        losses.shift()
        this.#begin('loss', () => (this.#loses as (broker: Broker) => Promise<unknown>)(this.#broker))
      }
      this.#once()
      if (this.#open.size < 8) this.#fault(left)
    }
    while (this.#open.size > 0) await Promise.all(this.#open)
    for (const { relay } of this.#all.nodes) {
      relay.disarm()
      relay.set('both', 'open')
      relay.delay.publisher = relay.delay.subscriber = 0
    }
  }

  // one idempotent send, or the same from two nodes at once
  #once (): void {
    const dice = this.#dice
    const key = `key ${this.#keyed.size}`
    const room = dice.of(ROOMS)
    const sents: Sent[] = []
    this.#keyed.set(`${room} ${key}`, sents)
    const nodes = this.#here
    for (const node of dice.roll() < 0.3 ? [dice.of(nodes), dice.of(nodes)] : [dice.of(nodes)]) {
      node.call('send', this.#all.writerOf(node), room, { id: key, once: true }).then((sent) => { sents.push(sent) }, () => {})
    }
  }

  #fault (left: number): void {
    const dice = this.#dice
    const all = this.#all
    const node = dice.of(this.#here)
    const at = all.nodes.indexOf(node)
    const { relay } = node
    const side = dice.of(SIDES)
    const far = this.#broker.kind === 'redis' ? side : 'both'
    const time = dice.between(100, 3_000)
    switch (dice.between(0, 10)) {
      case 0: return this.#begin(`cut ${far} of ${at} for ${time}`, async () => { relay.set(far, 'cut'); await pause(time); relay.set(far, 'open') })
      case 1: return this.#begin(`reset ${at}`, async () => { relay.reset() })
      case 2: { // one that subscribes is found out; one that publishes is the library's
        const isFound = (far === 'subscriber' || this.#broker.kind === 'nats') && this.#until - performance.now() > FOUND
        return this.#begin(`deaf ${far} of ${at} ${isFound ? '' : `for ${time}`}`, async () => {
          relay.deafen(far)
          if (isFound) return
          await pause(time)
          relay.reset()
        })
      }
      case 3: return this.#begin(`frozen ${far} of ${at} for ${time}`, async () => { relay.set(far, 'frozen'); await pause(time); relay.set(far, 'open') })
      case 4: return this.#begin(`slow ${side} of ${at} for ${time}`, async () => {
        const delay = dice.between(50, 400)
        if (side !== 'subscriber') relay.delay.publisher = delay
        if (side !== 'publisher') relay.delay.subscriber = delay
        await pause(time)
        relay.delay.publisher = relay.delay.subscriber = 0
      })
      case 5: return this.#begin(`lost reply of ${at}`, async () => { await Promise.race([relay.loseReply(/w\d+:/), pause(1_000)]) })
      case 6: return this.#begin(`node ${at} stands still for ${time}`, async () => { node.signal('SIGSTOP'); await pause(time * 4 / 3); node.signal('SIGCONT') })
      case 7: return this.#kills++ < 2 && at < 3 && this.#here.length > 1 && left > 0.2 ? this.#begin(`kill ${at}`, () => this.#kill(node)) : undefined
      case 8:
        if (this.#stopped) return
        this.#stopped = true
        return this.#begin(`broker stands still for ${time}`, async () => {
          this.#broker.signal('SIGSTOP')
          await pause(time)
          this.#broker.signal('SIGCONT')
          this.#stopped = false
        })
      case 9: return this.#begin(`block ${at}`, async () => { await node.call('block', time / 3) })
      default: {
        const going = all.readers.filter(() => dice.roll() < 0.4)
        return this.#begin(`${going.length} go`, async () => { for (const reader of going) reader.leave(dice.between(0, all.nodes.length - 1)) })
      }
    }
  }

  async #kill (node: ClusterNode): Promise<void> {
    await node.kill()
    const fresh = await this.#all.node()
    while (fresh.port === 0 && !fresh.isGone) await pause(20)
    if (fresh.isGone) throw new Error(`a node did not start: ${fresh.lines.join('; ')}`)
    await this.#all.begin(20, [fresh])
  }

  /** Of those that were sent with one key one was taken. */
  twice (): string[] {
    return [...this.#keyed].filter(([, sents]) => sents.filter(({ answer }) => answer === 'accepted').length > 1).map(([key]) => key)
  }
}

export function storm (t: Test, make: Make, options: StormOptions): void {
  const { seed, library = '@redis/client', loses } = options
  t.test(`storm ${seed}${loses === undefined ? '' : ', with losses'}`, { buffered: true }, async (t) => {
    const dice = new Dice(seed)
    const broker = await make(t)
    await broker.start()
    const all = await cluster(t, { broker: broker.kind, port: broker.port, library, nodes: dice.between(2, 3), clients: 0, rooms: ROOMS, options: { timeout: 20_000 } }) // longer than a node can be away
    for (let i = 0; i < 12; i++) all.reader(i, i % 2 === 0 ? 'sse' : 'ws', {}, i % 3 === 0 ? ROOMS : ROOMS.filter((_, at) => at === i % 4 || dice.roll() < 0.4))
    await until(() => all.readers.every(({ isIn }) => isIn))
    const rate = dice.between(50, 280) / all.nodes.length
    await all.write(rate)
    await all.write(dice.between(2, 10), all.nodes, ROOMS, dice.between(2_000, 20_000))
    const storm = new Storm(dice, all, broker, options)
    await storm.rage()
    await all.returned()
    await all.settle()
    all.judge(`storm ${seed}`, { gaps: loses === undefined ? 'none' : 'any' })
    if (loses === undefined) t.strictSame(storm.twice(), [], 'of those with one key one was taken')
    if (!t.passing()) t.comment(JSON.stringify(storm.told))
  })
}
