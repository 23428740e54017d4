import type * as api from '../types/api.ts'
import type { CloseReason, Wire } from '../types/transport.ts'
import { Backlog } from './backlog.ts'
import * as reasons from './close-reasons.ts'
import type { ConnectionHost } from './connection-host.ts'
import { DirectIdError } from './errors.ts'
import { toEvent } from './event.ts'
import type { CheckedEvent, Checks } from './event.ts'
import type { Framed } from './frame.ts'
import type { Hold } from './hold.ts'
import type { Link, Outlet } from './outbox.ts'

// a room's event: LIVE goes to the outbox, HELD waits for a replay, LAGGING is read from history when the reader has caught up
export const LIVE = 0
export const HELD = 1
const LAGGING = 2
export const CLOSED = 3

/** The sending half of a connection: what it is given on its way to the wire, and how far its reader is behind. */
export abstract class Outgoing implements Outlet {
  // hot: what a fan-out and a flush touch
  tail: Link
  readonly root: Link
  readonly wire: Wire
  readonly host: ConnectionHost
  mode: 0 | 1 | 2 | 3 = LIVE
  #backlog: Backlog | null = null // made when it is needed: most never are behind
  /** Kept events up to here are not delivered again. */
  floor = 0
  /** Offset of the last kept event on the wire. */
  position = 0
  events = 0
  bytes = 0
  wroteAt: number

  pingedAt: number
  flowedAt = -1_000

  /** How many of its topics are kept. */
  kept = 0
  /** Changes of presence did not reach it: it is given no more of them before a fresh snapshot. */
  blind = false
  readonly checks: Checks

  constructor (host: ConnectionHost, wire: Wire, checks: Checks) {
    this.host = host
    this.wire = wire
    this.checks = checks
    this.tail = this.root = host.outbox.root(wire.encoding)
    this.wroteAt = this.pingedAt = host.clock.tick
  }

  abstract get hold (): Hold
  abstract end (reason: CloseReason): void
  /** Its reader is too far behind. */
  protected abstract slowed (): void
  /** Its reader has caught up, and is to be sent what it has missed. */
  protected abstract caughtUp (): void
  /** It is live, or live again. */
  protected abstract tellLive (): void
  /** Some of what it was to be given is gone. */
  protected abstract gap (gap: api.Gap): void

  get open (): boolean { return this.mode !== CLOSED }
  get held (): boolean { return this.mode === HELD }
  get released (): boolean { return this.mode === LIVE || this.mode === CLOSED }
  /** Offset of the last kept event it was given, written or not. */
  get given (): number { return Math.max(this.position, this.tail.offset) }
  get buffered (): number { return this.wire.buffered + this.tail.bytes }
  get limit (): number { return this.host.options.maxBuffered }

  send (given: api.Sendable): boolean {
    const checked = toEvent(given, this.checks)
    this.#checkId(checked)
    if (this.mode === CLOSED) return false
    const takes = this.mode !== LAGGING && this.hasRoom(checked.framed.frame(this.wire.encoding).length)
    if (takes) this.put(checked.framed)
    else this.host.counts.dropped++
    return takes
  }

  /** An event of a source: its text joins that of those before it in this turn, where nothing stands between them. How much waits, as `Link.size`. */
  give (event: CheckedEvent): number {
    this.#checkId(event)
    if (this.mode !== LIVE) return -1
    const { tail, wire: { buffered } } = this
    const link = tail.add(event, buffered + tail.size === 0 ? Infinity : this.limit - buffered)
    if (link === null) return -1
    if (tail.before === null) this.host.outbox.wait(this)
    this.tail = link
    return buffered + link.size
  }

  #checkId ({ id }: CheckedEvent): void { if (id !== undefined && this.kept > 0 && !this.wire.bare) throw new DirectIdError() }

  say (given: api.Sendable): void { if (this.mode !== CLOSED) this.put(toEvent(given, OURS).framed) }

  deliver (framed: Framed): void {
    if (this.mode !== LIVE) this.#divert(framed)
    else if (framed.offset === 0 || framed.offset > this.floor) this.put(framed)
  }

