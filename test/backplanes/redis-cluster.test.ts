// A cluster of three servers: the slot of an app moves from one to another while it is used.
import { createCluster } from '@redis/client'
import t from 'tap'
import { Keys } from '../../lib/backplanes/redis-script.ts'
import { redis } from '../../lib/backplanes/redis.ts'
import { parseCursor } from '../../lib/event.ts'
import type { Backplane } from '../../types/index.ts'
import { connect, FakeEncoding, node } from '../fake.ts'
import type { Fake, FakeNode } from '../fake.ts'
import { until } from '../helper.ts'
import { clusterClient, clusterPort, clusterServer, moveSlot, redisCluster, temporaryFolder, withRedis } from '../redis.ts'

const encoding = new FakeEncoding('cluster')
const rooms = ['a', 'b']

interface Said { readonly data: string, readonly epoch: string, readonly offset: number }

withRedis(t, () => {
  t.test('the slot moves while events are sent: nothing is lost in silence', async (t) => {
    const cluster = await redisCluster(t)
    const backplanes: Backplane[] = []
    const nodes: FakeNode[] = []
    for (let i = 0; i < 2; i++) {
      const backplane = redis({ client: await clusterClient(t, cluster), audit: 250 })
      backplanes.push(backplane)
      nodes.push(await node(t, { history: { events: 10_000 } }, backplane))
    }
    const fakes: Array<[Fake, string[]]> = []
    for (const one of nodes) {
      for (const of of [rooms, ['a'], ['b']]) {
        const fake = connect(one, { bare: false, broadcast: false, encoding })
        await fake.connection.join(of)
        fakes.push([fake, of])
      }
    }
    const accepted: Said[] = []
    let count = 0
    async function say (): Promise<void> {
      const data = `${rooms[count % 2]} ${++count}`
      const { accepted: isAccepted, id } = await (nodes[count % 3 === 0 ? 1 : 0] as FakeNode).registry.room(data[0] as string).send({ event: 'n', data })
      t.equal(isAccepted, true)
      accepted.push({ data, ...parseCursor(id as string) as { epoch: string, offset: number } })
    }
    const flood = { on: true }
    const sending = (async () => {
      const all: Array<Promise<void>> = []
      while (flood.on) {
        all.push(say())
        await new Promise((resolve) => setTimeout(resolve, 3))
      }
      await Promise.all(all)
    })()
    const slot = Number(await cluster.cli(0, 'cluster', 'keyslot', new Keys('fastify-real').meta))
    for (let i = 0; i < 3; i++) {
      await until(() => accepted.length > i * 40 + 40)
      const before = accepted.length
      await moveSlot(cluster, slot)
      await until(() => accepted.length > before + 40)
    }
    flood.on = false
    t.comment('sent', accepted.length, count)
    await sending
    t.comment('accepted')
    await say()
    await say()
    t.equal(backplanes[0]?.epoch, backplanes[1]?.epoch)
    for (const [fake, of] of fakes) {
      const mine = accepted.filter(({ data }) => of.includes(data[0] as string)).sort((one, other) => one.offset - other.offset)
      const last = mine.filter(({ epoch }) => epoch === backplanes[0]?.epoch)
      await until(() => fake.wire.events.some(({ data }) => data === last.at(-1)?.data))
      // what came between two gaps is of one sequence, in its order, and at its end complete
      const stretches: Said[][] = [[]]
      for (const { event, data, id } of fake.wire.events) {
        if (event === 'gap') stretches.push([])
        else if (event === 'n') stretches.at(-1)?.push({ data: data as string, ...parseCursor(id as string) as { epoch: string, offset: number } })
      }
      for (const stretch of stretches) {
        const [first] = stretch
        if (first !== undefined) t.strictSame(stretch, mine.filter(({ epoch }) => epoch === first.epoch).slice(0, stretch.length))
      }
      t.strictSame(stretches.at(-1), last)
    }
  })

  t.test('a cluster that is not there at the start is used when it is', async (t) => {
    const [port, folder] = [await clusterPort(), await temporaryFolder(t)]
    const { cli, stop } = await clusterServer(t, port, folder)
    await cli('cluster', 'addslotsrange', '0', '16383')
    await stop('SIGTERM')
    const client = createCluster({ rootNodes: [{ url: `redis://127.0.0.1:${port}` }] })
    client.on('error', () => {})
    const lines: string[] = []
    const ear = { id: 'x', deliver () {}, missed () {}, reset () {}, log: { error () {}, warn (_: object, message: string) { lines.push(message) } } }
    await t.rejects(redis({ client, timeout: 50 }).start(ear), { message: /redis does not answer: All the root nodes are unavailable/ })
    const backplane = redis({ client, timeout: 50, audit: 100, onUnavailable: 'degrade' })
    await backplane.start(ear)
    t.strictSame(lines, ['there is no redis yet'])
    await clusterServer(t, port, folder)
    t.type(await backplane.subscribe(ear, 'room/x'), 'number')
    await backplane.close(ear)
    t.equal(client.isOpen, false)
  })
})
