import { randomBytes } from 'node:crypto'

/** What nodes ask of each other on the topic `nodes`. */
export type Order =
  | { op: 'send', id: string, event: unknown }
  | { op: 'close', id: string, reason: string }
  | { op: 'leave', id: string, room: string }
  | { op: 'clear', topic: string }
  | { op: 'disconnect', topic: string, reason: string }

/** What became of an order: whether it was carried out, or what was wrong with it. */
export interface Answer { done: boolean, mistake?: { code: string, message: string } }
export type NodeMessage = Order & { node: string, ask?: string, count?: number } | Answer & { op: 'answer', node: string, ask: string }

/** What it needs from above. */
export interface NodesHost {
  readonly nodeId: string
  /** To every node, this one too; gives how many there are, where the backplane can tell, 0 when none was told. */
  tell (message: NodeMessage): Promise<number | undefined>
  /** Carries an order out here. False: nothing here to carry it out on. Throws where the order itself is a mistake. */
  obey (order: Order): boolean
}

interface Asked {
  answers: number
  /** How many answers there can be. */
  others: number
  readonly timer: NodeJS.Timeout
  resolve (done: boolean): void
  reject (mistake: Error): void
}

const ANSWER = 1_000 // how long others may take to answer

/** Reaches a connection on whichever node it lives. */
export class Nodes {
  readonly #host: NodesHost
  readonly #asked = new Map<string, Asked>()
  readonly #ordered = new Set<number>() // and not come back here yet
  #count = 0

  constructor (host: NodesHost) { this.#host = host }

  /** Has an order carried out by whoever can. True when somebody did. */
  ask (order: Order): Promise<boolean> {
    if (this.#host.obey(order)) return Promise.resolve(true)
    return new Promise((resolve, reject) => {
      const ask = randomBytes(9).toString('base64url')
      const timer = setTimeout(() => this.#settle(ask, { done: false }), ANSWER).unref()
      this.#asked.set(ask, { answers: 0, others: Infinity, timer, resolve, reject })
      void this.#tellOthers({ ...order, node: this.#host.nodeId, ask }, ask)
    })
  }

  /** Has an order carried out by every node; by this one at least. */
  async order (order: Order): Promise<void> {
    const count = ++this.#count
    this.#ordered.add(count)
    await this.#host.tell({ ...order, node: this.#host.nodeId, count })
    if (this.#ordered.delete(count)) this.#host.obey(order) // nobody was told, or it was lost on its way back
  }

  heard (message: NodeMessage): void {
    if (message.op === 'answer') return this.#answered(message)
    const { ask, node } = message
    const isOwn = node === this.#host.nodeId
    if (ask === undefined) {
      if (!isOwn || this.#ordered.delete(message.count as number)) this.#host.obey(message)
    } else if (!isOwn) void this.#host.tell({ op: 'answer', node: this.#host.nodeId, ask, ...this.#answer(message) })
  }

  stop (): void {
    for (const ask of this.#asked.keys()) this.#settle(ask, { done: false })
  }

  // answers may come before it is known how many
  async #tellOthers (message: NodeMessage, ask: string): Promise<void> {
    const nodes = await this.#host.tell(message)
    const asked = this.#asked.get(ask)
    if (asked === undefined || nodes === undefined) return
    asked.others = nodes - 1
    if (asked.answers >= asked.others) this.#settle(ask, { done: false })
  }

  #answer (order: Order): Answer {
    try {
      return { done: this.#host.obey(order) }
    } catch (err) {
      const { code, message } = err as Error & { code: string }
      return { done: false, mistake: { code, message } }
    }
  }

  #answered ({ ask, ...answer }: Answer & { ask: string }): void {
    const asked = this.#asked.get(ask)
    if (asked === undefined) return
    asked.answers++
    if (answer.done || answer.mistake !== undefined || asked.answers >= asked.others) this.#settle(ask, answer)
  }

  #settle (ask: string, { done, mistake }: Answer): void {
    const { timer, resolve, reject } = this.#asked.get(ask) as Asked
    this.#asked.delete(ask)
    clearTimeout(timer)
    if (mistake === undefined) resolve(done)
    else reject(Object.assign(new Error(mistake.message), { code: mistake.code, statusCode: 500 }))
  }
}
