import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { cpSync, existsSync, mkdtempSync, rmSync } from 'node:fs'
import { createConnection, createServer } from 'node:net'
import type { AddressInfo, Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { connect } from '@nats-io/transport-node'
import type { ConnectionOptions, Msg, NatsConnection } from '@nats-io/transport-node'
import t from 'tap'
import type { Test } from 'tap'
import { toEvent } from '../lib/event.ts'
import { nats } from '../lib/backplanes/nats.ts'
import type { NatsOptions } from '../lib/backplanes/nats.ts'
import type { Backplane, Delivery, Kept, Node, Publication, Sendable } from '../types/index.ts'
import { until } from './helper.ts'

const program = (process.env.PATH ?? '').split(delimiter).concat('/usr/sbin').map((folder) => join(folder, 'nats-server')).find((path) => existsSync(path))

/** Runs the tests of a file where there is a server; says loudly that it does not where there is none. */
export function withNats (tests: () => void): void {
  if (program !== undefined) tests()
  else if (process.env.REQUIRE_SERVICES === '1') throw new Error('nats-server is not installed')
  else t.plan(0, 'nats-server is not installed')
}

/** A server with JetStream, of a test's own. */
export class NatsServer {
  readonly port: number
  readonly #folder = mkdtempSync(join(tmpdir(), 'nats-'))
  readonly #args: string[]
  #child: ChildProcess | null = null

  constructor (port: number, args: string[], keeps: boolean = true) {
    this.port = port
    this.#args = keeps ? ['-js', '-sd', this.#folder, ...args] : args
  }

  get url (): string { return `127.0.0.1:${this.port}` }
  get process (): ChildProcess { return this.#child as ChildProcess }

  async start (): Promise<void> {
    const child = this.#child = spawn(program as string, ['-a', '127.0.0.1', '-p', String(this.port), ...this.#args], { stdio: 'ignore' })
    await until(() => child.exitCode !== null || isListening(this.port))
    if (child.exitCode !== null) throw new Error(`nats-server ended with ${child.exitCode}`)
  }

  /** SIGSTOP and SIGCONT too. */
  signal (signal: NodeJS.Signals): void { this.#child?.kill(signal) }

  async stop (signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    const child = this.#child
    this.#child = null
    if (child === null || child.exitCode !== null || child.signalCode !== null) return
    const ended = once(child, 'exit')
    child.kill('SIGCONT')
    child.kill(signal)
    await ended
  }

  /** What it has kept is gone. */
  forget (): void { rmSync(this.#folder, { recursive: true, force: true }) }

  /** What it has kept becomes what it had when this was called. */
  backup (): () => void {
    const copy = mkdtempSync(join(tmpdir(), 'nats-'))
    cpSync(this.#folder, copy, { recursive: true })
    return () => {
      this.forget()
      cpSync(copy, this.#folder, { recursive: true })
      rmSync(copy, { recursive: true, force: true })
    }
  }
}

/** Started, and gone after the test. */
export async function natsServer (t: Test, args: string[] = []): Promise<NatsServer> {
  const server = new NatsServer(await freePort(), args)
  t.after(async () => {
    await server.stop()
    server.forget()
  })
  await server.start()
  return server
}

/** Closed after the test. */
export async function natsConnection (t: Test, server: NatsServer, options: ConnectionOptions = {}): Promise<NatsConnection> {
  const connection = await connect({ servers: server.url, maxReconnectAttempts: -1, reconnectTimeWait: 100, ...options })
  t.after(() => connection.close())
  return connection
}

export async function freePort (): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

function isListening (port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = createConnection(port, '127.0.0.1')
    socket.on('connect', () => { socket.destroy(); resolve(true) })
    socket.on('error', () => resolve(false))
  })
}

/** What stands between a node and the server: it can be cut, and lose what goes one way. */
export class Relay {
  port = 0
  /** Nobody gets through. */
  isCut = false
  readonly #target: number
  readonly #sockets = new Set<Socket>()
  readonly #mute = new WeakSet<Socket>()

  constructor (target: number) { this.#target = target }

  get url (): string { return `127.0.0.1:${this.port}` }

  /** What the server sends on the connections there are is lost. */
  mute (): void { for (const socket of this.#sockets) this.#mute.add(socket) }

  cut (): void {
    this.isCut = true
    for (const socket of this.#sockets) socket.destroy()
  }

  async start (t: Test): Promise<this> {
    const relay = createServer((near) => {
      if (this.isCut) return near.destroy()
      const far = createConnection(this.#target, '127.0.0.1')
      for (const [one, other] of [[near, far], [far, near]] as const) {
        this.#sockets.add(one)
        one.on('error', () => {})
        one.on('close', () => { this.#sockets.delete(one); other.destroy() })
      }
      near.on('data', (chunk) => far.write(chunk))
      far.on('data', (chunk) => { if (!this.#mute.has(far)) near.write(chunk) })
    }).listen(0, '127.0.0.1')
    await once(relay, 'listening')
    this.port = (relay.address() as AddressInfo).port
    t.after(() => {
      this.cut()
      relay.close()
    })
    return this
  }
}

export interface Ear extends Node { readonly got: Delivery[], readonly gaps: Array<[topic: string, offset: number]>, readonly said: string[], resets: number, texts (): Array<string | undefined> }

let ears = 0

/** A node that keeps what it is given and told. */
export function ear (keeps?: Node['keeps']): Ear {
  const got: Delivery[] = []
  const gaps: Ear['gaps'] = []
  const said: string[] = []
  const say = (_fields: object, message: string): void => { said.push(message) }
  const one: Ear = {
    id: `ear ${++ears}`,
    got,
    gaps,
    said,
    resets: 0,
    texts: () => got.map(({ event }) => event.text),
    deliver (delivery) { got.push(delivery) },
    missed (topic, offset) { gaps.push([topic, offset]) },
    reset () { one.resets++ },
    log: { error: say, warn: say }
  }
  return keeps === undefined ? one : { ...one, keeps }
}

export const kept: Kept = { events: 100, bytes: 1_000_000, age: 120_000 }

/** A backplane with one node, closed after the test. */
export async function natsNode (t: Test, options: NatsOptions): Promise<{ backplane: Backplane, one: Ear, send (topic: string, data: Sendable, more?: { keep?: Kept | null, once?: boolean }): Promise<Publication> }> {
  const backplane = nats(options)
  const one = ear()
  t.after(() => backplane.close(one))
  await backplane.start(one)
  const usual = { ...kept, events: Math.min(kept.events, options.history?.events ?? Infinity) }
  return { backplane, one, send: (topic, data, { keep = usual, once = false } = {}) => backplane.publish(topic, { event: toEvent(data, { maxBytes: Infinity }), except: null }, { keep, once }) }
}

/** A connection whose subscriptions lose what `loses` says, and that counts them; with what else goes wrong on the way. */
export function lossy (connection: NatsConnection, loses: (subject: string) => boolean, { swallows = () => false, garbles = () => false, holds = () => false }: { swallows? (subject: string): boolean, garbles? (subject: string): boolean, /** Whoever says yes gives it later. */ holds? (subject: string, give: () => void): boolean } = {}): NatsConnection & { readonly subscribed: string[] } {
  const subscribed: string[] = []
  return new Proxy(connection, {
    get (target, name) {
      if (name === 'subscribed') return subscribed
      if (name === 'publish') return (...args: Parameters<NatsConnection['publish']>) => { if (!swallows(args[0])) target.publish(...args) }
      const value = Reflect.get(target, name) as unknown
      if (name !== 'subscribe') return typeof value === 'function' ? value.bind(target) as unknown : value
      return (...[subject, options = {}]: Parameters<NatsConnection['subscribe']>) => {
        subscribed.push(subject)
        const { callback } = options
        return target.subscribe(subject, {
          ...options,
          callback: (err, msg) => {
            if (garbles(subject)) callback?.(err, { subject: msg.subject, data: new Uint8Array(3), reply: 'garbage' } as Msg)
            const give = (): void => { void callback?.(err, msg) }
            if (!loses(msg.subject) && !holds(subject, give)) give()
          }
        })
      }
    }
  }) as never
}

/** Asks JetStream something. */
export async function jetstream<T> (connection: NatsConnection, what: string, body?: object): Promise<T> {
  return (await connection.request(`$JS.API.${what}`, body === undefined ? '' : JSON.stringify(body))).json<T>()
}
