import { setImmediate, setTimeout } from 'node:timers/promises'
import t from 'tap'
import { memory } from '../lib/index.ts'
import type { Backplane, Connection, ConnectionsOptions } from '../lib/index.ts'
import { app, cuts, detour, offsetOf, random, transports } from './returner.ts'
import type { Client } from './returner.ts'

const SEED = 20_240_611
const RETURNS = 220
const rooms = ['a', 'b', 'c', 'd']
const history = { events: 1_000_000, bytes: 1_000_000_000, age: 1_000_000, totalBytes: 1_000_000_000 }

interface Sent { topic: string, offset: number, n: number }

const cases: Record<string, (next: () => number) => ConnectionsOptions> = {
  'a returning client misses nothing, gets nothing twice, and in order': () => ({}),
  'the same where readers fall behind and are closed': () => ({ maxBuffered: 3_000 }),
  'the same where readers fall behind and catch up': () => ({ maxBuffered: 3_000, slow: 'catch-up' }),
  'the same over a backplane that takes its time': (next) => ({ backplane: tardy(next) }),
  'the same where both are slow': (next) => ({ backplane: tardy(next), maxBuffered: 3_000, slow: 'catch-up' })
}

/** A backplane somewhere else: an answer tells what was so when it was asked, or later. */
function tardy (next: () => number): Backplane {
  const inner = memory({ totalBytes: history.totalBytes })
  const later = async (): Promise<void> => { if (next() < 0.5) await setTimeout(next() * 3) }
  return detour(inner, {
    async subscribe (node, topic) {
      await later()
      const offset = await inner.subscribe(node, topic)
      await later()
      return offset
    },
    async publish (topic, parcel, options) {
      await later()
      return await inner.publish(topic, parcel, options)
    },
    async range (topic, after, limit) {
      await later()
      const range = await inner.range(topic, after, limit)
      await later()
      return range
    }
  })
}

for (const [fact, optionsOf] of Object.entries(cases)) {
  t.test(`${fact}, whatever cuts it and when`, async (t) => {
    t.comment(`seed ${SEED}`)
    const next = random(SEED)
    const chance = (share: number): boolean => next() < share
    const below = (count: number): number => Math.floor(next() * count)
    const options = optionsOf(next)
    const stalls = options.maxBuffered !== undefined
    const one = await app(t, { connections: { history, ...options }, join })
    const sent: Sent[] = []
    const starts = new Map<Client, number>()
    const clients = Array.from({ length: 12 }, (_, n) => {
      const own = rooms.filter(() => chance(0.5))
      return one.client(transports[n % 2] as string, `/in?user=u${n % 3}&rooms=${own.length === 0 ? 'a' : own.join()}`)
    })
    const over = new AbortController()
    const publishing = publish()
    await Promise.all(clients.map(live))
    over.abort()
    await publishing
    t.ok(clients.reduce((sum, { returns }) => sum + returns, 0) >= RETURNS)
    t.ok(sent.length > 0)
    if (!stalls) t.equal(one.fastify.connections.stats().slow, 0) // how many of those that stall are found depends on the machine
    for (const client of clients) await check(client)

    async function join (connection: Connection, rooms: string[]): Promise<void> {
      for (const room of rooms) {
        const joined = connection.join(room)
        if (chance(0.5)) await joined
        if (chance(0.2)) await setTimeout(below(3))
      }
      if (chance(0.3)) connection.live()
    }

    async function publish (): Promise<void> {
      const { connections } = one.fastify
      const topics = [...rooms.map((name) => `room/${name}`), 'all', 'user/u0', 'user/u1', 'user/u2']
      const data = (n: number): object => ({ n, filler: 'x'.repeat(below(800)) })
      for (let n = 1; !over.signal.aborted; n++) {
        const topic = topics[below(topics.length)] as string
        const [kind, name] = topic.split('/') as [string, string]
        const sending = kind === 'all' ? connections.broadcast({ data: data(n) }) : kind === 'user' ? connections.user(name).send({ data: data(n) }) : connections.room(name).send({ data: data(n) })
        const { accepted, id } = await sending
        if (accepted) sent.push({ topic, offset: offsetOf(id), n })
        if (chance(0.3)) await setImmediate()
        if (chance(0.05)) await setTimeout(below(3))
      }
    }

    async function live (client: Client): Promise<void> {
      do {
        await client.open()
        if (stalls && chance(0.5)) stall(client)
        await setTimeout(chance(0.3) ? 0 : below(30))
        if (chance(0.5)) await client.wait(client.events.length + below(20))
        if (!client.ended) await client.cut(cuts[below(cuts.length)])
        if (client.lastEventId !== '' && !starts.has(client)) { // from here on nothing may be missing
          starts.set(client, offsetOf(client.lastEventId))
          client.forget()
        }
        if (chance(0.7)) await setTimeout(below(40))
      } while (client.returns < RETURNS / clients.length)
    }

    /** For a while its socket takes nothing. */
    function stall ({ connection }: Client): void {
      const { socket } = connection.request.raw
      socket.cork()
      globalThis.setTimeout(() => socket.uncork(), below(20))
    }

    /** Comes back until it has all that was accepted since it was cut for the first time. */
    async function check (client: Client): Promise<void> {
      const topics = new Set(['all', `user/${/user=(\w+)/.exec(client.path)?.[1]}`, ...(/rooms=(.+)/.exec(client.path)?.[1] ?? '').split(',').map((name) => `room/${name}`)])
      const start = starts.get(client) as number
      const expected = sent.filter(({ topic, offset }) => topics.has(topic) && offset > start).map(({ n }) => n)
      const numbers = (): number[] => client.events.map(({ data }) => (data as { n: number }).n)
      while (client.events.length < expected.length) {
        await client.open()
        await client.wait(expected.length)
        if (!client.ended) await client.cut()
      }
      t.strictSame(numbers(), expected, `${client.transport} came back ${client.returns} times`)
      t.strictSame(client.gaps, [])
      const offsets = client.got.filter(({ event }) => event === undefined).map(({ id }) => offsetOf(id))
      t.ok(offsets.every((offset, index) => index === 0 || offset > (offsets[index - 1] as number)), 'its cursors only grow')
    }
  })
}
