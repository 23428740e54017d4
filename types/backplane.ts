// The contract for authors of a backplane: six verbs.
import type { RealEvent } from './transport.ts'

/** Whom an event spares: connection ids and users. */
export interface Spared { ids: string[], users: string[] }

/** An event on its way: what the application sent, with whom to spare. */
export interface Parcel {
  /** Checked, its data fixed as text. */
  readonly event: RealEvent
  /** It is matched on the node of the member. */
  readonly except: Spared | null
}

/** A parcel that came back from the backplane. A kept one has its offset and that of the one before it in its topic. */
export interface Delivery extends Parcel {
  /** `room/x`, `user/x`, `presence/x`, `all` or `nodes`. */
  readonly topic: string
  /** 0: not kept. */
  readonly offset: number
  /** Offset of the kept event before it in this topic; 0: none. */
  readonly prev: number
}

/** What became of a parcel. */
export interface Publication {
  /** False: the backplane did not take it. */
  accepted: boolean
  /** 0: not kept. */
  offset: number
  /** With `once`: its id was there before, and it was carried nowhere. */
  duplicate: boolean
  /** How many nodes it reached, where that can be told. */
  nodes?: number | undefined
}

/** A stretch of a topic's log, oldest first. */
export interface Range {
  /** By offset, each with its cursor. */
  deliveries: Delivery[]
  /** Nothing after the place asked for is gone. */
  complete: boolean
  /** There is more after the last one. */
  more: boolean
  /** Where the place asked for is: of an id of the application's, -1 when there is none. */
  from: number
  /** The greatest offset of the sequence when it was read. */
  top: number
}

/** How much of a topic is kept: events, bytes of data and milliseconds; all three bounds hold. */
export interface Kept { readonly events: number, readonly bytes: number, readonly age: number }

/** A place in a log: after an offset, after an event with an id of the application's, or `null` for the last `limit`. */
export type Place = number | { id: string } | null

/** What a node gives its backplane. */
export interface Node {
  /** No other node has it. */
  readonly id: string
  /** What is kept of every topic, null for nothing, `varies` where it is another for each; undefined where that cannot be told. */
  readonly keeps?: Kept | null | 'varies'
  /** Called in the order of the sequence, for this node's own events too: those with the very parcel it published. */
  deliver (delivery: Delivery, parcel?: Parcel): void
  /**
   * Something of a topic did not come: kept events up to an offset, which are in the log; with 0, of a topic that is not kept, nobody
   * knows. They are not delivered any more.
   */
  missed (topic: string, offset: number): void
  /** What was kept is lost: the sequence has a new identity. Called in the turn in which `epoch` changes, before anything of it is delivered. */
  reset (): void
  /** The application's logger. */
  readonly log: { error (fields: object, message: string): void, warn (fields: object, message: string): void }
}

/** Carries events between nodes, gives them one order and keeps the log. One may serve several nodes of a process. */
export interface Backplane {
  /** Identity of the sequence. It changes when the log is lost. */
  readonly epoch: string
  /** A node begins; rejects when the backplane cannot be reached: then `connections` does not register (FST_ERR_REAL_BACKPLANE). */
  start (node: Node): Promise<void>
  /** Resolves when every event after the offset it gives will be delivered. */
  subscribe (node: Node, topic: string): Promise<number>
  /** Nothing of the topic is delivered once it resolves. */
  unsubscribe (node: Node, topic: string): Promise<void>
  /** Logs it when `keep` says so, then carries it to every subscribed node, this one too: it has been delivered here when this resolves. */
  publish (topic: string, parcel: Parcel, options: { keep: Kept | null, once: boolean }): Promise<Publication>
  /** What the log has after a place, at most `limit`, which may be Infinity. */
  range (topic: string, after: Place, limit: number): Promise<Range>
  /** A node has ended; nothing is delivered to it any more. Clients that were passed in stay open. */
  close (node: Node): Promise<void>
}
