import type { FastifyReply } from 'fastify'
import type { SourceOptions } from '../../types/api.ts'
import * as reasons from '../close-reasons.ts'
import type { Connection } from '../connection.ts'
import { TooManyOfUserError } from '../errors.ts'
import type { Identified } from '../identity.ts'
import type { SseSettings } from '../options.ts'
import type { Registry } from '../registry.ts'
import { send } from '../reply.ts'
import { discard, Feed, isAbort } from '../source.ts'
import { HEAD, hasBody, headOf, jitter, lastEventIdOf, negotiate, serializerOf, setHead, turnAway, unsetHead } from './sse-head.ts'
import { FAILED, INSIDE, phaseOf, RETURNED, setAnswered, setPhase } from './sse-phase.ts'
import { SseWire } from './sse-wire.ts'

/** Decorator of the reply: its stream, null until `reply.sse()`. */
export const kStream = Symbol('fastify-real.stream')

interface Reply extends FastifyReply { [kStream]: SseReply | null }
export function streamOf (reply: FastifyReply): SseReply | null { return (reply as Reply)[kStream] ?? null }

const PENDING = 0 // nothing has been answered
const SENDING = 1 // the head is on its way through the onSend hooks
const TAKEN = 2 // the head is out, the stream is ours
const ANSWERED = 3 // by somebody else

/**
 * One `reply.sse()`, from the call to the stream. The head is sent when the handler has settled, or a head start after the call,
 * so that a quick failure is still an ordinary answer; until then the connection can be rolled back.
 */
export class SseReply {
  readonly connection: Connection
  /** Before anything was sent: whoever makes an answer of the error may make another stream. */
  failed = false
  readonly #reply: FastifyReply
  readonly #registry: Registry
  readonly #wire: SseWire
  readonly #headStart: number
  #timer: NodeJS.Timeout | undefined
  #isSoon = false
  #refusal: Error | null
  #feed: Feed | null = null
  #state: 0 | 1 | 2 | 3 = PENDING
  #settled: boolean
  /** It was made of an error, or by a hook: what is returned there comes to `reply.send`. */
  readonly #isOutside: boolean
  /** It is known who asks, and the source has begun. */
  #begun = false
  /** The source has something to send, or there is none. */
  #arrived: boolean
  /** The head start is over. */
  #due = false
  #failed: { err: unknown } | null = null
  #outcome: { resolve: (reply?: FastifyReply) => void, reject: (err: unknown) => void } | null = null

  constructor (registry: Registry, reply: FastifyReply, settings: SseSettings, source: unknown, options: SourceOptions<unknown>) {
    const { request } = reply
    const phase = phaseOf(reply)
    const hasSource = source !== undefined
    const identity = registry.whoIs(request)
    const known = identity instanceof Promise ? { user: null, expires: 0 } : identity
    ;(reply as Reply)[kStream] = this
    this.#reply = reply
    this.#registry = registry
    this.#settled = phase >= RETURNED
    this.#isOutside = phase !== INSIDE && phase !== RETURNED
    this.#headStart = settings.headStart
    this.#arrived = !hasSource
    this.#wire = new SseWire(reply.raw, negotiate(reply, settings.compression))
    const acceptance = {
      request,
      wire: this.#wire,
      lastEventId: lastEventIdOf(request),
      broadcast: settings.broadcast ?? !hasSource,
      serialize: serializerOf(reply),
      maxAge: hasSource ? 0 : settings.maxAge,
      inactivity: settings.inactivity
    }
    this.#refusal = registry.refusal(known.user, request)
    const isOpen = this.#refusal === null && request.method !== 'HEAD' && !this.#wire.over
    this.connection = isOpen ? registry.accept(acceptance, known) : registry.turnAway(acceptance)
    this.#wire.attach(this.connection, () => this.#hasten())
    reply.send = sendElse
    reply.then = thenElse
    if (settings.retry > 0) this.connection.say({ retry: jitter(settings.retry) })
    this.#soon()
    if (identity instanceof Promise) identity.then((late) => this.#know(late)).then(() => this.#begin(source, options), (err: unknown) => this.#unknown(err))
    else this.#begin(source, options)
  }

  #know (identity: Identified): void {
    const { connection } = this
    if (!connection.open) return
    this.#registry.know(connection, identity)
    if (connection.open) return
    this.#registry.counts.refused++
    this.#refusal = new TooManyOfUserError(this.#registry.options.maxPerUser)
  }

  #unknown (err: unknown): void {
    if (this.#state === PENDING) this.#refuse(err)
    else this.#reply.log.warn({ err }, 'identify failed after the request was answered')
  }

