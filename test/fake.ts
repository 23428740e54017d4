import type { FastifyBaseLogger, FastifyRequest } from 'fastify'
import type { Test } from 'tap'
import { memory } from '../lib/backplanes/memory.ts'
import type { Connection } from '../lib/connection.ts'
import { dataOf } from '../lib/event.ts'
import { checkConnections } from '../lib/options.ts'
import { Registry } from '../lib/registry.ts'
import type { Backplane, CloseReason, ConnectionsOptions, Encoding, Link, Node, RealEvent, Wire } from '../types/index.ts'

/** Events as JSON, and how often each was made. */
export class FakeEncoding implements Encoding {
  readonly name: string
  made = 0
  constructor (name: string) { this.name = name }

  frame (event: RealEvent): Uint8Array {
    this.made++
    const { event: name, id, cursor, retry } = event
    const data = event.text === undefined && event.bytes === undefined ? undefined : dataOf(event)
    return Buffer.from(JSON.stringify({ event: name, id: id ?? cursor, retry, data }) + '\n')
  }
}

export const encodings = { one: new FakeEncoding('one'), other: new FakeEncoding('other') }

/** A wire that goes nowhere and keeps what was written. */
export class FakeWire implements Wire {
  readonly transport: string
  readonly encoding: Encoding
  readonly highWaterMark = 1_000
  readonly bare: boolean
  readonly pingWhenSilent = true
  readonly missed = 0
  buffered = 0
  link: Link | null = null
  text = ''
  writes = 0
  reason: CloseReason | null = null

  constructor (transport: string, encoding: Encoding, bare: boolean) {
    this.transport = transport
    this.encoding = encoding
    this.bare = bare
  }

  write (frame: Uint8Array): void {
    this.writes++
    this.text += Buffer.from(frame).toString()
  }

  whenFlushed (): void { setImmediate(() => this.link?.flushed()) }
  ping (): void {}
  close (reason: CloseReason): void {
    this.reason = reason
    setImmediate(() => this.link?.closed(reason, true))
  }

  terminate (): void { this.close({ code: 1006, reason: 'lost' }) }
  drain (): void { this.close({ code: 1001, reason: 'shutdown' }) }

  /** What was written, in its order. */
  get events (): Array<{ event?: string, id?: string, data?: unknown }> {
    return this.text.split('\n').filter((line) => line !== '').map((line) => JSON.parse(line) as { event?: string, data?: unknown })
  }
}

export interface LogLine { level: string, fields: { err?: Error & { code?: string } } & Record<string, unknown>, message: string }

export interface FakeNode { registry: Registry, lines: LogLine[], requests: LogLine[] }

/** A registry without a server. */
export async function node (t: Test, options: ConnectionsOptions = {}, backplane: Backplane = memory()): Promise<FakeNode> {
  const lines: LogLine[] = []
  const registry = new Registry(checkConnections(options), backplane, logTo(lines))
  await registry.start()
  const server = setInterval(() => {}, 1_000_000) // keeps the process, as a listening server would
  t.after(async () => {
    clearInterval(server)
    await registry.stop()
  })
  return { registry, lines, requests: [] }
}

function logTo (lines: LogLine[]): FastifyBaseLogger {
  const at = (level: string) => (fields: LogLine['fields'], message: string): void => { lines.push({ level, fields, message }) }
  return { info: at('info'), warn: at('warn'), error: at('error'), debug: at('debug') } as never
}

export interface Fake { connection: Connection, wire: FakeWire, request: FastifyRequest }

export interface FakeOptions { transport?: string, user?: string | null, expires?: number, ip?: string, broadcast?: boolean, bare?: boolean, lastEventId?: string, encoding?: Encoding, opened?: boolean }

/** A connection without a client. */
export function connect ({ registry, requests }: FakeNode, options: FakeOptions = {}): Fake {
  const { transport = 'fake', user = null, expires = 0, ip = '127.0.0.1', broadcast = true, bare = true, lastEventId, encoding = encodings.one, opened = true } = options
  const wire = new FakeWire(transport, encoding, bare)
  const request = { ip, log: logTo(requests), query: {}, headers: {}, routeOptions: { url: '/fake' } } as unknown as FastifyRequest
  const connection = registry.accept({ request, wire, broadcast, lastEventId }, { user, expires })
  wire.link = connection
  if (opened) {
    connection.opened()
    connection.settled()
  }
  return { connection, wire, request }
}

/** Everything that waited for the end of this turn has happened, and of the next one too. */
export async function turn (): Promise<void> {
  for (let i = 0; i < 2; i++) await new Promise((resolve) => setImmediate(resolve))
}

/** What stands between a node and its backplane, and can fail. */
export class FaultyBackplane implements Backplane {
  readonly #inner: Backplane
  readonly #proxies = new Map<Node, Node>()
  #waiting: Array<() => void> = []
  /** Everything fails. */
  down = false
  /** Nothing comes and nothing goes: the node has crashed, or is cut off. */
  silent = false
  /** Nothing comes and nothing goes until later. */
  held = false
  constructor (inner: Backplane) { this.#inner = inner }

  get epoch (): string { return this.#inner.epoch }
  start (node: Node): Promise<void> { return this.#inner.start(this.#proxy(node)) }
  subscribe (node: Node, topic: string): Promise<number> { return this.#run(() => this.#inner.subscribe(this.#proxy(node), topic)) }
  unsubscribe (node: Node, topic: string): Promise<void> { return this.#run(() => this.#inner.unsubscribe(this.#proxy(node), topic)) }
  async publish (...args: Parameters<Backplane['publish']>): ReturnType<Backplane['publish']> {
    if (this.silent) return { accepted: true, offset: 0, duplicate: false, nodes: 1 }
    if (this.held) await new Promise<void>((resolve) => { this.#waiting.push(resolve) })
    return this.#run(() => this.#inner.publish(...args))
  }

  range (...args: Parameters<Backplane['range']>): ReturnType<Backplane['range']> { return this.#run(() => this.#inner.range(...args)) }
  close (node: Node): Promise<void> { return this.#inner.close(this.#proxy(node)) }

  /** Tells its nodes that something of a topic did not come. */
  missed (topic: string, offset: number): void { for (const node of this.#proxies.keys()) node.missed(topic, offset) }

  release (): void {
    this.held = false
    const waiting = this.#waiting
    this.#waiting = []
    for (const go of waiting) go()
  }

  async #run<T> (work: () => Promise<T>): Promise<T> {
    if (this.down) throw new Error('the backplane is down')
    return await work()
  }

  #proxy (node: Node): Node {
    let proxy = this.#proxies.get(node)
    if (proxy === undefined) {
      proxy = {
        id: node.id,
        log: node.log,
        missed: (topic, offset) => node.missed(topic, offset),
        reset: () => node.reset(),
        deliver: (delivery, parcel) => {
          if (this.held) this.#waiting.push(() => node.deliver(delivery, parcel))
          else if (!this.silent) node.deliver(delivery, parcel)
        }
      }
      this.#proxies.set(node, proxy)
    }
    return proxy
  }
}
