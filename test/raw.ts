import { once } from 'node:events'
import { connect } from 'node:net'
import type { Socket } from 'node:net'
import type { Test } from 'tap'
import { until } from './helper.ts'

/** A client that speaks HTTP itself. */
export interface RawClient {
  readonly socket: Socket
  /** All that came, byte for byte. */
  readonly text: string
  /** The server has sent FIN. */
  ended: boolean
  /** The socket is gone. */
  closed: boolean
  /** Waits for a piece of text. */
  wait (piece: string): Promise<void>
}

/** Opens a socket and writes a request to it. */
export async function rawClient (t: Test, port: number, request: string): Promise<RawClient> {
  const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true })
  t.teardown(() => socket.destroy())
  const chunks: string[] = []
  let joined = { of: 0, text: '' }
  const client: RawClient = {
    socket,
    get text () {
      if (joined.of < chunks.length) joined = { of: chunks.length, text: chunks.join('') }
      return joined.text
    },
    ended: false,
    closed: false,
    async wait (piece) {
      let [at, seen, found] = [0, '', false]
      await until(() => {
        for (; at < chunks.length && !found; at++) {
          seen = seen.slice(-piece.length) + (chunks[at] as string)
          found = seen.includes(piece)
        }
        return found || client.closed || client.ended
      })
      if (!found) throw new Error(`it ended before ${JSON.stringify(piece)}: ${JSON.stringify(client.text.slice(-1_000))}`)
    }
  }
  socket.setEncoding('latin1')
  socket.on('data', (chunk: string) => { chunks.push(chunk) })
  socket.on('end', () => { client.ended = true })
  socket.on('close', () => { client.closed = true })
  socket.on('error', () => {})
  await once(socket, 'connect')
  socket.write(request)
  return client
}

/** The request of an EventSource. */
export function get (path: string, headers: Record<string, string> = {}, version: string = '1.1'): string {
  const lines = Object.entries({ host: 'localhost', accept: 'text/event-stream', ...headers }).map(([name, value]) => `${name}: ${value}\r\n`)
  return `GET ${path} HTTP/${version}\r\n${lines.join('')}\r\n`
}
