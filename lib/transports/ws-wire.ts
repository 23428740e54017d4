import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { WebSocket } from 'ws'
import type { Disconnect } from '../../types/api.ts'
import type { CloseReason, Encoding, Link, Wire } from '../../types/transport.ts'
import * as reasons from '../close-reasons.ts'
import type { Outbox, Outlet } from '../outbox.ts'
import { wsBare, wsDeflated, wsResume } from './ws-frame.ts'

/** What a wire hands up beside what its connection is told. */
export interface Receiver {
  message (data: Buffer, isBinary: boolean): void
  disconnected (end: Disconnect): Promise<void> | null
}

const nothing = new Uint8Array(0)
const CLOSING = 5_000 // without a sign of the other end, once it is closed
const kWire = Symbol('fastify-real.wire') // so that the listener is shared

interface Expiring extends Partial<Socket> { [kWire]?: WsWire | undefined }

/** A WebSocket that tells its wire what happens. */
export class WireSocket extends WebSocket {
  wire!: WsWire

  // not by listeners: they would weigh 100 bytes in each, and four have to be added
  override emit (name: string | symbol, ...args: unknown[]): boolean {
    const { wire } = this
    switch (name) {
      case 'message': wire.received(args[0] as Buffer, args[1] as boolean); break
      case 'pong': wire.missed = 0; break
      case 'error': wire.failed(args[0] as Error); break
      case 'close': wire.closed(args[0] as number, args[1] as Buffer); break
      default: return super.emit(name, ...args)
    }
    return true
  }

  // `ws` calls it too, when the other end closes or breaks the protocol
  override close (code?: number, reason?: string | Buffer): void {
    this.wire.goodbye(code, reason)
    super.close(code, reason)
  }
}

/**
 * A WebSocket. `ws` made the handshake, parses and writes the control frames; data frames are ours, whole, written to the same
 * socket between them. RFC 6455, section 5.4: control frames may stand between any two frames.
 */
export class WsWire implements Wire {
  // hot: what a write touches
  readonly encoding: Encoding
  readonly #socket: Duplex
  #saidGoodbye = false // nothing may follow a close frame. Here, not asked of `ws`: one object less to load for each write

  readonly bare: boolean
  missed = 0
  /** We end it, so what still comes is not heard. */
  closing = false
  readonly #ws: WireSocket
  #link!: Link & Outlet
  #outbox: Outbox | null = null
  #receiver!: Receiver
  #waiting = false
  #bytesRead: number | undefined
  #reason: CloseReason | null = null

  /** `windowBits`: of permessage-deflate, 0 where it was not agreed to. */
  constructor (ws: WireSocket, socket: Duplex, resumes: boolean, windowBits: number) {
    this.#ws = ws
    this.#socket = socket
    this.bare = !resumes
    this.encoding = windowBits > 0 ? wsDeflated(resumes, windowBits) : resumes ? wsResume : wsBare
    ws.wire = this
  }

  attach (link: Link & Outlet, receiver: Receiver, outbox: Outbox): void {
    this.#link = link
    this.#outbox = outbox
    this.#receiver = receiver
  }

  // not fields: what is the same for all would weigh 24 bytes in each
  get transport (): 'ws' { return 'ws' }
  get highWaterMark (): number { return 16_384 }
  get pingWhenSilent (): boolean { return false }

