import { Buffer } from 'node:buffer'
import type { Encoding } from '../types/transport.ts'
import type { CheckedEvent } from './event.ts'
import type { Framed } from './frame.ts'

const ROOMY = 1_024 // so many places are kept, however few were taken
const GATHERED = 8 // turns of a source whose events go out in one write, where it gives some in turn after turn
const FLOWING = 4 // milliseconds since its last write after which it does not wait
const FULL = 16_384 // from this size a source's text is written at once
const FRAMING = 32 // bytes that a text weighs more once it is framed, at most
const AHEAD = 32 // so many are looked at before the first of them is written to
const LARGE = 65_536 // a frame from this size is never copied: two writes cost less (perf: 5.8 against 34 us)

/**
 * One event after another. Connections that were given the same events in this turn point at the same link, so what they
 * get is joined once. A root has `before === null`; there is one for each encoding.
 */
export class Link {
  readonly before: Link | null
  readonly framed: Framed | null
  readonly encoding: Encoding
  frame: Uint8Array
  /** Bytes from the root to here; of text, as long as more may follow, characters. */
  size: number
  /** Events. */
  count: number
  /** Offset of the last kept event. */
  readonly offset: number
  large: boolean
  /** Of events of a source, as long as more may follow: nobody else has this link. */
  text: string | null = null
  next: Link | null = null
  pieces: Uint8Array[] | null = null

  constructor (before: Link | null, framed: Framed | null, encoding: Encoding) {
    this.before = before
    this.framed = framed
    this.encoding = encoding
    this.frame = framed === null ? nothing : framed.frame(encoding) // looked up once for a link, not for each member
    this.size = before === null ? 0 : before.size + this.frame.length
    this.count = before === null ? 0 : before.count + (framed === null ? 0 : 1)
    this.offset = before === null ? 0 : framed === null || framed.offset === 0 ? before.offset : framed.offset
    this.large = before !== null && (before.large || this.frame.length >= LARGE)
  }

  // the members of a roster take the same step one after another, so the last one is the only one worth remembering
  step (framed: Framed): Link {
    const next = this.next
    if (next !== null && next.framed === framed) return next
    if (this.text !== null) this.settle()
    return (this.next = new Link(this, framed, this.encoding))
  }

  /** An event of a source; null where all there is needs more than `room` bytes. Making bytes of each by itself would cost more than making the event. */
  add (event: CheckedEvent, room: number): Link | null {
    const { encoding } = this
    if (encoding.text === undefined || encoding.pack === undefined) return this.size + event.framed.frame(encoding).length > room ? null : this.step(event.framed)
    const text = encoding.text(event)
    if (!this.#fits(text, room)) return null
    const link = this.text === null ? new Link(this, null, encoding) : this
    link.text = link.text === null ? text : link.text + text
    link.size += text.length
    link.count++
    return link
  }

  // no character needs more than three bytes: mostly there is room for that, and they are not counted
  #fits (text: string, room: number): boolean {
    if (3 * (this.size + text.length) + FRAMING <= room) return true
    return this.bytes + Buffer.byteLength(text) + FRAMING <= room
  }

  /** Bytes from the root to here, but for what frames text of a source. */
  get bytes (): number { return this.text === null ? this.size : (this.before as Link).size + Buffer.byteLength(this.text) }

  /** No more text follows. */
  settle (): void {
    const before = this.before as Link
    this.frame = this.encoding.pack?.(this.text as string) as Uint8Array
    this.text = null
    this.size = before.size + this.frame.length
    this.large = before.large || this.frame.length >= LARGE
  }

  /** How many of its events are not kept. */
  get unkept (): number {
    let count = 0
    for (let link: Link = this; link.before !== null; link = link.before) if (link.framed === null || link.framed.offset === 0) count += link.count - link.before.count
    return count
  }

  /** What to write: one buffer, or, with large frames, those as they are and what lies between them joined. */
  join (): Uint8Array[] {
    return (this.pieces ??= this.large ? this.#split() : [this.#concat()])
  }

  #concat (): Uint8Array {
    if (this.before?.before === null) return this.frame
    const bytes = Buffer.allocUnsafe(this.size)
    let end = this.size
    for (let link: Link = this; link.before !== null; link = link.before) {
      if (link.pieces !== null) { // a prefix that others got is joined already
        bytes.set(link.pieces[0] as Uint8Array)
        break
      }
      bytes.set(link.frame, end -= link.frame.length)
    }
    return bytes
  }

