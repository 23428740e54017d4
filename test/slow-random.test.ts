import { mkdtempSync, rmSync } from 'node:fs'
import type { ServerHttp2Stream } from 'node:http2'
import { createServer } from 'node:net'
import type { AddressInfo, Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { setImmediate, setTimeout as sleep } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import Fastify from 'fastify'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import t from 'tap'
import { connections, memory, sseReal, wsReal } from '../lib/index.ts'
import type { Connection, Gap, Sendable } from '../lib/index.ts'
import { until } from './helper.ts'
import { logs } from './logs.ts'
import { random } from './returner.ts'
import { departures, kinds, open } from './slow-world.ts'
import type { Address, Came, Kind, Reader } from './slow-world.ts'

// more of them: FIRST=1 SEEDS=500 npx tap test/slow-random.test.ts
const SEEDS = Number(process.env.SEEDS ?? 6)
const FIRST = Number(process.env.FIRST ?? 200)
const STEPS = Number(process.env.STEPS ?? 800)
const CLIENTS = 24
const HANGS = 10 // seconds without a sign of the main thread
const STUCK = 60 // and without a step further

// of the rooms whose names begin with u nothing is kept
const rooms = ['a', 'b', 'ua']
const extras = ['x', 'y', 'ux']
const ALL = '*'
const isKept = (room: string): boolean => !room.startsWith('u')
const history = ({ name }: { name: string }): { events: number, bytes: number } | false => isKept(name) && { events: 100_000, bytes: 1_000_000_000 }

/** A source on the server's side. */
interface Sent { readonly total: number, state: 'runs' | 'resolved' | 'rejected' }

/** A connection, as the server sees it. */
class Served {
  readonly connection: Connection
  /** What was sent to each room before it was in it. */
  readonly joined = new Map<string, number>()
  readonly accepted: number[] = []
  readonly sources: Sent[] = []
  /** Promises that have not settled. */
  waits = 0
  direct = 0
  ends = 0
  /** Messages of the client. */
  readonly heard: number[] = []
  said = 0
  constructor (connection: Connection) { this.connection = connection }

  track (work: Promise<unknown>): Promise<unknown> {
    this.waits++
    return work.finally(() => { this.waits-- })
  }
}

/** What a client had while it came back with the place it was at. */
class Chain {
  readonly readers: Reader[] = []
  readonly keys: string[] = []
}

class Client {
  readonly name: number
  readonly kind: Kind
  readonly address: Address
  readonly rooms: string[]
  readonly chains: Chain[] = []
  opens = 0
  busy = false
  id = ''
  constructor (name: number, kind: Kind, address: Address, rooms: string[]) {
    this.name = name
    this.kind = kind
    this.address = address
    this.rooms = rooms
  }

  get chain (): Chain { return this.chains.at(-1) as Chain }
  get reader (): Reader { return this.chain.readers.at(-1) as Reader }
  get key (): string { return this.chain.keys.at(-1) as string }

  async open (): Promise<void> {
    this.busy = true
    const before = this.chains.length === 0 ? undefined : this.reader
    if (before !== undefined && before.id !== '') this.id = before.id
    const isNew = before === undefined || this.id === '' || this.kind === 'ws'
    const key = `${this.name}.${this.opens++}`
    const reader = await open(this.kind, this.address, `/in?key=${key}&rooms=${this.rooms.join()}`, this.kind === 'ws' ? '' : this.id)
    if (isNew) this.chains.push(new Chain())
    this.chain.readers.push(reader)
    this.chain.keys.push(key)
    this.busy = false
  }
}

const beats = new Int32Array(new SharedArrayBuffer(12))
let stages = 0
const watchdog = new Worker(`
  const { workerData: { beats, HANGS, STUCK } } = require('node:worker_threads')
  let last = [-1, 0]
  let silent = [0, 0]
  setInterval(() => {
    const now = [beats[0], beats[2]]
    silent = silent.map((seconds, i) => now[i] === last[i] ? seconds + 1 : 0)
    last = now
    if (silent[0] < HANGS && silent[1] < STUCK) return
    require('node:fs').writeSync(2, 'seed ' + beats[1] + (silent[0] >= HANGS ? ' hangs' : ' waits for ever') + ' in stage ' + beats[2] % 10 + '\\n')
    process.kill(process.pid, 'SIGKILL')
  }, 1000)
`, { eval: true, workerData: { beats, HANGS, STUCK } })
watchdog.unref()
setInterval(() => { Atomics.add(beats, 0, 1) }, 100).unref()

for (let seed = FIRST; seed < FIRST + SEEDS; seed++) {
  const slow = (['close', 'drop', 'catch-up'] as const)[seed % 3] as 'close' | 'drop' | 'catch-up'
  t.test(`whatever readers and servers do, all that is sent comes once and in order or its loss is told, and everything ends (seed ${seed}, ${slow})`, async (t) => {
    Atomics.store(beats, 1, seed)
    const stage = (number: number): void => { Atomics.store(beats, 2, 10 * ++stages + number) }
    stage(1)
    const next = random(seed)
    const chance = (share: number): boolean => next() < share
    const below = (count: number): number => Math.floor(next() * count)
    const pick = <T> (list: readonly T[]): T => list[below(list.length)] as T
    const filler = (): string => 'f'.repeat(chance(0.1) ? 100_000 : chance(0.3) ? 20_000 : below(200))
    const maxBuffered = pick([2_000, 30_000, 150_000, 400_000])
    const served = new Map<string, Served>()
    const byConnection = new Map<Connection, Served>()
    const counts = new Map<string, number>()
    const backplane = memory()
    const { options: fastify, errors } = logs('warn')
    const keyOf = ({ query }: FastifyRequest): { key: string, rooms: string } => query as never

    async function enter (connection: Connection): Promise<void> {
      const { key, rooms } = keyOf(connection.request)
      const one = served.get(key) as Served
      const names = rooms.split(',')
      const isIn = await one.track(connection.join(names))
      for (const name of names) if (isIn === true) one.joined.set(name, counts.get(name) ?? 0)
    }
    async function hear (connection: Connection, message: unknown): Promise<void> {
      const one = byConnection.get(connection) as Served
      one.heard.push(Number(message))
      if (chance(0.3)) await setImmediate()
      if (chance(0.02)) await one.track(connection.drained())
    }
    async function node (http2: boolean): Promise<FastifyInstance> {
      const app = Fastify({ forceCloseConnections: false, ...fastify, ...(http2 ? { http2: true } : {}) } as never) as unknown as FastifyInstance
      await app.register(connections, { backplane, slow, maxBuffered, history: history as never, hold: 30, heartbeat: 1_000, drain: { within: 0, grace: 1_000 } })
      await app.register(sseReal, { compression: true })
      if (!http2) await app.register(wsReal)
      app.connections.on('connect', (connection) => {
        const one = new Served(connection)
        served.set(keyOf(connection.request).key, one)
        byConnection.set(connection, one)
      })
      app.connections.on('disconnect', (connection) => { (byConnection.get(connection) as Served).ends++ })
      if (seed % 5 === 0) app.connections.on('slow', (connection) => connection.close(4_000, 'slow'))
      if (seed % 7 === 0) app.connections.on('gap', (connection) => connection.close())
      app.get('/in', { sse: true, ...(http2 ? {} : { ws: { onConnect: enter, onMessage: hear } }) } as never, async (_request, reply) => { await enter(reply.sse()) })
      await app.ready()
      return app
    }
    const apps = [await node(false), await node(true)] as const
    const folder = mkdtempSync(join(tmpdir(), 'slow-'))
    const ears = await Promise.all(apps.map(async (app, index) => {
      await app.listen({ port: 0, host: '127.0.0.1' })
      const path = join(folder, `s${index}`)
      const ear = createServer({ allowHalfOpen: index === 0 }, (socket) => { app.server.emit('connection', socket) })
      await new Promise<void>((resolve) => ear.listen(path, resolve))
      return { ear, path, port: (app.server.address() as AddressInfo).port }
    }))
    t.teardown(() => {
      for (const { ear } of ears) ear.close()
      rmSync(folder, { recursive: true, force: true })
    })

    const clients = Array.from({ length: CLIENTS }, (_, name) => {
      const kind = kinds[name % kinds.length] as Kind
      const { path, port } = ears[kind === 'http2' ? 1 : 0] as { path: string, port: number }
      return new Client(name, kind, chance(0.25) ? { port, host: '127.0.0.1' } : { path }, rooms.filter(() => chance(0.7)).concat('a').filter((room, at, all) => all.indexOf(room) === at))
    })
    await Promise.all(clients.map((client) => client.open()))

    function publish (room: string, fields: object = {}): Promise<unknown> {
      const n = counts.get(room) ?? 0
      counts.set(room, n + 1)
      const event = { event: 'r', data: { r: room, n, f: filler(), ...fields } }
      const { connections } = pick(apps)
      return room === ALL ? connections.broadcast(event) : connections.room(room).send(event)
    }
    function direct (one: Served): void {
      const n = one.direct++
      if (one.connection.send({ event: 'd', data: { n, f: filler() } })) one.accepted.push(n)
    }
    function * items (s: number, total: number): Generator<Sendable> {
      const size = pick([0, 30, 5_000, 30_000])
      for (let n = 0; n < total; n++) {
        if (n % 7 === 3) yield { comment: 'nothing' }
        yield { event: 's', data: { s, n, f: 'f'.repeat(size) } }
      }
    }
    async function * slowly (s: number, total: number): AsyncGenerator<Sendable> {
      for (const item of items(s, total)) {
        if (chance(0.3)) await setImmediate()
        if (chance(0.05)) await sleep(1)
        yield item
        if (chance(0.02)) await Promise.resolve()
      }
    }
    function from (one: Served): void {
      const total = pick([3, 30, 200])
      const s = one.sources.length
      const sent: Sent = { total, state: 'runs' }
      one.sources.push(sent)
      const source = pick([() => items(s, total), () => slowly(s, total), () => Readable.from(items(s, total)), () => Readable.from(slowly(s, total)), () => [...items(s, total)].map((item) => Promise.resolve(item)), () => () => slowly(s, total)])()
      void one.track(one.connection.from(source as never).then(() => { sent.state = 'resolved' }, () => { sent.state = 'rejected' }))
    }
    function later (work: () => void): void {
      const when = below(6)
      if (when === 0) work()
      else if (when === 1) queueMicrotask(work)
      else if (when === 2) process.nextTick(work)
      else if (when === 3) globalThis.setImmediate(work)
      else if (when === 4) setTimeout(work, below(4))
      else void Promise.resolve().then(() => Promise.resolve()).then(work)
    }
    async function follow (one: Served): Promise<void> {
      for (let n = below(20); n > 0 && one.connection.open; n--) {
        direct(one)
        if (chance(0.3)) await setImmediate()
        await one.connection.drained()
        if (chance(0.1)) await sleep(1)
      }
    }

    stage(2)
    for (let step = 0; step < STEPS; step++) {
      const client = pick(clients)
      const open = [...served.values()].filter(({ connection }) => connection.open)
      const one = pick(open.length === 0 || chance(0.1) ? [...served.values()] : open)
      if (chance(0.25)) void publish(pick([...rooms, ...extras]))
      if (chance(0.06)) void publish(ALL)
      if (chance(0.1)) later(() => direct(one))
      if (chance(0.05)) from(one)
      if (chance(0.25)) later(() => { void one.track(one.connection.drained()) })
      if (chance(0.05)) later(() => { void one.track(follow(one)) })
      if (chance(0.05)) later(() => { void one.track(one.connection.join(pick(extras))) })
      if (chance(0.03)) void one.connection.leave(pick(extras))
      if (chance(0.01)) later(() => one.connection.close())
      if (chance(0.02)) { // cut, while somebody waits for it, and more comes
        const { connection } = pick(open.filter(({ connection: { buffered } }) => buffered > 0).concat(one))
        const { raw } = connection.request as { raw: { socket: Socket, stream?: ServerHttp2Stream } }
        ;(raw.stream ?? raw.socket).destroy()
        void publish(ALL)
        later(() => { void one.track(connection.drained()) })
      }
      if (chance(0.1)) client.reader.pause()
      if (chance(0.06)) client.reader.resume()
      if (chance(0.05)) { // a sip
        client.reader.resume()
        globalThis.setImmediate(() => client.reader.pause())
      }
      const own = served.get(client.key)
      if (own !== undefined && chance(0.1)) for (let n = below(30); n > 0; n--) client.reader.say(String(own.said++))
      if (chance(0.01)) void pick(apps).connections.room(pick(extras)).disconnect()
      if (chance(0.02)) later(() => client.reader.leave(pick(departures)))
      if (client.reader.ended && !client.busy && chance(0.3)) await client.open()
      if (chance(0.4)) await setImmediate()
      if (chance(0.04)) await sleep(below(4))
    }

    stage(3) // calm: who is gone comes back, and everybody reads
    const isLive = (client: Client): boolean => {
      const one = served.get(client.key)
      return !client.reader.ended && one?.connection.open === true && rooms.every((room) => !client.rooms.includes(room) || client.reader.came.some(({ data }) => data.r === room && data.end === true)) && one.sources.every(({ state }) => state !== 'runs')
    }
    while (!clients.every(isLive)) {
      for (const client of clients) {
        client.reader.resume()
        if (client.reader.ended && !client.busy) await client.open()
      }
      for (const room of rooms) await publish(room, { end: true, f: '' })
      await sleep(20)
    }
    const counted = new Map(counts)
    const last = await Promise.all([...rooms].map((room) => publish(room, { f: '', last: true })))
    t.equal(last.length, rooms.length)
    stage(4)
    const hasLast = ({ reader, rooms }: Client): boolean => rooms.every((room) => reader.came.some(({ data }) => data.r === room && data.last === true))
    await until(() => clients.every((client) => hasLast(client)))

    stage(5)
    for (const client of clients) {
      for (const { readers, keys } of client.chains) {
        const isLast = keys.includes(client.key)
        const what = `${client.kind} ${keys.join()}`
        const all = readers.flatMap(({ came }) => came)
        const gaps = all.filter(({ event }) => event === 'gap').map(({ data }) => data as unknown as Gap)
        t.strictSame(gaps.filter(({ reason }) => reason !== 'slow'), [], `${what}: nothing is told but slow`)
        for (const room of [...rooms, ...extras, ALL]) {
          const numbers = numbersOf(room !== ALL && !isKept(room) ? readers.map(({ came }) => came) : [all], (one) => one.data.r === room)
          for (const list of numbers) t.strictSame(list.filter((n, at) => at > 0 && n <= (list[at - 1] as number)), [], `${what}: ${room} once and in order`)
        }
        for (const [at, reader] of readers.entries()) {
          const one = served.get(keys[at] as string)
          if (one === undefined) continue
          const isFinal = isLast && at === readers.length - 1
          const told = reader.came.reduce((sum, { event, data }) => sum + (event === 'gap' ? (data as unknown as Gap).dropped ?? 0 : 0), 0)
          let missing = 0
          const [directs = []] = numbersOf([reader.came], ({ event }) => event === 'd')
          const upTo = isFinal ? one.accepted : one.accepted.filter((n) => n <= (directs.at(-1) ?? -1))
          t.strictSame(directs.filter((n) => !one.accepted.includes(n)), [], `${what}: nothing comes that was refused`)
          t.strictSame(directs, [...directs].sort((a, b) => a - b), `${what}: what is sent to it comes in order`)
          const lost = upTo.filter((n) => !directs.includes(n))
          missing += lost.length
          for (const [s, { total, state }] of one.sources.entries()) {
            const [numbers = []] = numbersOf([reader.came], ({ event, data }) => event === 's' && data.s === s)
            t.strictSame(numbers, numbers.map((_, n) => n), `${what}: source ${s} comes in order, and without a hole`)
            if (isFinal && state === 'resolved') t.equal(numbers.length, total, `${what}: source ${s} comes to its end`)
          }
          if (!isFinal) continue
          for (const room of client.rooms) {
            const got = new Set(numbersOf([isKept(room) ? all : reader.came], ({ data }) => data.r === room)[0])
            const first = (isKept(room) && slow !== 'drop' ? served.get(keys[0] as string) : one)?.joined.get(room)
            if (first === undefined) continue
            let holes = 0
            for (let n = first; n < (counted.get(room) ?? 0); n++) if (!got.has(n)) holes++
            if (isKept(room) && slow !== 'drop') t.equal(holes, 0, `${what}: of ${room}, which is kept, nothing is missing`)
            else missing += holes
          }
          t.ok(missing <= told, `${what}: what is missing is told`, { missing, told, lost, gaps })
        }
      }
    }

    stage(6)
    if (seed % 4 === 0) { // all that is under way ends with the server
      for (const one of served.values()) if (one.connection.open) from(one)
      for (const client of clients) if (chance(0.5)) client.reader.pause()
      await Promise.all(apps.map((app) => app.close()))
    } else {
      for (const client of clients) client.reader.leave(pick(departures))
    }
    await until(() => apps.every((app) => app.connections.size === 0) && [...served.values()].every(({ ends }) => ends > 0))
    stage(7)
    await until(() => [...served.values()].every(({ waits }) => waits === 0))
    stage(8)
    for (const { heard } of served.values()) t.strictSame(heard, heard.map((_, n) => n), 'messages are heard once and in order')
    t.strictSame([...served.values()].filter(({ ends }) => ends !== 1).length, 0, 'disconnect is told once')
    for (const app of apps) {
      t.strictSame([...app.connections.rooms()], [])
      t.match(app.connections.stats(), { connections: 0, rooms: 0, users: 0, byTransport: {} })
      t.strictSame(Object.keys(app.connections.stats().byTransport), [])
    }
    stage(9)
    await Promise.all(apps.map((app) => app.close()))
    t.strictSame(errors(), [])
    const { sent, dropped, slow: behind, gaps } = apps[0].connections.stats()
    t.comment(`${served.size} connections, ${sent} events, ${dropped} dropped, ${behind} slow, ${gaps} gaps`)
  })
}

function numbersOf (lists: Came[][], fits: (one: Came) => boolean): number[][] {
  return lists.map((list) => list.filter(fits).map(({ data }) => data.n as number))
}
