import type { FastifyRequest } from 'fastify'
import type * as api from '../types/api.ts'
import type { Acceptance, CloseReason, Link as TransportLink, Wire } from '../types/transport.ts'
import { checkClose, checkOptions, checkRoomName } from './arguments.ts'
import { Backlog } from './backlog.ts'
import * as reasons from './close-reasons.ts'
import type { ConnectionHost } from './connection-host.ts'
import { Ending } from './ending.ts'
import { DirectIdError } from './errors.ts'
import { toEvent } from './event.ts'
import type { Checks } from './event.ts'
import type { Framed } from './frame.ts'
import { Hold } from './hold.ts'
import { newId } from './ids.ts'
import type { Link, Outlet } from './outbox.ts'
import { Returning } from './returning.ts'
import type { Member, Roster } from './roster.ts'

// a room's event: LIVE goes to the outbox, HELD waits for a replay, LAGGING is read from history when the reader has caught up
const LIVE = 0
const HELD = 1
const LAGGING = 2
const CLOSED = 3

const nowhere: ReadonlySet<string> = new Set()
const none: ReadonlyArray<Roster<Connection>> = []

/** One client on one wire. */
export class Connection implements TransportLink, Outlet, Member {
  readonly id = newId()
  readonly transport: string
  readonly request: FastifyRequest
  readonly lastEventId: string | undefined
  user: string | null = null
  /** Milliseconds since 1970 after which its right has ended; 0: never. */
  expires = 0
  /** Limits are counted by it. */
  address = ''

  // hot: what a fan-out and a flush touch
  tail: Link
  readonly root: Link
  readonly wire: Wire
  readonly host: ConnectionHost
  mode: 0 | 1 | 2 | 3 = LIVE
  /** Kept events up to here are not delivered again. */
  floor = 0
  /** Offset of the last kept event on the wire. */
  position = 0
  /** Everything kept after it was live here. */
  since = Infinity
  events = 0
  bytes = 0
  wroteAt: number
  pingedAt: number

  /** Topics, and how many of them are kept. */
  rosters: ReadonlyArray<Roster<Connection>> = none
  kept = 0
  roomNames: Set<string> | null = null
  readonly broadcast: boolean
  readonly returning: Returning<Roster<Connection>> | null
  /** The client has had `ready`: it knows where it stands. */
  told = false
  endsAt = 0
  inactivity = 0

  #joining = false // held until its first kept topic is acknowledged
  #opened = false
  readonly checks: Checks
  readonly #onDisconnect: Acceptance['onDisconnect']
  // made when somebody asks: most never do
  #state: api.ConnectionState | null = null
  #hold: Hold | null = null
  #backlog: Backlog | null = null
  readonly #ending = new Ending()

  constructor (host: ConnectionHost, { wire, request, lastEventId, broadcast, serialize, onDisconnect }: Acceptance) {
    this.host = host
    this.wire = wire
    this.transport = wire.transport
    this.request = request
    this.lastEventId = lastEventId
    this.broadcast = broadcast
    this.tail = this.root = host.outbox.root(wire.encoding)
    this.wroteAt = this.pingedAt = host.clock.tick
    this.#onDisconnect = onDisconnect
    this.returning = wire.bare || lastEventId === undefined || lastEventId === '' ? null : new Returning()
    if (this.returning !== null) this.mode = HELD
    this.checks = serialize === undefined ? host.checks : { ...host.checks, serialize }
  }

