import { connect, headers } from '@nats-io/transport-node'
import type { Msg, NatsConnection } from '@nats-io/transport-node'
import t from 'tap'
import { encodeParcel } from '../../lib/parcel.ts'
import { toEvent } from '../../lib/event.ts'
import { connections } from '../../lib/index.ts'
import { nats } from '../../lib/backplanes/nats.ts'
import { Link } from '../../lib/backplanes/nats-link.ts'
import { checkNats } from '../../lib/backplanes/nats-options.ts'
import { EventStream } from '../../lib/backplanes/nats-stream.ts'
import Fastify from 'fastify'
import { node } from '../fake.ts'
import { until } from '../helper.ts'
import { ear, jetstream, kept, lossy, natsConnection, natsNode, natsServer, withNats } from '../nats.ts'
import type { Delivery, Place, Range } from '../../types/index.ts'
import type { Backplane } from '../../types/index.ts'

interface Info { config: Record<string, unknown> & { subjects: string[] }, state: { last_seq: number } }

async function texts (backplane: Backplane, topic: string, after: Place = 0): Promise<[texts: Array<string | undefined>, complete: boolean]> {
  const { deliveries, complete } = await backplane.range(topic, after, 1_000)
  return [deliveries.map(({ event }) => event.text), complete]
}

