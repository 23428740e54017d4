import t from 'tap'
import { withNats } from '../../nats.ts'
import { brokerFaults } from './broker-faults.ts'
import { makeNats } from './brokers.ts'

withNats(() => brokerFaults(t, makeNats))
