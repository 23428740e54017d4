import t from 'tap'
import { withNats } from '../../nats.ts'
import { makeNats } from './brokers.ts'
import type { Nats } from './brokers.ts'
import { seeds, storm, time } from './storm.ts'

withNats(() => {
  t.jobs = 2
  for (const seed of seeds(6)) {
    storm(t, makeNats, { seed, time })
    storm(t, makeNats, { seed, time, loses: (nats: Nats) => nats.api('STREAM.DELETE.fastify-real') })
  }
})
