// A broker, nodes that are processes of their own with a relay before the broker each, and clients that come back.
import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { createServer } from 'node:net'
import type { Test } from 'tap'
import type { ConnectionsOptions } from '../../../lib/index.ts'
import { uncovered } from '../../child.ts'
import { until } from '../../helper.ts'
import { guard } from './guard.ts'
import type { Calls, NodeConfig } from './node.ts'
import { Reader } from './reader.ts'
import { Relay } from './relay.ts'
import { verdict } from './verdict.ts'
import type { Sent, Verdict } from './verdict.ts'

const file = fileURLToPath(new URL('node.ts', import.meta.url))
// so much that what a fault takes away is in the log
const history = { events: 20_000, bytes: 16_777_216, age: 120_000 }
const AGAIN = 3_000 // within which publishing is accepted again once the broker is back
const SETTLED = 20_000 // after which what has not come is lost

export const pause = (milliseconds: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, milliseconds))

/** Waits for a condition, but not for ever; says whether it held. */
export async function within (milliseconds: number, condition: () => unknown, step: number = 5): Promise<boolean> {
  const last = performance.now() + milliseconds
  while (!await condition()) {
    if (performance.now() > last) return false
    await pause(step)
  }
  return true
}

/** A port that no outgoing connection takes while a broker is away from it. */
export async function quietPort (): Promise<number> {
  for (;;) {
    const port = 12_000 + Math.floor(Math.random() * 19_000)
    const server = createServer()
    const isFree = await new Promise<boolean>((resolve) => server.once('error', () => resolve(false)).listen(port, '127.0.0.1', () => resolve(true)))
    if (!isFree) continue
    await new Promise((resolve) => server.close(resolve))
    return port
  }
}

/** A node, seen from the test. */
export class ClusterNode {
  readonly relay: Relay
  readonly lines: string[] = []
  /** Names under which it was told to send. */
  readonly writers = new Set<string>()
  port = 0
  isGone = false
  readonly #child: ChildProcess
  readonly #answers = new Map<number, { resolve (value: unknown): void, reject (err: Error): void }>()
  #refs = 0

