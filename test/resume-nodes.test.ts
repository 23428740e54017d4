import { setImmediate } from 'node:timers/promises'
import t from 'tap'
import { memory } from '../lib/index.ts'
import type { Backplane } from '../lib/index.ts'
import { connect, node, turn } from './fake.ts'
import type { Fake, FakeNode } from './fake.ts'
import { Lossy } from './lossy.ts'
import { offsetOf, random } from './returner.ts'

// more of them: FIRST=1 SEEDS=500 npx tap test/resume-nodes.test.ts
const SEEDS = Number(process.env.SEEDS ?? 20)
const FIRST = Number(process.env.FIRST ?? 20_261_127)
const STEPS = 900
const rooms = ['a', 'b', 'c']
const history = { events: 1_000_000, bytes: 1_000_000_000, age: 1_000_000, totalBytes: 1_000_000_000 }

interface Got { readonly event?: string, readonly id?: string, readonly data?: unknown }

/** A node whose link to the others is cut for a while: then all that is sent is lost, and it is told so before anything else comes. */
interface Link { readonly lossy: Lossy, readonly one: FakeNode, isCut: boolean }

/** Comes back by its last id, on any node. */
class Client {
  readonly rooms: string[]
  readonly got: Got[] = []
  fake: Fake | null = null
  /** Its first place. */
  start = -1
  /** When it had joined for the first time. */
  entered = Infinity
  #read = 0

  constructor (rooms: string[]) { this.rooms = rooms }

  get lastEventId (): string { return this.got.findLast(({ id }) => id !== undefined)?.id ?? '' }

  read (): void {
    const events = this.fake?.wire.events ?? []
    this.got.push(...events.slice(this.#read))
    this.#read = events.length
    const [first] = this.got
    if (first?.event === 'ready' && this.start === -1) this.start = offsetOf(first.id)
  }

  leave (): void {
    this.read()
    if (this.start === -1) this.entered = Infinity
    this.fake?.connection.close()
    this.fake = null
    this.#read = 0
  }
}

for (let seed = FIRST; seed < FIRST + SEEDS; seed++) {
  t.test(`clients that come back on any of several nodes whose links are cut have all of it once, in order, and no gap (seed ${seed})`, async (t) => {
    const next = random(seed)
    const chance = (share: number): boolean => next() < share
    const below = (count: number): number => Math.floor(next() * count)
    let isCalm = false
    const later = async (): Promise<void> => { for (let n = isCalm ? 0 : below(4); n > 0; n--) await setImmediate() }
    const shared: Backplane = memory({ totalBytes: history.totalBytes })
    const links: Link[] = []
    for (let n = 0; n < 3; n++) {
      const lossy = new Lossy({ loses: () => (links[n] as Link).isCut, later }, () => shared)
      links.push({ lossy, one: await node(t, { history, slow: 'catch-up', maxBuffered: 2_000 }, lossy.backplane), isCut: false })
    }
    const pick = (): Link => links[below(links.length)] as Link
    const sent: Array<{ n: number, room: string, offset: number, began: number }> = []
    let time = 0
    let refused = 0
    const open = new Set<Promise<void>>()
    const send = async (n: number): Promise<void> => {
      const room = rooms[below(rooms.length)] as string
      const began = ++time
      const { id, accepted } = await pick().one.registry.room(room).send({ data: { n, filler: 'x'.repeat(below(300)) } })
      if (!accepted) refused++
      sent.push({ n, room, offset: offsetOf(id), began })
    }
    const clients = Array.from({ length: 8 }, () => new Client(rooms.filter(() => chance(0.6))))
    const come = async (client: Client): Promise<void> => {
      const fake = client.fake = connect(pick().one, { bare: false, broadcast: false, lastEventId: client.lastEventId, opened: false })
      fake.connection.opened()
      if (client.entered === Infinity) {
        if (await fake.connection.join(client.rooms)) client.entered = ++time
      } else {
        for (const room of client.rooms) {
          const joined = fake.connection.join(room)
          if (chance(0.5)) await joined
        }
      }
      fake.connection.settled()
    }
    const track = (work: Promise<void>): void => {
      open.add(work)
      void work.then(() => open.delete(work))
    }
    for (const client of clients) track(come(client))
    for (let step = 0, n = 0; step < STEPS; step++) {
      const client = clients[below(clients.length)] as Client
      if (chance(0.5)) track(send(n++))
      if (chance(0.03)) pick().isCut = true
      if (chance(0.06)) {
        const link = pick()
        link.isCut = false
        link.lossy.find()
      }
      if (chance(0.03) && client.fake !== null && client.fake.wire.writes > 0) client.fake.wire.buffered = 1_900
      if (chance(0.1)) for (const { fake } of clients) if (fake !== null) fake.wire.buffered = 0
      if (chance(0.04)) {
        if (client.fake === null) track(come(client))
        else client.leave()
      }
      if (chance(0.3)) await setImmediate()
    }
    isCalm = true
    while (open.size > 0) await setImmediate()
    for (const link of links) {
      link.isCut = false
      link.lossy.find()
    }
    for (const client of clients) {
      if (client.fake === null) await come(client)
      else client.fake.wire.buffered = 0
    }
    for (let i = 0; i < 60; i++) await turn()
    let count = 0
    for (const [index, client] of clients.entries()) {
      client.read()
      const events = client.got.filter(({ event }) => event === undefined)
      const numbers = events.map(({ data }) => (data as { n: number }).n)
      const its = sent.filter(({ room }) => client.rooms.includes(room)).sort((a, b) => a.offset - b.offset)
      for (const name of rooms) {
        const due = its.filter(({ n, room }) => room === name && numbers.includes(n)).map(({ n }) => n)
        t.strictSame(numbers.filter((n) => sent.some((one) => one.n === n && one.room === name)), due, `client ${index}: once, in order`)
      }
      t.strictSame(its.filter(({ n, began }) => began > client.entered && !numbers.includes(n)), [], `client ${index}: nothing is missing`)
      t.strictSame(client.got.filter(({ event }) => event === 'gap'), [], `client ${index}: no gap`)
      const offsets = events.filter(({ id }) => id !== undefined).map(({ id }) => offsetOf(id))
      t.ok(offsets.every((offset, at) => at === 0 || offset > (offsets[at - 1] as number)), 'its places only grow')
      count += numbers.length
    }
    t.ok(count > 0)
    t.equal(refused, 0)
  })
}
