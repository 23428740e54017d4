// What happens to a node, whichever its broker is.
import type { Test } from 'tap'
import { until } from '../../helper.ts'
import type { Make } from './brokers.ts'
import { cluster, pause } from './cluster.ts'
import type { ClusterNode } from './cluster.ts'

type Nodes = [ClusterNode, ClusterNode]

export function nodeFaults (t: Test, make: Make): void {
  t.test('a node is killed under 2,000 events a second, and its clients go on at the others', async (t) => {
    const broker = await make(t)
    await broker.start()
    const all = await cluster(t, { broker: broker.kind, port: broker.port, nodes: 3 })
    await all.write(700)
    await pause(500)
    await all.nodes[0]?.kill()
    await all.accepted(1_000)
    await all.settle()
    all.judge('SIGKILL of a node', { gaps: 'none' })
    t.ok(all.readers.filter(({ name }) => name.endsWith('node 0')).every(({ visits }) => visits > 1), 'they came back')
  })

  t.test('a node is killed before anything it sent was answered', async (t) => {
    const broker = await make(t)
    await broker.start()
    const all = await cluster(t, { broker: broker.kind, port: broker.port, clients: 1 })
    const [one, other] = all.nodes as Nodes
    other.relay.set('both', 'deaf')
    const sending = other.call('send', 'lone', 'a')
    await until(() => all.readers.some(({ tokens }) => tokens.length > 0))
    await Promise.all([t.rejects(sending), other.kill()])
    await one.call('send', 'left', 'a')
    await all.settle()
    all.judge('SIGKILL of a node without an answer', { gaps: 'none' })
  })

  t.test('clients go to a node that lags behind, and back', async (t) => {
    const broker = await make(t)
    await broker.start()
    const all = await cluster(t, { broker: broker.kind, port: broker.port })
    const [, slow] = all.nodes as Nodes
    await all.write(300)
    slow.relay.delay.subscriber = 400
    await pause(600)
    for (let round = 0; round < 6; round++) {
      if (round % 2 === 0) void slow.call('block', 500)
      for (const [i, reader] of all.readers.entries()) if (i % 3 === round % 3) reader.leave((round + i) % 2)
      await all.accepted(100, [all.nodes[0] as ClusterNode])
    }
    slow.relay.delay.subscriber = 0
    await all.settle()
    all.judge('a lagging node', { gaps: 'none' })
  })

  t.test('a room beside a busy one loses nothing, however small the history is', async (t) => {
    const broker = await make(t)
    await broker.start()
    const all = await cluster(t, { broker: broker.kind, port: broker.port, clients: 0, rooms: ['quiet'], connections: { history: { events: 50 } } })
    for (const at of [0, 1, 0, 1]) for (const transport of ['sse', 'ws'] as const) all.reader(at, transport)
    await until(() => all.readers.every(({ isIn }) => isIn))
    await all.write(700, all.nodes, ['busy'])
    for (let i = 0; i < 30; i++) {
      const leaving = all.readers[i % all.readers.length]
      leaving?.leave()
      await all.nodes[i % 2]?.call('send', `q${i % 2}`, 'quiet')
      await pause(30)
      leaving?.back(i % 2)
    }
    await all.stop()
    await until(() => all.readers.every(({ isIn }) => isIn))
    await all.settle()
    all.judge('a busy neighbour', { gaps: 'none' })
  })

  t.test('a node stands still for longer than its lease, and wakes', async (t) => {
    const broker = await make(t)
    await broker.start()
    const all = await cluster(t, { broker: broker.kind, port: broker.port, connections: { presence: { timeout: 1_500 } }, clients: 1 })
    const watcher = all.reader(1, 'sse', { watches: '' }, ['hall'])
    const keys = ['ada', 'bob']
    for (const [at, key] of keys.entries()) all.reader(at, 'ws', { key }, ['hall'])
    const sees = (...keys: string[]) => async () => (await all.nodes[1]?.call('presence', 'hall'))?.map(({ key }) => key).sort().join() === keys.join()
    await until(sees('ada', 'bob'))
    await until(() => watcher.changes('snapshot', 'ada') + watcher.changes('joined', 'ada') > 0)
    const before = watcher.changes('joined', 'ada')
    await all.write(100)
    all.nodes[0]?.signal('SIGSTOP')
    await until(sees('bob'))
    await pause(2_000)
    all.nodes[0]?.signal('SIGCONT')
    await until(sees('ada', 'bob'))
    await until(async () => (await all.nodes[0]?.call('presence', 'hall'))?.length === 2)
    await all.returned()
    await all.settle()
    all.judge('a node that was frozen', { gaps: 'none' })
    await until(() => watcher.changes('joined', 'ada') === before + 1)
    t.strictSame([watcher.changes('left', 'ada'), watcher.changes('left', 'bob')], [1, 0])
  })

  t.test('the clock of a node jumps, forwards and back', async (t) => {
    const broker = await make(t)
    await broker.start()
    const all = await cluster(t, { broker: broker.kind, port: broker.port, connections: { presence: { timeout: 1_500 } } })
    const watcher = all.reader(1, 'sse', { watches: '' }, ['hall'])
    all.reader(0, 'ws', { key: 'ada' }, ['hall'])
    await until(() => watcher.changes('joined', 'ada') + watcher.changes('snapshot', 'ada') > 0)
    await all.write(200)
    for (const [at, milliseconds] of [[0, 3_600_000], [0, -7_200_000], [1, 3_600_000 * 24 * 400]] as const) {
      await all.nodes[at]?.call('jump', milliseconds)
      await all.accepted(50)
      for (const [i, reader] of all.readers.entries()) if (i % 4 === 0 && reader.rooms.length > 1) reader.leave(i % 8 === 0 ? 0 : 1)
      await all.accepted(100)
    }
    await pause(2_000)
    await all.returned()
    await all.settle()
    all.judge('a clock that jumps', { gaps: 'none' })
    t.equal(watcher.changes('left', 'ada'), 0)
  })
}
