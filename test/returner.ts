import type { FastifyInstance, FastifyRequest } from 'fastify'
import type { Socket } from 'node:net'
import type { Test } from 'tap'
import { WebSocket } from 'ws'
import type { Backplane, Connection } from '../lib/index.ts'
import { build, listen, sseClient, until, wsClient } from './helper.ts'
import type { BuildOptions } from './helper.ts'

/** An event as it came: `id` only where it had one. */
export interface Got { id: string | undefined, event: string | undefined, data: unknown }

/** How a client, or the server, ends it. */
export type Cut = 'fin' | 'rst' | 'close' | 'terminate' | 'end'
export const cuts: readonly Cut[] = ['fin', 'rst', 'close', 'terminate', 'end']

/** A client that remembers where it was and can come back. */
export class Client {
  readonly transport: string
  readonly port: number
  readonly path: string
  /** The last id it saw; empty at first. */
  lastEventId = ''
  /** All that came, over all its connections. */
  got: Got[] = []
  /** How many times it came back with an id. */
  returns = 0
  #key: string
  #connections: Map<string, Connection>
  #text = ''
  #told = 0
  #end: { socket: Socket, ended: () => boolean } | null = null

  constructor (app: App, transport: string, path: string) {
    this.transport = transport
    this.port = app.port
    this.path = path
    this.#key = String(++app.clients)
    this.#connections = app.connections
  }

