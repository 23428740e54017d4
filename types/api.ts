// The contract for application authors. `lib/` implements it; nothing here exists at run time.
import type { FastifyRequest } from 'fastify'
import type { Readable } from 'node:stream'
import type { Backplane } from './backplane.ts'

/**
 * What an application sends. A key outside these five is refused, and the message proposes `{ data: … }`.
 * @see https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
 */
export interface Event<Data = unknown> {
  /** Its name. No CR, LF, NUL or lone surrogate, and neither `error` nor `open`, which an EventSource fires itself. */
  event?: string | undefined
  /** A string is sent as it is, bytes (a Uint8Array) as binary (base64 on SSE), anything else as JSON; a Map, an ArrayBuffer or a promise has none and is refused. */
  data?: Data | Uint8Array | undefined
  /** An id of the application's own; it goes on the wire as it is. No CR, LF, NUL or lone surrogate. */
  id?: string | number | undefined
  /** How long an EventSource waits before it comes back. Milliseconds, a non-negative integer. */
  retry?: number | undefined
  /** A comment, for SSE only; clients ignore it. */
  comment?: string | undefined
}

/** An event that `event()` has checked and encoded once, to be sent often. */
export interface Prepared { readonly prepared: true }

/** What can be sent: a string and bytes are the data of an event. With a schema its data is `Data`, and so is a string. */
export type Sendable<Data = unknown> = (unknown extends Data ? string : Extract<Data, string>) | Uint8Array | Event<Data> | Prepared

/** Where the events of a connection come from. A callback ends the stream when its promise resolves, unless with a stream of events. */
export type Source<T = Sendable> =
  AsyncIterable<T> | Iterable<T> | ReadableStream<T> | Readable |
  ((connection: Connection) => AsyncIterable<T> | Iterable<T> | Promise<AsyncIterable<T> | void>)

/** A place in the sequence of events: `epoch-offset`, at most 64 characters of `[A-Za-z0-9_-]`. */
export type Cursor = string

/** What became of a send. */
export interface Receipt {
  /** False when the backplane did not take the event. */
  accepted: boolean
  /** Where the event stands in the sequence; absent when it is not kept. */
  id?: Cursor
  /** With `once`: this id was sent to this room before, and nothing was delivered now. */
  duplicate?: true
  /** How many members of this node it was given to. */
  members: number
  /** How many nodes it reached, where the backplane can tell. */
  nodes?: number
}

/** Whom to spare: connections, connection ids or users. Matched on every node. */
export type Except = Connection<unknown> | string | { user: string } | Array<Connection<unknown> | string | { user: string }>

/** How an event is sent to a room. */
export interface SendOptions {
  /** Who does not get it. A resumed connection has a new id, so a replay spares users only. Default: nobody. */
  except?: Except | undefined
  /** The event's `id` is a key: a second event with it is not delivered, and the receipt says `duplicate`. Needs a kept room. Default: false. */
  once?: boolean | undefined
}

/** Who is present: everyone of one key, one meta for each of its connections. */
export interface Presence<Meta = unknown> { key: string, metas: Meta[] }

/** The data of a `presence` event; it has at least one of these. A burst of changes is one event. */
export interface PresenceChange {
  /** The room's name. */
  room: string
  /** Everybody who is present: the first event of a member, and again after it could not keep up. */
  snapshot?: Presence[]
  /** Keys whose first connection came. */
  joined?: Presence[]
  /** Keys whose last connection is gone. */
  left?: Presence[]
  /** Keys whose connections or metas changed otherwise. */
  updated?: Presence[]
}

/** Which part of a history. */
export interface HistoryOptions {
  /** Only what came after this cursor or id. Default: from the oldest kept, or the last `limit`. */
  after?: Cursor | undefined
  /** At most this many events, a positive integer. Default: all that are kept. */
  limit?: number | undefined
}

/** An event as it was sent: `id` is the application's own if it gave one, else the cursor, and empty when it is not kept. */
export interface HistoryEvent { id: Cursor | string, event?: string, data: unknown }

/** A page of history. `complete` is false when something asked for is gone or was cut by `limit`. */
export interface HistoryPage { events: HistoryEvent[], complete: boolean }

