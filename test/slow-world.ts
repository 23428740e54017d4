import { once } from 'node:events'
import { connect as connectHttp2 } from 'node:http2'
import { connect } from 'node:net'
import type { Socket } from 'node:net'
import { StringDecoder } from 'node:string_decoder'
import { constants, inflateRawSync } from 'node:zlib'
import { EventParser } from '../lib/testing.ts'
import { closeFrame, frame, upgradeText } from './raw-ws.ts'
import { get } from './raw.ts'

/** An event as it came. */
export interface Came { readonly event: string, readonly data: Record<string, unknown> }

export const kinds = ['http1', 'http1.0', 'gzip', 'http2', 'ws', 'ws-resume'] as const
export type Kind = typeof kinds[number]
export const departures = ['reset', 'half', 'close'] as const
export type Departure = typeof departures[number]

/** Where a reader connects to: a path has small buffers in the kernel, so that its readers are soon behind; a port has resets. */
export type Address = { readonly path: string } | { readonly port: number, readonly host: string }

/** A client that reads when it likes to. */
export interface Reader {
  readonly kind: Kind
  readonly came: Came[]
  /** The last id that came with an event. */
  readonly id: string
  readonly ended: boolean
  pause (): void
  resume (): void
  /** On a WebSocket. */
  say (message: string): void
  leave (how: Departure): void
}

class End {
  readonly kind: Kind
  readonly came: Came[] = []
  id = ''
  ended = false
  closing = false

  constructor (kind: Kind) { this.kind = kind }

  close (socket: Socket, payload: Uint8Array): void {
    if (this.closing) socket.end()
    else socket.end(frame(8, payload))
    this.closing = true
  }

  take (event: string, data: string, id: string): void {
    if (id !== '') this.id = id
    this.came.push({ event, data: JSON.parse(data) as Record<string, unknown> })
  }
}

export async function open (kind: Kind, address: Address, path: string, lastEventId: string): Promise<Reader> {
  if (kind === 'http2') return await openHttp2(address, path, lastEventId)
  const socket = connect({ ...address, allowHalfOpen: true })
  socket.on('error', () => {})
  const end = new End(kind)
  socket.on('close', () => { end.ended = true })
  if (kind === 'ws' || kind === 'ws-resume') {
    readFrames(socket, end)
    socket.write(upgradeText(kind === 'ws' ? path : `${path}&lastEventId=${lastEventId}`))
  } else {
    readStream(socket, end)
    const headers: Record<string, string> = lastEventId === '' ? {} : { 'last-event-id': lastEventId }
    if (kind === 'gzip') headers['accept-encoding'] = 'gzip'
    socket.write(get(path, headers, kind === 'http1.0' ? '1.0' : '1.1'))
  }
  await Promise.race([once(socket, 'data'), once(socket, 'close')])
  return Object.assign(end, {
    pause: () => { socket.pause() },
    resume: () => { socket.resume() },
    say: (message: string) => { if (kind.startsWith('ws') && !end.closing) socket.write(frame(1, message)) },
    leave (how: Departure) {
      end.closing = true
      if (how === 'half') socket.end()
      else if (how === 'close' && kind.startsWith('ws')) socket.write(closeFrame(1000))
      else if (how === 'reset' && 'port' in address && !socket.destroyed) socket.resetAndDestroy()
      else socket.destroy()
    }
  })
}

