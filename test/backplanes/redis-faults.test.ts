import t from 'tap'
import { faults } from '../redis-faults.ts'
import { clients, withRedis } from '../redis.ts'

withRedis(t, () => {
  for (const name of ['@redis/client', 'ioredis'] as const) t.test(name, async (t) => { faults(t, clients[name]) })
})
