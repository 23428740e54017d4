// What only NATS has: a store that outlives it, and a stream that others can empty or delete.
import t from 'tap'
import type { Test } from 'tap'
import { until } from '../../helper.ts'
import { withNats } from '../../nats.ts'
import { losses } from './broker-faults.ts'
import { Nats } from './brokers.ts'
import { cluster, pause, quietPort } from './cluster.ts'

async function started (t: Test): Promise<Nats> {
  const nats = new Nats(t, await quietPort())
  await nats.start()
  return nats
}

withNats(() => {
  t.jobs = 2
  t.test('NATS is killed, and started again with its store', { buffered: true }, async (t) => {
    const nats = await started(t)
    const all = await cluster(t, { broker: 'nats', port: nats.port })
    await all.write(200)
    await nats.stop()
    await pause(300)
    await nats.start()
    await all.returned()
    await all.settle()
    all.judge('restart with its store', { gaps: 'any' }) // it may have acknowledged what it had not written yet
  })

  losses(t, started, [
    ['NATS is started again without its store', async (nats) => {
      await nats.stop()
      nats.forget()
      await nats.start()
    }],
    ['the stream is deleted', (nats) => nats.api('STREAM.DELETE.fastify-real')]
  ])

  t.test('the stream is purged', { buffered: true }, async (t) => {
    const nats = await started(t)
    const all = await cluster(t, { broker: 'nats', port: nats.port })
    const [away] = all.readers
    await all.write(200)
    away?.leave()
    await all.accepted(50)
    await nats.empty()
    await all.accepted(50)
    const third = await all.node() // the others may have read what was there
    await third.started()
    away?.back(2)
    await until(() => away?.isIn)
    await all.returned()
    await all.settle()
    all.judge('a purged stream', { gaps: 'any' })
    t.strictSame([...new Set(away?.gaps)], ['trimmed'], 'who needs it is told')
    t.strictSame(all.readers.slice(1).flatMap(({ gaps }) => gaps), [], 'and nobody else')
  })
})
