import type { Delivery, Node, Parcel } from '../types/backplane.ts'

/** What topics need from above: a broker. */
export interface TopicsHost {
  /** Resolves when the broker has acknowledged it. */
  subscribe (topic: Topic): Promise<void>
  unsubscribe (topic: Topic): Promise<void>
}

/** A topic that is subscribed to at the broker, for the nodes of this process that want it. */
export class Topic {
  readonly name: string
  readonly nodes = new Set<Node>()
  /** Those of them that are given nothing yet. */
  readonly joining = new Set<Node>()
  /** Settles when the broker has acknowledged it. */
  subscribed: Promise<void> = Promise.resolve()
  /** Offset of the last kept event that was delivered or announced as missed, or of the subscription; 0 before. */
  last = 0
  /** What is sent to it is coming, without a hole: for the broker's side to keep. */
  live = false
  /** When it is dropped; 0 as long as a node wants it. */
  due = 0

  constructor (name: string) { this.name = name }

  deliver (delivery: Delivery, parcel?: Parcel): void { for (const node of this.nodes) if (!this.joining.has(node)) give(node, delivery, parcel) }
}

const LINGER = 1_000 // somebody who comes back at once costs the broker nothing

/** Which topics are subscribed to: counted by node, lingering before they are dropped, one request at a time for each. */
export class Topics {
  readonly #host: TopicsHost
  readonly #linger: number
  readonly #topics = new Map<string, Topic>()
  readonly #lingering = new Set<Topic>() // the first is due first
  readonly #ending = new Map<string, Promise<void>>()
  #timer: NodeJS.Timeout | null = null

  constructor (host: TopicsHost, linger = LINGER) {
    this.#host = host
    this.#linger = linger
  }

  get size (): number { return this.#topics.size }
  [Symbol.iterator] (): Iterator<Topic> { return this.#topics.values() }
  get (name: string): Topic | undefined { return this.#topics.get(name) }

  /** From now on the node is given what comes; all of it once `subscribed` has resolved. */
  join (node: Node, name: string): Topic {
    const topic = this.#topics.get(name) ?? this.#begin(name)
    topic.nodes.add(node)
    topic.due = 0
    this.#lingering.delete(topic)
    return topic
  }

  leave (node: Node, name: string): void {
    const topic = this.#topics.get(name)
    topic?.joining.delete(node)
    if (topic?.nodes.delete(node) !== true || topic.nodes.size > 0) return
    topic.due = performance.now() + this.#linger
    this.#lingering.add(topic)
    this.#wait()
  }

  leaveAll (node: Node): void { for (const name of this.#topics.keys()) this.leave(node, name) }

  /** Forgets everything; the broker is told nothing. */
  clear (): void {
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#timer = null
    this.#lingering.clear()
    this.#topics.clear()
  }

  #begin (name: string): Topic {
    const topic = new Topic(name)
    this.#topics.set(name, topic)
    const ending = this.#ending.get(name)
    topic.subscribed = ending === undefined ? this.#host.subscribe(topic) : ending.then(() => this.#host.subscribe(topic))
    topic.subscribed.catch(() => { if (this.#topics.get(name) === topic) this.#forget(topic) }) // whoever wants it next tries again
    return topic
  }

  #forget (topic: Topic): void {
    this.#topics.delete(topic.name)
    this.#lingering.delete(topic)
  }

  #wait (): void {
    if (this.#timer !== null) return
    const [first] = this.#lingering
    if (first !== undefined) this.#timer = setTimeout(() => this.#drop(), Math.max(1, first.due - performance.now())).unref()
  }

  #drop (): void {
    this.#timer = null
    const now = performance.now()
    for (const topic of this.#lingering) {
      if (topic.due > now) break
      this.#forget(topic)
      this.#end(topic)
    }
    this.#wait()
  }

  #end (topic: Topic): void {
    const done = (): void => { this.#ending.delete(topic.name) }
    this.#ending.set(topic.name, topic.subscribed.then(() => this.#host.unsubscribe(topic)).then(done, done))
  }
}

/** A node that fails harms no other, nor whoever sends. */
export function give (node: Node, delivery: Delivery, parcel?: Parcel): void {
  try {
    node.deliver(delivery, parcel)
  } catch (err) {
    node.log.error({ err, topic: delivery.topic }, 'an event could not be delivered')
  }
}
