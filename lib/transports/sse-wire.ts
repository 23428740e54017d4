import type { IncomingMessage, ServerResponse } from 'node:http'
import { constants } from 'node:http2'
import type { Http2ServerResponse } from 'node:http2'
import { Socket } from 'node:net'
import type { CloseReason, Link, Wire } from '../../types/transport.ts'
import * as reasons from '../close-reasons.ts'
import { CheckedEvent } from '../event.ts'
import { sse, sseChunked } from './sse-frame.ts'
import type { SseEncoding } from './sse-frame.ts'
import { sseGzip, sseGzipChunked } from './sse-gzip-frame.ts'

const HEARTBEAT = ':\n' // not `:\n\n`: clients that read themselves take the empty line for an empty event
const CLOSING = 5_000 // how long a reader may take nothing of what is left
const LOOK = 5 // between two looks at a response that does not say when it is empty
const nothing = new Uint8Array(0)
const kWire = Symbol('fastify-real.wire') // so that listeners are shared, not made for each connection

type Raw = ServerResponse | Http2ServerResponse
interface Wired { [kWire]?: SseWire | undefined }

/** An event stream on the response of a request. What is written before the head is sent waits for it. */
export class SseWire implements Wire {
  // hot: what a write touches
  readonly encoding: SseEncoding
  /** HTTP/1 on a socket of its own: frames are written past the response, those of 1.1 with their chunk header. */
  readonly #socket: Socket | null
  #early: Uint8Array[] | null = []
  #over = false

  readonly #raw: Raw
  #link: Link | null = null
  #onGone: (() => void) | null = null
  #earlyBytes = 0
  #timeout = 0 // of the socket, for the request after this
  #blocked = false
  #waiting = false
  #isWhole = false
  #reason: CloseReason | null = null
  #patience: NodeJS.Timeout | undefined
  #unwatch: (() => void) | null = null

  constructor (raw: Raw, compressed: boolean) {
    this.#raw = raw
    this.#socket = isHttp1(raw) && raw.socket instanceof Socket ? raw.socket : null
    const chunks = this.#socket !== null && raw.req.httpVersion === '1.1'
    this.encoding = compressed ? chunks ? sseGzipChunked : sseGzip : chunks ? sseChunked : sse
    this.#over = isGone(raw)
    if (this.#over) return
    ;(raw as Wired)[kWire] = this
    raw.on('close', rawClosed)
    if (!isHttp1(raw)) this.#watchStream(raw)
    else if (raw.socket === null) this.#watch(raw.req.socket)
  }

  // after RST_STREAM without an error the response is not closed before somebody has read the request to its end
  #watchStream ({ stream }: Http2ServerResponse): void {
    ;(stream as Wired)[kWire] = this
    stream.on('aborted', clientEnded)
  }

