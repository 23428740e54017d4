// What takes long: the faults of Redis itself, under traffic.
import t from 'tap'
import { parseCursor } from '../../lib/event.ts'
import { until } from '../helper.ts'
import { faults } from '../redis-faults.ts'
import { clients, redisServer, temporaryFolder, withRedis } from '../redis.ts'
import { both, gaps, heard, sleep, some, World } from '../redis-world.ts'
import type { Member } from '../redis-world.ts'

withRedis(t, () => {
  t.jobs = 3 // much of it is waiting
  t.test('iovalkey', async (t) => { faults(t, clients.iovalkey) })

  for (const library of ['@redis/client', 'ioredis', 'iovalkey'] as const) {
    t.test(`the subscriptions and the connection that sends are lost again and again, with ${library}`, { buffered: true }, async (t) => {
      const world = await World.start(t, {}, { library })
      const { relay, here, there } = world
      for (const rooms of [both, ['a'], ['b'], both]) for (const one of [here, there]) await world.member(one, rooms)
      for (let round = 0; round < 25; round++) {
        relay.delay = Math.random() * 20
        await world.flood(40, (i) => {
          if (i === 5 || some(20) === 0) relay.cutSubscribers()
          if (some(60) === 0) relay.cutPublishers()
          if (some(40) === 0) return world.member(some(2) > 0 ? here : there, both)
          return undefined
        })
      }
      await world.end(t)
    })

    for (const seconds of [2, 30]) {
      t.test(`Redis is stopped for ${seconds} s, with ${library}`, { buffered: true }, async (t) => {
        const world = await World.start(t, {}, { library })
        const { here, there, server } = world
        for (const rooms of [both, ['a'], ['b']]) for (const one of [here, there]) await world.member(one, rooms)
        await world.flood(20, () => undefined)
        server.process.kill('SIGSTOP')
        const sending = Array.from({ length: 20 }, (_, i) => world.say([here, there][i % 2] as never, both[i % 2] as string).then(() => true, () => false))
        await sleep(seconds * 1_000)
        server.process.kill('SIGCONT')
        const took = await Promise.all(sending)
        if (seconds === 2) t.ok(took.every(Boolean), 'all were accepted')
        await until(async () => await world.say(here, 'a').then(() => true, () => false))
        await until(async () => await world.say(there, 'b').then(() => true, () => false))
        // what was not accepted may have come, once
        for (const { fake, rooms, after } of world.members) {
          const wanted = world.accepted.filter(({ data, offset }) => rooms.includes(data[0] as string) && (offset as number) > after).sort((one, other) => (one.offset as number) - (other.offset as number))
          await until(() => heard(fake).some(({ data }) => data === wanted.at(-1)?.data))
          const got = heard(fake)
          t.strictSame(got.filter(({ data }) => wanted.some((one) => one.data === data)), wanted)
          t.equal(new Set(got.map(({ data }) => data)).size, got.length)
          t.strictSame(got.map(({ offset }) => offset), got.map(({ offset }) => offset as number).sort((one, other) => one - other))
          t.strictSame(gaps(fake), [])
        }
      })
    }

    t.test(`Redis drops a reader that is too slow, with ${library}`, { buffered: true }, async (t) => {
      const world = await World.start(t, {}, { library })
      const { here, there, relay, server } = world
      for (const one of [here, there]) await world.member(one, both)
      await server.cli('config', 'set', 'client-output-buffer-limit', 'pubsub 1mb 512kb 1')
      for (const one of [here, there]) await one.registry.room('large').send('first')
      await (world.members[0] as Member).fake.connection.join('large')
      relay.pauseSubscribers()
      for (let i = 0; i < 20; i++) {
        await world.say(there, both[i % 2] as string)
        await there.registry.room('large').send({ event: 'large', data: 'x'.repeat(1_000_000) })
      }
      await until(() => here.lines.some(({ message }) => message === 'the subscriptions to redis are lost'))
      await world.say(there, 'a')
      await world.say(here, 'b')
      await world.judge(t)
    })

    t.test(`a replica that is behind takes over, with ${library}: it is another sequence, and nobody is told that all is there`, { buffered: true }, async (t) => {
      const world = await World.start(t, { audit: 200 }, { library, areBoth: true })
      const { here, there, relay, server } = world
      const members = [await world.member(here, both), await world.member(there, both)]
      for (let i = 0; i < 10; i++) await world.say(there, both[i % 2] as string)
      const replica = await redisServer(t, undefined, ['--dir', await temporaryFolder(t)])
      await replica.cli('replicaof', '127.0.0.1', String(server.port))
      await until(async () => /master_link_status:up/.test(await replica.cli('info', 'replication')))
      await world.say(here, 'a')
      await server.cli('wait', '1', '1000')
      await replica.cli('replicaof', 'no', 'one')
      const last = [] // what the replica knows nothing of
      for (let i = 0; i < 5; i++) last.push(await world.say(there, both[i % 2] as string))
      await world.judge(t)
      const epoch = parseCursor((members[0] as Member).fake.wire.events.at(-1)?.id as string)?.epoch as string
      relay.to = replica.port
      await server.stop()
      await until(async () => await world.say(there, 'a').then(() => true, () => false))
      const again = world.accepted.at(-1)?.data
      for (const { fake } of members) {
        await until(() => heard(fake).at(-1)?.data === again)
        t.strictSame(gaps(fake), ['epoch'])
      }
      for (const offset of [1, 3, last[0]?.offset, last.at(-1)?.offset]) {
        const back = await world.returning(there, both, `${epoch}-${offset}`)
        t.strictSame(gaps(back), ['epoch'])
      }
    })
  }
})