/** A name that connections join and events are sent to. A handle holds no state: it may be kept or made again at will. */
export interface Room {
  /** The room's name, or the user's id. */
  readonly name: string
  /** Members on this node. */
  readonly size: number
  /** Whether it is a member, on this node. */
  has (connection: Connection<unknown>): boolean
  /** Members on this node. Looking creates nothing. */
  members (): Iterable<Connection>
  /**
   * Sends to every member on every node. When it resolves, this node's members have the event in their outbox.
   * @throws FST_ERR_REAL_EVENT, FST_ERR_REAL_DATA, FST_ERR_REAL_TOO_LARGE, FST_ERR_REAL_ARGUMENT at once
   */
  send (event: Sendable, options?: SendOptions): Promise<Receipt>
  /** Everybody leaves the room, on every node that the backplane reaches; their connections stay. */
  clear (): Promise<void>
  /**
   * Ends the connection of every member, on every node that the backplane reaches. `reason` is cut to 123 bytes; default `closed`.
   * @throws FST_ERR_REAL_ARGUMENT at once
   */
  disconnect (reason?: string): Promise<void>
  /** Who is present, on all nodes, by key; where the backplane does not answer within 5 s, as far as this node knows. */
  presence (): Promise<Presence[]>
  /**
   * What is kept, oldest first. A room that is not kept has an empty one.
   * @throws FST_ERR_REAL_ARGUMENT at once
   */
  history (options?: HistoryOptions): Promise<HistoryPage>
}

/** Augment it to type `connection.state`: `declare module 'fastify-real' { interface ConnectionState { name?: string } }`. */
export interface ConnectionState {}

/** How rooms are joined. */
export interface JoinOptions {
  /**
   * `{ key, meta }` makes the connection present; `true` only watches. Watchers get `presence` events.
   * `key` defaults to the user, and has at most 256 characters; `meta` is JSON of at most `maxEventBytes`. Joining again updates.
   */
  presence?: true | { key?: string | undefined, meta?: unknown } | undefined
}

/** How a source is sent. */
export interface SourceOptions<T = Sendable, Data = unknown> {
  /** Makes something to send of an item of any kind. Default: the item itself. */
  map?: ((item: T) => Sendable<Data>) | undefined
}

/** One client on one wire. */
export interface Connection<Request = FastifyRequest> {
  /** 128 random bits; never taken from the client. */
  readonly id: string
  /** `sse`, `ws`, or the name of another transport. */
  readonly transport: string
  /** The request it was opened with, typed by its route. */
  readonly request: Request
  /** Whose it is: what `identify` said, the option or the method. */
  readonly user: string | null
  /** The application's own; typed by augmenting `ConnectionState`. */
  readonly state: ConnectionState
  /** Names of the rooms it is in. */
  readonly rooms: ReadonlySet<string>
  /** Aborts when the connection ends, with the reason. */
  readonly signal: AbortSignal
  /** False from the moment it ends, before `disconnect`. */
  readonly open: boolean
  /** Bytes that wait for the reader: in the outbox and in the socket. */
  readonly buffered: number
  /** What the client said it had seen last: header `Last-Event-ID` or query `lastEventId`. Hostile until checked. */
  readonly lastEventId: string | undefined
  /**
   * Sends to this connection alone. False when it is closed or more than `maxBuffered` bytes behind.
   * @throws FST_ERR_REAL_EVENT, FST_ERR_REAL_DATA, FST_ERR_REAL_TOO_LARGE, FST_ERR_REAL_DIRECT_ID
   */
  send (event: Sendable): boolean
  /**
   * Sends what a source gives, waiting for the reader; resolves at its end or when the connection closes. Rejects with the source's
   * own error.
   * @throws FST_ERR_REAL_SOURCE, FST_ERR_REAL_ARGUMENT at once; where it is one event, what `send` throws
   */
  from (source: Source, options?: { map?: undefined }): Promise<void>
  /** The same of items of any kind: `map` makes something to send of each. */
  from<T> (source: Source<T>, options: { map: (item: T) => Sendable }): Promise<void>
  /** Resolves when the reader has caught up, or the connection is closed. */
  drained (): Promise<void>
  /**
   * Joins rooms; membership is there at once, the promise resolves when the backplane has acknowledged it.
   * False when the connection is closed or leaves meanwhile.
   * @throws FST_ERR_REAL_ROOM_NAME, FST_ERR_REAL_TOO_MANY_ROOMS, FST_ERR_REAL_ARGUMENT at once
   */
  join (room: string | string[], options?: JoinOptions): Promise<boolean>
  /**
   * Leaves a room; membership ends at once. Nothing happens when it is no member.
   * @throws FST_ERR_REAL_ROOM_NAME at once
   */
  leave (room: string): Promise<void>
  /**
   * Makes it one of a user's connections; null makes it nobody's. Over `maxPerUser` the connection is closed with 1008.
   * @throws FST_ERR_REAL_ROOM_NAME
   */
  identify (user: string | null): void
  /** Ends the hold of a returning connection: all it wants to be replayed has been joined. */
  live (): void
  /**
   * Ends it; what was sent before still goes out. `code` is a WebSocket close code (default 1000), `reason` (default `closed`) is cut
   * to 123 bytes. Idempotent.
   * @throws FST_ERR_REAL_ARGUMENT
   */
  close (code?: number, reason?: string): void
}

