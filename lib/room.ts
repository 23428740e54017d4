import type * as api from '../types/api.ts'
import { checkLimit, checkOptions, checkReason } from './arguments.ts'
import { ArgumentError } from './errors.ts'

/** What a room needs from above. */
export interface RoomHost {
  roster (topic: string): { readonly members: Iterable<api.Connection> & { readonly size: number, has (connection: never): boolean } } | undefined
  publish (topic: string, event: api.Sendable, options: api.SendOptions): Promise<api.Receipt>
  clear (topic: string): Promise<void>
  disconnect (topic: string, reason: string): Promise<void>
  presence (name: string): Promise<api.Presence[]>
  history (topic: string, after: string | undefined, limit: number): Promise<api.HistoryPage>
}

/** A handle: a name and a way to the registry. It holds no state, so it never goes stale. */
export class Room implements api.Room {
  readonly name: string
  readonly #topic: string
  readonly #host: RoomHost
  readonly #kind: 'room' | 'user'

  constructor (host: RoomHost, kind: 'room' | 'user', name: string) {
    this.#host = host
    this.#kind = kind
    this.name = name
    this.#topic = `${kind}/${name}`
  }

  get size (): number { return this.#host.roster(this.#topic)?.members.size ?? 0 }

  has (connection: api.Connection): boolean { return this.#host.roster(this.#topic)?.members.has(connection as never) ?? false }

  * members (): Iterable<api.Connection> {
    const roster = this.#host.roster(this.#topic)
    if (roster !== undefined) yield * roster.members
  }

  send (event: api.Sendable, options: api.SendOptions = {}): Promise<api.Receipt> { return this.#host.publish(this.#topic, event, options) }

  clear (): Promise<void> { return this.#host.clear(this.#topic) }

  disconnect (reason: string = 'closed'): Promise<void> {
    return this.#host.disconnect(this.#topic, checkReason(reason))
  }

  /** Of a user there is none: presence is of rooms. */
  presence (): Promise<api.Presence[]> { return this.#kind === 'room' ? this.#host.presence(this.name) : Promise.resolve([]) }

  history (options: api.HistoryOptions = {}): Promise<api.HistoryPage> {
    const { after, limit } = checkOptions(options, ['after', 'limit'])
    if (after !== undefined && typeof after !== 'string') throw new ArgumentError('after', 'must be a cursor or an id')
    return this.#host.history(this.#topic, after, checkLimit(limit))
  }
}