  get buffered (): number { return this.#socket.writableLength }
  get paused (): boolean { return this.#ws.isPaused }

  write (frame: Uint8Array): void {
    if (this.#saidGoodbye) return
    if (this.#socket.writable) this.#socket.write(frame)
    else this.#deserted()
  }

  whenFlushed (): void {
    if (this.#waiting) return
    if (!this.#socket.writable) return this.#deserted()
    this.#waiting = true
    this.#socket.write(nothing, () => {
      this.#waiting = false
      this.#link.flushed()
    })
  }

  ping (): void {
    if (this.#ws.readyState !== WebSocket.OPEN) return this.#deserted()
    const { bytesRead } = this.#socket as Partial<Socket>
    if (this.#ws.isPaused) this.missed = 0 // while we do not read, the other end cannot be heard
    else if (bytesRead === this.#bytesRead) this.missed++
    else this.missed = 1 // its pong stands behind a large message on a slow line
    this.#bytesRead = bytesRead
    this.#ws.ping()
  }

  pause (): void { this.#ws.pause() }
  resume (): void { this.#ws.resume() }

  /** A close frame is about to be written: what was sent until now goes out before it. */
  goodbye (code?: number, said?: string | Buffer): void {
    this.#outbox?.write(this.#link)
    this.#saidGoodbye = true
    if (this.#reason === null) queueMicrotask(() => this.#left(reasonOf(code, said)))
  }

  // FIN without a goodbye: `ws` sends no more, and waits for ever until it has taken what was sent. Not at once: the writer is at work
  #deserted (): void {
    if (this.#reason === null && this.#ws.readyState === WebSocket.CLOSING) queueMicrotask(() => this.#left(reasons.lost)) // else it is cut, and soon closed
  }

  /** Nobody pings it, and so finds out that it has deserted. Not over at once: a close frame may stand behind what is still being inflated. */
  watch (): void {
    this.#socket.once('end', () => { if (this.#socket.writableLength > 0) this.#expire() }) // `ws` has ended it: with nothing on its way it is about to close
  }

  // it may still take what was sent before
  #expire (): void {
    const socket = this.#socket as Expiring
    socket[kWire] = this
    socket.setTimeout?.(CLOSING, expired)
  }

  // the other end has said goodbye: it is out of everything, whether it hangs up now or not; unless it has broken the protocol
  #left (reason: CloseReason): void {
    if (this.#reason !== null) return
    this.#reason = reason
    this.#link.end(reason)
  }

  close (reason: CloseReason): void {
    if (this.#reason === null) {
      this.closing = true
      this.#reason = reason
    }
    this.#ws.resume() // the other end's close frame has to be read
    this.#expire()
    this.#ws.close(reason.code, reasons.closeText(reason.reason))
  }

  drain (): void { this.close(reasons.shutdown) }

  terminate (): void { this.#ws.terminate() }

  received (data: Buffer, isBinary: boolean): void {
    this.missed = 0
    this.#receiver.message(data, isBinary)
  }

  disconnected (end: Disconnect): Promise<void> | null { return this.#receiver.disconnected(end) }

  failed ({ code = '' }: Error & { code?: string }): void {
    if (this.#reason === null) this.#link.end(reasons.broken(codes[code] ?? (code.startsWith('WS_ERR_') ? 1002 : 1007)))
  }

  closed (code: number, said: Buffer): void {
    const socket = this.#socket as Expiring
    if (socket[kWire] === this) socket[kWire] = undefined // node may keep the socket alive for longer
    const clean = code !== reasons.lost.code
    this.#link.closed(this.#reason ?? (clean ? reasonOf(code, said) : reasons.lost), clean) // a goodbye behind what was still being inflated is told here only
  }
}

function expired (this: Expiring): void { this[kWire]?.terminate() }

function reasonOf (code: number = reasons.client.code, said: string | Buffer = ''): CloseReason {
  return { code, reason: said.toString() || reasons.client.reason }
}

// what `ws` closes with; codes that are not its own are of a stream that could not be inflated. RFC 6455, section 7.4.1
const codes: Record<string, 1007 | 1008 | 1009> = {
  WS_ERR_INVALID_UTF8: 1007,
  WS_ERR_TOO_MANY_BUFFERED_PARTS: 1008,
  WS_ERR_UNSUPPORTED_DATA_PAYLOAD_LENGTH: 1009,
  WS_ERR_UNSUPPORTED_MESSAGE_LENGTH: 1009
}
