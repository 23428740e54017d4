import t from 'tap'
import { withRedis } from '../../redis.ts'
import { acrossNodes } from './across.ts'
import { makeRedis } from './brokers.ts'

withRedis(t, () => acrossNodes(t, makeRedis))