  constructor (t: Test, config: NodeConfig, relay: Relay, heard: (sent: Sent[]) => void) {
    this.relay = relay
    const child = this.#child = guard(spawn(process.execPath, ['--import', 'tsx', file, JSON.stringify(config)], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'], env: { ...process.env, ...uncovered } }))
    t.after(() => { child.kill('SIGKILL') })
    child.on('message', (message: { sent?: Sent[], line?: string, port?: number, ref?: number, value?: unknown, error?: string }) => {
      const { sent, line, port, ref, value, error } = message
      if (sent !== undefined) heard(sent)
      if (line !== undefined) this.lines.push(line)
      if (port !== undefined) this.port = port
      if (ref === undefined) return
      const answer = this.#answers.get(ref)
      this.#answers.delete(ref)
      if (error === undefined) answer?.resolve(value)
      else answer?.reject(new Error(error))
    })
    child.on('exit', () => {
      this.isGone = true
      for (const { reject } of this.#answers.values()) reject(new Error('the node is gone'))
      this.#answers.clear()
    })
  }

  async started (): Promise<this> {
    await until(() => this.port !== 0 || this.isGone)
    if (this.isGone) throw new Error(`the node did not start: ${this.lines.join('; ')}`)
    return this
  }

  signal (signal: NodeJS.Signals): void { this.#child.kill(signal) }

  async kill (): Promise<void> {
    this.signal('SIGKILL')
    await until(() => this.isGone)
  }

  call<Name extends keyof Calls> (call: Name, ...args: Parameters<Calls[Name]>): Promise<Awaited<ReturnType<Calls[Name]>>> {
    if (this.isGone) return Promise.reject(new Error('the node is gone'))
    if (call === 'write' || call === 'send' || call === 'sendWhenReady') this.writers.add(args[0] as string)
    const ref = ++this.#refs
    return new Promise((resolve, reject) => {
      this.#answers.set(ref, { resolve: resolve as never, reject })
      this.#child.send({ ref, call, args }, (err) => { if (err !== null) reject(err) }) // killed, and not known to be gone yet
    })
  }
}

export interface ClusterOptions {
  broker: NodeConfig['broker']
  /** Where the broker is, or will be. */
  port: number
  nodes?: number
  rooms?: string[]
  /** Clients of each transport on each node, each in all rooms. */
  clients?: number
  library?: NodeConfig['library']
  options?: object
  connections?: ConnectionsOptions
}

export interface Expected {
  /** `none`: nothing is lost, and no gap was announced. `some`: every client was told of one. `any`: whoever lost something was told. */
  gaps: 'none' | 'some' | 'any'
}

export class Cluster {
  readonly nodes: ClusterNode[] = []
  readonly readers: Reader[] = []
  readonly sent: Sent[] = []
  readonly rooms: string[]
  /** Milliseconds after its broker's return at which each node's publications were accepted again. */
  readonly again: number[] = []
  readonly #t: Test
  readonly #options: ClusterOptions
  readonly #watching = new Set<(sent: Sent) => void>()
  readonly #writers = new Map<string, ClusterNode>()
  readonly #accepted = new Map<ClusterNode, number>() // of its writers

  constructor (t: Test, options: ClusterOptions) {
    this.#t = t
    this.#options = options
    this.rooms = options.rooms ?? ['a', 'b']
  }

  #count (sent: Sent[]): void {
    for (const { token, answer } of sent) {
      const node = this.#writers.get(token.split(':')[0] as string)
      if (node !== undefined && answer === 'accepted') this.#accepted.set(node, (this.#accepted.get(node) ?? 0) + 1)
    }
  }

  /** One more node. */
  async node (): Promise<ClusterNode> {
    const { broker, port, library = '@redis/client', options = {}, connections = {} } = this.#options
    const relay = await new Relay(port).start(this.#t)
    const node = new ClusterNode(this.#t, { broker, library, port: relay.port, options, connections: { history, ...connections } }, relay, (sent) => {
      this.sent.push(...sent)
      this.#count(sent)
      for (const one of sent) for (const watch of this.#watching) watch(one)
    })
    this.nodes.push(node)
    return node
  }

  /** A client whose first node is that one. */
  reader (at: number, transport: 'sse' | 'ws', query: Record<string, string> = {}, rooms: string[] = this.rooms): Reader {
    const reader = new Reader({ name: `${transport} ${this.readers.length} of node ${at}`, transport, rooms, query, at, ports: () => this.nodes.map(({ port }) => port) })
    this.#t.after(() => reader.leave())
    this.readers.push(reader)
    return reader
  }

  /** Clients of both transports on every node, all of them in. */
  async fill (clients: number = this.#options.clients ?? 2): Promise<void> {
    for (const at of this.nodes.keys()) for (let i = 0; i < clients; i++) for (const transport of ['sse', 'ws'] as const) this.reader(at, transport)
    await until(() => this.readers.every(({ isIn }) => isIn))
  }

  /** Every node sends to the rooms in turn, at that rate each, with so many characters more, until it is stopped. */
  async write (rate: number, nodes: readonly ClusterNode[] = this.nodes, rooms: string[] = this.rooms, size: number = 0): Promise<void> {
    await this.begin(rate, nodes, rooms, size)
    await this.accepted(20, nodes)
  }

  /** The same, though nothing of it may be accepted yet. */
  async begin (rate: number, nodes: readonly ClusterNode[], rooms: string[] = this.rooms, size: number = 0): Promise<void> {
    await Promise.all(nodes.map(async (node) => {
      const writer = `w${this.#writers.size}`
      this.#writers.set(writer, node)
      await node.call('write', writer, rooms, rate, size)
    }))
  }

  /** A name under which a node sends. */
  writerOf (node: ClusterNode): string { return [...this.#writers].find(([, one]) => one === node)?.[0] ?? `e${this.nodes.indexOf(node)}` }

  /** Waits until so many more are accepted of each node. */
  async accepted (count: number, nodes: readonly ClusterNode[] = this.nodes): Promise<void> {
    const mine = (node: ClusterNode): number => this.#accepted.get(node) ?? 0
    const before = nodes.map(mine)
    await until(() => nodes.every((node, at) => node.isGone || mine(node) >= (before[at] as number) + count))
  }

  /** The broker is back: what each node sends from now on is accepted within the bound. */
  async returned (nodes: readonly ClusterNode[] = this.nodes.filter(({ isGone }) => !isGone)): Promise<void> {
    const since = performance.now()
    await Promise.all(nodes.map(async (node, at) => {
      const answers: Array<Promise<Sent>> = []
      let first: Sent | null = null
      const isAgain = await within(AGAIN, () => {
        const answer = node.call('send', `again${this.nodes.indexOf(node)}`, this.rooms[at % this.rooms.length] as string)
        answers.push(answer)
        answer.then((sent) => { if (sent.answer === 'accepted') first ??= sent }, () => {})
        return first
      }, 20)
      const after = Math.round(performance.now() - since)
      this.again.push(after)
      this.#t.ok(isAgain, `publishing is accepted again, ${after} ms after the broker was back`, { lines: node.lines.slice(-10) })
    }))
  }

  /** Nothing is sent any more. */
  async quiet (): Promise<void> { await Promise.all([...this.#writers].map(async ([writer, node]) => { if (!node.isGone) await node.call('stop', writer) })) }

  /** Nothing is sent any more, and everything is answered. */
  async stop (): Promise<void> {
    const alive = this.nodes.filter(({ isGone }) => !isGone)
    await this.quiet()
    await within(SETTLED, async () => (await Promise.all(alive.map((node) => node.call('open')))).every((open) => open === 0))
  }

  /** Waits until every client has what it will get. */
  async complete (): Promise<void> { await within(SETTLED, () => this.verdict().lost.length === 0, 50) } // each look costs what the clients need, too

  /** What was sent so far does not count. */
  forget (): void {
    this.sent.length = 0
    for (const { dispatched } of this.readers) dispatched.length = 0
  }

  /** Nothing is sent any more: waits until every client has what it will get; what came twice has come when what is sent after it has. */
  async settle (): Promise<void> {
    await this.stop()
    await this.complete()
    await this.end()
  }

  async end (): Promise<void> {
    const node = this.nodes.find(({ isGone }) => !isGone) as ClusterNode
    const ends = await Promise.all(this.rooms.map((room) => node.call('send', `end${this.nodes.indexOf(node)}`, room)))
    await within(SETTLED, () => this.readers.every((reader) => reader.isAway || ends.every(({ token, answer, room }) => answer !== 'accepted' || !reader.rooms.includes(room) || reader.tokens.includes(token))))
  }

  /** What a client dispatched where one is missing. */
  around (lost: string): unknown {
    const at = lost.lastIndexOf(' ')
    const [name, token] = [lost.slice(0, at), lost.slice(at + 1)]
    const { dispatched, rooms } = this.readers.find((reader) => reader.name === name) as Reader
    const writer = token.split(':')[0] as string
    const [missing] = this.sent.filter((one) => one.token === token) as [Sent]
    const later = this.sent.filter((one) => rooms.includes(one.room) && one.token.startsWith(`${writer}:`) && one.began > missing.began).map((one) => one.token)
    const next = dispatched.findIndex((one) => 'token' in one && later.includes(one.token))
    return { missing, dispatched: dispatched.slice(Math.max(0, next - 8), next + 3).map((one) => Object.values(one).join(' ')) }
  }

  verdict (): Verdict { return verdict(this.sent, this.readers, this.nodes.flatMap(({ writers }) => [...writers])) }

  judge (what: string, { gaps }: Expected): Verdict {
    const t = this.#t
    const found = this.verdict()
    const { accepted, refused, doubt, dispatched, missed, lost, doubled, disordered, foreign } = found
    const lines = this.nodes.map((node) => node.lines.slice(-10))
    const few = (tokens: string[]): string[] => tokens.slice(0, 10)
    t.strictSame({ lost: lost.length, doubled: doubled.length, disordered: disordered.length, foreign: foreign.length }, { lost: 0, doubled: 0, disordered: 0, foreign: 0 }, what, {
      lost: few(lost),
      doubled: few(doubled),
      disordered: few(disordered),
      foreign: few(foreign),
      around: lost.slice(0, 2).map((one) => this.around(one)),
      lines
    })
    const told = this.readers.filter((reader) => reader.gaps.length > 0).length
    if (gaps === 'none') t.strictSame(found.gaps, {}, `${what}: no gap`, { lines })
    if (gaps === 'some') t.equal(told, this.readers.length, `${what}: every client was told`, { lines })
    t.ok(accepted > 0 && dispatched > 0, `${what}: something was sent`)
    const visits = this.readers.reduce((sum, reader) => sum + reader.visits - 1, 0)
    t.comment(`${what}: accepted ${accepted}, refused ${refused}, in doubt ${doubt}; dispatched ${dispatched} by ${this.readers.length} clients, came back ${visits}; lost ${lost.length}, announced ${missed} (${JSON.stringify(found.gaps)}), doubled ${doubled.length}, disordered ${disordered.length}${this.again.length > 0 ? `; accepted again after ${this.again.join(', ')} ms` : ''}`)
    return found
  }
}

/** A cluster with clients on every node, which its test ends. */
export async function cluster (t: Test, options: ClusterOptions): Promise<Cluster> {
  const made = new Cluster(t, options)
  for (let i = 0; i < (options.nodes ?? 2); i++) await made.node()
  await Promise.all(made.nodes.map((node) => node.started()))
  if (options.clients !== 0) await made.fill()
  return made
}
