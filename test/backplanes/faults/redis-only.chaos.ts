// What only Redis has: keys that can be evicted, replicas that lag, limits of its output.
import t from 'tap'
import type { Test } from 'tap'
import { until } from '../../helper.ts'
import { withRedis } from '../../redis.ts'
import { losses } from './broker-faults.ts'
import { makeRedis, Redis } from './brokers.ts'
import { cluster, pause, quietPort } from './cluster.ts'
import type { Cluster, ClusterNode } from './cluster.ts'
import { cutLink } from './link-faults.ts'
import { Relay } from './relay.ts'

async function started (t: Test, args: string[] = []): Promise<Redis> {
  const redis = new Redis(t, await quietPort(), args)
  await redis.start()
  return redis
}

withRedis(t, () => {
  t.jobs = 2
  t.test('Redis is started again without what it had', { buffered: true }, async (t) => {
    const redis = await started(t)
    const all = await cluster(t, { broker: 'redis', port: redis.port })
    await all.write(200)
    await redis.stop()
    await pause(300)
    await redis.start()
    await all.returned()
    await all.settle()
    all.judge('restart without persistence', { gaps: 'some' })
  })

  cutLink(t, makeRedis, 'subscriber', 'the subscriber link is cut for three seconds, and the publisher link stays')
  cutLink(t, makeRedis, 'publisher', 'the publisher link is cut for three seconds, and the subscriber link stays')

  losses(t, started, [
    ['everything is flushed', (redis) => redis.empty()],
    ['only what says where the sequence is was evicted', (redis) => redis.evict('*:meta')]
  ])

  t.test('only the stream of a room was evicted', { buffered: true }, async (t) => {
    const redis = await started(t)
    const all = await cluster(t, { broker: 'redis', port: redis.port })
    const [away, ...others] = all.readers
    await all.write(200)
    away?.leave()
    await all.accepted(50)
    await redis.evict('*s:room/a')
    await all.accepted(50)
    away?.back(1)
    await until(() => away?.isIn)
    await all.returned()
    await all.settle()
    all.judge('only a stream evicted', { gaps: 'any' })
    t.strictSame([[...new Set(away?.gaps)], others.flatMap(({ gaps }) => gaps)], [['trimmed'], []], 'who needs it is told, and nobody else')
  })

  t.test('a replica is promoted behind the old master', { buffered: true }, async (t) => {
    const master = await started(t)
    const link = await new Relay(master.port).start(t)
    const replica = await started(t, ['--replicaof', '127.0.0.1', String(link.port)])
    await until(async () => String(await master.do('INFO', 'replication')).includes('state=online'))
    const all = await cluster(t, { broker: 'redis', port: master.port })
    const away = all.readers[0]
    await all.write(200)
    await all.accepted(100)
    link.set('both', 'frozen')
    await all.accepted(100)
    away?.leave()
    const lengths = await Promise.all([master, replica].map(async (redis) => Number(await redis.do('XLEN', '{fastify-real}:s:room/a'))))
    t.ok((lengths[0] as number) - (lengths[1] as number) > 50, `it is behind: ${lengths[1]} of ${lengths[0]} events`)
    await replica.do('REPLICAOF', 'NO', 'ONE')
    await master.stop()
    turn(all, replica.port)
    await all.returned()
    await all.accepted(300) // past the place where the old one was
    away?.back()
    await until(() => away?.isIn)
    await all.settle()
    all.judge('a replica promoted behind the old master', { gaps: 'some' })
  })

  t.test('the limit of the output buffer of pub/sub is hit', { buffered: true }, async (t) => {
    const redis = await started(t, ['--client-output-buffer-limit', 'pubsub 256kb 128kb 1'])
    const all = await cluster(t, { broker: 'redis', port: redis.port, clients: 1 })
    await all.write(100, all.nodes, all.rooms, 30_000)
    const before = await redis.do('CLIENT', 'LIST', 'TYPE', 'pubsub') // here: once the link is frozen it may be cut before anybody looks
    all.nodes[0]?.relay.set('subscriber', 'frozen')
    await until(async () => count(await redis.do('CLIENT', 'LIST', 'TYPE', 'pubsub')) < count(before))
    await all.quiet() // megabytes wait for it already
    all.nodes[0]?.relay.set('subscriber', 'open')
    await all.returned()
    await all.settle()
    all.judge('the pub/sub output buffer limit', { gaps: 'none' })
  })
})

function count (list: unknown): number { return String(list).trim().split('\n').length }

function turn (all: Cluster, port: number): void {
  for (const { relay } of all.nodes as ClusterNode[]) {
    relay.target = port
    relay.reset()
  }
}
