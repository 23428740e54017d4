import t from 'tap'
import { withNats } from '../../nats.ts'
import { makeNats } from './brokers.ts'
import { nodeFaults } from './node-faults.ts'

withNats(() => nodeFaults(t, makeNats))
