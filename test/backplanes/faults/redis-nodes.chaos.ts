import t from 'tap'
import { withRedis } from '../../redis.ts'
import { makeRedis } from './brokers.ts'
import { nodeFaults } from './node-faults.ts'

withRedis(t, () => nodeFaults(t, makeRedis))
