// What works across nodes: presence, and reaching a connection or a user wherever it is.
import type { Test } from 'tap'
import { until } from '../../helper.ts'
import type { Make } from './brokers.ts'
import { cluster, pause, within } from './cluster.ts'
import type { Cluster, ClusterNode } from './cluster.ts'

const SECOND = 1_000 // within which a user is gone everywhere
const TIMEOUT = 2_000 // of presence

async function members (all: Cluster, room: string): Promise<Array<Array<{ id: string, user: string | null }>>> {
  return await Promise.all(all.nodes.map((node) => node.call('members', room)))
}

export function acrossNodes (t: Test, make: Make): void {
  t.test('who was on a node that is killed is gone for everybody, once, and nobody else blinks', async (t) => {
    const broker = await make(t)
    await broker.start()
    const all = await cluster(t, { broker: broker.kind, port: broker.port, nodes: 3, clients: 0, connections: { presence: { timeout: TIMEOUT } } })
    const watchers = [1, 2].flatMap((at) => (['sse', 'ws'] as const).map((transport) => all.reader(at, transport, { watches: '' }, ['hall'])))
    // bob has a connection on the node that is killed and one elsewhere
    const places: Array<[key: string, at: number]> = [['ada', 0], ['eve', 0], ['bob', 0], ['bob', 1], ['cy', 1], ['dan', 2]]
    const crowd = places.map(([key, at], i) => all.reader(at, i % 2 === 0 ? 'ws' : 'sse', { key }, ['hall']))
    await until(() => [...watchers, ...crowd].every(({ isIn }) => isIn))
    const present = async (): Promise<string[]> => await Promise.all(all.nodes.filter(({ isGone }) => !isGone).map(async (node) => (await node.call('presence', 'hall')).map(({ key }) => key).sort().join()))
    await until(async () => (await present()).every((keys) => keys === 'ada,bob,cy,dan,eve'))
    for (const reader of crowd.slice(0, 3)) reader.stays()
    await all.write(200, all.nodes, ['load'])
    const since = performance.now()
    await all.nodes[0]?.kill()
    const isGone = await within(1.25 * TIMEOUT, async () => (await present()).every((keys) => keys === 'bob,cy,dan'))
    const after = Math.round(performance.now() - since)
    t.ok(isGone, `gone everywhere ${after} ms after the node was killed, with a timeout of ${TIMEOUT} ms`)
    await until(() => watchers.every((watcher) => watcher.changes('left', 'ada') > 0 && watcher.changes('left', 'eve') > 0))
    await pause(TIMEOUT) // for what should not come
    for (const watcher of watchers) t.strictSame(['ada', 'eve', 'bob', 'cy', 'dan'].map((key) => watcher.changes('left', key)), [1, 1, 0, 0, 0], watcher.name)
    t.comment(`presence: gone for everybody after ${after} ms (timeout ${TIMEOUT} ms)`)
  })

  t.test('a user is ended on every node within a second, and nobody else is', async (t) => {
    const broker = await make(t)
    await broker.start()
    const all = await cluster(t, { broker: broker.kind, port: broker.port, nodes: 3, clients: 0 })
    const of = (user: string): ReturnType<Cluster['reader']>[] => [0, 1, 2].flatMap((at) => (['sse', 'ws'] as const).map((transport) => all.reader(at, transport, { user })))
    const [ada, bob] = [of('ada'), of('bob')]
    await until(() => all.readers.every(({ isIn }) => isIn))
    for (const reader of ada) reader.stays()
    const since = performance.now()
    await all.nodes[1]?.call('disconnect', 'ada', 'over')
    const isOver = await within(SECOND, () => ada.every(({ isIn }) => !isIn))
    t.ok(isOver, `ended on three nodes after ${Math.round(performance.now() - since)} ms`)
    t.comment(`user(id).disconnect(): ended on three nodes after ${Math.round(performance.now() - since)} ms`)
    t.strictSame(bob.flatMap(({ ends }) => ends), [])
    t.ok(bob.every(({ isIn }) => isIn))
  })

  t.test('send, close and leave by id reach a connection on whichever node it is, and except is matched on every node', async (t) => {
    const broker = await make(t)
    await broker.start()
    const all = await cluster(t, { broker: broker.kind, port: broker.port, nodes: 3, clients: 0 })
    const readers = [0, 1, 2].flatMap((at) => (['sse', 'ws'] as const).map((transport) => all.reader(at, transport, { user: `${transport}${at}` }, ['a'])))
    await until(() => readers.every(({ isIn }) => isIn))
    for (const reader of readers) reader.stays()
    const here = (await members(all, 'a')).flat()
    const idOf = (user: string): string => here.find((one) => one.user === user)?.id as string
    const by = (user: string): ReturnType<Cluster['reader']> => readers[Number(user.at(-1)) * 2 + (user.startsWith('ws') ? 1 : 0)] as never
    const [one] = all.nodes as [ClusterNode]

    for (const { user, id } of here) {
      t.equal(await one.call('sendTo', id, `direct to ${user}`), true)
      await until(() => by(user as string).tokens.includes('direct'))
    }
    t.ok(readers.every(({ tokens }) => tokens.length === 1), 'each had its own')
    t.equal(await one.call('sendTo', 'nobody', 'x'), false)

    const spared = ['sse1', 'ws2', 'ws0']
    const sent = await one.call('send', 'except', 'a', { except: [idOf('sse1'), { user: 'ws2' }, idOf('ws0')] })
    const to = await one.call('send', 'everybody', 'a')
    await until(() => readers.every(({ tokens }) => tokens.includes(to.token)))
    t.strictSame(readers.filter(({ tokens }) => !tokens.includes(sent.token)), spared.map(by).sort((a, b) => readers.indexOf(a) - readers.indexOf(b)))

    t.equal(await one.call('leave', idOf('ws1'), 'a'), true)
    await until(async () => (await members(all, 'a')).flat().length === 5)
    const without = await one.call('send', 'without', 'a')
    await until(() => readers.filter(({ tokens }) => tokens.includes(without.token)).length === 5)
    t.ok(by('ws1').isIn && !by('ws1').tokens.includes(without.token))

    for (const user of ['sse2', 'ws0']) {
      t.equal(await one.call('close', idOf(user), 'over'), true)
      await until(() => by(user).ends.length === 1)
    }
    t.equal(await one.call('close', idOf('sse2'), 'again'), false)
    t.strictSame(readers.filter(({ ends }) => ends.length > 0), [by('ws0'), by('sse2')])
  })
}