  /** A change of presence: one that is not given now is in the snapshot that follows. */
  announce (framed: Framed): void {
    if (this.blind) return
    if (this.mode === LIVE) this.put(framed)
    else this.blind = this.mode !== HELD || !this.hold.add(framed)
  }

  put (framed: Framed): void {
    if (this.tail.before === null) this.host.outbox.wait(this)
    this.tail = this.tail.step(framed)
  }

  #divert (framed: Framed): void {
    if (this.mode === HELD) this.hold.add(framed)
    else if (this.mode === LAGGING && framed.offset === 0) this.drop(1)
  }

  protected drop (count: number): void { if (count > 0) this.host.counts.dropped += (this.#backlog ??= new Backlog()).drop(count) }

  protected tellDropped (): void {
    if ((this.#backlog?.dropped ?? 0) === 0) return
    if (this.hasRoom(GAP)) this.tellGap({ reason: 'slow', dropped: (this.#backlog as Backlog).take() })
    else if (this.tail.before === null) this.wire.whenFlushed() // it would be dropped itself. Else when that is written: a wire that has nothing answers at once, and again
  }

  tellGap (gap: api.Gap): void {
    this.say({ event: 'gap', data: gap })
    this.gap(gap)
  }

  write (): void { this.host.outbox.write(this) }

  /** Writes what it was given in this turn. */
  take (link: Link): void {
    const { wire } = this
    if (this.mode !== HELD && wire.buffered > 0 && wire.buffered + link.size > this.limit) return this.#behind(link) // a replay obeys the reader
    this.#write(link)
    const backlog = this.#backlog
    if (backlog !== null && (backlog.over(wire.buffered) || backlog.dropped > 0)) wire.whenFlushed()
  }

  #write (link: Link): void {
    const { wire, host } = this
    if (link.offset > this.position) this.position = link.offset
    this.events += link.count
    this.bytes += link.size
    this.wroteAt = host.clock.tick
    host.counts.sent += link.count
    if (link.size > 0) {
      const pieces = link.join()
      for (let i = 0; i < pieces.length; i++) wire.write(pieces[i] as Uint8Array)
    }
  }

  #behind (link: Link): void {
    const policy = this.host.options.slow
    const room = Math.max(0, this.limit - this.wire.buffered)
    let fit = link // what was taken while there was room, of a source or sent to it alone, is not lost for what came after it
    while (fit.size > room) fit = fit.before as Link
    if (fit.before !== null) this.#write(fit)
    if (this.mode === CLOSED) return
    if ((this.#backlog?.dropped ?? 0) === 0 && this.mode !== LAGGING) this.slowed()
    this.drop(policy === 'catch-up' ? link.unkept - fit.unkept : link.count - fit.count)
    this.blind = true
    if (!this.open) return // who was told has closed it
    if (policy === 'close') return this.end(reasons.slow)
    if (policy === 'catch-up') this.mode = LAGGING
    this.wire.whenFlushed()
  }

  hasRoom (bytes: number): boolean {
    const { buffered } = this
    return buffered === 0 || buffered + bytes <= this.limit
  }

  drained (mark: number = this.wire.highWaterMark): Promise<void> {
    if (this.mode === CLOSED || this.buffered <= mark) return resolved
    if (this.tail.before === null) this.wire.whenFlushed()
    return (this.#backlog ??= new Backlog()).wait(mark)
  }

  /** Nobody waits for its reader any longer. */
  protected giveUp (): void { this.#backlog?.over(0) }

  flushed (): void {
    if (this.#backlog?.over(this.wire.buffered) === true) this.wire.whenFlushed()
    if (this.mode === LIVE) {
      this.tellDropped()
      if (this.blind) this.tellLive()
    }
    if (this.mode !== LAGGING) return
    this.mode = HELD
    this.caughtUp()
  }
}

const resolved = Promise.resolve()
const GAP = 128 // bytes of what tells it
const OURS = { maxBytes: Infinity }