  /** Its connection, on the server. */
  get connection (): Connection { return this.#connections.get(this.#key) as Connection }
  get socket (): Socket { return (this.#end as { socket: Socket }).socket }
  get ended (): boolean { return (this.#end as { ended: () => boolean }).ended() }

  /** Opens a connection, with the last id it saw unless another is given. */
  async open (lastEventId: string = this.lastEventId): Promise<this> {
    if (lastEventId !== '') this.returns++
    this.#told = this.readies.length
    const url = `${this.path}${this.path.includes('?') ? '&' : '?'}key=${this.#key}`
    if (this.transport === 'sse') {
      this.#text = ''
      const client = await sseClient(this.port, url, lastEventId === '' ? {} : { 'last-event-id': Buffer.from(lastEventId).toString('latin1') })
      this.#read(client.text)
      client.response.on('data', (chunk: string) => this.#read(chunk))
      this.#end = { socket: client.response.socket, ended: () => client.ended }
    } else {
      const client = await wsClient(this.port, `${url}&lastEventId=${encodeURIComponent(lastEventId)}`)
      const { socket } = client
      socket.on('error', () => {})
      for (const message of client.messages) this.#message(String(message))
      socket.on('message', (data: Buffer) => this.#message(data.toString()))
      this.#end = { socket: (socket as unknown as { _socket: Socket })._socket, ended: () => socket.readyState === WebSocket.CLOSED }
    }
    return this
  }

  #read (chunk: string): void {
    const blocks = (this.#text + chunk).split('\n\n')
    this.#text = blocks.pop() as string
    for (const block of blocks) {
      const field = (name: string): string | undefined => new RegExp(`^${name}: (.*)$`, 'm').exec(block)?.[1]
      const data = field('data')
      if (data !== undefined) this.#take({ id: field('id'), event: field('event'), data: parse(data) })
    }
  }

  #message (text: string): void {
    const { id, event, data } = JSON.parse(text) as Got
    this.#take({ id, event, data })
  }

  #take (got: Got): void {
    if (got.id !== undefined) this.lastEventId = got.id
    this.got.push(got)
  }

  /** What came but for `ready` and `gap`. */
  get events (): Got[] { return this.got.filter(({ event }) => event !== 'ready' && event !== 'gap') }
  get data (): unknown[] { return this.events.map(({ data }) => data) }
  get gaps (): unknown[] { return this.got.filter(({ event }) => event === 'gap').map(({ data }) => data) }
  get readies (): Got[] { return this.got.filter(({ event }) => event === 'ready') }

  /** Waits until so many events came; gives their data. */
  async wait (count: number): Promise<unknown[]> {
    await until(() => this.events.length >= count || this.ended)
    return this.data
  }

  /** Waits for the `ready` of this connection. */
  async ready (): Promise<Got> {
    await until(() => this.readies.length > this.#told || this.ended)
    return this.readies.at(-1) as Got
  }

  /** Ends the connection; resolves when both sides know. */
  async cut (how: Cut = 'rst'): Promise<void> {
    const { connection, socket } = this
    if (how === 'fin') socket.end()
    else if (how === 'rst') socket.resetAndDestroy()
    else if (how === 'close') connection.close()
    else if (how === 'terminate') (connection as unknown as { wire: { terminate (): void } }).wire.terminate()
    else (connection as unknown as { end (reason: object): void }).end({ code: 1011, reason: 'error' })
    await until(() => this.ended && !connection.open)
  }

  /** Forgets what came, but for the place. */
  forget (): void {
    this.got = []
    this.#told = 0
  }
}

export interface App {
  readonly fastify: FastifyInstance
  readonly port: number
  clients: number
  /** The last connection of each client. */
  readonly connections: Map<string, Connection>
  client (transport: string, path?: string): Client
}

export interface AppOptions extends BuildOptions {
  /** Joins rooms; by default those of the query's `rooms`, one after another. */
  join?: (connection: Connection, rooms: string[]) => unknown
}

export const transports = ['sse', 'ws']

/** An application whose `/in` joins the rooms of its query, for both transports; who is who by the query's `user`. */
export async function app (t: Test, { join = joinAll, ...options }: AppOptions = {}): Promise<App> {
  const fastify = await build(t, { ...options, connections: { identify: (request) => queryOf(request).user, ...options.connections } })
  const connections = new Map<string, Connection>()
  fastify.connections.on('connect', (connection) => { connections.set(queryOf(connection.request).key ?? '', connection) })
  const enter = (connection: Connection): unknown => join(connection, queryOf(connection.request).rooms?.split(',') ?? [])
  fastify.get('/in', { sse: true, ws: { onConnect: enter } }, async (_request, reply) => { await enter(reply.sse()) })
  const made: App = {
    fastify,
    port: await listen(fastify),
    clients: 0,
    connections,
    client: (transport, path = '/in') => new Client(made, transport, path)
  }
  return made
}

export async function joinAll (connection: Connection, rooms: string[]): Promise<void> {
  for (const room of rooms) await connection.join(room)
}

export function queryOf (request: FastifyRequest): Record<string, string | undefined> { return request.query as Record<string, string | undefined> }

/** A backplane, but for some of its verbs. */
export function detour (inner: Backplane, verbs: Partial<Backplane>): Backplane {
  return {
    get epoch () { return inner.epoch },
    start: (node) => inner.start(node),
    subscribe: (node, topic) => inner.subscribe(node, topic),
    unsubscribe: (node, topic) => inner.unsubscribe(node, topic),
    publish: (topic, parcel, options) => inner.publish(topic, parcel, options),
    range: (topic, after, limit) => inner.range(topic, after, limit),
    close: (node) => inner.close(node),
    ...verbs
  }
}

/** The offset of a cursor. */
export function offsetOf (cursor: string | undefined): number { return Number(cursor?.slice(cursor.lastIndexOf('-') + 1)) }

/** Random numbers from 0 to 1, the same for the same seed. */
export function random (seed: number): () => number {
  let state = seed
  return () => { // mulberry32
    state = (state + 0x6D2B79F5) | 0
    let bits = Math.imul(state ^ (state >>> 15), 1 | state)
    bits = (bits + Math.imul(bits ^ (bits >>> 7), 61 | bits)) ^ bits
    return ((bits ^ (bits >>> 14)) >>> 0) / 4294967296
  }
}

function parse (text: string): unknown {
  try {
    return JSON.parse(text) as unknown
  } catch {
    return text
  }
}
