// The contract for authors of a transport.
import type { FastifyRequest } from 'fastify'
import type { Connection, Cursor, Disconnect, Sendable } from './api.ts'

/** What frames are made of: an event, checked, its data fixed as text once. */
export interface RealEvent {
  /** Its name: one line. */
  readonly event: string | undefined
  /** The data as text: a string as it was given, anything else as JSON. Undefined when there is none, or it is bytes. */
  readonly text: string | undefined
  /** `text` is JSON, not a string the application gave. */
  readonly json: boolean
  /** The data where it is binary. */
  readonly bytes: Uint8Array | undefined
  /** The application's own id: one line. It comes before the cursor. */
  readonly id: string | undefined
  /** Milliseconds. */
  readonly retry: number | undefined
  /** May have many lines. */
  readonly comment: string | undefined
  /** Where a kept event stands in the sequence. */
  readonly cursor: Cursor | undefined
}

/** One way to make bytes of an event. The frame of an event is made once for each encoding and shared by all its connections. */
export interface Encoding {
  /** No other encoding has it. */
  readonly name: string
  /** May be empty: then this encoding has nothing to say of the event. */
  frame (event: RealEvent): Uint8Array
  /** Where frames are text that can be joined: that text. What `pack` makes of several says the same as their frames. */
  text? (event: RealEvent): string
  pack? (text: string): Uint8Array
}

/** Why a connection ends. */
export interface CloseReason { readonly code: number, readonly reason: string }

/** One open pipe. Its methods never throw. */
export interface Wire {
  /** What `connection.transport` says. */
  readonly transport: string
  /** The frames it is given are of this encoding. */
  readonly encoding: Encoding
  /** Bytes written that the reader has not taken. */
  readonly buffered: number
  /** `buffered` from which `drained()` waits. Bytes. */
  readonly highWaterMark: number
  /** The wire carries no ids and is never sent `ready`, nor what belongs to a return: a WebSocket that did not ask for resume. */
  readonly bare: boolean
  /** Takes bytes that it must not change: other wires have the same. Before `Link.opened` it keeps them itself. */
  write (frame: Uint8Array): void
  /** Calls `Link.flushed` once what has been written is taken. */
  whenFlushed (): void
  /** Gives a sign of life and, where the transport can, asks for one. */
  ping (): void
  /** How many signs of life that were asked for have not come; two are too many. Always 0 where none can be asked for. */
  readonly missed: number
  /** The heartbeat is due on silence only (SSE), or always (WebSocket). */
  readonly pingWhenSilent: boolean
  /** Ends it politely; then `Link.closed` is called. */
  close (reason: CloseReason): void
  /** Ends it now. */
  terminate (): void
  /** The server stops: tell the client to come back after `delay` milliseconds, then end politely. */
  drain (delay: number): void
}

/** How a transport opens a connection. */
export interface Acceptance {
  /** Who and from where; it stays `connection.request`. */
  request: FastifyRequest
  /** It is attached to what this opens: the connection. */
  wire: Wire
  /** What the client had seen last, as it says; empty: it wants to resume, and has seen nothing. */
  lastEventId?: string | undefined
  /** Takes what is sent to everybody and to its user. */
  broadcast: boolean
  /** Makes text of the data of direct sends. Default: JSON. */
  serialize?: ((data: unknown) => string) | undefined
  /** Ends the connection 80 to 100 % of so many milliseconds after it was accepted. */
  maxAge?: number | undefined
  /** Ends the connection when no event was sent for so many milliseconds. */
  inactivity?: number | undefined
  /** Called once, when the wire is closed, with what `openConnection` gave. */
  onDisconnect?: ((end: Disconnect, link: Link) => void) | undefined
}

/** The side of a connection that its transport sees. */
export interface Link extends Connection {
  /** The wire is open: what waited is written. */
  opened (): void
  /** The handler has settled: the hold of a returning connection ends. */
  settled (): void
  /** The wire can take more. */
  flushed (): void
  /** The wire is gone. Called once or more; only the first counts. */
  closed (reason: CloseReason, clean: boolean): void
  /** Sends what the transport itself has to say. */
  say (event: Sendable): void
  /** Ends it for a reason of the transport's. */
  end (reason: CloseReason): void
  /** Resolves when it is no longer held for a replay. */
  whenReleased (): Promise<void>
}
