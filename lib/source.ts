import type { Readable } from 'node:stream'
import { setImmediate as turn } from 'node:timers/promises'
import type * as api from '../types/api.ts'
import { checkOptions, isThenable, kindOf } from './arguments.ts'
import { ArgumentError, SourceError } from './errors.ts'
import { toEvent } from './event.ts'
import type { CheckedEvent, Checks } from './event.ts'

/** What a source is given to: a connection. */
export interface Sink {
  readonly open: boolean
  readonly checks: Checks
  readonly wire: { readonly highWaterMark: number }
  readonly signal: AbortSignal
  readonly request: { readonly log: { warn (fields: object, message: string): void }, readonly routeOptions: { url?: string | undefined } }
  /** Bytes that now wait for its reader; -1 when it takes nothing now: something is replayed to it first, or there is no room. */
  give (event: CheckedEvent): number
  /** What it was given in this turn is written now. */
  write (): void
  drained (mark?: number): Promise<void>
  whenReleased (): Promise<void>
}

/** Who waits for sources at a shutdown. */
export interface Drain { working (work: Promise<unknown>): void }

/** Where items come from: asked for one at a time; told once that no more are wanted. */
interface Items { next (): Asked, stop (): unknown }
type Asked = IteratorResult<unknown> | PromiseLike<IteratorResult<unknown>>

const LATE = 'a source failed after its connection had ended'
const RUN = 1_000 // items after which others have a turn: what has no bytes on a wire, a comment on a WebSocket, never fills it
const PATIENCE = 5_000 // after which a source that goes on after its connection has ended is named in the log

/** Events and bytes are what is sent, never iterated. */
export function isSendable (value: unknown): value is api.Sendable {
  return typeof value === 'string' || value instanceof Uint8Array || (typeof value === 'object' && value !== null && !isIterable(value))
}

/** Something that gives items. */
export function isIterable (value: unknown): value is object {
  return typeof value === 'object' && value !== null && !(value instanceof Uint8Array) && (Symbol.asyncIterator in value || Symbol.iterator in value || 'getReader' in value)
}

/** A handler that yields; Fastify itself could only answer with an empty object. */
export function isGeneratorFunction (value: unknown): boolean {
  return /^\[object (?:Async)?GeneratorFunction\]$/.test(Object.prototype.toString.call(value))
}

/** What is thrown by something that was told to end. */
export function isAbort (err: unknown): boolean {
  return err instanceof Error && (err.name === 'AbortError' || (err as { code?: string }).code === 'ERR_STREAM_PREMATURE_CLOSE')
}

/** Refuses what is no source, before anything is done with it. */
export function checkSource (source: unknown, isMapped: boolean, checks: Checks): void {
  if (isThenable(source)) throw new SourceError('a promise; await it first')
  if (isNodeStream(source)) source.on('error', ignore) // it may fail before it is asked: whoever asks is told then
  if (typeof source === 'function' || isIterable(source)) return
  if (!isSendable(source)) throw new SourceError(kindOf(source))
  if (!isMapped) toEvent(source, checks)
}

/** A source that nobody will read lets go of what it holds. */
export async function discard (source: unknown): Promise<void> {
  try {
    if (isIterable(source)) await itemsOf(source).stop()
  } catch {} // it was never begun
}

/** A source being sent to one connection: one item in flight, the next asked for when the reader has room. */
export class Feed {
  /** Settles with the first event, or when a callback is done; rejects when the source fails before it. */
  readonly first: Promise<CheckedEvent | null>
  readonly #sink: Sink
  readonly #map: ((item: unknown) => api.Sendable) | undefined
  readonly #onAbort = (): void => this.#abandon()
  readonly #drain: Drain
  #items: Items | null = null
  #asking = false
  #stopped = false
  #over = false
  #given = 0 // since others had a turn
  #watch: NodeJS.Timeout | undefined
  #resolve: (() => void) | null = null

  constructor (sink: Sink, source: unknown, { map }: api.SourceOptions<unknown>, drain: Drain) {
    this.#sink = sink
    this.#map = map
    this.#drain = drain
    sink.signal.addEventListener('abort', this.#onAbort)
    this.first = this.#begin(source)
    this.first.catch(() => this.#rest()) // whoever runs it is told
    drain.working(this.first)
  }

  async #begin (source: unknown): Promise<CheckedEvent | null> {
    let given = source
    if (typeof source === 'function') {
      given = (source as (sink: unknown) => unknown)(this.#sink)
      if (isThenable(given)) given = itemsOrNone(await given)
      else if (!isIterable(given)) throw new SourceError('a callback that gave neither a promise nor an iterable')
    }
    this.#items = itemsOf(isIterable(given) ? given : [given])
    if (this.#sink.open) return this.#eventOf(await this.#ask())
    this.#stop()
    return null
  }

  /** Resolves at the source's end or when the connection ends; rejects with the source's own error. */
  run (): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#resolve = resolve // a source that goes on after the connection holds only itself
      const work = this.#send()
      this.#drain.working(work)
      work.then(resolve, reject)
      if (!this.#sink.open) resolve()
    })
  }

  async #send (): Promise<void> {
    const sink = this.#sink
    try {
      await this.#relay(sink, await this.first)
    } catch (err) {
      if (!this.#over) this.#stop() // the sink refused what it gave
      if (sink.open) throw err
      if (!isAbort(err)) this.#warn({ err }, LATE)
    } finally {
      sink.signal.removeEventListener('abort', this.#onAbort)
    }
  }

  // nothing in it is done once for a source: of that the optimizing compiler knows nothing yet when it compiles, and would have to do it again
  async #relay (sink: Sink, first: CheckedEvent | null): Promise<void> {
    let event = first
    while (event !== null && sink.open) {
      const full = this.#give(event)
      if (full !== null) await full
      let result: IteratorResult<unknown>
      try {
        result = await this.#ask()
      } catch (err) { // the source's own: it has ended
        this.#rest()
        throw err
      }
      const next = this.#eventOf(result)
      event = next instanceof Promise ? await next : next
    }
  }

  /** Null, or what is to be awaited before the next: mostly there is nothing, and an item costs one promise, its own. */
  #give (event: CheckedEvent): Promise<void> | null {
    const waiting = this.#sink.give(event)
    if (waiting === -1) return this.#giveLater(event)
    return waiting >= this.#sink.wire.highWaterMark || ++this.#given >= RUN ? this.#pause() : null
  }

