// What happens to the broker itself, whichever it is. The long ones mostly wait, so they run side by side.
import type { Test } from 'tap'
import type { Broker, Make } from './brokers.ts'
import { cluster, pause } from './cluster.ts'
import { until } from '../../helper.ts'
import type { NodeConfig } from './node.ts'

export function brokerFaults (t: Test, make: Make, library: NodeConfig['library'] = '@redis/client'): void {
  t.jobs = 3
  for (const [what, time, rate, few] of [['two', 2_000, 200, {}], ['thirty', 30_000, 50, { clients: 1 }]] as const) {
    t.test(`the broker stands still for ${what} seconds`, { buffered: true }, async (t) => {
      const broker = await make(t)
      await broker.start()
      const all = await cluster(t, { broker: broker.kind, port: broker.port, library, ...few })
      await all.write(rate)
      broker.signal('SIGSTOP')
      await pause(time)
      broker.signal('SIGCONT')
      await all.returned()
      await all.settle()
      all.judge(`SIGSTOP of the broker for ${what} seconds`, { gaps: 'none' })
    })
  }

  t.test('the broker is away for half a minute', { buffered: true }, async (t) => {
    const broker = await make(t)
    await broker.start()
    const all = await cluster(t, { broker: broker.kind, port: broker.port, library, clients: 1 })
    await all.write(50)
    await broker.stop()
    await pause(25_000)
    await broker.start()
    await all.returned()
    await all.settle()
    all.judge('the broker away for 25 s', { gaps: broker.kind === 'redis' ? 'some' : 'any' })
  })

  t.test('there is no broker at the start, nor for a while', { buffered: true }, async (t) => {
    const broker = await make(t)
    const all = await cluster(t, { broker: broker.kind, port: broker.port, library, clients: 0, options: { onUnavailable: 'degrade' } })
    for (const at of [0, 1]) for (const transport of ['sse', 'ws'] as const) all.reader(at, transport)
    const early = await Promise.all(all.nodes.map((node) => node.call('send', 'early', 'a')))
    t.strictSame(early.map(({ answer }) => answer), ['refused', 'refused'], 'nobody waits for ever')
    await pause(3_000)
    await broker.start()
    await all.returned()
    await until(() => all.readers.every(({ isIn }) => isIn))
    await all.stop()
    await all.end()
    all.forget()
    await all.write(50)
    await all.settle()
    all.judge('no broker at the start', { gaps: 'any' })
  })
}

/** Ways in which a broker can lose what it kept: all are told. */
export function losses<B extends Broker> (t: Test, make: (t: Test) => Promise<B>, ways: Array<[what: string, lose: (broker: B) => Promise<unknown>]>): void {
  for (const [what, lose] of ways) {
    t.test(what, { buffered: true }, async (t) => {
      const broker = await make(t)
      const all = await cluster(t, { broker: broker.kind, port: broker.port })
      const away = all.readers[0]
      await all.write(200)
      away?.leave()
      await lose(broker)
      await all.returned()
      await all.accepted(50)
      away?.back()
      await until(() => away?.isIn)
      await all.settle()
      all.judge(what, { gaps: 'some' })
    })
  }
}
