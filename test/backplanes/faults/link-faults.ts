// What happens between a node and its broker, whichever it is. Much of it is waiting, so they run side by side.
import type { Test } from 'tap'
import { until } from '../../helper.ts'
import type { Make } from './brokers.ts'
import { cluster, pause } from './cluster.ts'
import type { ClusterNode } from './cluster.ts'
import type { NodeConfig } from './node.ts'
import type { Both } from './relay.ts'

type Nodes = [ClusterNode, ClusterNode]

/** A link of one node is gone for a while; nothing is to be missed. */
export function cutLink (t: Test, make: Make, side: Both, what: string, library: NodeConfig['library'] = '@redis/client'): void {
  t.test(what, { buffered: true }, async (t) => {
    const broker = await make(t)
    await broker.start()
    const all = await cluster(t, { broker: broker.kind, port: broker.port, library })
    await all.write(200)
    all.nodes[0]?.relay.set(side, 'cut')
    await pause(3_000)
    all.nodes[0]?.relay.set(side, 'open')
    await all.returned()
    await all.settle()
    all.judge(what, { gaps: 'none' })
  })
}

export function linkFaults (t: Test, make: Make, library: NodeConfig['library'] = '@redis/client'): void {
  t.jobs = 3
  cutLink(t, make, 'both', 'the link of a node is cut for three seconds', library)

  t.test('the last event is lost on the way, and then there is silence', { buffered: true }, async (t) => {
    const broker = await make(t)
    await broker.start()
    const all = await cluster(t, { broker: broker.kind, port: broker.port, library, options: { audit: 2_000 } })
    const [one, other] = all.nodes as Nodes
    await all.write(100)
    await all.accepted(50)
    await all.settle()
    other.relay.set('subscriber', 'deaf')
    if (broker.kind === 'nats') other.relay.set('both', 'deaf')
    for (const room of all.rooms) t.equal((await one.call('send', 'last', room)).answer, 'accepted')
    await pause(100)
    other.relay.set('both', 'open')
    await all.complete()
    all.judge('the last event lost, then silence', { gaps: 'none' })
  })

  t.test('a subscriber goes deaf', { buffered: true }, async (t) => {
    const broker = await make(t)
    await broker.start()
    const all = await cluster(t, { broker: broker.kind, port: broker.port, library })
    await all.write(100)
    all.nodes[0]?.relay.deafen(broker.kind === 'redis' ? 'subscriber' : 'both')
    await all.accepted(100, [all.nodes[1] as ClusterNode])
    await all.settle()
    all.judge('a deaf subscriber', { gaps: 'none' })
  })

  t.test('events are sent at the instant at which a client says that it is ready', { buffered: true }, async (t) => {
    const broker = await make(t)
    await broker.start()
    const all = await cluster(t, { broker: broker.kind, port: broker.port, library })
    const [one, other] = all.nodes as Nodes
    await one.call('sendWhenReady', 'instant', 'a', 20)
    await all.write(100)
    for (let round = 1; round <= 8; round++) {
      one.relay.reset()
      if (round % 2 === 0) other.relay.reset()
      await until(() => all.sent.filter(({ token }) => token.startsWith('instant:')).length >= 20 * round)
    }
    await all.settle()
    all.judge('sent at the instant of ready', { gaps: 'none' })
    t.ok(all.sent.some(({ token, answer }) => token.startsWith('instant:') && answer === 'accepted'))
  })

  t.test('the reply to a publication is lost', { buffered: true }, async (t) => {
    const broker = await make(t)
    await broker.start()
    const all = await cluster(t, { broker: broker.kind, port: broker.port, library })
    const [one] = all.nodes as Nodes
    await all.write(50)
    for (let round = 0; round < 10; round++) {
      const lost = one.relay.loseReply(/lost:/)
      const answers = ['a', 'b', 'a'].map((room, i) => one.call('send', 'lost', room, i < 2 ? {} : { id: `key ${round}`, once: true }))
      await lost
      for (const { answer } of await Promise.all(answers)) t.equal(answer, 'accepted')
    }
    await all.settle()
    all.judge('a lost reply', { gaps: 'none' })
  })
}
