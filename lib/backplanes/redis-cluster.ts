import { BYTES, calm, listen } from './redis-library.ts'
import type { Client, Listener, NodeRedisCalls, NodeRedisClusterLike, Subscriber } from './redis-library.ts'
import type { Command } from './redis-script.ts'

interface Shard { readonly master: object }

/** What is called of it. */
export interface ClusterCalls extends Pick<NodeRedisClusterLike, 'isOpen' | 'isReady' | 'connect' | 'destroy' | 'on' | 'off'> {
  readonly slots: Array<Shard | undefined>
  sendCommand (key: string, isReadonly: boolean, command: Command, options?: object): Promise<unknown>
  nodeClient (node: object): Promise<NodeRedisCalls> | NodeRedisCalls
}

/** A cluster, of which one shard has all: that of the hash tag of a key. */
export class NodeRedisCluster implements Client {
  readonly isSharded = true
  readonly #cluster: ClusterCalls
  readonly #key: string

  constructor (cluster: NodeRedisClusterLike, key: string) {
    this.#cluster = cluster as unknown as ClusterCalls
    this.#key = key
    calm(cluster)
  }

  get closed (): boolean { return !this.#cluster.isOpen }
  get ready (): boolean { return this.#cluster.isReady }
  open (): Promise<unknown> { return this.#cluster.connect() }
  destroy (): void { this.#cluster.destroy() }
  hurry (): void {}

  run (commands: Command[]): Promise<unknown[]> {
    return Promise.all(commands.map((command) => this.#cluster.sendCommand(this.#key, false, command, BYTES).catch((err: unknown) => err)))
  }

  subscriber (listener: Listener): Subscriber { return new ClusterSubscriber(this.#cluster, this.#key, listener) }

  watch (changed: () => void, failed: (err: Error) => void): () => void {
    return listen(this.#cluster, { connect: changed, disconnect: changed, 'node-ready': changed, 'node-disconnect': changed, error: failed, 'node-error': failed })
  }
}

/** A connection of our own to the server that has the slot; it is lost when the slot moves. */
class ClusterSubscriber implements Subscriber {
  readonly #cluster: ClusterCalls
  readonly #key: string
  readonly #ended: (err?: Error) => void
  readonly #message: (message: Buffer, channel: Buffer) => void
  #client: NodeRedisCalls | null = null
  #isOver = false

  constructor (cluster: ClusterCalls, key: string, { message, ended }: Listener) {
    this.#cluster = cluster
    this.#key = key
    this.#ended = ended
    this.#message = (bytes, channel) => message(String(channel), bytes)
  }

  async connect (): Promise<void> {
    await this.#cluster.sendCommand(this.#key, false, ['EXISTS', this.#key]) // where the slot has moved it is found out with this
    const slot = await this.#cluster.sendCommand(this.#key, false, ['CLUSTER', 'KEYSLOT', this.#key])
    const node = await this.#cluster.nodeClient((this.#cluster.slots[Number(slot)] as Shard).master)
    const client = node.duplicate({ socket: { ...node.options?.socket, reconnectStrategy: false } })
    listen(client, { connect: () => { if (this.#isOver) client.destroy() }, error: this.#ended, end: () => this.#ended(), 'sharded-channel-moved': () => this.#ended(new Error('the slot has moved')) })
    this.#client = client
    await client.connect()
  }

  subscribe (channels: string[]): Promise<unknown> { return (this.#client as NodeRedisCalls).sSubscribe(channels, this.#message, true) }
  unsubscribe (channels: string[]): Promise<unknown> { return (this.#client as NodeRedisCalls).sUnsubscribe(channels) }

  destroy (): void {
    this.#isOver = true
    if (this.#client?.isOpen === true) this.#client.destroy()
  }
}
