import t from 'tap'
import { nats } from '../../lib/backplanes/nats.ts'
import { backplaneContract } from '../contract/backplane.ts'
import { natsConnection, natsServer, withNats } from '../nats.ts'

withNats(() => {
  t.test('nats', async (t) => {
    const server = await natsServer(t)
    let apps = 0
    backplaneContract(t, async (t) => {
      const name = `app${++apps}`
      const connections = await Promise.all(Array.from({ length: 3 }, () => natsConnection(t, server)))
      return () => nats({ connection: connections.shift() as (typeof connections)[0], name, history: { events: 100, age: 1_000_000 } })
    })
  })
})
