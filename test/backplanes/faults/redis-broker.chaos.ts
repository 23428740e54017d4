import t from 'tap'
import { withRedis } from '../../redis.ts'
import { brokerFaults } from './broker-faults.ts'
import { makeRedis } from './brokers.ts'

withRedis(t, () => {
  t.jobs = 2
  for (const library of ['@redis/client', 'ioredis'] as const) t.test(library, { buffered: true }, async (t) => { brokerFaults(t, makeRedis, library) })
})
