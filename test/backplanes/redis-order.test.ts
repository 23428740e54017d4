// Members of several rooms get what was lost on the way before what came after it, once, and in the order of the sequence.
import t from 'tap'
import type { Test } from 'tap'
import { redis } from '../../lib/backplanes/redis.ts'
import type { RedisOptions } from '../../lib/backplanes/redis.ts'
import { parseCursor } from '../../lib/event.ts'
import { connect, FakeEncoding, node } from '../fake.ts'
import type { Fake, FakeNode } from '../fake.ts'
import { until } from '../helper.ts'
import { clients, redisServer, withRedis } from '../redis.ts'
import { relayTo } from '../relay.ts'

const encoding = new FakeEncoding('order')
const rooms = ['a', 'b']

async function join (t: Test, port: number, options: Partial<RedisOptions> = {}): Promise<FakeNode> {
  return await node(t, { history: { events: 10_000 } }, redis({ client: await clients['@redis/client'](t, port), audit: 500, ...options }))
}

async function member (one: FakeNode, of: string[], lastEventId?: string): Promise<Fake> {
  const fake = connect(one, { bare: false, broadcast: false, encoding, ...lastEventId === undefined ? {} : { lastEventId, opened: false } })
  await fake.connection.join(of)
  if (lastEventId !== undefined) {
    fake.connection.opened()
    fake.connection.settled()
  }
  return fake
}

interface Heard { data: string, offset: number | undefined }

function heard ({ wire }: Fake): Heard[] {
  return wire.events.filter(({ event }) => event === 'n').map(({ data, id }) => ({ data: data as string, offset: id === undefined ? undefined : parseCursor(id)?.offset }))
}

function gaps ({ wire }: Fake): unknown[] { return wire.events.filter(({ event }) => event === 'gap') }

/** All that was accepted of its rooms, once each, in the order of the sequence. */
function isTrue (t: Test, fake: Fake, of: string[], accepted: ReadonlyMap<string, number>, what: string): void {
  const wanted = [...accepted].filter(([data]) => of.includes(data[0] as string)).sort(([, one], [, other]) => one - other).map(([data, offset]) => ({ data, offset }))
  t.strictSame(heard(fake), wanted, what)
  t.strictSame(gaps(fake), [], what)
}

withRedis(t, () => {
  t.test('whatever happens to the link of the subscriber', async (t) => {
    const { port } = await redisServer(t)
    const relay = await relayTo(t, port)
    const [here, there] = [await join(t, relay.port), await join(t, port)]
    const accepted = new Map<string, number>()
    let count = 0
    async function say (from: FakeNode): Promise<void> {
      const data = `${rooms[Math.floor(Math.random() * rooms.length)]} ${++count}`
      const { accepted: isAccepted, id } = await from.registry.room(data[0] as string).send({ event: 'n', data })
      t.equal(isAccepted, true)
      accepted.set(data, parseCursor(id as string)?.offset as number)
    }
    const fakes: Array<[Fake, string[]]> = []
    for (const of of [rooms, ['a'], ['b'], rooms]) fakes.push([await member(here, of), of], [await member(there, of), of])
    for (let round = 0; round < 25; round++) {
      relay.delay = Math.random() * 20 // then live events come before what was lost is known
      const sending: Array<Promise<void>> = []
      for (let i = 0; i < 40; i++) {
        sending.push(say(Math.random() < 0.8 ? there : here))
        if (i === 5) relay.cutSubscribers()
        if (Math.random() < 0.05) relay.cutSubscribers()
        if (Math.random() < 0.5) await new Promise((resolve) => setTimeout(resolve, Math.random() * 8))
      }
      await Promise.all(sending)
    }
    relay.delay = 0
    await Promise.all([say(there), say(here)])
    for (const [fake, of] of fakes) {
      const wanted = [...accepted.keys()].filter((data) => of.includes(data[0] as string)).length
      await until(() => heard(fake).length >= wanted || gaps(fake).length > 0)
      isTrue(t, fake, of, accepted, String(of))
    }
  })
})
