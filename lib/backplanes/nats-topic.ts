import type { Subscription } from '@nats-io/transport-node'
import type { Node } from '../../types/backplane.ts'
import type { Entry, Log } from './nats-logs.ts'

/** What nodes of this process have subscribed to. */
export class NatsTopic {
  readonly name: string
  /** Its token in subjects. */
  readonly token: string
  /** Replaced where it changes: who is added while an event is delivered does not get that. */
  nodes: readonly Node[] = []
  subscription: Subscription | null = null
  /** Resolves when it is live. */
  opening: Promise<void> | null = null
  isLive = false
  /** Offset of the last event that was delivered, told as missed, or from which it is live: nothing up to here is delivered. */
  last = 0
  /** `last` when it was looked after. */
  checked = 0
  /** Nothing of it up to here is missing: the stream was asked. */
  verified = 0
  /** What was kept, where somebody has asked for it and nothing is missing since. */
  log: Log | null = null
  loading: Promise<Log> | null = null
  /** What came while the log was read; null: something is missing. */
  recent: Entry[] | null = null
  linger: NodeJS.Timeout | null = null

  constructor (name: string, token: string) {
    this.name = name
    this.token = token
  }

  /** What nodes tell each other is not kept. */
  get isKept (): boolean { return this.name !== 'nodes' && !this.name.startsWith('presence/') }

  add (node: Node): void {
    if (this.linger !== null) clearTimeout(this.linger)
    this.linger = null
    if (!this.nodes.includes(node)) this.nodes = [...this.nodes, node]
  }

  remove (node: Node): void { this.nodes = this.nodes.filter((other) => other !== node) }

  tellMissed (offset: number): void { for (const node of this.nodes) node.missed(this.name, offset) }
}
