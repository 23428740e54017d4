// Two nodes on one Redis, what was accepted of them, and what each of their members is owed.
import type { Test } from 'tap'
import { redis } from '../lib/backplanes/redis.ts'
import type { RedisOptions } from '../lib/backplanes/redis.ts'
import { parseCursor } from '../lib/event.ts'
import { connect, FakeEncoding, node } from './fake.ts'
import type { Fake, FakeNode } from './fake.ts'
import { until } from './helper.ts'
import { clients, redisServer } from './redis.ts'
import type { RedisServer } from './redis.ts'
import { relayTo } from './relay.ts'
import type { Relay } from './relay.ts'

const encoding = new FakeEncoding('order')
export const both = ['a', 'b']

export interface Heard { readonly data: string, readonly offset: number | undefined }
export interface Member { readonly fake: Fake, readonly rooms: string[], readonly after: number }

export const heard = ({ wire }: Fake): Heard[] => wire.events.filter(({ event }) => event === 'n').map(({ data, id }) => ({ data: data as string, offset: id === undefined ? undefined : parseCursor(id)?.offset }))
export const gaps = ({ wire }: Fake): unknown[] => wire.events.filter(({ event }) => event === 'gap').map(({ data }) => (data as { reason: string }).reason)
export const some = (most: number): number => Math.floor(Math.random() * most)
export const sleep = (time: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, time))

/** Two nodes, one of them behind a relay, and what was accepted of them. */
export class World {
  readonly accepted: Heard[] = []
  readonly members: Member[] = []
  readonly relay: Relay
  readonly here: FakeNode
  readonly there: FakeNode
  readonly server: RedisServer
  #count = 0

  constructor (server: RedisServer, relay: Relay, here: FakeNode, there: FakeNode) {
    this.server = server
    this.relay = relay
    this.here = here
    this.there = there
  }

  /** The first of them is behind the relay, or both. */
  static async start (t: Test, options: Partial<RedisOptions> = {}, { library = '@redis/client', areBoth = false }: { library?: keyof typeof clients, areBoth?: boolean } = {}): Promise<World> {
    const server = await redisServer(t)
    const relay = await relayTo(t, server.port)
    const history = { events: 10_000, bytes: 100_000_000 }
    const join = async (port: number): Promise<FakeNode> => await node(t, { history, maxEventBytes: 10_000_000 }, redis({ client: await clients[library](t, port), audit: 500, ...options }))
    return new World(server, relay, await join(relay.port), await join(areBoth ? relay.port : server.port))
  }

  async say (from: FakeNode, room: string): Promise<Heard> {
    const data = `${room} ${++this.#count}`
    const { accepted, id } = await from.registry.room(room).send({ event: 'n', data })
    if (!accepted) throw new Error(`${data} was not accepted`)
    const said = { data, offset: parseCursor(id as string)?.offset as number }
    this.accepted.push(said)
    return said
  }

  /** A member that was there before, once it knows where it stands. */
  async returning (one: FakeNode, rooms: string[], lastEventId?: string): Promise<Fake> {
    const fake = connect(one, { bare: false, broadcast: false, encoding, ...lastEventId === undefined ? {} : { lastEventId, opened: false } })
    await fake.connection.join(rooms)
    fake.connection.opened()
    fake.connection.settled()
    await until(() => fake.wire.events.some(({ event }) => event === 'ready'))
    return fake
  }

  /** It is owed everything after its first cursor. */
  async member (one: FakeNode, rooms: string[], lastEventId?: string): Promise<Member> {
    const fake = await this.returning(one, rooms, lastEventId)
    const [ready] = fake.wire.events as [{ event: string, id: string }]
    if (ready.event !== 'ready') throw new Error(JSON.stringify(ready))
    const member = { fake, rooms, after: parseCursor(ready.id)?.offset as number }
    this.members.push(member)
    return member
  }

  async judge (t: Test): Promise<void> {
    for (const { fake, rooms, after } of this.members) {
      const wanted = this.accepted.filter(({ data, offset }) => rooms.includes(data[0] as string) && (offset as number) > after).sort((one, other) => (one.offset as number) - (other.offset as number))
      await until(() => heard(fake).length >= wanted.length || gaps(fake).length > 0)
      t.strictSame([heard(fake), gaps(fake)], [wanted, []], `after ${after}, returned with ${fake.connection.lastEventId}`)
    }
  }

  async flood (sends: number, now: (i: number) => Promise<unknown> | undefined): Promise<void> {
    const sending: Array<Promise<unknown>> = []
    for (let i = 0; i < sends; i++) {
      sending.push(this.say(some(5) > 0 ? this.there : this.here, both[some(2)] as string), now(i) ?? Promise.resolve())
      if (some(2) > 0) await sleep(some(8))
    }
    await Promise.all(sending)
  }

  /** What is still on its way when all else is quiet comes with these. */
  async end (t: Test): Promise<void> {
    Object.assign(this.relay, { delay: 0, refusing: false })
    for (const room of both) await Promise.all([this.say(this.there, room), this.say(this.here, room)])
    await this.judge(t)
  }
}
