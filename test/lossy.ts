import { memory } from '../lib/index.ts'
import type { Backplane, Node } from '../lib/index.ts'
import type { Delivery } from '../types/backplane.ts'
import { detour } from './returner.ts'

export interface LossyOptions {
  /** Whether a kept event is lost on its way to a node. */
  loses (delivery: Delivery): boolean
  /** What comes before and after what is asked of it. */
  later (): Promise<unknown>
}

/** A backplane that loses events on their way to its nodes, says so later, and takes its time. */
export class Lossy {
  /** Offsets of all that was lost. */
  readonly late = new Set<number>()
  /** Topics that cannot be subscribed to. */
  readonly failing = new Set<string>()
  readonly unreadable = new Set<string>()
  readonly backplane: Backplane
  #inner: Backplane
  readonly #options: LossyOptions
  readonly #proxies = new Map<Node, Node>()
  readonly #topics = new Set<[Node, string]>()
  readonly #lost = new Map<string, number>() // the last of each topic

  constructor (options: LossyOptions, make: () => Backplane = memory) {
    this.#options = options
    this.#inner = make()
    const inner = (): Backplane => this.#inner
    this.backplane = Object.defineProperty(detour(inner(), {
      start: (node) => inner().start(this.#proxy(node)),
      subscribe: async (node, topic) => {
        await options.later()
        if (this.failing.has(topic)) throw new Error('subscribe failed')
        this.#topics.add([this.#proxy(node), topic])
        const offset = await inner().subscribe(this.#proxy(node), topic)
        await options.later()
        return offset
      },
      unsubscribe: (node, topic) => inner().unsubscribe(this.#proxy(node), topic),
      publish: (...args) => inner().publish(...args),
      range: async (topic, after, limit) => {
        await options.later()
        if (this.unreadable.has(topic)) throw new Error('range failed')
        const range = await inner().range(topic, after, limit)
        await options.later()
        return range
      }
    }), 'epoch', { get: () => inner().epoch })
  }

  #proxy (node: Node): Node {
    let proxy = this.#proxies.get(node)
    if (proxy === undefined) {
      this.#proxies.set(node, proxy = {
        id: node.id,
        log: node.log,
        missed: (topic, offset) => node.missed(topic, offset),
        reset: () => node.reset(),
        deliver: (delivery, parcel) => {
          if (delivery.offset === 0 || !this.#options.loses(delivery)) return node.deliver(delivery, parcel)
          this.#lost.set(delivery.topic, delivery.offset)
          this.late.add(delivery.offset)
        }
      })
    }
    return proxy
  }

  /** It is found out what was lost, of one topic or of all. */
  find (topic?: string): void {
    for (const [name, offset] of [...this.#lost]) {
      if (topic !== undefined && topic !== name) continue
      this.#lost.delete(name)
      for (const node of this.#proxies.values()) node.missed(name, offset)
    }
  }

  /** Everything that was kept is gone, and the sequence begins again. */
  async begin (): Promise<void> {
    const inner = memory()
    for (const [node, topic] of this.#topics) await inner.subscribe(node, topic)
    this.#inner = inner
    this.#lost.clear()
    for (const node of this.#proxies.values()) node.reset()
  }
}
