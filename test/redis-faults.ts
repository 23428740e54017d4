// What can go wrong between a node and Redis, and with Redis itself; on a real server.
import { createClient } from '@redis/client'
import type { Test } from 'tap'
import { clientOf } from '../lib/backplanes/redis-clients.ts'
import type { Client } from '../lib/backplanes/redis-library.ts'
import { redis } from '../lib/backplanes/redis.ts'
import type { RedisOptions } from '../lib/backplanes/redis.ts'
import type { Backplane, Cursor } from '../types/index.ts'
import { Relay } from './backplanes/faults/relay.ts'
import { connect, FakeEncoding, node } from './fake.ts'
import type { Fake, FakeNode } from './fake.ts'
import { until } from './helper.ts'
import { freePort, redisServer } from './redis.ts'
import type { clients } from './redis.ts'
import { relayTo } from './relay.ts'

const encoding = new FakeEncoding('faults')

/** The faults that every client library has to survive. */
export function faults (t: Test, make: (typeof clients)['ioredis']): void {
  interface Node extends FakeNode { backplane: Backplane, client: Client }

  async function join (t: Test, port: number, options: Partial<RedisOptions> = {}): Promise<Node> {
    const client = await make(t, port)
    const backplane = redis({ client, audit: 200, ...options })
    return { ...await node(t, {}, backplane), backplane, client: clientOf(client, '') }
  }

  async function admin (t: Test, port: number): Promise<ReturnType<typeof createClient>> {
    const client = createClient({ url: `redis://127.0.0.1:${port}` })
    client.on('error', () => {})
    await client.connect()
    t.after(() => { client.destroy() })
    return client as never
  }

  async function member (one: FakeNode, rooms: string[] = ['room'], lastEventId?: Cursor): Promise<Fake> {
    const fake = connect(one, { bare: false, broadcast: false, encoding, ...lastEventId === undefined ? {} : { lastEventId, opened: false } })
    await fake.connection.join(rooms)
    if (lastEventId !== undefined) {
      fake.connection.opened()
      fake.connection.settled()
    }
    return fake
  }

  function heard ({ wire }: Fake): unknown[] { return wire.events.filter(({ event }) => event === 'n').map(({ data }) => data) }
  function gaps ({ wire }: Fake): unknown[] { return wire.events.filter(({ event }) => event === 'gap').map(({ data }) => (data as { reason: string }).reason) }
  async function send (one: FakeNode, data: unknown, room = 'room'): Promise<{ accepted: boolean, id?: string }> { return await one.registry.room(room).send({ event: 'n', data }) }

  /** What has to be accepted: where it is not, the test ends, for what it would wait for does not come. */
  async function say (one: FakeNode, data: unknown, room = 'room'): Promise<{ id?: string }> {
    const { accepted, ...receipt } = await send(one, data, room)
    if (!accepted) throw new Error(`${JSON.stringify(data)} was refused`)
    return receipt
  }

  /** Until its client knows that the connection is lost: what is sent before goes over it, and is in doubt. */
  async function away ({ client }: Node): Promise<void> { await until(() => !client.ready) }

  t.test('a lost log is another sequence: everybody is told, and it goes on', async (t) => {
    const { port } = await redisServer(t)
    const nodes = [await join(t, port), await join(t, port)] as const
    const cli = await admin(t, port)
    const faults: Array<[string, () => Promise<unknown>]> = [
      ['all is gone', () => cli.flushAll()],
      ['the meta key is gone', () => cli.del('{fastify-real}:meta')],
      ['what went out of use is gone', () => cli.del('{fastify-real}:old')],
      ['the sequence is back', () => cli.hSet('{fastify-real}:meta', '#s', '1')],
      ['it is another server', () => cli.hSet('{fastify-real}:meta', '#u', 'other')]
    ]
    for (const [what, fault] of faults) {
      const fakes = [await member(nodes[0]), await member(nodes[1])] as const
      for (const i of [1, 2, 3]) await say(nodes[0], i)
      const { id } = await say(nodes[0], 4)
      await until(() => fakes.every((fake) => heard(fake).length >= 4))
      const { epoch } = nodes[0].backplane
      await fault()
      await say(nodes[1], 'after')
      await until(() => fakes.every((fake) => heard(fake).at(-1) === 'after' && gaps(fake).length > 0))
      for (const fake of fakes) t.strictSame([heard(fake), gaps(fake)], [[1, 2, 3, 4, 'after'], ['epoch']], what)
      t.not(nodes[0].backplane.epoch, epoch)
      t.equal(nodes[1].backplane.epoch, nodes[0].backplane.epoch)
      const back = await member(nodes[1], ['room'], id as string)
      await until(() => gaps(back).length > 0)
      t.strictSame(gaps(back), ['epoch'])
      for (const fake of [...fakes, back]) fake.connection.close()
    }
  })

  t.test('a stream that was evicted alone is a gap for whoever needs it, and for nobody else', async (t) => {
    const { port } = await redisServer(t)
    const one = await join(t, port)
    const cli = await admin(t, port)
    const first = await say(one, 1)
    const second = await say(one, 2)
    await cli.del('{fastify-real}:s:room/room')
    const needs = await member(one, ['room'], first.id as string)
    const has = await member(one, ['room'], second.id as string)
    await until(() => gaps(needs).length > 0)
    await say(one, 3)
    await until(() => heard(needs).length > 0 && heard(has).length > 0)
    t.strictSame([gaps(needs), heard(needs), gaps(has), heard(has)], [['trimmed'], [3], [], [3]])
    t.match(await one.registry.room('room').history(), { complete: false })
  })

  t.test('a server that was started again without its log is another sequence, and is there within three seconds', async (t) => {
    const server = await redisServer(t)
    const nodes = [await join(t, server.port), await join(t, server.port)] as const
    const fakes = [await member(nodes[0]), await member(nodes[1])] as const
    const { id } = await say(nodes[0], 1)
    await server.stop()
    await away(nodes[0])
    const waiting = say(nodes[0], 2)
    await redisServer(t, server.port)
    await waiting
    await until(() => fakes.every((fake) => heard(fake).at(-1) === 2))
    for (const fake of fakes) t.strictSame([heard(fake), gaps(fake)], [[1, 2], ['epoch']])
    const back = await member(nodes[1], ['room'], id as string)
    await until(() => gaps(back).length > 0)
  })

  t.test('what comes while the subscriptions are lost is given from the log, also when nothing follows', async (t) => {
    const { port } = await redisServer(t)
    const nodes = [await join(t, port), await join(t, port)] as const
    const cli = await admin(t, port)
    const fakes = [await member(nodes[0], ['room', 'other']), await member(nodes[1], ['room', 'other'])] as const
    const sent: unknown[] = []
    for (let i = 0; i < 5; i++) {
      await cli.sendCommand(['CLIENT', 'KILL', 'TYPE', 'pubsub'])
      await Promise.all([say(nodes[0], `${i} a`), say(nodes[1], `${i} b`, 'other'), say(nodes[1], `${i} c`)])
      sent.push(`${i} a`, `${i} b`, `${i} c`)
    }
    for (const fake of fakes) {
      await until(() => heard(fake).length === sent.length)
      t.strictSame([[...heard(fake)].sort(), gaps(fake)], [[...sent].sort(), []])
    }
  })

  t.test('what was cut on all connections at once is sent again, once', async (t) => {
    const { port } = await redisServer(t)
    const nodes = [await join(t, port), await join(t, port)] as const
    const cli = await admin(t, port)
    const fakes = [await member(nodes[0]), await member(nodes[1])] as const
    const plain = await connect(nodes[1], { user: 'ada', encoding })
    t.ok(plain.connection.open)
    const sent: string[] = []
    const saying: Array<Promise<unknown>> = []
    for (let i = 0; i < 300; i++) {
      sent.push(String(i))
      saying.push(say(nodes[0], String(i)))
      if (i % 100 === 50) void cli.sendCommand(['CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes'])
      if (i % 10 === 0) await new Promise((resolve) => setImmediate(resolve))
    }
    await Promise.all(saying)
    for (const fake of fakes) {
      await until(() => heard(fake).length >= 300)
      t.strictSame([[...heard(fake)].sort(), gaps(fake)], [[...sent].sort(), []])
    }
  })

  t.test('what may have been delivered before the sequence began anew is not sent again', async (t) => {
    const { port } = await redisServer(t)
    const relay = await new Relay(port).start(t)
    const [one, other] = [await join(t, relay.port), await join(t, port)]
    const cli = await admin(t, port)
    const there = await member(other)
    const expected: string[] = []
    for (const later of ['later', null]) {
      const lost = relay.loseReply(/in doubt/)
      const inDoubt = send(one, 'in doubt')
      await lost
      relay.set('publisher', 'cut')
      expected.push('in doubt')
      await until(() => heard(there).length >= expected.length)
      await away(one)
      const waiting = later === null ? null : say(one, later)
      await cli.flushAll()
      relay.set('publisher', 'open')
      const [{ accepted }] = await Promise.all([inDoubt, waiting])
      t.equal(accepted, false)
      await say(one, 'next')
      expected.push(...later === null ? [] : [later], 'next')
      await until(() => heard(there).length >= expected.length)
      t.strictSame(heard(there), expected)
    }
    t.equal(one.lines.filter(({ message }) => message === 'what became of an event is not known, so it is refused').length, 2)
  })

  t.test('the last event before a silence is found by the audit', async (t) => {
    const { port } = await redisServer(t)
    const one = await join(t, port)
    const cli = await admin(t, port)
    const fake = await member(one)
    await say(one, 1)
    const entry = (await cli.sendCommand(['XRANGE', '{fastify-real}:s:room/room', '-', '+'])) as Array<[string, string[]]>
    // what a publication does, but for the publication
    const offset = Number(entry[0]?.[0].split('-')[0]) + 1
    await cli.sendCommand(['EVAL', `
      local old = redis.call('XRANGE', KEYS[2], '-', '+')[1][2]
      redis.call('XADD', KEYS[2], ARGV[1], old[1], old[2], old[3], old[4])
      redis.call('HINCRBY', KEYS[1], '#s', 1)
      local last, floor, events, rest = string.match(redis.call('HGET', KEYS[1], 'room/room'), '^(%d+) (%d+) (%d+) (.*)$')
      redis.call('HSET', KEYS[1], 'room/room', (last + 1) .. ' ' .. floor .. ' ' .. (events + 1) .. ' ' .. rest)
    `, '2', '{fastify-real}:meta', '{fastify-real}:s:room/room', `${offset}-${offset - 1}`])
    await until(() => heard(fake).length >= 2)
    await say(one, 3)
    await until(() => heard(fake).length > 2)
    t.strictSame([heard(fake), gaps(fake)], [[1, 1, 3], []])
  })

  t.test('a connection that has gone deaf is replaced', async (t) => {
    const { port } = await redisServer(t)
    const relay = await relayTo(t, port)
    const one = await join(t, relay.port)
    const fake = await member(one)
    relay.mute()
    await say(one, 1)
    await until(() => heard(fake).length >= 1)
    t.strictSame(gaps(fake), [])
    t.ok(one.lines.some(({ message }) => message === 'the subscriptions to redis are lost'))
  })

  t.test('what comes from Redis may be anything', async (t) => {
    const { port } = await redisServer(t)
    const one = await join(t, port, { maxBytes: 10_000 })
    const cli = await admin(t, port)
    const fake = await member(one)
    const { id } = await say(one, 1)
    const hostile = ['', '\n', '1', '1 x 1 0\n', '2 x 1 0\nx', '1 - 0 0\n', '1 - 0 0\n\u0001\u0000\u0000\u0000\u0002{}', `1 ${one.backplane.epoch} 5 9\nx`, '1 x 99999999999999999999 0\nx', 'x'.repeat(20_000), '\n'.repeat(500)]
    for (const topic of ['room/room', 'nodes', 'all', 'nobody']) for (const text of hostile) await cli.publish(`{fastify-real}:c:${topic}`, text)
    for (const own of await cli.sendCommand(['PUBSUB', 'CHANNELS', '*:n:*']) as unknown as string[]) for (const text of hostile) await cli.publish(own, text)
    await say(one, 2)
    await until(() => heard(fake).length > 1)
    t.strictSame([heard(fake), gaps(fake)], [[1, 2], []])
    t.equal(one.lines.filter(({ message }) => message === 'what came from redis was not understood').length, 1)
    t.match(await send(one, 'x'.repeat(10_000)), { accepted: false }, 'what would not be understood is not sent')
    await cli.sendCommand(['EVAL', `
      local entry = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
      redis.call('XDEL', KEYS[1], entry[1])
      redis.call('XTRIM', KEYS[1], 'MAXLEN', 0)
      redis.call('DEL', KEYS[1])
      redis.call('XADD', KEYS[1], entry[1], entry[2][1], entry[2][2], entry[2][3], 'garbage')
      redis.call('XADD', KEYS[1], '999-1', entry[2][1], entry[2][2], entry[2][3], 'garbage')
    `, '1', '{fastify-real}:s:room/room'])
    t.match(await one.registry.room('room').history(), { complete: false, events: [] })
    t.ok(id)
  })

  t.test('what is sent while Redis is away waits, within bounds, or is refused at once', async (t) => {
    const server = await redisServer(t)
    const few = await join(t, server.port, { queue: { events: 3 }, timeout: 30_000 })
    const refusing = await join(t, server.port, { whenAway: 'refuse', timeout: 300, onUnavailable: 'degrade' }) // so short a time is no bound for its start
    const short = await join(t, server.port, { timeout: 150, onUnavailable: 'degrade' })
    const fakes = [await member(few), await member(refusing)] as const
    await server.stop()
    await until(async () => !(await send(refusing, 'x')).accepted)
    t.match(await send(short, 'x'), { accepted: false })
    await away(few)
    const waiting = Promise.all([1, 2, 3].map((i) => say(few, i)))
    for (const i of [4, 5]) t.match(await send(few, i), { accepted: false })
    t.match(await short.registry.room('room').history(), { complete: false, events: [] })
    await redisServer(t, server.port)
    await waiting
    await until(() => fakes.every((fake) => heard(fake).length >= 3))
    for (const fake of fakes) t.strictSame([heard(fake), gaps(fake)], [[1, 2, 3], ['epoch']])
    await until(async () => (await send(refusing, 'again')).accepted)
  })

  t.test('without Redis at the start a node does not start, or goes on until there is one', async (t) => {
    const port = await freePort()
    const failing = redis({ client: createClient({ url: `redis://127.0.0.1:${await freePort()}` }), timeout: 1_000 }) // enough for what is refused to be told
    const ear = { id: 'x', deliver () {}, missed () {}, reset () {}, log: { error () {}, warn () {} } }
    const failed = t.rejects(failing.start(ear), { message: /redis does not answer: .*ECONNREFUSED/s })
    const options = { onUnavailable: 'degrade', timeout: 50 } as const
    const one = redis({ client: createClient({ url: `redis://127.0.0.1:${port}` }), audit: 200, ...options })
    const degraded = await node(t, {}, one)
    t.equal(degraded.lines.filter(({ message }) => message === 'there is no redis yet').length, 1)
    const fake = connect(degraded, { bare: false, broadcast: false, encoding })
    const joined = fake.connection.join('room')
    await redisServer(t, port)
    t.equal(await joined, true)
    await until(async () => (await send(degraded, 1)).accepted)
    await until(() => heard(fake).length > 0)
    t.strictSame(heard(fake), [1])
    await failed
  })
}
