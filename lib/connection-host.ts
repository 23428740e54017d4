import type * as api from '../types/api.ts'
import type { Connection } from './connection.ts'
import type { Checks } from './event.ts'
import type { RegistryOptions } from './options.ts'
import type { Outbox } from './outbox.ts'

/** What a connection needs from above. */
export interface ConnectionHost {
  readonly outbox: Outbox
  readonly options: RegistryOptions
  /** What direct sends are checked with, where a route has no schema of its own. */
  readonly checks: Checks
  readonly clock: { readonly tick: number }
  readonly counts: { sent: number, dropped: number, slow: number }
  join (connection: Connection, rooms: string[], presence: api.JoinOptions['presence']): Promise<boolean>
  part (connection: Connection, room: string): void
  identify (connection: Connection, user: string | null): void
  /** Replays a connection that returns or whose reader has caught up, then calls `goLive`. */
  resume (connection: Connection): void
  /** What it waited for has been written: it may be announced, and told who is present. */
  live (connection: Connection): void
  gap (connection: Connection, gap: api.Gap): void
  slow (connection: Connection): void
  pump (connection: Connection, source: unknown, options: api.SourceOptions<unknown>): Promise<void>
  /** Takes it out of everything. */
  remove (connection: Connection): void
  disconnected (connection: Connection, end: api.Disconnect): void
}
