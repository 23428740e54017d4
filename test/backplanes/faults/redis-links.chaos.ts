import t from 'tap'
import { withRedis } from '../../redis.ts'
import { makeRedis } from './brokers.ts'
import { linkFaults } from './link-faults.ts'

withRedis(t, () => linkFaults(t, makeRedis))
