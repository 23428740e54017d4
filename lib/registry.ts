import type { FastifyBaseLogger, FastifyRequest } from 'fastify'
import type * as api from '../types/api.ts'
import type { Backplane, Kept } from '../types/backplane.ts'
import type { Acceptance } from '../types/transport.ts'
import { Admission } from './admission.ts'
import { checkId, checkReason, checkRoomName, checkSend, entryOf, sparedOf } from './arguments.ts'
import * as reasons from './close-reasons.ts'
import { Connection } from './connection.ts'
import { Drain } from './drain.ts'
import { EventError, ShuttingDownError, TooManyRoomsError } from './errors.ts'
import { toEvent } from './event.ts'
import { Heartbeat } from './heartbeat.ts'
import { Identities } from './identity.ts'
import type { Identified } from './identity.ts'
import { Crowd, hashOfText } from './crowd.ts'
import { BackplaneNode, NODES } from './node.ts'
import { Nodes } from './nodes.ts'
import type { NodeMessage } from './nodes.ts'
import type { RegistryOptions } from './options.ts'
import { obey, portable, split } from './orders.ts'
import { Outbox } from './outbox.ts'
import { Presence } from './presence.ts'
import type { PresenceMessage } from './presence.ts'
import { Resume } from './resume.ts'
import { Room } from './room.ts'
import { pump } from './source.ts'
import { acknowledged, keptOf, Rosters } from './rosters.ts'
import type { Entered } from './rosters.ts'
import { Signals } from './signals.ts'

const ALL = 'all'

/** All connections of this node; joins the parts to the backplane. */
export class Registry implements api.Registry {
  readonly options: RegistryOptions
  readonly log: FastifyBaseLogger
  readonly outbox: Outbox
  readonly clock: Heartbeat
  readonly checks: { readonly maxBytes: number }
  readonly counts = { sent: 0, dropped: 0, slow: 0, refused: 0, resumed: 0, gaps: 0 }
  readonly drain: Drain
  readonly #node: BackplaneNode
  readonly #connections = new Crowd<Connection>()
  readonly #admission: Admission<Connection>
  readonly #rosters: Rosters
  readonly #identities: Identities
  readonly #presence: Presence
  readonly #nodes: Nodes
  readonly #resume: Resume
  readonly #signals: Signals

