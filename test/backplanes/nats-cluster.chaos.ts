import { connect } from '@nats-io/transport-node'
import type { NatsConnection } from '@nats-io/transport-node'
import t from 'tap'
import { until } from '../helper.ts'
import { freePort, jetstream, natsConnection, natsNode, NatsServer, withNats } from '../nats.ts'

interface Info { config?: { num_replicas: number }, cluster?: { leader: string } }

withNats(() => {
  t.test('a stream of three servers outlives the one that leads it', { timeout: 60_000 }, async (t) => {
    const names = ['one', 'two', 'three']
    const routes = await Promise.all(names.map(freePort))
    const servers = await Promise.all(names.map(async (name, index) => {
      const others = routes.filter((port) => port !== routes[index]).map((port) => `nats-route://127.0.0.1:${port}`)
      const server = new NatsServer(await freePort(), ['-n', name, '-cluster_name', 'c', '-cluster', `nats://127.0.0.1:${routes[index]}`, '-routes', others.join(',')])
      t.after(async () => { await server.stop(); server.forget() })
      await server.start()
      return server
    }))
    const raws = await Promise.all(servers.map((server) => natsConnection(t, server)))
    const info = async (raw: NatsConnection): Promise<Info | null> => await jetstream<Info>(raw, 'STREAM.INFO.app').catch(() => null)
    await until(async () => (await jetstream<{ error?: object }>(raws[0] as NatsConnection, 'INFO').catch(() => ({ error: {} }))).error === undefined)

    const urls = servers.map(({ url }) => url)
    const nodes: Array<Awaited<ReturnType<typeof natsNode>>> = []
    for (const url of urls) {
      const connection = await connect({ servers: [url, ...urls], noRandomize: true, maxReconnectAttempts: -1, reconnectTimeWait: 100 })
      t.after(() => connection.close())
      nodes.push(await natsNode(t, { connection, name: 'app', replicas: 3, onUnavailable: 'degrade', timeout: 20_000, audit: 500 }))
    }
    for (const { backplane, one } of nodes) for (const room of ['room/x', 'room/y']) await backplane.subscribe(one, room)
    for (const { send } of nodes) await until(async () => (await send('room/ready', 'x')).accepted)
    t.equal(new Set(nodes.map(({ backplane }) => backplane.epoch)).size, 1)
    t.equal((await info(raws[0] as NatsConnection))?.config?.num_replicas, 3)

    const sent = await Promise.all(Array.from({ length: 60 }, (_, i) => (nodes[i % 3] as (typeof nodes)[0]).send(`room/${'xy'[i % 2]}`, `before ${i}`)))
    for (const { accepted } of sent) t.equal(accepted, true)
    await until(() => nodes.every(({ one }) => one.got.length >= 60))
    for (const { one } of nodes) t.strictSame(one.got.map(({ offset }) => offset), sent.map(({ offset }) => offset).sort((x, y) => x - y), 'every node in one order')

    const leader = names.indexOf((await info(raws[0] as NatsConnection))?.cluster?.leader as string)
    const [here, there] = nodes.filter((_, index) => index !== leader) as [(typeof nodes)[0], (typeof nodes)[0]]
    await servers[leader]?.stop()
    const after = await Promise.all(Array.from({ length: 20 }, (_, i) => [here, there][i % 2]?.send('room/x', { id: `id ${i}`, data: `after ${i}` }, { once: true })))
    for (const answer of after) t.match(answer, { accepted: true, duplicate: false })
    for (const { backplane, one } of [here, there]) {
      const place = Math.max(...sent.map(({ offset }) => offset))
      await until(async () => (await backplane.range('room/x', place, 100).catch(() => null))?.deliveries.length === 20)
      await until(() => {
        const told = Math.max(0, ...one.gaps.map(([, offset]) => offset))
        return after.every((answer) => one.got.some(({ offset }) => offset === answer?.offset) || (answer?.offset as number) <= told)
      })
      const offsets = one.got.map(({ offset }) => offset)
      t.strictSame(offsets, [...new Set(offsets)].sort((x, y) => x - y), 'none doubled, in order')
      t.equal(one.resets, 0)
    }
  })
})
