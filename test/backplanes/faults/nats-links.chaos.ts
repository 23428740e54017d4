import t from 'tap'
import { withNats } from '../../nats.ts'
import { makeNats } from './brokers.ts'
import { linkFaults } from './link-faults.ts'

withNats(() => linkFaults(t, makeNats))
