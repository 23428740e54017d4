import { connect } from '@nats-io/transport-node'
import type { NatsConnection } from '@nats-io/transport-node'
import t from 'tap'
import type { Test } from 'tap'
import { nats } from '../../lib/backplanes/nats.ts'
import { parseCursor } from '../../lib/event.ts'
import { connect as member, FakeEncoding, node, turn } from '../fake.ts'
import type { FakeNode } from '../fake.ts'
import { until } from '../helper.ts'
import { lossy, natsConnection, natsServer, Relay, withNats } from '../nats.ts'

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

    t.test(`who joins while it is found out what was lost waits for that, as long as it can be: ${follow}`, async (t) => {
      for (const answers of [true, false]) {
        const world = await unsure(t, follow)
        const { connection, wire } = member(world.here, { bare: false, broadcast: false, encoding: new FakeEncoding('nats') })
        const joined = connection.join(['a', 'b'])
        await world.placed()
        if (answers) world.answer()
        t.equal(await joined, true)
        world.answer()
        await world.there.registry.room('b').send('b1')
        await until(() => wire.events.some(({ data }) => data === 'b1'))
        if (!answers) continue
        const places = wire.events.map(({ id }) => parseCursor(id as string)?.offset as number)
        t.strictSame(places, [...places].sort((x, y) => x - y), 'its place only grows')
        t.equal(wire.events[0]?.event, 'ready')
        t.ok(wire.events.some(({ data }) => data === 'a1'))
      }
    })

    t.test(`who joins is given what was sent to a room that is new to the node before that was acknowledged, and after the place it is told: ${follow}`, async (t) => {
      const server = await natsServer(t)
      const late: Array<() => void> = []
      let isLate = false
      const connection = await natsConnection(t, server)
      const deaf = lossy(connection, (subject) => isLate && subject.endsWith('room/b') && follow === 'rooms') // as if the server did not know yet that it is wanted
      const here = await node(t, {}, nats({ connection: delayed(deaf, late, (subject) => isLate && subject.includes('STREAM.INFO')), name: 'app', follow }))
      const there = await node(t, {}, nats({ connection: await natsConnection(t, server), name: 'app', follow }))
      const keeper = member(here, { bare: false, broadcast: false, encoding: new FakeEncoding('nats') })
      await keeper.connection.join('a')
      await here.registry.room('a').history() // its log is known
      isLate = true
      const { connection: one, wire } = member(here, { bare: false, broadcast: false, encoding: new FakeEncoding('nats') })
      const joined = one.join(['a', 'b'])
      await until(() => late.length > 0)
      await there.registry.room('a').send('a1')
      await there.registry.room('b').send('b1')
      await connection.flush()
      await until(() => keeper.wire.events.some(({ data }) => data === 'a1'))
      isLate = false
      for (const ask of late) ask()
      t.equal(await joined, true)
      await there.registry.room('b').send('b2')
      await until(() => wire.events.some(({ data }) => data === 'b2'))
      t.strictSame(wire.events.filter(({ event }) => event !== 'ready').map(({ data }) => data), ['a1', 'b1', 'b2'])
    })
  }
})

/** A node that has lost an event of one room and looks for it, but gets no answer yet; what came in another room since waits. */
async function unsure (t: Test, follow: 'rooms' | 'all'): Promise<{ here: FakeNode, there: FakeNode, /** Who joins next has its place. */ placed (): Promise<void>, answer (): void }> {
  const server = await natsServer(t)
  const connection = await natsConnection(t, server)
  const late: Array<() => void> = []
  let loses = false
  let isLate = false
  let answers = 0
  const heard = lossy(connection, (subject) => loses && subject.includes('.d.k.'), { holds: (subject) => subject.includes('.r.') && ++answers < 0 })
  const slowed = delayed(heard, late, (subject) => isLate && subject.includes('DIRECT.GET'))
  const here = await node(t, {}, nats({ connection: slowed, name: 'app', follow, timeout: 1_000 }))
  const there = await node(t, {}, nats({ connection: await natsConnection(t, server), name: 'app', follow }))
  const { connection: keeper } = member(here, { bare: false, broadcast: false })
  await keeper.join(['a', 'c'])
  loses = isLate = true
  await there.registry.room('c').send('lost')
  await connection.flush()
  loses = false
  await there.registry.room('c').send('c2')
  await until(() => late.length > 0)
  await there.registry.room('a').send('a1')
  await there.registry.room('b').send('before')
  const before = answers
  return {
    here,
    there,
    async placed () {
      await until(() => answers === before + (follow === 'all' ? 1 : 2))
      await turn()
    },
    answer () {
      isLate = false
      for (const ask of late.splice(0)) ask()
    }
  }
}

/** A connection on which some of what is published is published when that is called. */
function delayed (connection: NatsConnection, late: Array<() => void>, isLate: (subject: string) => boolean): NatsConnection {
  return new Proxy(connection, {
    get (target, name) {
      if (name !== 'publish') return Reflect.get(target, name) as unknown
      return (...args: Parameters<NatsConnection['publish']>) => {
        if (isLate(args[0])) late.push(() => target.publish(...args))
        else target.publish(...args)
      }
    }
  })
}