  #begin (source: unknown, options: SourceOptions<unknown>): void {
    this.#begun = true
    if (source === undefined || !this.connection.open) {
      this.#arrived = true
      if (source !== undefined) void discard(source)
      this.#soon()
    } else {
      this.#feed = new Feed(this.connection, source, options, this.#registry.drain)
      this.#feed.first.then(() => {
        this.#arrived = true
        this.#wake()
      }, (err: unknown) => { if (this.#state !== TAKEN) this.#fail(err) }) // later, whoever runs it is told
      if (this.#due) this.#wake()
    }
  }

  /** The handler has returned. Resolves once the reply is ours or answered by somebody else, rejects with what Fastify is to answer. */
  settle (): Promise<unknown> {
    this.returned()
    if (this.#state === TAKEN) return Promise.resolve(undefined)
    if (this.#state === ANSWERED) return Promise.resolve(this.#reply)
    return new Promise((resolve, reject) => { this.#outcome = { resolve, reject } })
  }

  /** The handler has returned, maybe its reply, for which Fastify waits until it is answered. */
  returned (): void {
    this.#settled = true
    if (this.#state === TAKEN) this.connection.settled()
    else this.#soon()
  }

  /** Sent is what an error handler has returned, and not an answer of its own: the connection, or nothing. */
  isReturned (payload: unknown): boolean { return payload === this.connection || (payload === undefined && this.#isOutside) }

  /** The handler threw. Throws what Fastify is to answer. */
  abandon (err: unknown): Promise<unknown> {
    const hasHeeded = isAbort(err) && !this.connection.open // it did as the signal said
    if (this.#state === PENDING && !hasHeeded) {
      this.#free()
      throw err
    }
    if (!hasHeeded) this.#fail(err)
    return this.settle()
  }

  /** The handler or the source answers by itself after all, or an onSend hook has failed. */
  decline (): void {
    if (this.#state === TAKEN || this.#state === ANSWERED) return
    this.#rollBack()
    this.#resolve(this.#reply)
  }

  /** The handler or the source failed: an ordinary answer while nothing is sent, a stream that is cut after. */
  #fail (err: unknown): void {
    if (!this.connection.open) {
      if (!isAbort(err)) this.#reply.log.warn({ err }, 'a stream failed after its connection had ended')
      this.#hasten()
    } else if (this.#state === TAKEN) {
      this.#reply.log.error({ err }, 'a stream failed and was cut')
      this.connection.end(reasons.failed)
    } else if (this.#state === SENDING) {
      this.#failed ??= { err } // it is cut as soon as it is ours
    } else {
      this.#refuse(err)
    }
  }

  #refuse (err: unknown): void {
    this.#free()
    if (this.#outcome !== null) this.#outcome.reject(err)
    else send(this.#reply, err instanceof Error ? err : new Error(String(err)))
  }

  // not at once: whoever called may still set a header; and most have settled by then, and need no timer
  #soon (): void {
    if (this.#isSoon) return
    this.#isSoon = true
    setImmediate(() => {
      this.#isSoon = false
      this.#wake()
      if (this.#state === PENDING && !this.#due) this.#timer ??= setTimeout(() => this.#hasten(), this.#headStart)
    })
  }

  // the handler and the source are not waited for any longer
  #hasten (): void {
    this.#due = true
    this.#wake()
  }

  #wake (): void {
    if (this.#state !== PENDING || !this.#begun || !(this.#due || (this.#settled && this.#arrived))) return
    this.#stop()
    if (this.#wire.over) return this.#leave()
    if (this.#refusal !== null) return this.#turnAway(this.#refusal)
    this.#state = SENDING
    if (this.#reply.raw.req.method === 'HEAD') this.decline() // there is nothing to take over
    send(setHead(this.#reply, this.#wire.compressed), HEAD)
  }

  // its client has left already
  #leave (): void {
    this.#state = TAKEN
    this.#reply.hijack()
    this.#resolve()
  }

  #turnAway (refusal: Error): void {
    try {
      const payload = turnAway(this.#reply, refusal, this.#registry)
      this.decline()
      send(this.#reply, payload)
    } catch (err) {
      this.#refuse(err)
    }
  }

  /** From our onSend hook: the head goes out and the stream is ours. False: there is nothing to send but a head. */
  take (): boolean {
    if (this.#state !== SENDING) return true // somebody else has answered
    const { raw, statusCode } = this.#reply
    if (this.#wire.over) {
      this.#leave()
      return true
    }
    if (!hasBody(statusCode)) {
      this.decline()
      return false
    }
    raw.writeHead(statusCode, headOf(this.#reply))
    this.#state = TAKEN
    this.#reply.hijack()
    this.#registry.outbox.write(this.connection) // what was sent by now goes out with it
    this.#wire.open()
    this.connection.opened()
    if (this.#settled || this.#feed !== null) this.connection.settled()
    if (this.#failed !== null) this.#fail(this.#failed.err)
    else if (this.#feed !== null) void this.#run(this.#feed)
    this.#resolve()
    return true
  }

  async #run (feed: Feed): Promise<void> {
    try {
      await this.connection.whenReleased()
      await feed.run()
      this.connection.end(reasons.done)
    } catch (err) {
      this.#fail(err)
    }
  }

  // what is not needed any more is let go: Fastify holds the reply, and with it this, as long as the stream lasts
  #resolve (reply?: FastifyReply): void {
    this.#outcome?.resolve(reply)
    this.#outcome = null
  }

  #stop (): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
  }

  #free (): void {
    const reply = this.#reply as Partial<Reply>
    this.#rollBack()
    this.failed = true
    setPhase(this.#reply, FAILED)
    delete reply.send
    delete reply.then
  }

  #rollBack (): void {
    if (this.#state === SENDING) unsetHead(this.#reply, this.#wire.compressed)
    this.#state = ANSWERED
    this.#stop()
    this.connection.closed(reasons.refused, false)
  }
}

/** Stands before the reply's own send: with async onSend hooks `reply.sent` comes too late. */
export function sendElse (this: FastifyReply, payload?: unknown): FastifyReply {
  const stream = streamOf(this)
  if (stream?.isReturned(payload) === true) {
    stream.returned()
    return this
  }
  setAnswered(this)
  stream?.decline()
  return send(this, payload)
}

// whoever waits for a reply has nothing more to do for it: `return reply` of an async handler
function thenElse (this: FastifyReply, ...callbacks: Parameters<FastifyReply['then']>): void {
  streamOf(this)?.returned()
  ;(Object.getPrototypeOf(this) as FastifyReply).then.apply(this, callbacks)
}