/** How a connection ended. */
export interface Disconnect {
  /** The WebSocket close code, or what it would be on another transport. */
  code: number
  /** `done`, `client`, `lost`, `error`, `shutdown`, `slow`, `refused`, `expired`, `age`, `inactive`, … or the application's own. */
  reason: string
  /** The transport's closing handshake was completed. */
  clean: boolean
  /** The rooms it was in. */
  rooms: string[]
  /** Milliseconds since it was accepted. */
  duration: number
  /** Events given to it. */
  events: number
  /** Bytes of those events on its wire. */
  bytes: number
}

/** What the registry tells, on this node. Listeners may be async; one that throws or rejects is logged and harms nobody else. */
export interface RegistryEvents {
  /** A connection was let in; it is in no room yet. */
  connect: [connection: Connection]
  /** Once for each `connect`, on every path. */
  disconnect: [connection: Connection, end: Disconnect]
  /** It became a member. */
  join: [connection: Connection, room: string]
  /** It is no member any more, also because it ended. */
  leave: [connection: Connection, room: string]
  /** A room got its first member on this node. */
  room: [name: string]
  /** A room lost its last member on this node. */
  empty: [name: string]
  /** A connection is more than `maxBuffered` bytes behind. */
  slow: [connection: Connection]
  /** A connection was told that something is gone. */
  gap: [connection: Connection, gap: Gap]
  /** An event came to this node, whether it has members for it or not: a tap for bridges. */
  deliver: [topic: string, event: HistoryEvent]
}

/** The data of a `gap` event. */
export interface Gap {
  /** `epoch`: another sequence; `trimmed`: no longer kept; `unknown`: no such id, or nobody can tell what of it is missing; `slow`: the reader was too far behind. */
  reason: 'epoch' | 'trimmed' | 'unknown' | 'slow'
  /** The room it concerns; absent when it is the whole connection. */
  room?: string
  /** With `slow`: how many events were dropped. */
  dropped?: number
}

/** Numbers of this node: what is now, then what was counted since the start. */
export interface Stats {
  /** Open connections. */
  connections: number
  /** The same by transport. */
  byTransport: Record<string, number>
  /** Rooms with members. */
  rooms: number
  /** Users with connections. */
  users: number
  /** Events given to connections. */
  sent: number
  /** Events not given because a reader was too far behind. */
  dropped: number
  /** Times a reader was found too far behind. */
  slow: number
  /** Connections refused by a limit. */
  refused: number
  /** Returning connections that were replayed without a gap. */
  resumed: number
  /** Times a connection was told that something is gone. */
  gaps: number
}

