import t from 'tap'
import { withNats } from '../../nats.ts'
import { acrossNodes } from './across.ts'
import { makeNats } from './brokers.ts'

withNats(() => acrossNodes(t, makeNats))
