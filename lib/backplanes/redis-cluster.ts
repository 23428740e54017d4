import { BYTES, listen } from './redis-like.ts'
import type { Client, NodeRedisCalls, NodeRedisClusterLike, Subscriber } from './redis-like.ts'
import type { Command } from './redis-script.ts'

interface Shard { readonly master: object }

/** What is called of it. */
export interface ClusterCalls extends Pick<NodeRedisClusterLike, 'isOpen' | 'isReady' | 'connect' | 'close' | 'on' | 'off'> {
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
  }

  get closed (): boolean { return !this.#cluster.isOpen }
  get ready (): boolean { return this.#cluster.isReady }
  open (): Promise<unknown> { return this.#cluster.connect() }
  async close (): Promise<unknown> { return this.#cluster.close() }

  run (commands: Command[]): Promise<unknown[]> {
    return Promise.all(commands.map((command) => this.#cluster.sendCommand(this.#key, false, command, BYTES).catch((err: unknown) => err)))
  }

  subscriber (): Subscriber { return new ClusterSubscriber(this.#cluster, this.#key) }

  watch (changed: () => void, failed: (err: Error) => void): () => void {
    return listen(this.#cluster, { connect: changed, disconnect: changed, 'node-ready': changed, 'node-disconnect': changed, error: failed, 'node-error': failed })
  }
}

/** A connection of our own to the server that has the slot; it is lost when the slot moves. */
class ClusterSubscriber implements Subscriber {
  readonly #cluster: ClusterCalls
  readonly #key: string
  #client: NodeRedisCalls | null = null
  #message: (message: Buffer, channel: Buffer) => void = () => {}

  constructor (cluster: ClusterCalls, key: string) {
    this.#cluster = cluster
    this.#key = key
  }

  async connect (message: (channel: string, message: Buffer) => void, ended: (err?: Error) => void): Promise<void> {
    this.#message = (bytes, channel) => message(String(channel), bytes)
    await this.#cluster.sendCommand(this.#key, false, ['EXISTS', this.#key]) // where the slot has moved it is found out with this
    const slot = await this.#cluster.sendCommand(this.#key, false, ['CLUSTER', 'KEYSLOT', this.#key])
    const node = await this.#cluster.nodeClient((this.#cluster.slots[Number(slot)] as Shard).master)
    const client = this.#client = node.duplicate({ socket: { ...node.options?.socket, reconnectStrategy: false } })
    listen(client, { error: ended, end: () => ended(), 'sharded-channel-moved': () => ended(new Error('the slot is moving')) })
    await client.connect()
  }

  subscribe (channels: string[]): Promise<unknown> { return (this.#client as NodeRedisCalls).sSubscribe(channels, this.#message, true) }
  unsubscribe (channels: string[]): Promise<unknown> { return (this.#client as NodeRedisCalls).sUnsubscribe(channels) }
  destroy (): void { if (this.#client?.isOpen === true) this.#client.destroy() }
}
