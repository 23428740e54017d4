import { once } from 'node:events'
import { request } from 'node:http'
import type { IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import Fastify from 'fastify'
import type { FastifyInstance, FastifyServerOptions } from 'fastify'
import type { Test } from 'tap'
import { WebSocket } from 'ws'
import type { ClientOptions } from 'ws'
import { connections, sseReal, wsReal } from '../lib/index.ts'
import type { ConnectionsOptions, SseOptions, WsOptions } from '../lib/index.ts'
import { EventParser } from '../lib/testing.ts'
import type { ParsedEvent } from '../lib/testing.ts'

export interface BuildOptions { fastify?: FastifyServerOptions, connections?: ConnectionsOptions, sse?: SseOptions, ws?: WsOptions }

/** An application with both plugins, closed after the test. */
export async function build (t: Test, options: BuildOptions = {}): Promise<FastifyInstance> {
  const app = Fastify({ forceCloseConnections: false, ...options.fastify })
  await app.register(connections, { drain: { within: 0, grace: 1_000 }, ...options.connections })
  await app.register(sseReal, options.sse ?? {})
  await app.register(wsReal, options.ws ?? {})
  t.after(() => app.close())
  return app
}

/** Listens on a free port of the loopback; gives the port. */
export async function listen (app: FastifyInstance): Promise<number> {
  await app.listen({ port: 0, host: '127.0.0.1' })
  return (app.server.address() as AddressInfo).port
}

/** Waits until a condition holds; the test's own time limit is the only one. */
export async function until (condition: () => unknown | Promise<unknown>): Promise<void> {
  while (!await condition()) await new Promise((resolve) => setTimeout(resolve, 2))
}

export interface SseClient {
  response: IncomingMessage
  events: ParsedEvent[]
  parser: EventParser
  /** All that came, as text. */
  text: string
  ended: boolean
  /** The connection was cut: the last chunk is missing. */
  cut: boolean
  /** Waits for so many events, or for one that fits. */
  wait (what: number | ((event: ParsedEvent) => boolean)): Promise<ParsedEvent>
  close (): void
}

/** A real client of an event stream, over a socket of its own. */
export async function sseClient (port: number, path: string, headers: Record<string, string> = {}, method: string = 'GET', body: string | null = null): Promise<SseClient> {
  const outgoing = request({ port, host: '127.0.0.1', path, method, agent: false, headers: { accept: 'text/event-stream', ...headers } })
  outgoing.end(body ?? undefined)
  const [response] = await once(outgoing, 'response') as [IncomingMessage]
  const parser = new EventParser()
  const client: SseClient = {
    response,
    events: [],
    parser,
    text: '',
    ended: false,
    cut: false,
    async wait (what) {
      const find = (): ParsedEvent | undefined => typeof what === 'number' ? client.events[what - 1] : client.events.find(what)
      await until(() => find() !== undefined || client.ended)
      const found = find()
      if (found === undefined) throw new Error(`the stream ended before it: ${client.text}`)
      return found
    },
    close () { response.destroy() }
  }
  response.setEncoding('utf8')
  response.on('data', (chunk: string) => {
    client.text += chunk
    client.events.push(...parser.push(chunk))
  })
  response.on('error', () => {})
  response.on('close', () => {
    client.ended = true
    client.cut = !response.complete
  })
  return client
}

export interface WsClient {
  socket: WebSocket
  headers: IncomingMessage['headers']
  messages: Array<string | Buffer>
  /** Set once it is closed. */
  closed: { code: number, reason: string } | null
  wait (what: number | ((message: string | Buffer) => boolean)): Promise<string | Buffer>
  send (message: string | Uint8Array): void
  close (code?: number, reason?: string): void
}

/** The answer to an upgrade that was refused. */
export interface Refusal { statusCode: number, body: string, headers: IncomingMessage['headers'] }

/** A real WebSocket client. Rejects with a Refusal when the server answers anything but 101. */
export async function wsClient (port: number, path: string, options: ClientOptions & { protocols?: string[] } = {}): Promise<WsClient> {
  const { protocols, ...rest } = options
  const socket = new WebSocket(`ws://127.0.0.1:${port}${path}`, protocols ?? [], rest)
  const client: WsClient = {
    socket,
    headers: {},
    messages: [],
    closed: null,
    async wait (what) {
      const find = (): string | Buffer | undefined => typeof what === 'number' ? client.messages[what - 1] : client.messages.find(what)
      await until(() => find() !== undefined || client.closed !== null)
      const found = find()
      if (found === undefined) throw new Error(`it was closed before: ${JSON.stringify(client.closed)} ${JSON.stringify(client.messages)}`)
      return found
    },
    send (message) { socket.send(message) },
    close (code, reason) { socket.close(code, reason) }
  }
  socket.on('message', (data: Buffer, isBinary) => { client.messages.push(isBinary ? data : data.toString()) })
  socket.on('upgrade', (response) => { client.headers = response.headers })
  socket.on('close', (code, reason) => { client.closed = { code, reason: reason.toString() } })
  await new Promise<void>((resolve, reject) => {
    socket.once('open', resolve)
    socket.on('error', reject)
    socket.once('unexpected-response', (_request, response) => {
      let body = ''
      response.setEncoding('utf8')
      response.on('data', (chunk: string) => { body += chunk }).on('end', () => reject({ statusCode: response.statusCode, body, headers: response.headers } as Refusal)) // eslint-disable-line prefer-promise-reject-errors
    })
  })
  return client
}

/** The answer to an upgrade that has to be refused. */
export async function refusalOf (opening: Promise<WsClient>): Promise<Refusal> {
  return await opening.then(() => { throw new Error('it was let in') }, (refusal: Refusal) => refusal)
}
