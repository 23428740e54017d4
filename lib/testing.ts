import type { FastifyInstance, InjectOptions } from 'fastify'
import { Duplex } from 'node:stream'
import type { Readable } from 'node:stream'
import { WebSocket } from 'ws'
import { checkOptions, kindOf } from './arguments.ts'
import { ArgumentError } from './errors.ts'
import { EventParser } from './event-parser.ts'
import type { ParsedEvent } from './event-parser.ts'

export { EventParser }
export type { ParsedEvent }

/** An open event stream: an async iterator of its events. */
export interface InjectedEvents extends AsyncIterableIterator<ParsedEvent> {
  readonly statusCode: number
  readonly headers: Record<string, number | string | string[] | undefined>
  /** What the stream asked for with `retry`. */
  readonly retry: number | undefined
  readonly comments: readonly string[]
  /** The rest of the body, for an answer that is no stream. */
  body (): Promise<string>
  /** The client leaves. */
  close (): void
}

/** Opens an event stream in-process, also an endless one. Resolves with the head. */
export async function injectSSE (fastify: FastifyInstance, options: InjectOptions | string): Promise<InjectedEvents> {
  if (typeof options !== 'string' && (typeof options !== 'object' || options === null)) throw new ArgumentError('options', `must be a path or options of inject(), got ${kindOf(options)}`)
  const given = typeof options === 'string' ? { url: options } : options
  const leaving = new AbortController()
  const response = await fastify.inject({ method: 'GET', ...given, headers: { accept: 'text/event-stream', ...given.headers }, payloadAsStream: true, signal: leaving.signal } as InjectOptions)
  const stream = response.stream()
  const parser = new EventParser()
  const decoder = new TextDecoder()
  const events = read(stream, (chunk) => parser.push(decoder.decode(chunk, { stream: true })))
  return {
    statusCode: response.statusCode,
    headers: response.headers,
    comments: parser.comments,
    get retry () { return parser.retry },
    next: () => events.next(),
    return: () => { leaving.abort(); return events.return() },
    [Symbol.asyncIterator] (): InjectedEvents { return this as InjectedEvents },
    async body () {
      let text = ''
      for await (const chunk of stream) text += decoder.decode(chunk as Buffer, { stream: true })
      return text
    },
    close () { leaving.abort() }
  }
}

async function * read (stream: Readable, parse: (chunk: Buffer) => ParsedEvent[]): AsyncGenerator<ParsedEvent, void> {
  try {
    for await (const chunk of stream) yield * parse(chunk as Buffer)
  } catch {} // cut, by whichever side: it is over
}

/** An open WebSocket: an async iterator of its messages. Nothing that was sent at the start is lost. */
export interface InjectedWebSocket extends AsyncIterableIterator<string | Buffer> {
  readonly socket: WebSocket
  /** Headers of the 101. */
  readonly headers: Record<string, string | string[] | undefined>
  /** Resolves when it is closed, by whichever side. */
  readonly closed: Promise<{ code: number, reason: string }>
  send (message: string | Uint8Array): void
  close (code?: number, reason?: string): void
}

/** What a server answered instead of a 101. */
export class RefusedError extends Error {
  readonly statusCode: number
  readonly body: string
  readonly headers: Record<string, string | string[] | undefined>
  constructor (statusCode: number, body: string, headers: RefusedError['headers']) {
    super(`the server answered ${statusCode} instead of 101`)
    this.name = 'RefusedError'
    this.statusCode = statusCode
    this.body = body
    this.headers = headers
  }
}

/** Opens a WebSocket in-process, through the server's own HTTP parser. Rejects with a RefusedError when it is refused. */
export async function injectWS (fastify: FastifyInstance, path: string, options: { headers?: Record<string, string>, protocols?: string[] } = {}): Promise<InjectedWebSocket> {
  if (typeof path !== 'string' || !path.startsWith('/')) throw new ArgumentError('path', `must be a string that begins with /, got ${typeof path === 'string' ? JSON.stringify(path.slice(0, 50)) : kindOf(path)}`)
  checkOptions(options, ['headers', 'protocols'])
  await fastify.ready()
  const isSecure = 'setSecureContext' in fastify.server
  const [near, far] = [new End(fastify.server, isSecure), new End(fastify.server, isSecure)]
  near.other = far
  far.other = near
  fastify.server.emit(isSecure ? 'secureConnection' : 'connection', far)
  const socket = new WebSocket(`ws://localhost${path}`, options.protocols ?? [], { headers: options.headers, createConnection: () => near } as never)
  const waiting: Array<string | Buffer> = []
  let wake: (() => void) | null = null
  let over = false
  let headers: InjectedWebSocket['headers'] = {}
  const closed = new Promise<{ code: number, reason: string }>((resolve) => {
    socket.on('close', (code, reason) => {
      over = true
      wake?.()
      resolve({ code, reason: reason.toString() })
    })
  })
  socket.on('upgrade', (response) => { headers = response.headers })
  socket.on('message', (data: Buffer, isBinary) => {
    waiting.push(isBinary ? data : data.toString())
    wake?.()
  })
  await new Promise<void>((resolve, reject) => {
    socket.once('open', resolve)
    socket.on('error', reject)
    socket.once('unexpected-response', (_request, response) => {
      response.setEncoding('utf8')
      let body = ''
      response.on('data', (chunk: string) => { body += chunk }).on('end', () => reject(new RefusedError(response.statusCode as number, body, response.headers)))
    })
  })
  async function * messages (): AsyncGenerator<string | Buffer, void> {
    for (;;) {
      const next = waiting.shift()
      if (next !== undefined) yield next
      else if (over) return
      else await new Promise<void>((resolve) => { wake = resolve })
    }
  }
  const iterator = messages()
  return {
    socket,
    headers,
    closed,
    next: () => iterator.next(),
    return: () => { socket.close(); return iterator.return() },
    [Symbol.asyncIterator] (): InjectedWebSocket { return this as InjectedWebSocket },
    send (message) { socket.send(message) },
    close (code, reason) { socket.close(code, reason) }
  }
}

/** One of two ends of a pipe, in place of a socket. */
class End extends Duplex {
  readonly remoteAddress = '127.0.0.1'
  readonly alpnProtocol = false
  readonly server: unknown
  readonly encrypted: boolean
  other!: End
  #more: (() => void) | null = null

  constructor (server: unknown, encrypted: boolean) {
    super()
    this.server = server
    this.encrypted = encrypted
  }

  override _read (): void {
    const more = this.#more
    this.#more = null // before the next chunk, which may come at once
    more?.()
  }

  override _write (chunk: Buffer, _encoding: string, done: () => void): void {
    setImmediate(() => { // a socket does not hand over within the call
      if (this.other.push(chunk)) done()
      else this.other.#more = done
    })
  }

  override _final (done: () => void): void {
    setImmediate(() => {
      this.other.push(null)
      done()
    })
  }

  override _destroy (err: Error | null, done: (err: Error | null) => void): void {
    setImmediate(() => this.other.destroy())
    done(err)
  }
}
