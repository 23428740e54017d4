import type { Duplex } from 'node:stream'

/** An upgrade on its way through the router. */
export interface Upgrade {
  readonly socket: Duplex
  readonly head: Buffer
  /** The socket is the WebSocket's now. */
  release (): void
}

const kUpgrade = Symbol('fastify-real.upgrade') // not a WeakMap: the garbage collector looks at each entry of one each time it runs

interface Answering { [kUpgrade]?: Upgrade | null }

/** A response to one; a wrapped handler leaves it to the transport that takes it. */
export function isUpgrade (response: object): boolean { return (response as Answering)[kUpgrade] !== undefined }

export function setUpgrade (response: object, upgrade: Upgrade): void { (response as Answering)[kUpgrade] = upgrade }

/** The upgrade that such a response is to, once: whoever asks takes it. */
export function takeUpgrade (response: object): Upgrade | null {
  const { [kUpgrade]: upgrade } = response as Required<Answering>
  ;(response as Answering)[kUpgrade] = null
  return upgrade
}
