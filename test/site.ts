import type { FastifyInstance, FastifyRequest } from 'fastify'
import type { Test } from 'tap'
import type { Connection, Disconnect, Event } from '../lib/index.ts'
import { build, listen, sseClient, until, wsClient } from './helper.ts'
import type { BuildOptions } from './helper.ts'

/** What a client was given; `data` is parsed where it is JSON. */
export interface Got { event: string | undefined, data: unknown }

/** A connection with the client at its other end. */
export interface Opened {
  readonly connection: Connection
  /** What came, but for `ready`. */
  got (): Got[]
  /** The data of what came under a name. */
  data (event: string): unknown[]
  /** Waits for so many events; gives their data. */
  wait (count: number, event?: string): Promise<unknown[]>
  /** The client leaves, politely where the transport can. */
  leave (): void
  /** The client is gone without a word. */
  drop (): void
  /** Settles when the client has seen the end: the close code, 0 for a stream that ended properly, -1 for one that was cut. */
  ended (): Promise<number>
}

export interface Site {
  readonly app: FastifyInstance
  readonly port: number
  readonly ends: Map<Connection, Disconnect>
  open (transport: string, query?: Record<string, string>, headers?: Record<string, string>): Promise<Opened>
}

export const transports = ['sse', 'ws']

export interface SiteOptions extends BuildOptions { routes?: (app: FastifyInstance) => void }

/**
 * An application with `/live` for both transports, who is who by the query's `user`. `/source` is a stream with a source that never
 * ends.
 */
export async function site (t: Test, options: SiteOptions = {}): Promise<Site> {
  const app = await build(t, { ...options, connections: { identify: userOf, ...options.connections } })
  const waiting = new Map<string, (connection: Connection) => void>()
  const ends = new Map<Connection, Disconnect>()
  let last = 0
  app.connections.on('connect', (connection) => { waiting.get(queryOf(connection.request).n ?? '')?.(connection) })
  app.connections.on('disconnect', (connection, end) => { ends.set(connection, end) })
  app.get('/live', { sse: true, ws: {} }, async (_request, reply) => { reply.sse() })
  app.get('/source', { sse: true }, async function * (_request: FastifyRequest, _reply: unknown, connection: Connection): AsyncGenerator<Event> {
    yield { event: 'begun' }
    await new Promise((resolve) => connection.signal.addEventListener('abort', resolve))
  } as never)
  options.routes?.(app)
  const port = await listen(app)
  return {
    app,
    port,
    ends,
    async open (transport, { path = '/live', ...query } = {}, headers = {}) {
      const n = String(++last)
      const seen = new Promise<Connection>((resolve) => waiting.set(n, resolve))
      const url = `${path}?${new URLSearchParams({ ...query, n }).toString()}`
      const end = transport === 'sse' ? await sseEnd(port, url, headers) : await wsEnd(port, url, headers)
      return opened(await seen, end)
    }
  }
}

function userOf (request: FastifyRequest): string | undefined { return queryOf(request).user }

function queryOf (request: FastifyRequest): Record<string, string | undefined> { return request.query as Record<string, string | undefined> }

type End = Pick<Opened, 'got' | 'leave' | 'drop' | 'ended'>

async function sseEnd (port: number, url: string, headers: Record<string, string>): Promise<End> {
  const client = await sseClient(port, url, headers)
  return {
    got: () => client.events.map(({ event, data }) => ({ event: event === 'message' ? undefined : event, data: parse(data) })),
    leave: () => client.close(),
    drop: () => client.response.socket.resetAndDestroy(),
    async ended () {
      await until(() => client.ended)
      return client.cut ? -1 : 0
    }
  }
}

async function wsEnd (port: number, url: string, headers: Record<string, string>): Promise<End> {
  const client = await wsClient(port, url, { headers })
  return {
    got: () => client.messages.map((message) => {
      const value = parse(String(message))
      return typeof value === 'object' && value !== null && 'data' in value ? { event: (value as Got).event, data: value.data } : { event: undefined, data: value }
    }),
    leave: () => client.close(),
    drop () {
      client.socket.on('error', () => {})
      client.socket.terminate()
    },
    async ended () {
      await until(() => client.closed)
      return client.closed?.code ?? -1
    }
  }
}

function opened (connection: Connection, end: End): Opened {
  const got = (): Got[] => end.got().filter(({ event }) => event !== 'ready')
  const data = (event?: string): unknown[] => got().filter((one) => event === undefined || one.event === event).map((one) => one.data)
  return {
    ...end,
    connection,
    got,
    data,
    async wait (count, event) {
      await until(() => data(event).length >= count)
      return data(event)
    }
  }
}

function parse (text: string): unknown {
  try {
    return JSON.parse(text) as unknown
  } catch {
    return text
  }
}
