import t from 'tap'
import type { Test } from 'tap'
import { redisServer, withRedis } from '../../redis.ts'
import type { RedisServer } from '../../redis.ts'
import { cluster, pause, quietPort } from './cluster.ts'
import { guard } from './guard.ts'

async function broker (t: Test, port?: number, args: string[] = []): Promise<RedisServer> {
  const server = await redisServer(t, port ?? await quietPort(), args)
  guard(server.process)
  return server
}

withRedis(t, () => {
  t.test('a node is killed under 2,000 events a second, and its clients go on at the other', async (t) => {
    const { port } = await broker(t)
    const all = await cluster(t, { broker: 'redis', port, nodes: 3 })
    await all.write(700)
    await pause(500)
    await all.nodes[0]?.kill()
    await all.accepted(1_000)
    await all.settle()
    all.judge('SIGKILL of a node', { gaps: 'none' })
    t.ok(all.readers.filter(({ name }) => name.endsWith('node 0')).every(({ visits }) => visits > 1))
  })

  t.test('Redis is started again without what it had', async (t) => {
    const server = await broker(t)
    const all = await cluster(t, { broker: 'redis', port: server.port })
    await all.write(200)
    await server.stop()
    await pause(300)
    await broker(t, server.port)
    await all.returned()
    await all.settle()
    all.judge('restart without persistence', { gaps: 'some' })
  })

  t.test('the subscriber link is cut for three seconds, and the publisher link stays', async (t) => {
    const { port } = await broker(t)
    const all = await cluster(t, { broker: 'redis', port })
    await all.write(200)
    all.nodes[0]?.relay.set('subscriber', 'cut')
    await pause(3_000)
    all.nodes[0]?.relay.set('subscriber', 'open')
    await all.returned()
    await all.settle()
    all.judge('subscriber link cut', { gaps: 'none' })
  })
})