function readStream (socket: Socket, end: End): void {
  const parser = new EventParser()
  const decoder = new StringDecoder()
  const parse = (bytes: Buffer): void => { for (const { event, data, id } of parser.push(decoder.write(bytes))) end.take(event, data, id) }
  let hasHeader = false
  const inflate = (bytes: Buffer): void => { // each chunk is whole: what is taken is known at once
    if (hasHeader) parse(inflateRawSync(bytes, { finishFlush: constants.Z_SYNC_FLUSH }))
    hasHeader = true
  }
  const body = end.kind === 'gzip' ? inflate : parse
  readBody(socket, (bytes) => {
    let rest = bytes
    if (end.kind === 'http1.0') {
      body(rest)
      return nothing
    }
    for (let at = rest.indexOf('\r\n'); at !== -1; at = rest.indexOf('\r\n')) {
      const size = parseInt(rest.toString('latin1', 0, at), 16)
      if (Number.isNaN(size)) throw new Error(`no chunk: ${JSON.stringify(rest.toString('latin1', 0, 100))}`)
      if (rest.length < at + 4 + size) return rest
      if (rest.toString('latin1', at + 2 + size, at + 4 + size) !== '\r\n') throw new Error('a chunk has another size than it says')
      if (size === 0) socket.destroy()
      else body(rest.subarray(at + 2, at + 2 + size))
      rest = rest.subarray(at + 4 + size)
    }
    return rest
  })
}

function readFrames (socket: Socket, end: End): void {
  readBody(socket, (bytes) => {
    let rest = bytes
    while (rest.length >= 2) {
      const [first, second] = rest as unknown as [number, number]
      const head = second < 126 ? 2 : second === 126 ? 4 : 10
      if (rest.length < head) return rest
      const length = second < 126 ? second : second === 126 ? rest.readUInt16BE(2) : Number(rest.readBigUInt64BE(2))
      if (rest.length < head + length) return rest
      const payload = rest.subarray(head, head + length)
      rest = rest.subarray(head + length)
      if (first === 0x89 && !end.closing) socket.write(frame(10, payload))
      else if (first === 0x89) continue
      else if (first === 0x88) end.close(socket, payload)
      else if (first === 0x81) message(payload.toString(), end)
      else throw new Error(`no frame: ${first.toString(16)}`)
    }
    return rest
  })
}

const nothing = Buffer.alloc(0)

/** What comes after the head; `take` gives what it leaves for later. */
function readBody (socket: Socket, take: (bytes: Buffer) => Buffer): void {
  let rest: Buffer = nothing
  let isHead = true
  socket.on('data', (bytes: Buffer) => {
    rest = rest.length === 0 ? bytes : Buffer.concat([rest, bytes])
    if (isHead) {
      const at = rest.indexOf('\r\n\r\n')
      if (at === -1) return
      isHead = false
      rest = rest.subarray(at + 4)
    }
    rest = take(rest)
  })
  socket.on('end', () => { socket.end() })
}

function message (text: string, end: End): void {
  const { event = 'message', id = '', data } = JSON.parse(text) as { event?: string, id?: string, data: unknown }
  end.take(event, JSON.stringify(data), id)
}

async function openHttp2 (address: Address, path: string, lastEventId: string): Promise<Reader> {
  const end = new End('http2')
  const socket = connect(address)
  socket.on('error', () => {})
  const session = connectHttp2('http://localhost', { createConnection: () => socket })
  session.on('error', () => {})
  session.on('close', () => { end.ended = true })
  const stream = session.request({ ':path': path, accept: 'text/event-stream', ...(lastEventId === '' ? {} : { 'last-event-id': lastEventId }) })
  const parser = new EventParser()
  stream.on('error', () => {})
  stream.setEncoding('utf8')
  stream.on('data', (text: string) => { for (const { event, data, id } of parser.push(text)) end.take(event, data, id) })
  stream.on('close', () => {
    end.ended = true
    session.close()
  })
  await Promise.race([once(stream, 'response'), once(stream, 'close')]).catch(() => {})
  return Object.assign(end, {
    pause: () => { stream.pause() },
    resume: () => { stream.resume() },
    say: () => {},
    leave (how: Departure) {
      if (how === 'half') stream.close()
      else if (how === 'close') session.destroy()
      else if ('port' in address && !socket.destroyed) socket.resetAndDestroy()
      else socket.destroy()
    }
  })
}
