import { once } from 'node:events'
import { connect } from 'node:net'
import type { Socket } from 'node:net'

/** A client that is nothing but a socket: cheap by the thousand, and free to behave badly. */
export interface Bare {
  readonly socket: Socket
  /** All that came, as latin1. */
  text: string
  /** When the last of it came. */
  at: number
  /** The server has sent FIN. */
  ended: boolean
  /** Nothing can come any more. */
  closed: boolean
  /** How it broke, if it did. */
  error: string | null
}

/** Connects, and sends what is given. */
export async function bare (port: number, request: string = '', host: string = '127.0.0.1'): Promise<Bare> {
  const socket = connect(port, host)
  const client: Bare = { socket, text: '', at: 0, ended: false, closed: false, error: null }
  socket.setEncoding('latin1')
  socket.on('error', (err: Error & { code?: string }) => { client.error = err.code ?? err.message })
  socket.on('data', (chunk: string) => {
    client.text += chunk
    client.at = performance.now()
  })
  socket.on('end', () => { client.ended = true })
  socket.on('close', () => { client.closed = true })
  await once(socket, 'connect')
  if (request !== '') socket.write(request)
  return client
}

export function asks (path: string, headers: string = ''): string {
  return `GET ${path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n${headers}\r\n`
}

export function upgrades (path: string): string {
  return `GET ${path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n`
}

// by events: a thousand that look every other millisecond are slow
async function answered (client: Bare): Promise<Bare> {
  while (!client.text.includes('\r\n\r\n') && !client.closed) {
    await new Promise<void>((resolve) => {
      const over = (): void => {
        client.socket.off('data', over).off('close', over)
        resolve()
      }
      client.socket.on('data', over).on('close', over)
    })
  }
  return client
}

/** An event stream; resolves with its head. */
export async function bareStream (port: number, path: string, headers: string = '', host?: string): Promise<Bare> {
  return await answered(await bare(port, asks(path, headers), host))
}

const CLOSE = Buffer.from([0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9]) // 1001, masked with zeros

/** A WebSocket, which answers a close frame as long as it reads; resolves with the 101. */
export async function bareSocket (port: number, path: string, host?: string): Promise<Bare> {
  const client = await answered(await bare(port, upgrades(path), host))
  client.socket.on('data', () => { if (closeCode(client) !== 0 && client.socket.writable) client.socket.end(CLOSE) })
  return client
}

/** The code of the close frame that came; 0 when none did. */
export function closeCode ({ text }: Bare): number {
  let at = text.indexOf('\r\n\r\n') + 4
  while (text.length - at >= 2) {
    const opcode = text.charCodeAt(at) & 15
    let length = text.charCodeAt(at + 1)
    let head = 2
    if (length > 125) {
      head = length === 126 ? 4 : 10
      length = Number.parseInt(Buffer.from(text.slice(at + 2, at + head), 'latin1').toString('hex'), 16)
    }
    if (text.length - at < head + length) return 0
    if (opcode === 8) return text.charCodeAt(at + head) * 256 + text.charCodeAt(at + head + 1)
    at += head + length
  }
  return 0
}

/** What it was told to wait before it comes back, in milliseconds; -1 when it was not told. */
export function retryOf ({ text }: Bare): number {
  return Number(/^retry: (\d+)$/m.exec(text)?.[1] ?? -1)
}

/** The stream ended properly: with its last chunk. */
export function isWhole ({ text, ended }: Bare): boolean {
  return ended && text.endsWith('0\r\n\r\n')
}