  get open (): boolean { return this.mode !== CLOSED }
  /** Its wire is open and nothing holds it. */
  get announced (): boolean { return this.#opened && this.mode === LIVE }
  get held (): boolean { return this.mode === HELD }
  get released (): boolean { return this.mode === LIVE || this.mode === CLOSED }
  get rooms (): ReadonlySet<string> { return this.roomNames ?? nowhere }
  /** Offset of the last kept event it was given, written or not. */
  get given (): number { return Math.max(this.position, this.tail.offset) }
  get buffered (): number { return this.wire.buffered + this.tail.size }
  get limit (): number { return this.host.options.maxBuffered }
  get signal (): AbortSignal { return this.#ending.signal }
  get state (): api.ConnectionState { return (this.#state ??= {} as api.ConnectionState) }
  get hold (): Hold { return (this.#hold ??= new Hold(this.host.options.maxBuffered, this.host.options.hold, () => this.#release())) }

  send (given: api.Sendable): boolean {
    const checked = toEvent(given, this.checks)
    if (checked.id !== undefined && this.kept > 0 && !this.wire.bare) throw new DirectIdError()
    if (this.mode === CLOSED) return false
    const takes = this.mode !== LAGGING && this.hasRoom(checked.framed.frame(this.wire.encoding).length)
    if (takes) this.put(checked.framed)
    else this.host.counts.dropped++
    return takes
  }

  say (given: api.Sendable): void { if (this.mode !== CLOSED) this.put(toEvent(given, OURS).framed) }
  deliver (framed: Framed): void {
    if (this.mode !== LIVE) this.#divert(framed)
    else if (framed.offset === 0 || framed.offset > this.floor) this.put(framed)
  }

  /** A change of presence: one that is not given now is in the snapshot that follows. */
  announce (framed: Framed): void { if (this.mode !== LAGGING) this.deliver(framed) }

  put (framed: Framed): void {
    if (this.tail.before === null) this.host.outbox.wait(this)
    this.tail = this.tail.step(framed)
  }

  #divert (framed: Framed): void {
    if (this.mode === HELD) this.hold.add(framed)
    else if (this.mode === LAGGING && framed.offset === 0) this.#drop(1)
  }

  #drop (count: number): void { if (count > 0) this.host.counts.dropped += (this.#backlog ??= new Backlog()).drop(count) }

  /** Writes what it was given in this turn. */
  take (link: Link): void {
    const { wire, host } = this
    if (this.mode !== HELD && wire.buffered > 0 && wire.buffered + link.size > this.limit) return this.#behind(link) // a replay obeys the reader
    if (link.offset > this.position) this.position = link.offset
    this.events += link.count
    this.bytes += link.size
    this.wroteAt = host.clock.tick
    host.counts.sent += link.count
    if (link.size > 0) for (const piece of link.join()) wire.write(piece)
    this.#checkDrained()
  }

  #behind (link: Link): void {
    const { host } = this
    if (this.mode === CLOSED) return
    const policy = host.options.slow
    if ((this.#backlog?.dropped ?? 0) === 0 && this.mode !== LAGGING) host.slow(this)
    this.#drop(policy === 'catch-up' ? link.unkept : link.count)
    if (policy === 'close') return this.end(reasons.slow)
    if (policy === 'catch-up') this.mode = LAGGING
    this.wire.whenFlushed()
  }

  hasRoom (bytes: number): boolean { return this.buffered === 0 || this.buffered + bytes <= this.limit }

  drained (mark: number = this.wire.highWaterMark): Promise<void> {
    if (this.mode === CLOSED || this.buffered <= mark) return resolved
    if (this.tail.before === null) this.wire.whenFlushed()
    return (this.#backlog ??= new Backlog()).wait(mark)
  }

  #checkDrained (): void {
    if (this.#backlog?.awaited !== true) return
    this.#backlog.over(this.wire.buffered)
    if (this.#backlog.awaited) this.wire.whenFlushed()
  }

  flushed (): void {
    this.#checkDrained()
    if (this.mode === LIVE) this.#tellDropped()
    if (this.mode !== LAGGING) return
    this.mode = HELD
    this.host.catchUp(this)
  }

  from<T> (source: api.Source<T>, options: api.SourceOptions<T> = {}): Promise<void> {
    return this.host.pump(this, source, options as api.SourceOptions<unknown>)
  }

  join (room: string | string[], options: api.JoinOptions = {}): Promise<boolean> {
    const rooms = [room].flat().map(checkRoomName)
    const { presence } = checkOptions(options, ['presence'])
    return this.mode === CLOSED ? Promise.resolve(false) : this.host.join(this, rooms, presence)
  }

  leave (room: string): Promise<void> { this.host.part(this, checkRoomName(room)); return resolved }
  identify (user: string | null): void { this.host.identify(this, user === null ? null : checkRoomName(user)) }

  /** Kept topics are being joined; what comes from them waits until it is known where the client stands. */
  joining (rosters: Array<Roster<Connection>>): void {
    if (this.returning !== null) {
      this.returning.joining(rosters)
      this.hold.joining()
    }
    if (rosters.length === 0 || this.mode !== LIVE || this.wire.bare) return
    this.#joining = this.returning === null && !this.told
    if (this.#joining || (this.returning?.late.size ?? 0) > 0) this.mode = HELD
  }

  /** The backplane has acknowledged them: nothing after `offset` is missed. */
  joined (kept: boolean, offset: number, ready: (offset: number) => Framed): void {
    const isFirst = this.since === Infinity && this.returning === null
    if (kept && offset > this.position && (isFirst || (this.mode === LIVE && this.tail.before === null))) this.position = offset
    if (kept && offset < this.since) this.since = offset
    if (this.returning !== null) return this.hold.joined()
    if (kept) this.tellReady(ready(Math.max(offset, this.given)))
    if (this.#joining) this.goLive(0)
    else if (this.mode === HELD) this.host.resume(this) // it had caught up before that
  }

  holdAgain (): void { if (this.mode === LIVE) this.mode = HELD }

  tellReady (ready: Framed): void {
    if (this.told || this.wire.bare || this.mode === CLOSED) return
    this.told = true
    this.put(ready)
  }

  live (): void { if (this.returning !== null) this.hold.settle() }
  settled (): void { this.live() }

  #release (): void { if (this.returning !== null && this.mode === HELD) this.host.resume(this) }

  /** What waited goes out, but for what a replay up to `floor` has given. */
  goLive (floor: number): void {
    if (this.mode !== HELD) return
    this.#joining = false
    const hold = this.#hold
    if (hold?.missed === true) return this.host.resume(this)
    this.mode = LIVE
    if (floor > this.floor) this.floor = floor
    for (const framed of hold?.end() ?? []) this.deliver(framed)
    this.#drop(hold?.takeDropped() ?? 0)
    this.#tellDropped()
    if (this.#opened) this.host.live(this)
  }

  opened (): void {
    this.#opened = true
    if (this.mode === LIVE) this.host.live(this)
  }

  whenReleased (): Promise<void> { return this.released ? resolved : this.hold.whenOver() }

  tellGap (gap: api.Gap): void {
    this.say({ event: 'gap', data: gap })
    this.host.gap(this, gap)
  }

  #tellDropped (): void {
    const dropped = this.#backlog?.take() ?? 0
    if (dropped > 0) this.tellGap({ reason: 'slow', dropped })
  }

  close (code: number = 1000, reason: string = reasons.closed.reason): void { this.end(checkClose(code, reason)) }

  /** What was sent before still goes out, it is out of everything at once, `disconnect` follows the wire. With a delay the client is told to come back. */
  end (reason: CloseReason, delay?: number): void {
    if (this.mode === CLOSED) return
    this.#leave(reason)
    if (delay === undefined) this.wire.close(reason)
    else this.wire.drain(delay)
  }

  /** It was never let in: closed from the start, and nobody is told. */
  dismiss (reason: CloseReason): this {
    this.mode = CLOSED
    this.#ending.begin(reason, [])
    this.#ending.hush()
    return this
  }

  closed (reason: CloseReason, clean: boolean): void {
    if (this.mode !== CLOSED) this.#leave(reason)
    const end = this.#ending.finish(clean, this)
    if (end === null) return
    this.#onDisconnect?.(end, this)
    this.host.disconnected(this, end)
  }

  #leave (reason: CloseReason): void {
    for (const framed of this.#hold?.end() ?? []) if (this.#joining) this.put(framed)
    this.mode = CLOSED
    this.host.outbox.write(this)
    const rooms = [...this.rooms]
    this.host.remove(this)
    this.#ending.begin(reason, rooms)
    this.#backlog?.over(0)
  }
}

const resolved = Promise.resolve()
const OURS = { maxBytes: Infinity }
