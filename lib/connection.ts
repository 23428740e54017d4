import type { FastifyRequest } from 'fastify'
import type * as api from '../types/api.ts'
import type { Acceptance, CloseReason, Link as TransportLink } from '../types/transport.ts'
import { checkClose, checkOptions, checkRoomName } from './arguments.ts'
import * as reasons from './close-reasons.ts'
import type { ConnectionHost } from './connection-host.ts'
import { Ending } from './ending.ts'
import type { Framed } from './frame.ts'
import { Hold } from './hold.ts'
import { newId } from './ids.ts'
import { none as noJoins } from './joins.ts'
import type { Joiner } from './joins.ts'
import { hashOfText, kHash } from './crowd.ts'
import { CLOSED, HELD, LIVE, Outgoing } from './outgoing.ts'
import { Returning } from './returning.ts'
import type { Member, Reached, Roster } from './roster.ts'

const none: ReadonlyArray<Roster<Connection>> = []

/** One client on one wire. */
export class Connection extends Outgoing implements TransportLink, Member, Joiner {
  readonly id = newId()
  readonly [kHash] = hashOfText(this.id)
  readonly request: FastifyRequest
  readonly lastEventId: string | undefined
  user: string | null = null
  /** Milliseconds since 1970 after which its right has ended; 0: never. */
  expires = 0
  /** Limits are counted by it. */
  address = ''

  /** Everything kept after it was live here. */
  since = Infinity
  rosters: ReadonlyArray<Roster<Connection>> = none
  joins: Joiner['joins'] = noJoins
  /** Made when somebody asks, and kept up to date from then on: a set weighs 200 bytes. */
  roomNames: Set<string> | null = null
  readonly broadcast: boolean
  readonly returning: Returning<Roster<Connection>> | null
  /** The client has had `ready`: it knows where it stands. */
  told = false
  endsAt = 0
  inactivity = 0

  #joining = false // held until its first kept topic is acknowledged
  #opened = false
  readonly #onDisconnect: Acceptance['onDisconnect']
  // made when somebody asks: most never do
  #state: api.ConnectionState | null = null
  #hold: Hold | null = null
  #ending: Ending | null = null
  readonly #since = Math.trunc(performance.now()) // a number that is not whole would be an object of its own

  constructor (host: ConnectionHost, { wire, request, lastEventId, broadcast, serialize, onDisconnect }: Acceptance) {
    super(host, wire, serialize === undefined ? host.checks : { ...host.checks, serialize })
    this.request = request
    this.lastEventId = lastEventId
    this.broadcast = broadcast
    this.#onDisconnect = onDisconnect
    this.returning = wire.bare || lastEventId === undefined || lastEventId === '' ? null : new Returning()
    if (this.returning !== null) this.mode = HELD
  }

  /** What came up to now it has, and nothing of that may be dropped any more. */
  get isCurrent (): boolean { return this.mode === LIVE && this.tail.before === null }
  /** Its wire is open and nothing holds it. */
  get announced (): boolean { return this.#opened && this.mode === LIVE }
  get rooms (): ReadonlySet<string> { return (this.roomNames ??= new Set(this.namesOfRooms())) }
  namesOfRooms (): string[] {
    const names: string[] = []
    for (const { isRoom, name } of this.rosters) if (isRoom) names.push(name)
    return names
  }

  /** What a log or an answer is to say of it: its request has all that a client sent, cookies too, and its wire goes in circles. */
  toJSON (): object {
    const { id, transport, user, open } = this
    return { id, transport, user, open, rooms: this.namesOfRooms() }
  }

  get transport (): string { return this.wire.transport }
  get signal (): AbortSignal { return this.#end.signal }
  get state (): api.ConnectionState { return (this.#state ??= {} as api.ConnectionState) }
  get hold (): Hold { return (this.#hold ??= new Hold(this.host.options.maxBuffered, this.host.options.hold, () => this.#release())) }
  get #end (): Ending { return (this.#ending ??= new Ending(this.#since)) }

  protected slowed (): void { this.host.slow(this) }
  protected caughtUp (): void { this.host.resume(this) }
  protected tellLive (): void { if (this.#opened) this.host.live(this) }
  protected gap (gap: api.Gap): void { this.host.gap(this, gap) }

  from<T> (source: api.Source<T>, options: api.SourceOptions<T> = {}): Promise<void> {
    return this.host.pump(this, source, options as api.SourceOptions<unknown>)
  }

  join (room: string | string[], options: api.JoinOptions = {}): Promise<boolean> {
    const rooms = [room].flat().map(checkRoomName)
    const { presence } = checkOptions(options, ['presence'])
    return this.mode === CLOSED ? Promise.resolve(false) : this.host.join(this, rooms, presence)
  }

  /** What is joined, or false where that is not known before it ends: a backplane that is away may not answer until it is back. */
  joinedBeforeEnd (work: Promise<boolean>): Promise<boolean> { return this.#end.before(work, false) }

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

  /** The backplane has acknowledged them: nothing after `earliest` is missed in some of them, nothing after `latest` in any. */
  joined (kept: boolean, { earliest, latest }: Reached, ready: (offset: number) => Framed): void {
    const isFirst = this.since === Infinity && this.returning === null
    const before = (this.#hold?.first ?? Infinity) - 1 // up to there nothing came; what was sent long before that is not for it
    const offset = this.#joining ? Math.max(earliest, Math.min(latest, before)) : earliest
    const { isCurrent } = this
    const position = isCurrent ? latest : offset
    if (kept && position > this.position && (isFirst || isCurrent)) this.position = position
    if (kept && offset < this.since) this.since = offset
    if (this.returning !== null) return this.hold.joined()
    if (kept) this.tellReady(ready(Math.min(before, Math.max(offset, this.given))))
    if (this.#joining && offset === latest) return this.goLive(0)
    this.#joining = false
    if (this.mode === HELD) this.host.resume(this) // it had caught up before that, or what came in between is to be read
  }

  /** The sequence is another one: what waits of the old one has no place in it. */
  reset (): void {
    this.host.outbox.write(this)
    this.floor = this.position = 0
    if (this.since !== Infinity) this.since = 0
    this.#hold?.forgetKept()
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
    this.drop(hold?.takeDropped() ?? 0)
    this.tellDropped()
    this.tellLive()
  }

  opened (): void {
    this.#opened = true
    if (this.mode === LIVE) this.tellLive()
  }

  whenReleased (): Promise<void> { return this.released ? resolved : this.hold.whenOver() }

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
    this.#end.begin(reason, [])
    this.#end.hush()
    return this
  }

  closed (reason: CloseReason, clean: boolean): void {
    if (this.mode !== CLOSED) this.#leave(reason)
    const end = this.#end.finish(clean, this)
    if (end === null) return
    this.#onDisconnect?.(end, this)
    this.host.disconnected(this, end)
  }

  #leave (reason: CloseReason): void {
    for (const framed of this.#hold?.end() ?? []) if (this.#joining) this.put(framed)
    this.mode = CLOSED
    this.host.outbox.write(this)
    const rooms = this.namesOfRooms()
    this.host.remove(this)
    this.#end.begin(reason, rooms)
    this.giveUp()
  }
}

const resolved = Promise.resolve()
