import { connect } from '@nats-io/transport-node'
import t from 'tap'
import { nats } from '../../lib/backplanes/nats.ts'
import { parseCursor } from '../../lib/event.ts'
import { connect as member, FakeEncoding, node } from '../fake.ts'
import { until } from '../helper.ts'
import { natsConnection, natsServer, Relay, withNats } from '../nats.ts'

const pause = (milliseconds: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, milliseconds))
const random = (below: number): number => Math.floor(Math.random() * below)

withNats(() => {
  for (const follow of ['all', 'rooms'] as const) {
    t.test(`a node whose link is cut under traffic gives members of two rooms everything once, in order: ${follow}`, async (t) => {
      const server = await natsServer(t)
      const relay = await new Relay(server.port).start(t)
      const encoding = new FakeEncoding('nats')
      const cut = await connect({ servers: relay.url, timeout: 500, maxReconnectAttempts: -1, reconnectTimeWait: 10, reconnectJitter: 10 }) // a loss during its handshake it notices only by the timeout
      t.after(() => cut.close())
      const history = { events: 10_000, bytes: 100_000_000 }
      const here = await node(t, { history }, nats({ connection: cut, name: 'app', follow }))
      const there = await node(t, { history }, nats({ connection: await natsConnection(t, server), name: 'app', follow }))
      const both = member(here, { bare: false, encoding })
      const one = member(here, { bare: false, encoding })
      t.equal(await both.connection.join(['a', 'b']), true)
      t.equal(await one.connection.join('b'), true)

      const accepted: Array<{ room: string, id: string }> = [] // what the stream has, as the sender was told
      const traffic = { on: true }
      const flood = (async () => {
        while (traffic.on) {
          const batch = Array.from({ length: 1 + random(4) }, () => 'ab'[random(2)] as string)
          for (const [index, receipt] of (await Promise.all(batch.map((room) => there.registry.room(room).send({ event: 'n', data: room })))).entries()) {
            t.equal(receipt.accepted, true)
            accepted.push({ room: batch[index] as string, id: receipt.id as string })
          }
          await pause(random(4))
        }
      })()
      for (let cuts = 0; cuts < 6; cuts++) {
        await pause(30 + random(120))
        relay.cut()
        await pause(random(120))
        relay.isCut = false
      }
      await until(() => !cut.isClosed() && here.registry.room('a').size === 1)
      traffic.on = false
      await flood
      const offset = (id: string | undefined): number => parseCursor(id as string)?.offset as number
      accepted.sort((x, y) => offset(x.id) - offset(y.id))
      const idsOf = ({ wire }: typeof both): Array<string | undefined> => wire.events.filter(({ event }) => event === 'n').map(({ id }) => id)
      await until(() => idsOf(both).length >= accepted.length)
      t.ok(accepted.length > 50, `${accepted.length} events`)
      t.strictSame(idsOf(both), accepted.map(({ id }) => id))
      const own = accepted.filter(({ room }) => room === 'b').map(({ id }) => id)
      await until(() => idsOf(one).length >= own.length)
      t.strictSame(idsOf(one), own)
      for (const { wire } of [both, one]) t.strictSame(wire.events.filter(({ event }) => event === 'gap'), [])
    })
  }
})
