import type { Duplex } from 'node:stream'

/** An upgrade on its way through the router. */
export interface Upgrade {
  readonly socket: Duplex
  readonly head: Buffer
  /** The socket is the WebSocket's now. */
  release (): void
}

const kUpgrade = Symbol('fastify-real.upgrade') // not a WeakMap: the garbage collector looks at each entry of one each time it runs

interface Asking { [kUpgrade]?: Upgrade | null }

/** A request that is one; a wrapped handler leaves it to the transport that takes it. */
export function isUpgrade (request: object): boolean { return (request as Asking)[kUpgrade] !== undefined }

export function setUpgrade (request: object, upgrade: Upgrade): void { (request as Asking)[kUpgrade] = upgrade }

/** The upgrade that such a request is, once: whoever asks takes it. */
export function takeUpgrade (request: object): Upgrade | null {
  const { [kUpgrade]: upgrade } = request as Required<Asking>
  ;(request as Asking)[kUpgrade] = null
  return upgrade
}
