import t from 'tap'
import { withRedis } from '../../redis.ts'
import { brokerFaults } from './broker-faults.ts'
import { makeRedis } from './brokers.ts'

withRedis(t, () => brokerFaults(t, makeRedis))
