// The other libraries: each has its own idea of when it is ready, and of what to send again.
import t from 'tap'
import { withRedis } from '../../redis.ts'
import { makeRedis } from './brokers.ts'
import { linkFaults } from './link-faults.ts'

withRedis(t, () => {
  for (const library of ['ioredis', 'iovalkey'] as const) t.test(library, async (t) => { linkFaults(t, makeRedis, library) })
})
