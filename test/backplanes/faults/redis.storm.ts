import t from 'tap'
import { withRedis } from '../../redis.ts'
import { makeRedis } from './brokers.ts'
import type { Redis } from './brokers.ts'
import { seeds, storm, time } from './storm.ts'

withRedis(t, () => {
  t.jobs = 2
  for (const seed of seeds(1)) {
    storm(t, makeRedis, { seed, time })
    storm(t, makeRedis, { seed, time, library: 'ioredis', loses: (redis: Redis) => redis.empty() })
    storm(t, makeRedis, { seed, time, loses: async (redis: Redis) => { await redis.stop(); await redis.start() } })
  }
})