/** All connections of this node: `fastify.connections`. */
export interface Registry extends Iterable<Connection> {
  /** Connections of this node. */
  readonly size: number
  /** A connection of this node. */
  get (id: string): Connection | undefined
  /**
   * Sends to one connection, on whichever node it lives; false when there is none or it did not take it.
   * @throws FST_ERR_REAL_EVENT, FST_ERR_REAL_DATA, FST_ERR_REAL_TOO_LARGE, FST_ERR_REAL_ARGUMENT at once
   * @throws FST_ERR_REAL_DIRECT_ID at once, or as a rejection where it lives on another node
   */
  send (id: string, event: Sendable): Promise<boolean>
  /** Ends one connection, on whichever node it lives; false when there is none. */
  close (id: string, reason?: string): Promise<boolean>
  /** Takes one connection out of a room, on whichever node it lives; false when there is no such connection. */
  leave (id: string, room: string): Promise<boolean>
  /**
   * A handle of a room; it need not exist.
   * @throws FST_ERR_REAL_ROOM_NAME
   */
  room (name: string): Room
  /** Names of the rooms that have members on this node. */
  rooms (): Iterable<string>
  /**
   * A user is a room in a namespace of its own, joined by identity.
   * @throws FST_ERR_REAL_ROOM_NAME
   */
  user (id: string): Room
  /** Sends to every connection that takes broadcasts, on every node. */
  broadcast (event: Sendable, options?: { except?: Except | undefined }): Promise<Receipt>
  /** Numbers of this node. */
  stats (): Stats
  /**
   * Calls a listener at every event of a name.
   * @throws FST_ERR_REAL_ARGUMENT where there is no event of that name, or the listener is no function
   */
  on<Name extends keyof RegistryEvents> (name: Name, listener: (...args: RegistryEvents[Name]) => void): this
  /**
   * Takes a listener away.
   * @throws FST_ERR_REAL_ARGUMENT as `on` does
   */
  off<Name extends keyof RegistryEvents> (name: Name, listener: (...args: RegistryEvents[Name]) => void): this
}

/** Who a connection is: a user id, with the time (milliseconds since 1970) its right ends. */
export type Identity = string | { id: string, expires?: number | Date | undefined } | null | undefined

/** How much of a topic is kept. All three bounds hold; the first reached drops the oldest. */
export interface HistoryLimits {
  /** Default: 100. */
  events?: number | undefined
  /** Bytes of data. Default: 1 MiB. */
  bytes?: number | undefined
  /** Milliseconds. Default: 120_000. */
  age?: number | undefined
}

/** What a history is of. */
export interface Topic { kind: 'room' | 'user' | 'all', name: string }

/** Options of `connections`, the registry. Milliseconds and bytes are plain numbers; `0` and `false` are off. */
export interface ConnectionsOptions {
  /** What carries events between nodes. Default: `memory()`, one process. */
  backplane?: Backplane | undefined
  /** Says who a request is; runs after the route's hooks, before anything is opened. Default: nobody. */
  identify?: ((request: FastifyRequest) => Identity | Promise<Identity>) | undefined
  /**
   * What is kept for returning connections. Default: `{ events: 100, bytes: 1 MiB, age: 120_000, totalBytes: 64 MiB, rooms: 100_000 }`.
   * `totalBytes` and `rooms` are those of the default backplane; one that is given has options of its own.
   */
  history?: false | (HistoryLimits & { totalBytes?: number | undefined, rooms?: number | undefined }) | ((topic: Topic) => false | HistoryLimits) | undefined
  /** What happens to a reader more than `maxBuffered` bytes behind. Default: `close`; with history on, it comes back and loses nothing. */
  slow?: 'close' | 'drop' | 'catch-up' | undefined
  /** Bytes. Default: 1 MiB. */
  maxBuffered?: number | undefined
  /** How long a returning connection waits for more joins after the last. Milliseconds, default 1_000. */
  hold?: number | false | undefined
  /** A sign of life after this much silence. Milliseconds, default 15_000; 0 is off. */
  heartbeat?: number | false | undefined
  /** A node silent for `timeout` is forgotten. Milliseconds, default 15_000. */
  presence?: { timeout?: number | undefined } | undefined
  /** At close: clients come back spread over `within`, what has not ended after `grace`, sources included, is cut. `grace` must be shorter than Fastify's `pluginTimeout`. Milliseconds, default 5_000 each. */
  drain?: { within?: number | false | undefined, grace?: number | false | undefined } | undefined
  /** On this node. Default: 0, no limit. */
  maxConnections?: number | false | undefined
  /** Of one user on this node. Default: 0, no limit. */
  maxPerUser?: number | false | undefined
  /** Of one address (IPv6: one /64) on this node, as `request.ip` says. Default: 0, no limit. */
  maxPerAddress?: number | false | undefined
  /** Rooms of one connection. Default: 100; 0 is no limit. */
  maxRooms?: number | false | undefined
  /** Bytes of an event's data. Default: 1 MiB. */
  maxEventBytes?: number | undefined
}