  constructor (options: RegistryOptions, backplane: Backplane, log: FastifyBaseLogger) {
    this.options = options
    this.checks = { maxBytes: options.maxEventBytes }
    this.log = log
    const signals = this.#signals = new Signals(log)
    this.drain = new Drain({ connections: this, options: options.drain })
    const node = this.#node = new BackplaneNode({
      backplane,
      log,
      keeps: options.keeps,
      roster: (topic) => this.#rosters.get(topic),
      missed: (roster, after) => this.#resume.missed(roster as never, after),
      unsure: (topic) => this.#presence.unsure(topic),
      heard: (topic, message) => this.#heard(topic, message as NodeMessage | PresenceMessage),
      get isTapped () { return signals.isHeard('deliver') },
      tap: (topic, event) => signals.emit('deliver', topic, event),
      reset: () => { this.#rosters.reset(); for (const connection of this) this.#resume.reset(connection) }
    })
    this.#admission = new Admission(options)
    this.#identities = new Identities(options.identify)
    this.drain.guests.add({ size: 0, close: () => this.#identities.stop(), terminate () {} })
    this.#resume = new Resume(backplane, { counts: this.counts, heartbeat: options.heartbeat, log, get offset () { return node.offset } })
    this.outbox = new Outbox(() => this.#resume.forgetFrames())
    this.clock = new Heartbeat(options.heartbeat, () => this.#connections)
    this.#rosters = new Rosters({
      keep: (topic) => this.#keep(topic),
      subscribe: (topic) => node.subscribe(topic),
      unsubscribe: (topic) => node.unsubscribe(topic),
      emit: (name, ...args) => signals.emit(name, ...args)
    })
    this.#presence = new Presence({
      nodeId: node.id,
      timeout: options.presence.timeout,
      subscribe: (topic) => node.follow(topic),
      unsubscribe: (topic) => node.unsubscribe(topic),
      tell: (topic, message) => node.tell(topic, message),
      announce (watchers, change) {
        const { framed } = toEvent({ event: 'presence', data: change }, { maxBytes: Infinity })
        for (const watcher of watchers) (watcher as Connection).announce(framed)
      }
    })
    this.#nodes = new Nodes({ nodeId: node.id, tell: (message) => node.tell(NODES, message), obey: (order) => obey(order, this) })
  }

  start (): Promise<void> { return this.#node.start() }

  async stop (): Promise<void> {
    this.clock.stop()
    this.#nodes.stop()
    this.#presence.stop()
    await this.#node.stop()
  }

  get size (): number { return this.#connections.size }
  /** It stops: nobody is admitted. */
  get draining (): boolean { return this.drain.begun }
  get (id: string): Connection | undefined { return this.#connections.find(hashOfText(String(id)), (connection) => connection.id === id) }
  [Symbol.iterator] (): Iterator<Connection> { return this.#connections[Symbol.iterator]() }
  roster (topic: string): ReturnType<Rosters['get']> { return this.#rosters.get(topic) }
  room (name: string): Room { return new Room(this, 'room', checkRoomName(name)) }
  user (id: string): Room { return new Room(this, 'user', checkRoomName(id)) }
  rooms (): Iterable<string> { return this.#rosters.roomNames() }

  stats (): api.Stats {
    const byTransport: Record<string, number> = {}
    for (const { transport } of this.#connections) byTransport[transport] = (byTransport[transport] ?? 0) + 1
    return { connections: this.size, byTransport, rooms: this.#rosters.roomCount, users: this.#admission.users.size, ...this.counts }
  }

  on<Name extends keyof api.RegistryEvents> (name: Name, listener: (...args: api.RegistryEvents[Name]) => void): this { this.#signals.on(name, listener); return this }
  off<Name extends keyof api.RegistryEvents> (name: Name, listener: (...args: api.RegistryEvents[Name]) => void): this { this.#signals.off(name, listener); return this }

  /** Null, or why a request may not open a connection now. */
  refusal (user: string | null, request: FastifyRequest): Error | null {
    const error = this.#admission.refusal(user, this.#admission.addressOf(request))
    if (error === null && !this.draining) return null
    this.counts.refused++
    return error ?? new ShuttingDownError()
  }

  accept (acceptance: Acceptance, identity: Identified): Connection {
    const { maxAge = 0, inactivity = 0, request } = acceptance
    const connection = new Connection(this, acceptance)
    connection.address = this.#admission.addressOf(request)
    connection.expires = identity.expires
    if (maxAge > 0) connection.endsAt = this.clock.tick + this.clock.steps(maxAge * (0.8 + 0.2 * Math.random()))
    connection.inactivity = this.clock.steps(inactivity)
    this.#connections.add(connection)
    this.#admission.enter(connection.address)
    this.clock.start()
    request.log.info({ connection: connection.id, transport: connection.transport }, 'connection opened')
    return this.#signals.together(() => {
      this.#signals.emit('connect', connection)
      try {
        if (identity.user !== null) this.identify(connection, identity.user)
        if (connection.broadcast && connection.open) void this.#subscribe(connection, [this.#rosters.enter(connection, ALL, '')])
      } catch (err) { // of the application's `history`: its transport cannot answer any more
        request.log.error({ err, connection: connection.id }, 'it is not known what is kept for a connection')
        connection.end(reasons.failed)
      }
      return connection
    })
  }

  /** Somebody who is not let in has a connection too, closed from the start. */
  turnAway (acceptance: Acceptance): Connection { return new Connection(this, acceptance).dismiss(reasons.refused) }

  /** Who a request is, as `identify` says; asked once. */
  whoIs (request: FastifyRequest): Identified | Promise<Identified> { return this.#identities.of(request) }

  /** Who a connection is has become known after it was let in; what its handler has said since holds. */
  know (connection: Connection, { user, expires }: Identified): void {
    connection.expires = expires
    if (connection.user === null) this.identify(connection, user)
  }

  remove (connection: Connection): void {
    this.#connections.delete(connection)
    this.drain.closing.add(connection)
    this.#admission.exit(connection.address)
    this.#presence.gone(connection)
    if (connection.user !== null) this.#admission.removeUser(connection.user, connection)
    if (this.#connections.size === 0) this.clock.stop()
    this.#signals.together(() => { for (const roster of connection.rosters) this.#rosters.exit(connection, roster) })
  }

  disconnected (connection: Connection, end: api.Disconnect): void {
    this.drain.closing.delete(connection)
    const { code, reason, clean, duration, events, bytes } = end
    connection.request.log.info({ connection: connection.id, transport: connection.transport, code, reason: reason.slice(0, 200), clean, duration: Math.round(duration), events, bytes }, 'connection closed')
    this.#signals.emit('disconnect', connection, end)
  }

  identify (connection: Connection, user: string | null): void {
    if (!connection.open || connection.user === user) return
    if (user !== null && this.#admission.userIsFull(user)) return connection.end(reasons.crowded)
    if (connection.user !== null) {
      const before = this.#rosters.get(`user/${connection.user}`)
      if (before !== undefined) this.#rosters.exit(connection, before)
      this.#admission.removeUser(connection.user, connection)
    }
    connection.user = user
    if (user === null) return
    this.#admission.addUser(user, connection)
    if (connection.broadcast) void this.#subscribe(connection, [this.#rosters.enter(connection, `user/${user}`, user)])
  }

  slow (connection: Connection): void {
    this.counts.slow++
    if (this.options.slow === 'catch-up') this.#resume.paused(connection)
    connection.request.log.warn({ connection: connection.id, buffered: connection.buffered }, 'a reader is too far behind')
    this.#signals.emit('slow', connection)
  }

  gap (connection: Connection, gap: api.Gap): void {
    this.counts.gaps++
    this.#signals.emit('gap', connection, gap)
  }

  live (connection: Connection): void { this.#presence.live(connection) }
  resume (connection: Connection): void { void this.#resume.resume(connection) }

  pump (connection: Connection, source: unknown, options: api.SourceOptions<unknown>): Promise<void> { return pump(connection, source, options, this.drain) }

  join (connection: Connection, rooms: string[], presence: api.JoinOptions['presence']): Promise<boolean> {
    const { maxRooms } = this.options
    const all = new Set([...connection.namesOfRooms(), ...rooms])
    if (maxRooms > 0 && all.size > maxRooms) throw new TooManyRoomsError(maxRooms)
    const entry = presence === undefined ? null : entryOf(connection.user, presence, this.options.maxEventBytes)
    return this.#signals.together(() => {
      const entered = rooms.map((name) => this.#rosters.enter(connection, `room/${name}`, name))
      if (entry !== null) for (const name of rooms) this.#presence.join(connection, name, entry)
      const joined = this.#subscribe(connection, entered)
      return entered.every(({ roster }) => roster.last !== Infinity) ? joined : connection.joinedBeforeEnd(joined)
    })
  }

  part (connection: Connection, room: string): void {
    const roster = this.#rosters.get(`room/${room}`)
    if (roster === undefined) return
    this.#presence.leave(connection, room)
    this.#signals.together(() => this.#rosters.exit(connection, roster))
  }

  async #subscribe (connection: Connection, entered: Entered[]): Promise<boolean> {
    const known = this.#node.offset
    const kept = keptOf(entered)
    const join = this.#resume.joining(connection, kept, known)
    connection.joining(kept)
    let isAcknowledged = true
    let reached = { earliest: known, latest: known }
    try {
      reached = await acknowledged(entered, known)
    } catch (err) {
      isAcknowledged = false
      this.log.error({ err }, 'the backplane did not acknowledge a join')
      for (const { roster, isNew } of entered) if (isNew && roster.isRoom && this.roster(roster.topic) === roster) this.part(connection, roster.name) // else it has joined again since
    }
    this.#resume.joined(connection, join, reached, isAcknowledged)
    return isAcknowledged && connection.open && entered.every(({ roster }) => roster.members.has(connection))
  }

  #heard (topic: string, message: NodeMessage | PresenceMessage): void {
    if (topic !== NODES || message.op === 'beat' || message.op === 'again' || message.op === 'bye') this.#presence.heard(topic, message as PresenceMessage)
    else this.#nodes.heard(message as NodeMessage)
  }

  #keep (topic: string): Kept | null {
    const { keeps, keep } = this.options
    return keeps === 'varies' ? keep(split(topic)) : keeps
  }

  leave (id: string, room: string): Promise<boolean> { return this.#nodes.ask({ op: 'leave', id: checkId(id), room: checkRoomName(room) }) }

  send (id: string, event: api.Sendable): Promise<boolean> {
    const here = this.get(checkId(id))
    if (here !== undefined) return Promise.resolve(here.send(event))
    return this.#nodes.ask({ op: 'send', id, event: portable(toEvent(event, this.checks)) })
  }

  close (id: string, reason: string = 'closed'): Promise<boolean> { return this.#nodes.ask({ op: 'close', id: checkId(id), reason: checkReason(reason) }) }

  broadcast (event: api.Sendable, options: { except?: api.Except | undefined } = {}): Promise<api.Receipt> { return this.publish(ALL, event, options) }

  publish (topic: string, event: api.Sendable, options: api.SendOptions): Promise<api.Receipt> {
    const { except, once = false } = checkSend(options)
    const checked = toEvent(event, this.checks)
    const keep = checked.hasData ? this.#keep(topic) : null
    if (once && (keep === null || checked.id === undefined || checked.id === '')) throw new EventError('once needs an event with an id, sent to a room that is kept')
    if (keep !== null && checked.id === '') throw new EventError('an id sent to a kept room must not be empty: it would take the client\'s place from it')
    return this.#node.publish(topic, checked, sparedOf(except), keep, once)
  }

  membersOf (topic: string): Iterable<Connection> {
    const { kind, name } = split(topic)
    return (kind === 'user' ? this.#admission.users.get(name) : this.#rosters.get(topic)?.members) ?? []
  }

  clear (topic: string): Promise<void> { return this.#nodes.order({ op: 'clear', topic }) }

  disconnect (topic: string, reason: string): Promise<void> { return this.#nodes.order({ op: 'disconnect', topic, reason }) }

  presence (name: string): Promise<api.Presence[]> { return this.#presence.list(name) }

  history (topic: string, after: string | undefined, limit: number): Promise<api.HistoryPage> { return this.#resume.history(topic, after, limit, this.#keep(topic) !== null) }
}