withNats(() => {
  t.test('a node over NATS', async (t) => {
    const server = await natsServer(t)
    const raw = await natsConnection(t, server)
    let apps = 0
    const app = (): string => `app${++apps}`
    const info = (name: string): Promise<Info> => jetstream<Info>(raw, `STREAM.INFO.${name}`)

    t.test('the stream keeps of every room what connections wants to keep, and remembers for an hour what was before', async (t) => {
      const name = app()
      const node = ear({ events: 7, bytes: 1_000, age: 60_000 })
      const backplane = nats({ connection: raw, name, history: { totalBytes: 1_000_000 } })
      t.after(() => backplane.close(node))
      await backplane.start(node)
      const { config } = await info(name)
      t.match(config, {
        subjects: [`${name}.k.${backplane.epoch}.>`],
        republish: { src: `${name}.k.>`, dest: `${name}.d.k.>` },
        max_msgs_per_subject: 8,
        max_age: 3_600e9,
        max_bytes: 1_000_000,
        duplicate_window: 60e9,
        discard: 'old',
        storage: 'file',
        num_replicas: 1,
        allow_direct: true
      })
      await backplane.start(ear({ events: 7, bytes: 1_000, age: 60_000 }))
      await t.rejects(backplane.start(ear({ events: 8, bytes: 1_000, age: 60_000 })), { code: 'FST_ERR_REAL_OPTION' })
    })

    t.test('a node that starts while the last one ends is one like any other', async (t) => {
      const [one, two] = [ear(), ear()]
      const made: NatsConnection[] = []
      const backplane = nats({ name: app(), connection: async (safe) => { made.push(await connect({ servers: server.url, ...safe })); return made.at(-1) as NatsConnection } })
      await backplane.start(one)
      const ending = backplane.close(one)
      await backplane.start(two)
      await ending
      await backplane.subscribe(two, 'room/x')
      t.match(await backplane.publish('room/x', { event: toEvent('said', { maxBytes: Infinity }), except: null }, { keep: kept, once: false }), { accepted: true })
      t.strictSame(two.texts(), ['said'])
      await backplane.close(two)
      t.strictSame(made.map((connection) => connection.isClosed()), [true, true])
    })

    t.test('a history beyond the bounds of the stream is refused at boot', async (t) => {
      const boot = async (history: object | (() => object), own?: object): Promise<string> => {
        const fastify = Fastify()
        t.after(() => fastify.close())
        try {
          await fastify.register(connections, { history: history as never, backplane: nats({ connection: raw, name: app(), ...own }) })
          return 'it started'
        } catch (err) {
          return `${(err as { code: string }).code} ${(err as Error).message}`
        }
      }
      t.match(await boot({ events: 20 }, { history: { events: 10 } }), /^FST_ERR_REAL_BACKPLANE .*history\.events \(20\) is more than the stream keeps of a room: raise nats\.history\.events \(10\)/)
      t.match(await boot({ age: 20_000 }, { history: { age: 10_000 } }), /history\.age \(20000\)/)
      t.match(await boot(() => ({ events: 5 })), /nats\.history must say events and age/)
      t.equal(await boot(() => ({ events: 5 }), { history: { events: 10, age: 1_000 } }), 'it started')
      t.equal(await boot({ events: 10 }, { history: { events: 10 } }), 'it started')
      t.equal(await boot({ events: 10 }), 'it started')
    })

    t.test('another stream of that name is not touched', async (t) => {
      const name = app()
      await jetstream(raw, `STREAM.CREATE.${name}`, { name, subjects: [`${name}.mine`] })
      await t.rejects(nats({ connection: raw, name }).start(ear()), { code: 'FST_ERR_REAL_BACKPLANE', message: /not of fastify-real/ })
      t.strictSame((await info(name)).config.subjects, [`${name}.mine`])
      const empty = app()
      await jetstream(raw, `STREAM.CREATE.${empty}`, { name: empty, description: 'fastify-real 0', mirror: { name } })
      await t.rejects(nats({ connection: raw, name: empty }).start(ear()), /not of fastify-real/)
    })

    t.test('more is kept by another epoch, less by the same one', async (t) => {
      const name = app()
      const epochs: string[] = []
      for (const events of [5, 10, 10, 3]) {
        const { backplane, one, send } = await natsNode(t, { connection: raw, name, history: { events } })
        epochs.push(backplane.epoch)
        for (let i = 0; i < 12; i++) await send('room/x', String(i))
        await backplane.close(one)
      }
      t.not(epochs[1], epochs[0], 'nobody can tell what ten would have kept')
      t.strictSame(epochs.slice(2), [epochs[1], epochs[1]])
      const { backplane } = await natsNode(t, { connection: raw, name, history: { events: 3 } })
      t.strictSame(await texts(backplane, 'room/x', null), [['9', '10', '11'], false])
    })

    t.test('what is gone for number is told, up to the last that is not', async (t) => {
      const name = app()
      const { send } = await natsNode(t, { connection: raw, name, history: { events: 5 } })
      const offsets: number[] = []
      for (let i = 0; i < 8; i++) offsets.push((await send('room/x', String(i))).offset)
      const late = await natsNode(t, { connection: await natsConnection(t, server), name, history: { events: 5 } })
      for (const subscribed of [false, true]) {
        if (subscribed) await late.backplane.subscribe(late.one, 'room/x')
        t.strictSame(await texts(late.backplane, 'room/x', null), [['3', '4', '5', '6', '7'], false])
        t.strictSame(await texts(late.backplane, 'room/x', offsets[2]), [['3', '4', '5', '6', '7'], true])
        t.strictSame(await texts(late.backplane, 'room/x', offsets[1]), [['3', '4', '5', '6', '7'], false])
      }
    })

    t.test('a busy room takes nothing from a quiet one, until all that the stream may have is full', async (t) => {
      const name = app()
      const small = { connection: raw, name, history: { events: 50, totalBytes: 100_000 } }
      const { send } = await natsNode(t, small)
      const { offset } = await send('room/quiet', 'quiet')
      for (let i = 0; i < 300; i++) await send('room/busy', String(i))
      const late = await natsNode(t, { ...small, connection: await natsConnection(t, server) })
      t.strictSame(await texts(late.backplane, 'room/quiet', offset), [[], true])
      t.strictSame(await texts(late.backplane, 'room/quiet', 0), [['quiet'], true])
      for (let i = 0; i < 40; i++) await send(`room/big ${i}`, 'x'.repeat(5_000))
      t.strictSame(await texts(late.backplane, 'room/quiet', offset), [[], false], 'nobody can tell that nothing followed it')
      t.strictSame(await texts(late.backplane, 'room/never', 0), [[], false])
    })

    t.test('what a room keeps within the bounds of the stream travels with its events; more is refused', async (t) => {
      const name = app()
      const { send } = await natsNode(t, { connection: raw, name, history: { events: 5 } })
      for (let i = 0; i < 9; i++) await send('room/few', String(i), { keep: { ...kept, events: 2 } })
      for (const keep of [{ ...kept, events: 6 }, { ...kept, events: 5, age: 120_001 }]) await t.rejects(send('room/many', 'x', { keep }), { code: 'FST_ERR_REAL_OPTION', message: /is more than the stream keeps of a room: raise nats\.history/ })
      const late = await natsNode(t, { connection: await natsConnection(t, server), name, history: { events: 5 } })
      t.strictSame((await texts(late.backplane, 'room/few', null))[0], ['7', '8'])
    })

    t.test('a log is read once, and what comes is added; whoever has seen more than has come here is read for', async (t) => {
      const name = app()
      const a = await natsNode(t, { connection: raw, name })
      const eaten = { on: false }
      const b = await natsNode(t, { connection: lossy(await natsConnection(t, server), (subject) => eaten.on && subject.includes('.d.')), name })
      await b.backplane.subscribe(b.one, 'room/x')
      await a.send('room/x', { data: 'one', id: 'first' })
      await until(() => b.one.got.length >= 1)
      const reads = await Promise.all([texts(b.backplane, 'room/x'), texts(b.backplane, 'room/x'), a.send('room/x', 'two')])
      t.ok(reads[0][0].length >= 1)
      await until(() => b.one.got.length >= 2)
      t.strictSame(await texts(b.backplane, 'room/x'), [['one', 'two'], true])
      t.strictSame(await texts(b.backplane, 'room/x', { id: 'first' }), [['two'], true])
      eaten.on = true
      const { offset } = await a.send('room/x', { data: 'three', id: 'third' })
      t.strictSame((await b.backplane.range('room/x', offset, 10)).top, offset)
      t.strictSame(await texts(b.backplane, 'room/x', { id: 'third' }), [[], true])
      eaten.on = false
      await a.send('room/x', 'four')
      await until(() => b.one.got.length >= 3)
      t.equal((b.one.got[2] as Delivery).prev, offset, 'the node sees that it has missed one')
      t.strictSame(await texts(b.backplane, 'room/x'), [['one', 'two', 'three', 'four'], true])
    })

    t.test('what is lost on the way is found when it is looked for', async (t) => {
      const name = app()
      const a = await natsNode(t, { connection: raw, name })
      const eaten = { on: false }
      const b = await natsNode(t, { connection: lossy(await natsConnection(t, server), (subject) => eaten.on && subject.includes('.d.')), name, audit: 50 })
      await b.backplane.subscribe(b.one, 'room/x')
      await b.backplane.subscribe(b.one, 'room/silent')
      await a.send('room/x', 'one')
      await until(() => b.one.got.length >= 1)
      eaten.on = true
      const { offset } = await a.send('room/x', 'last')
      await until(() => b.one.gaps.length > 0)
      t.strictSame(b.one.gaps, [['room/x', offset]])
      t.strictSame((await texts(b.backplane, 'room/x'))[0], ['one', 'last'])
      const own = await b.send('room/x', 'own')
      t.strictSame(b.one.gaps.at(-1), ['room/x', own.offset], 'its own too')
      eaten.on = false
      await a.send('room/x', 'next')
      await until(() => b.one.got.length >= 2)
      t.strictSame([b.one.texts(), (b.one.got[1] as Delivery).prev], [['one', 'next'], own.offset])
    })

    t.test('what is not understood is left out, and told', async (t) => {
      const name = app()
      const { backplane, one, send } = await natsNode(t, { connection: await natsConnection(t, server), name })
      await backplane.subscribe(one, 'room/x')
      const payload = encodeParcel({ event: toEvent('x', { maxBytes: Infinity }), except: null }, { from: 'nobody', count: 1 })
      raw.publish(`${name}.d.u.u.room/x`, 'garbage')
      raw.publish(`${name}.d.u.u.room/x`, Buffer.from([9, 0, 0, 0, 0]))
      raw.publish(`${name}.d.k.${backplane.epoch}.room/x`, payload)
      for (const [offset, prev] of [['x', '0'], ['1', 'x'], ['1', '-1'], ['1', '1']] as const) {
        const given = headers()
        given.set('Nats-Sequence', offset)
        given.set('Nats-Last-Sequence', prev)
        raw.publish(`${name}.d.k.${backplane.epoch}.room/x`, payload, { headers: given })
      }
      await jetstream(raw, `STREAM.INFO.${name}`)
      const bad = headers()
      bad.set('Real-Keep', '1,2,x')
      raw.publish(`${name}.k.${backplane.epoch}.room/x`, 'garbage', { headers: bad })
      raw.publish(`${name}.k.${backplane.epoch}.room/x`, payload, { headers: bad })
      await jetstream(raw, `STREAM.INFO.${name}`)
      await send('room/x', 'good')
      t.strictSame(one.texts(), ['x', 'good'])
      t.equal(one.said.filter((said) => said === 'what came from NATS was not understood').length, 8)
      t.strictSame(await texts(backplane, 'room/x'), [['x', 'good'], true])
      t.ok(one.said.includes('what the stream keeps was not understood'))
    })

    t.test('an event that the server would refuse is refused', async (t) => {
      const { send } = await natsNode(t, { connection: raw, name: app() })
      await t.rejects(send('room/x', 'x'.repeat(1_048_576)), { message: /max_payload/ })
      await t.rejects(send(`room/${'é'.repeat(500)}`, 'x'), /at most 2000 characters/)
    })

    t.test('what JetStream does not keep is not accepted', async (t) => {
      const name = app()
      const { one, send } = await natsNode(t, { connection: raw, name })
      const { config } = await info(name)
      await jetstream(raw, `STREAM.UPDATE.${name}`, { ...config, max_msg_size: 2_000 })
      t.strictSame(await send('room/x', 'x'.repeat(10_000)), { accepted: false, offset: 0, duplicate: false })
      t.ok(one.said.includes('an event was not kept'))
      t.match(await send('room/x', 'x'), { accepted: true })
    })

    t.test('a topic that was left is heard for a second yet', async (t) => {
      const connection = lossy(await natsConnection(t, server), () => false)
      const name = app()
      const { backplane, one, send } = await natsNode(t, { connection, name })
      const live = (): number => connection.subscribed.filter((subject) => subject === `${name}.d.u.u.room/x`).length
      for (let i = 0; i < 5; i++) {
        await backplane.subscribe(one, 'room/x')
        await backplane.subscribe(one, 'room/x')
        await backplane.unsubscribe(one, 'room/x')
        await backplane.unsubscribe(one, 'room/x')
      }
      await backplane.unsubscribe(one, 'room/never')
      t.equal(live(), 1)
      await send('room/x', 'nobody')
      t.equal(one.got.length, 0)
      await until(async () => {
        const before = live()
        await backplane.subscribe(one, 'room/x')
        if (live() > before) return true
        await backplane.unsubscribe(one, 'room/x')
        await new Promise((resolve) => setTimeout(resolve, 1_500))
      })
      await send('room/x', 'somebody')
      t.strictSame(one.texts(), ['somebody'])
    })

    t.test('joins and leaves in any order leave it as the last of them says', async (t) => {
      const name = app()
      const { backplane, one, send } = await natsNode(t, { connection: raw, name })
      const isIn = new Map<string, boolean>()
      const work: Array<Promise<unknown>> = []
      for (let i = 0; i < 300; i++) {
        const topic = `room/${Math.floor(Math.random() * 10)}`
        const joins = Math.random() < 0.5
        isIn.set(topic, joins)
        work.push(joins ? backplane.subscribe(one, topic) : backplane.unsubscribe(one, topic))
        if (Math.random() < 0.2) await Promise.all(work)
      }
      await Promise.all(work)
      one.got.length = 0
      for (const topic of isIn.keys()) await send(topic, topic)
      t.strictSame(one.texts(), [...isIn].filter(([, joined]) => joined).map(([topic]) => topic))
    })

    t.test('a sequence that is lost begins anew: the nodes are told', async (t) => {
      const name = app()
      const a = await natsNode(t, { connection: raw, name, audit: 100 })
      const b = await natsNode(t, { connection: await natsConnection(t, server), name, audit: 100 })
      for (const { backplane, one } of [a, b]) await backplane.subscribe(one, 'room/x')
      await a.send('room/x', 'one')
      await until(() => b.one.got.length >= 1)
      const before = a.backplane.epoch
      await jetstream(raw, `STREAM.DELETE.${name}`)
      t.match(await a.send('room/x', 'two'), { accepted: true })
      t.not(a.backplane.epoch, before)
      t.strictSame([a.one.resets, a.one.texts()], [1, ['one', 'two']])
      await until(() => b.one.resets >= 1 && b.one.gaps.length + b.one.got.length >= 2)
      t.equal(b.backplane.epoch, a.backplane.epoch)
      t.strictSame(await texts(b.backplane, 'room/x'), [['two'], true])
      await b.send('room/x', 'three')
      await until(() => a.one.got.length >= 3)
    })

    t.test('many nodes that find it lost at the same time agree on one epoch', async (t) => {
      const name = app()
      // in memory: a server of 2.9 that deletes a stream and makes it again at once may lose the folder of the new one
      const all = await Promise.all(Array.from({ length: 5 }, async () => natsNode(t, { connection: await natsConnection(t, server), name, audit: 100, storage: 'memory' })))
      const agree = async (): Promise<void> => until(() => new Set(all.map(({ backplane }) => backplane.epoch)).size === 1)
      await agree() // it may say of two that they have made it
      await jetstream(raw, `STREAM.DELETE.${name}`)
      for (const answer of await Promise.all(all.map(({ send }) => send('room/x', 'x')))) t.match(answer, { accepted: true })
      await agree()
      t.equal((await all[0]?.backplane.range('room/x', 0, 100) as Range).deliveries.length, 5)
    })

    t.test('a sequence that goes back is another one', async (t) => {
      const name = app()
      const { backplane, one, send } = await natsNode(t, { connection: raw, name, audit: 50 })
      await send('room/x', 'one')
      await send('room/x', 'two')
      const { config } = await info(name)
      const before = backplane.epoch
      await jetstream(raw, `STREAM.DELETE.${name}`)
      await jetstream(raw, `STREAM.CREATE.${name}`, config)
      await until(() => one.resets >= 1)
      t.not(backplane.epoch, before)
      await send('room/x', 'three')
      t.strictSame(await texts(backplane, 'room/x'), [['three'], true])
    })

    t.test('a history function that says more than the stream keeps is refused where it says so', async (t) => {
      const { registry, lines } = await node(t, { history: ({ name }) => ({ events: name === 'much' ? 6 : 5 }) }, nats({ connection: raw, name: app(), history: { events: 5, age: 120_000 } }))
      t.match(await registry.room('much').send('x'), { accepted: false, members: 0 })
      t.match(await registry.room('few').send('x'), { accepted: true })
      t.match(lines.map(({ fields }) => fields.err?.code), ['FST_ERR_REAL_OPTION'])
    })

    t.test('what does not come is found by looking, where only rooms are followed too', async (t) => {
      const name = app()
      const a = await natsNode(t, { connection: raw, name, follow: 'rooms' })
      const eaten = { on: false, count: 0 }
      const b = await natsNode(t, { connection: lossy(await natsConnection(t, server), (subject) => eaten.on && subject.includes('.d.k.') && ++eaten.count > 0), name, follow: 'rooms', audit: 50 })
      for (const room of ['room/x', 'room/y', 'room/silent']) await b.backplane.subscribe(b.one, room)
      await a.send('room/x', 'one')
      await until(() => b.one.got.length >= 1)
      eaten.on = true
      const last = await a.send('room/x', 'last')
      await until(() => b.one.gaps.length > 0)
      t.strictSame(b.one.gaps, [['room/x', last.offset]])
      const hole = await a.send('room/y', 'in a hole')
      await until(() => eaten.count === 2)
      eaten.on = false
      await a.send('room/y', 'after it')
      await until(() => b.one.got.length >= 2)
      t.strictSame(b.one.gaps, [['room/x', last.offset], ['room/y', hole.offset]], 'the hole is told before what follows it')
      t.strictSame([b.one.texts(), b.one.got[1]?.prev], [['one', 'after it'], hole.offset])
    })

    t.test('who joins is told when everything before has come, or was found missing', async (t) => {
      const name = app()
      const a = await natsNode(t, { connection: raw, name })
      const eaten = { on: true }
      const b = await natsNode(t, { connection: lossy(await natsConnection(t, server), (subject) => eaten.on && subject.includes('.d.k.')), name })
      await b.backplane.subscribe(b.one, 'room/x')
      const { offset } = await a.send('room/x', 'lost')
      t.equal(await b.backplane.subscribe(b.one, 'room/y'), offset)
      t.strictSame(b.one.gaps, [['room/x', offset]])
      eaten.on = false
      await a.send('room/y', 'comes')
      await until(() => b.one.got.length >= 1)
    })

    t.test('who joins when the sequence was begun anew is in the new one', async (t) => {
      const name = app()
      const eaten = { on: true }
      const a = await natsNode(t, { connection: lossy(await natsConnection(t, server), (subject) => eaten.on && subject.includes('.d.k.')), name })
      const b = await natsNode(t, { connection: await natsConnection(t, server), name })
      await jetstream(raw, `STREAM.DELETE.${name}`)
      t.match(await b.send('room/x', 'one'), { accepted: true })
      await a.backplane.subscribe(a.one, 'room/y')
      await until(() => a.one.resets >= 1)
      eaten.on = false
      t.match(await b.send('room/y', 'two'), { accepted: true })
      await until(() => a.one.got.length >= 1)
      t.equal(a.backplane.epoch, b.backplane.epoch)
    })

    t.test('who reads when the sequence was begun anew is told of that first', async (t) => {
      const name = app()
      const a = await natsNode(t, { connection: lossy(await natsConnection(t, server), (subject) => subject.includes('.d.k.')), name })
      const b = await natsNode(t, { connection: await natsConnection(t, server), name })
      await jetstream(raw, `STREAM.DELETE.${name}`)
      t.match(await b.send('room/x', 'one'), { accepted: true })
      t.strictSame(await texts(a.backplane, 'room/x'), [['one'], true])
      t.strictSame([a.one.resets, a.backplane.epoch], [1, b.backplane.epoch])
    })

    t.test('a mark that is lost is made the next time', async (t) => {
      const name = app()
      const lost = { count: 0 }
      const connection = lossy(await natsConnection(t, server), () => false, { swallows: (subject) => subject.includes('.-.') && lost.count++ === 0 })
      const { send } = await natsNode(t, { connection, name, audit: 50, timeout: 300 })
      await until(async () => (await info(name)).state.last_seq === 1)
      t.match(await send('room/x', 'x'), { accepted: true, offset: 2 })
      t.equal(lost.count, 2)
    })

    t.test('who starts without the server joins the sequence where it is', async (t) => {
      const name = app()
      const a = await natsNode(t, { connection: raw, name })
      await a.send('room/x', 'before')
      const late = { on: false }
      const b = await natsNode(t, { connection: async () => { if (!late.on) throw new Error('not yet'); return await natsConnection(t, server) }, name, onUnavailable: 'degrade' })
      await b.backplane.subscribe(b.one, 'room/x')
      late.on = true
      await until(() => b.one.resets >= 1)
      await a.send('room/x', 'after')
      await until(() => b.one.got.length > 0)
      t.strictSame([b.one.texts(), b.one.gaps], [['after'], []], 'what was before its start is not missed')
    })

    t.test('what an admin purges is a gap for whoever had not read it', async (t) => {
      const name = app()
      const a = await natsNode(t, { connection: raw, name })
      const { offset } = await a.send('room/x', 'one')
      await a.send('room/x', 'two')
      const { epoch } = a.backplane
      await jetstream(raw, `STREAM.PURGE.${name}`)
      t.match(await a.send('room/x', 'three'), { accepted: true, duplicate: false })
      const b = await natsNode(t, { connection: await natsConnection(t, server), name })
      t.strictSame(await texts(b.backplane, 'room/x', offset), [['three'], false])
      t.equal(b.backplane.epoch, epoch)
    })

    t.test('an answer that comes again, or too late, is no second one', async (t) => {
      const name = app()
      const spy = await natsConnection(t, server)
      const answers: Msg[] = []
      spy.subscribe(`${name}.r.*.*`, { callback: (_err, msg) => { if (msg.subject.includes('.p') && answers.length === 0) { answers.push(msg); spy.publish(msg.subject, msg.data) } } })
      await spy.flush()
      const { one, backplane, send } = await natsNode(t, { connection: lossy(await natsConnection(t, server), (subject) => subject.includes('.d.k.')), name })
      await backplane.subscribe(one, 'room/x')
      t.match(await send('room/x', 'x'), { accepted: true, duplicate: false, offset: 2 })
      const { subject, data } = answers[0] as Msg
      spy.publish(subject, data)
      spy.publish(subject.replace('.p1', '.a9999'), data)
      await spy.flush()
      t.match(await send('room/x', 'y'), { accepted: true, offset: 3 })
    })

    t.test('what nobody acknowledges is sent again, and is there once', async (t) => {
      const name = app()
      const spy = await natsConnection(t, server)
      const replies: string[] = []
      spy.subscribe(`${name}.r.*.*`, { callback: (_err, { subject }) => { if (subject.includes('.p')) replies.push(subject) } })
      await spy.flush()
      const lost = { on: false, count: 0 }
      const connection = lossy(await natsConnection(t, server), () => false, { swallows: (subject) => lost.on && subject.includes('.k.') && lost.count++ === 0 })
      const { one, backplane, send } = await natsNode(t, { connection, name })
      await backplane.subscribe(one, 'room/x')
      await send('room/x', 'one')
      await until(() => replies.length >= 1)
      lost.on = true
      const sent = send('room/x', 'two')
      spy.publish((replies[0] as string).replace('.p1', '.p2'), '{"stream":"app","seq":0,"duplicate":true}') // as a cluster says of what it has not kept yet
      t.match(await sent, { accepted: true, duplicate: false, offset: 3 })
      t.strictSame([one.texts(), lost.count > 1], [['one', 'two'], true])
    })

    t.test('of several servers the one that leads is asked', async (t) => {
      const name = app()
      const { backplane, send } = await natsNode(t, { connection: raw, name })
      await send('room/x', { id: 'first', data: 'one' }, { once: true })
      const settings = checkNats({ connection: raw, name, replicas: 3 })
      const link = new Link({ log: ear().log, connected () {}, returned () {}, lost () {}, answered () {} }, settings)
      await link.open()
      t.after(() => link.close())
      const stream = new EventStream(link, settings)
      const [found, last] = [await stream.at(2), await stream.last(link.subjects.kept(backplane.epoch, 'room/x'))]
      t.strictSame(last, found)
      t.equal(found?.offset, 2)
      t.match(found?.id, /^[\w-]{43}$/)
      t.match(Buffer.from(found?.data as Uint8Array).toString(), /one$/)
      t.equal(await stream.at(3), null)
      t.equal(await stream.last(link.subjects.kept(backplane.epoch, 'room/never')), null)
      await raw.request(link.subjects.kept(backplane.epoch, 'room/bare'), '')
      t.match(await stream.at(3), { offset: 3, id: '', data: Buffer.alloc(0) })
    })

    t.test('what comes among the log and is none of it is left out', async (t) => {
      const name = app()
      const { backplane, send } = await natsNode(t, { connection: lossy(await natsConnection(t, server), () => false, { garbles: (subject) => subject.includes('.p.') }), name })
      await send('room/x', 'one')
      await send('room/x', 'two')
      t.strictSame(await texts(backplane, 'room/x'), [['one', 'two'], true])
    })

    t.test('what comes while the log is read is added to it', async (t) => {
      const name = app()
      const held: Array<() => void> = []
      const a = await natsNode(t, { connection: lossy(await natsConnection(t, server), () => false, { holds: (subject, give) => subject.includes('.p.') && held.push(give) > 0 }), name })
      const b = await natsNode(t, { connection: await natsConnection(t, server), name })
      await a.backplane.subscribe(a.one, 'room/x')
      await b.send('room/x', 'one')
      const read = texts(a.backplane, 'room/x')
      await until(() => held.length > 0)
      await b.send('room/x', 'two')
      await until(() => a.one.got.length >= 2)
      held[0]?.()
      t.strictSame(await read, [['one', 'two'], true])
      t.strictSame(await texts(a.backplane, 'room/x'), [['one', 'two'], true], 'and is not read again')
    })

    t.test('a connection that is made after the end is closed', async (t) => {
      const late: { connection?: NatsConnection, give (connection: NatsConnection): void } = { give () {} }
      const backplane = nats({ connection: () => new Promise((resolve) => { late.give = resolve }), name: app() })
      const node = ear()
      const starting = backplane.start(node)
      await backplane.close(node)
      const connection = await natsConnection(t, server)
      late.give(connection)
      await t.rejects(starting, /no connection/)
      await until(() => connection.isClosed())
    })

    t.test('a stream that cannot be made is told', async (t) => {
      await t.rejects(nats({ connection: raw, name: app(), replicas: 3 }).start(ear()), { code: 'FST_ERR_REAL_BACKPLANE', message: /JetStream: replicas/ })
    })

    t.test('a direct answer that is none is not believed', async (t) => {
      const name = app()
      const eaten = { on: true }
      const { backplane, one, send } = await natsNode(t, { connection: lossy(await natsConnection(t, server), (subject) => eaten.on && subject.includes('.d.k.')), name, audit: 50 })
      await backplane.subscribe(one, 'room/x')
      const { config } = await info(name)
      await jetstream(raw, `STREAM.UPDATE.${name}`, { ...config, allow_direct: false })
      const liar = raw.subscribe(`$JS.API.DIRECT.GET.${name}`, { callback: (_err, msg) => { msg.respond('', { headers: headers(500, 'no') }) } })
      const sent = send('room/x', 'x')
      await until(() => one.said.includes('the stream of NATS cannot be reached'))
      liar.unsubscribe()
      await jetstream(raw, `STREAM.UPDATE.${name}`, config)
      t.match(await sent, { accepted: true })
      t.strictSame(one.gaps, [['room/x', 2]])
      eaten.on = false
    })

    t.test('a connection with unsafe options is told of once', async (t) => {
      const advised = 'the connection to NATS gives up when the server is away: make it with maxReconnectAttempts -1, or give a function that makes it'
      const name = app()
      const { one, backplane } = await natsNode(t, { connection: await natsConnection(t, server, { maxReconnectAttempts: 10 }), name })
      await backplane.start(ear())
      t.equal(one.said.filter((said) => said === advised).length, 1)
      const { one: other } = await natsNode(t, { connection: (safe) => natsConnection(t, server, safe), name })
      t.strictSame(other.said, [])
    })

    t.test('it can be started again after its end', async (t) => {
      const backplane = nats({ connection: raw, name: app() })
      for (let i = 0; i < 2; i++) {
        const node = ear()
        await backplane.start(node)
        await backplane.subscribe(node, 'room/x')
        await backplane.close(node)
        await backplane.close(node)
      }
      t.notOk(raw.isClosed(), 'the connection that was given stays open')
    })
  })
})