/** Which origins may open: a list, or a function. */
export type AllowedOrigins = string[] | ((origin: string, request: FastifyRequest) => boolean)

/** Options of a route's `sse`, and of `sseReal` for all of its scope. */
export interface SseOptions {
  /** `sse` answers 406 to a request that refuses an event stream; `dual` never does, and `request.wantsEvents` tells. Default: `sse`. */
  accept?: 'sse' | 'dual' | undefined
  /** How long an EventSource waits before it comes back, told at the start with jitter of 80 to 120 %. Milliseconds; default 0, not told. */
  retry?: number | false | undefined
  /** A stream without a source ends after 80 to 100 % of it, so that half-open clients cannot live for ever. Milliseconds, default 900_000; 0 is off. */
  maxAge?: number | false | undefined
  /** A stream ends to which no event was sent for so long. Milliseconds, default 0, off. */
  inactivity?: number | false | undefined
  /** How long a source may take to throw or to give its first event before the head is sent. Milliseconds, default 20. */
  headStart?: number | false | undefined
  /** Answers 403 to any other origin. A request without an Origin is let in. Default: all. */
  allowedOrigins?: AllowedOrigins | undefined
  /** Takes what is sent to everybody and to its user. Default: true for a stream without a source. */
  broadcast?: boolean | undefined
  /**
   * gzip (RFC 1952) for clients that accept it: an event of 256 bytes or more is compressed once for all of them, with nothing kept from one
   * to the next. Never where secrets of a user stand in one event with what an attacker chooses (BREACH). Default: false.
   */
  compression?: boolean | undefined
}

/** Options of `reply.sse()`, over those of the route. */
export interface SseReplyOptions<T = Sendable> extends SourceOptions<T>, Omit<SseOptions, 'accept' | 'allowedOrigins'> {}

/** Options of a route's `ws`, and of `wsReal` for all of its scope. */
export interface WsOptions {
  /** Bytes of one message; a larger one closes with 1009. Default: 1 MiB. */
  maxPayload?: number | undefined
  /** Messages that may wait for the handler before the socket is paused. Default: 16. */
  maxPending?: number | undefined
  /** Messages a second of one connection, in bursts of as many; more closes with 1008. Default: 0, no limit. */
  messageRate?: number | false | undefined
  /** Subprotocols the server knows, or a function that picks one. Default: none. */
  protocols?: string[] | ((offered: Set<string>, request: FastifyRequest) => string | false) | undefined
  /** Answers 403 to any other origin. Default: the same origin, by `request.host` and `request.protocol`. A request without an Origin is let in. */
  allowedOrigins?: AllowedOrigins | undefined
  /** Takes what is sent to everybody and to its user. Default: true. */
  broadcast?: boolean | undefined
  /**
   * permessage-deflate (RFC 7692) with clients that offer it: an event of 256 bytes or more is compressed once for all of them, with
   * nothing kept from one to the next. Never where secrets of a user stand in one event with what an attacker chooses (BREACH). Default: false.
   */
  compression?: boolean | undefined
}

/** What a client sent: text is a string, binary is a Buffer. With `schema.message` it is the parsed JSON. */
export type Message = string | Buffer

/** The handlers of a WebSocket route. All are optional, sync or async; they run one at a time for a connection. */
export interface WsHandlers<M = Message, Request = FastifyRequest> {
  /** Runs before the first message. `connection.close()` in it refuses. */
  onConnect?: ((connection: Connection<Request>, request: Request) => unknown) | undefined
  /** One at a time, in order; the next waits for what it returns. */
  onMessage?: ((connection: Connection<Request>, message: M) => unknown) | undefined
  /** Once for each connection, on every path; after the messages that its client sent before it left. */
  onDisconnect?: ((connection: Connection<Request>, end: Disconnect) => unknown) | undefined
  /** A handler threw (the connection closes with 1011), or a message did not fit the schema (it stays open). */
  onError?: ((connection: Connection<Request>, error: Error) => unknown) | undefined
}
