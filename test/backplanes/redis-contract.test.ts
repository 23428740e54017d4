import t from 'tap'
import type { Test } from 'tap'
import { redis } from '../../lib/backplanes/redis.ts'
import type { RedisOptions } from '../../lib/backplanes/redis.ts'
import { backplaneContract } from '../contract/backplane.ts'
import { clients, clusterClient, redisCluster, redisServer, withRedis } from '../redis.ts'

withRedis(t, () => {
  for (const [name, make] of Object.entries(clients)) {
    t.test(name, async (t) => {
      const { port } = await redisServer(t)
      suite(t, (t) => make(t, port))
    })
  }

  t.test('a cluster, with @redis/client', async (t) => {
    const cluster = await redisCluster(t)
    suite(t, (t) => clusterClient(t, cluster))
  })
})

function suite (t: Test, client: (t: Test) => Promise<RedisOptions['client']>): void {
  let prefixes = 0
  backplaneContract(t, async (t) => {
    const prefix = `contract-${++prefixes}`
    const given = [await client(t), await client(t), await client(t)]
    return () => redis({ client: given.shift() ?? given[0] as never, prefix })
  })
}