  // a pipelined response that waits for its turn is not told when the socket closes
  #watch (socket: Socket): void {
    const ended = (): void => this.ended()
    socket.setMaxListeners(0).once('end', ended).once('close', ended)
    this.#unwatch = () => socket.removeListener('end', ended).removeListener('close', ended)
  }

  /** Whose wire it is; what the client does is told to it, and to who waits for the head, as long as it is not sent. */
  attach (link: Link, onGone: (() => void) | null = null): void {
    this.#link = link
    this.#onGone = onGone
  }

  // not fields: what is the same for all would weigh 40 bytes in each
  get transport (): 'sse' { return 'sse' }
  get highWaterMark (): number { return 16_384 }
  get bare (): boolean { return false }
  get pingWhenSilent (): boolean { return true }
  get missed (): number { return 0 }

  get compressed (): boolean { return this.encoding.head !== null }
  get over (): boolean { return this.#over }

  get buffered (): number {
    if (this.#early !== null) return this.#earlyBytes
    if (this.#socket !== null) return this.#socket.writableLength
    const length = isHttp1(this.#raw) ? this.#raw.writableLength : this.#raw.stream.writableLength
    return this.#blocked ? Math.max(length, this.highWaterMark + 1) : length
  }

  /** The head goes out, and in one write with it what waited for it. */
  open (): void {
    this.#socket?.cork()
    ;(this.#raw as ServerResponse).flushHeaders()
    this.#open()
    this.#socket?.uncork()
  }

  #open (): void {
    // what waits for its turn waits here: node would stop to read a socket, and not hear of its end
    if (isHttp1(this.#raw) && this.#raw.socket === null) {
      this.#raw.once('socket', () => setImmediate(() => this.#open()))
      return
    }
    const early = this.#early as Uint8Array[]
    this.#early = this.#onGone = null
    if (this.#socket !== null) this.#hold(this.#socket)
    if (this.encoding.head !== null) this.write(this.encoding.head)
    for (const frame of early) this.write(frame)
    if (this.#reason !== null) return this.#finish(this.#reason) // it was closed before
    if (this.#waiting) {
      this.#waiting = false
      this.whenFlushed()
    }
  }

  #hold (socket: Socket): void {
    discardBody((this.#raw as ServerResponse).req)
    this.#timeout = socket.timeout ?? 0
    if (this.#timeout > 0) this.#setTimeout(0) // a quiet stream is no idle one: it has its own heartbeat
    ;(socket as Wired)[kWire] = this
    socket.on('end', clientEnded)
  }

  write (frame: Uint8Array): void {
    if (this.#over) return
    if (this.#early !== null) {
      this.#early.push(frame)
      this.#earlyBytes += frame.byteLength
    } else if (this.#socket !== null) {
      this.#socket.write(frame)
    } else if ((this.#raw as ServerResponse).write(frame) === false && !this.#blocked) {
      this.#blocked = true
      this.#raw.once('drain', () => { this.#blocked = false })
    }
  }

  whenFlushed (): void {
    if (this.#waiting || this.#over) return
    this.#waiting = true
    if (this.#early !== null) return
    if (this.#socket === null) setImmediate(() => this.#look())
    else if (this.#socket.writable) this.#socket.write(nothing, () => this.#flushed()) // its callback follows all that was written before
    // else it is cut, and soon closed: asked again and again until then, it would answer at once each time, and keep the close from coming
  }

  #look (): void {
    if (this.#over || this.buffered === 0) this.#flushed()
    else if (this.#blocked) this.#raw.once('drain', () => this.#look())
    else setTimeout(() => this.#look(), LOOK).unref()
  }

  #flushed (): void {
    this.#waiting = false
    if (!this.#over) this.#link?.flushed()
  }

  // a reader that is behind will see soon enough that we live
  ping (): void {
    if (this.#early === null && this.buffered === 0) this.write(heartbeatOf(this.encoding))
  }

  close (reason: CloseReason): void {
    if (this.#over) return
    this.#reason ??= reason
    if (this.#early === null) this.#finish(reason) // else the head is still to come, or never will
  }

  #finish (reason: CloseReason): void {
    if (reason.code === reasons.failed.code) this.#cut()
    else this.#end()
    const line = this.#line
    if (reason.code === reasons.slow.code) {
      this.#patience = setTimeout(() => this.terminate(), CLOSING).unref()
      return
    }
    if (line !== null || !isHttp1(this.#raw)) this.#setTimeout(CLOSING) // not while it takes some of it
    if (!isHttp1(this.#raw)) this.#watchReset(this.#raw)
    else if (line !== null && line.writableLength > 0) this.#patience = setTimeout(() => this.#deafen(line), CLOSING).unref()
  }

  // what it sends would pass for a sign that it takes some
  #deafen (line: Socket): void {
    line.pause()
    this.#raw.once('finish', () => line.resume())
  }

  // after RST_STREAM without an error, once we have ended it, nothing is sent any more, nothing is told, and node turns its timeout off
  #watchReset (raw: Http2ServerResponse): void {
    this.#patience = setTimeout(() => {
      if (raw.stream.closed) this.terminate()
      else this.#watchReset(raw)
    }, CLOSING).unref()
  }

  // restored when the response is finished, before node sets that of an idle socket
  #setTimeout (milliseconds: number): void {
    const line = this.#line
    if (line !== null) this.#raw.removeListener('finish', rawFinished).prependListener('finish', rawFinished)
    if (line !== this.#socket) this.#timeout = line?.timeout ?? 0 // it was not held
    if (milliseconds === 0) this.#socket?.setTimeout(0)
    else this.#raw.setTimeout(milliseconds, () => this.terminate())
  }

  #end (): void {
    const sending = isHttp1(this.#raw) ? this.#raw : this.#raw.stream // a response of HTTP/2 also says so when it is only closed
    const line = this.#line
    sending.once('finish', () => { this.#isWhole = line?.destroyed !== true }) // writableFinished says it too late when injected
    this.#raw.end()
  }

  drain (delay: number): void {
    if (this.#over) return
    const event = new CheckedEvent()
    event.retry = Math.ceil(delay)
    this.write(this.encoding.frame(event))
    const socket = this.#socket
    // its socket must not come back with another request: a closing server answers 503, which an EventSource takes for good
    if (socket !== null) this.#raw.once('finish', () => socket.destroySoon())
    this.close(reasons.shutdown)
  }

  /** The response is finished: its socket may be used again. */
  finished (): void { this.#line?.setTimeout(this.#timeout) }

  /** The socket of HTTP/1 it is sent on, also where that was another's before. */
  get #line (): Socket | null { return isHttp1(this.#raw) && this.#raw.socket instanceof Socket ? this.#raw.socket : null }

  terminate (): void {
    if (this.#over) return
    this.#destroy()
    this.#gone(this.#reason ?? reasons.lost, false)
  }

  /** What was written goes out, but no end: the client can tell that something is missing. */
  #cut (): void {
    if (this.#socket !== null) this.#socket.destroySoon()
    else this.#destroy()
  }

  #destroy (): void {
    // RST_STREAM without an error would pass for an end
    if (!isHttp1(this.#raw)) this.#raw.stream.removeListener('aborted', clientEnded).close(constants.NGHTTP2_INTERNAL_ERROR)
    this.#raw.destroy()
    const { req } = this.#raw
    // node does it with an error, and writes a stack for it, a tenth of all that a connection costs; who waits for the rest of a body may wait for that
    if (this.#socket !== null && req.listenerCount('error') === 0) req.destroy()
  }

  /** The response is closed: finished, or its client has left. */
  closed (): void {
    if (this.#reason !== null) this.#gone(this.#reason, this.#isWhole)
    else this.#gone(reasons.client, false)
  }

  /** The client has sent FIN: it has left, though what is on its way to it may never get there. */
  ended (): void {
    this.#destroy()
    this.#gone(this.#reason ?? reasons.client, false)
  }

  #gone (reason: CloseReason, clean: boolean): void {
    if (this.#over) return
    this.#over = true
    clearTimeout(this.#patience)
    const socket = this.#socket as Wired & Socket | null
    socket?.removeListener('end', clientEnded)
    if (socket?.[kWire] === this) socket[kWire] = undefined // node may keep the socket alive for longer
    this.#unwatch?.()
    this.#link?.closed(reason, clean)
    this.#onGone?.()
  }
}

const heartbeats = new Map([sse, sseChunked, sseGzip, sseGzipChunked].map((encoding) => [encoding, encoding.pack(HEARTBEAT)]))

function heartbeatOf (encoding: SseEncoding): Uint8Array { return heartbeats.get(encoding) as Uint8Array }

function rawClosed (this: Wired): void { this[kWire]?.closed() }

function rawFinished (this: Wired): void { this[kWire]?.finished() }

function clientEnded (this: Wired): void { this[kWire]?.ended() }

// Fastify hands it to nobody, and once it fills its buffer node reads its socket no more, and does not hear of its end
function discardBody (request: IncomingMessage): void {
  const isLeft = !request.complete || request.readableLength > 0
  if (request.method === 'GET' && isLeft && request.readableFlowing === null) request.resume()
}

function isHttp1 (raw: Raw): raw is ServerResponse { return !('stream' in raw) }

function isGone (raw: Raw): boolean {
  return isHttp1(raw) ? raw.destroyed || raw.req.socket.destroyed : raw.stream.destroyed
}