  // what fills a write does not wait: at the end of a turn that fills one for each of many sources all their text would be alive, and the
  // garbage collector would copy it (a hundred of them cost a third more)
  async #pause (): Promise<void> {
    this.#given = 0
    this.#sink.write()
    await turn() // a source that never waits would let nobody else in
    await this.#sink.drained()
  }

  async #giveLater (event: CheckedEvent): Promise<void> {
    const sink = this.#sink
    let waiting = -1
    while (sink.open && waiting === -1) {
      await sink.whenReleased()
      await sink.drained(0)
      waiting = sink.give(event)
    }
    if (waiting >= sink.wire.highWaterMark) await this.#pause()
  }

  #eventOf (result: IteratorResult<unknown>): CheckedEvent | null | Promise<CheckedEvent> {
    if (result.done === true) return this.#rest()
    const { value } = result
    return isThenable(value) ? this.#late(value) : this.#check(value)
  }

  // as `for await` does with an array of promises
  async #late (value: PromiseLike<unknown>): Promise<CheckedEvent> {
    let item: unknown
    try {
      item = await value
    } catch (err) {
      this.#stop()
      throw err
    }
    return this.#check(item)
  }

  #check (item: unknown): CheckedEvent {
    try {
      return toEvent(this.#map === undefined ? item as api.Sendable : this.#map(item), this.#sink.checks)
    } catch (err) { // not the source's own: it is told to end
      this.#stop()
      throw err
    }
  }

  #ask (): Asked {
    this.#asking = true
    try {
      return (this.#items as Items).next()
    } finally {
      this.#asking = false
      if (this.#stopped) this.#halt()
    }
  }

  // the connection has ended, and its signal has been aborted
  #abandon (): void {
    this.#resolve?.()
    if (this.#over) return
    this.#stop()
    this.#watch = setTimeout(() => {
      this.#warn({ route: this.#sink.request.routeOptions.url }, 'a source goes on after its connection has ended: it ignores connection.signal')
    }, PATIENCE).unref()
  }

  #stop (): void {
    if (this.#stopped || this.#items === null) return
    this.#stopped = true
    if (!this.#asking) this.#halt() // nobody can be told from within next()
  }

  #halt (): void {
    // not before everybody has heard the signal: return() alone queues behind a pending next()
    this.#drain.working(Promise.resolve(this.#items as Items).then((items) => items.stop()).then(() => this.#rest(), (err: unknown) => {
      this.#rest()
      if (!isAbort(err)) this.#warn({ err }, LATE)
    }))
  }

  #rest (): null {
    this.#over = true
    clearTimeout(this.#watch)
    return null
  }

  #warn (fields: object, message: string): void { this.#sink.request.log.warn(fields, message) }
}

/** Sends what a source gives. */
export function pump (sink: Sink, source: unknown, options: api.SourceOptions<unknown>, drain: Drain): Promise<void> {
  const { map } = checkOptions(options, ['map'])
  if (map !== undefined && typeof map !== 'function') throw new ArgumentError('map', `must be a function, got ${kindOf(map)}`)
  checkSource(source, map !== undefined, sink.checks)
  return sink.whenReleased().then(() => sink.open ? new Feed(sink, source, options, drain).run() : discard(source))
}

// what a callback's promise gives is of no interest, but for a stream of events
function itemsOrNone (value: unknown): object {
  return isIterable(value) && Symbol.asyncIterator in value ? value : []
}

function itemsOf (source: object): Items {
  if ('getReader' in source) {
    const reader = (source as ReadableStream).getReader()
    return { next: () => reader.read(), stop: () => reader.cancel() } // its own iterator cannot be ended while it waits
  }
  const iterator = Symbol.asyncIterator in source
    ? (source as AsyncIterable<unknown>)[Symbol.asyncIterator]()
    : (source as Iterable<unknown>)[Symbol.iterator]()
  if (isNodeStream(source)) return { next: () => iterator.next(), stop: () => source.destroy() }
  return { next: () => iterator.next(), stop: () => iterator.return?.() }
}

function isNodeStream (value: unknown): value is Readable {
  return isIterable(value) && 'pipe' in value && 'destroy' in value
}

function ignore (): void {}