  #split (): Uint8Array[] {
    const frames: Uint8Array[] = []
    for (let link: Link = this; link.before !== null; link = link.before) if (link.frame.length > 0) frames.push(link.frame)
    const pieces: Uint8Array[] = []
    let small: Uint8Array[] = []
    const close = () => {
      if (small.length > 0) pieces.push(small.length === 1 ? small[0] as Uint8Array : Buffer.concat(small))
      small = []
    }
    for (const frame of frames.reverse()) {
      if (frame.length < LARGE) {
        small.push(frame)
        continue
      }
      close()
      pieces.push(frame)
    }
    close()
    return pieces
  }
}

const nothing = new Uint8Array(0)

/** Somebody whose writes wait here. */
export interface Outlet {
  /** Where it is in the chain of this turn; its root when nothing waits. */
  tail: Link
  readonly root: Link
  /** Bytes that are not on their way yet. */
  readonly buffered: number
  /** The turn in which text of a source was last written. */
  flowedAt: number
  /** Writes what waited. */
  take (link: Link): void
}

/** What is waiting to be written in this turn: one write for a connection, at the end of the turn or when a source has filled it. */
export class Outbox {
  #roots = new Map<Encoding, Link>()
  // used again, one while the other is written: an array that grows anew each turn would be as much garbage as all else together
  #waiting: Array<Outlet | null> = []
  #written: Array<Outlet | null> = []
  #count = 0
  #due = false
  #turn = 0
  readonly #times: number[] = new Array<number>(GATHERED).fill(0) // of the last turns, in milliseconds
  #seen = 0 // read by nobody: what is read for nothing, an optimizing compiler leaves out
  #afterFlush: () => void
  readonly #now: () => number
  readonly #run = () => this.flush()

  constructor (afterFlush: () => void, now: () => number = () => Math.trunc(performance.now())) {
    this.#afterFlush = afterFlush
    this.#now = now
  }

  root (encoding: Encoding): Link {
    let root = this.#roots.get(encoding)
    if (root === undefined) this.#roots.set(encoding, root = new Link(null, null, encoding))
    return root
  }

  wait (outlet: Outlet): void {
    this.#waiting[this.#count++] = outlet
    if (this.#due) return
    this.#due = true
    setImmediate(this.#run) // not a microtask: any await in a publisher would end the turn (perf: 15 times the writes)
  }

  flush (): void {
    const waiting = this.#waiting
    const count = this.#count
    this.#waiting = this.#written
    this.#count = 0
    this.#due = false
    this.#times[++this.#turn % GATHERED] = this.#now()
    for (const root of this.#roots.values()) root.next = null // roots stay; what hangs on them is forgotten
    for (let i = 0; i < count; i++) {
      if (i % AHEAD === 0) this.#lookAhead(waiting, i, Math.min(i + AHEAD, count))
      const outlet = waiting[i] as Outlet
      waiting[i] = null // it may be closed by now
      if (outlet.tail.text !== null && this.#flows(outlet)) this.wait(outlet)
      else this.write(outlet)
    }
    this.#written = waiting.length > ROOMY && waiting.length > 8 * count ? [] : waiting
    this.#afterFlush()
  }

  // of thousands, hardly one is in the CPU's cache. Looked at one after another their lines come together; at the write, between
  // two system calls, each would be waited for by itself (perf: 0.93 of the CPU)
  #lookAhead (waiting: Array<Outlet | null>, start: number, end: number): void {
    let seen = 0
    for (let i = start; i < end; i++) seen += (waiting[i] as Outlet).buffered
    this.#seen = seen
  }

  // a source that gives an event in each turn is written to in every eighth, and a lone event at once (perf: 0.4 of the CPU)
  #flows (outlet: Outlet): boolean {
    const { flowedAt, tail } = outlet
    if (this.#turn - flowedAt < GATHERED && this.#timeOf(this.#turn) - this.#timeOf(flowedAt) < FLOWING && tail.size < FULL) return true
    outlet.flowedAt = this.#turn
    return false
  }

  #timeOf (turn: number): number { return this.#times[turn % GATHERED] as number }

  /** Also called by a close, so that what was sent before it still goes out, and for a source that has filled a write. */
  write (outlet: Outlet): void {
    const link = outlet.tail
    if (link.before === null) return
    outlet.tail = outlet.root
    if (link.text !== null) link.settle()
    outlet.take(link)
  }
}
