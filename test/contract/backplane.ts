import type { Test } from 'tap'
import { connect, FakeEncoding, node } from '../fake.ts'
import { until } from '../helper.ts'
import { parseCursor, toEvent } from '../../lib/event.ts'
import type { Backplane, Delivery, Kept, Node, Parcel, Publication, Sendable, Spared } from '../../types/index.ts'

/** Sets up one backplane; each call of what it gives is what one more node is given. */
export type MakeBackplane = (t: Test) => Promise<() => Backplane>

const kept: Kept = { events: 100, bytes: 1_000_000, age: 1_000_000 }

interface Ear extends Node { readonly got: Delivery[], readonly parcels: Array<Parcel | undefined> }

let names = 0

/** A node that keeps what it is given. */
function ear (heard?: (delivery: Delivery) => void): Ear {
  const got: Delivery[] = []
  const parcels: Array<Parcel | undefined> = []
  return {
    id: `ear ${++names}`,
    got,
    parcels,
    deliver (delivery, parcel) {
      got.push(delivery)
      parcels.push(parcel)
      heard?.(delivery)
    },
    missed () {},
    reset () {},
    log: { error () {}, warn () {} }
  }
}

function parcelOf (event: Sendable, except: Spared | null = null): Parcel { return { event: toEvent(event, { maxBytes: Infinity }), except } }

function send (backplane: Backplane, topic: string, event: Sendable, { keep = kept, once = false }: { keep?: Kept | null, once?: boolean } = {}): Promise<Publication> {
  return backplane.publish(topic, parcelOf(event), { keep, once })
}

function textsOf (deliveries: readonly Delivery[]): Array<string | undefined> { return deliveries.map(({ event }) => event.text) }

/** What every backplane must do. `make` is called once for each fact. */
export function backplaneContract (t: Test, make: MakeBackplane): void {
  interface Part { backplane: Backplane, one: Ear }

  /** Nodes that have started, and close after the test. */
  async function start (t: Test, count: number, heard?: (delivery: Delivery) => void): Promise<[Part, Part, Part]> {
    const join = await make(t)
    const parts: Part[] = []
    for (let i = 0; i < count; i++) {
      const part = { backplane: join(), one: ear(heard) }
      await part.backplane.start(part.one)
      parts.push(part)
    }
    t.after(async () => { for (const { backplane, one } of parts) await backplane.close(one) })
    return parts as [Part, Part, Part]
  }

  t.test('an event reaches every node that has subscribed to its topic, the one that sent it too', async (t) => {
    const [a, b, deaf] = await start(t, 3)
    for (const { backplane, one } of [a, b]) t.equal(typeof await backplane.subscribe(one, 'room/x'), 'number')
    await deaf.backplane.subscribe(deaf.one, 'room/y')
    t.match(await send(a.backplane, 'room/x', 'one'), { accepted: true, duplicate: false })
    t.strictSame(textsOf(a.one.got), ['one'], 'here it has come when the publication resolves')
    await until(() => b.one.got.length > 0)
    await send(b.backplane, 'room/x', 'two')
    t.strictSame(textsOf(b.one.got), ['one', 'two'])
    await until(() => a.one.got.length > 1)
    t.strictSame(textsOf(a.one.got), ['one', 'two'])
    await send(a.backplane, 'room/y', 'three')
    await until(() => deaf.one.got.length > 0)
    t.strictSame(textsOf(deaf.one.got), ['three'])
    await a.backplane.unsubscribe(a.one, 'room/x')
    await send(b.backplane, 'room/x', 'four')
    await send(a.backplane, 'room/nobody', 'five')
    t.strictSame(textsOf(a.one.got), ['one', 'two'])
    t.equal(b.one.got.length, 3)
  })

  t.test('all nodes see one order, whoever sends', async (t) => {
    const [a, b, c] = await start(t, 3)
    const topics = ['room/x', 'room/y']
    for (const { backplane, one } of [a, b, c]) for (const topic of topics) await backplane.subscribe(one, topic)
    const sent: Array<Promise<unknown>> = []
    for (let i = 0; i < 60; i++) {
      const { backplane } = [a, b, c][i % 3] as Part
      sent.push(send(backplane, topics[i % 2] as string, `event ${i}`))
      if (i % 7 === 0) await sent.at(-1)
    }
    await Promise.all(sent)
    await until(() => [a, b, c].every(({ one }) => one.got.length === 60))
    for (const { one } of [b, c]) t.strictSame(textsOf(one.got), textsOf(a.one.got))
    for (const { one } of [a, b, c]) {
      const offsets = one.got.map(({ offset }) => offset)
      t.strictSame(offsets, [...new Set(offsets)].sort((one, other) => one - other), 'offsets only grow')
    }
    for (const start of [0, 1, 2]) {
      const own = textsOf(a.one.got).filter((text) => Number(text?.slice('event '.length)) % 3 === start)
      t.equal(own.length, 20)
    }
  })

  t.test('a kept event has its place, and that of the one before it in its topic; one that is not kept has none', async (t) => {
    const [a, b] = await start(t, 2)
    for (const topic of ['room/x', 'room/y']) await b.backplane.subscribe(b.one, topic)
    const x1 = await send(a.backplane, 'room/x', 'x1')
    const y1 = await send(a.backplane, 'room/y', 'y1')
    const x2 = await send(b.backplane, 'room/x', 'x2')
    const none = await send(a.backplane, 'room/x', 'not kept', { keep: null })
    const x3 = await send(a.backplane, 'room/x', 'x3')
    t.ok(x1.offset > 0 && x1.offset < y1.offset && y1.offset < x2.offset && x2.offset < x3.offset, 'one sequence for all topics')
    t.match(none, { accepted: true, offset: 0, duplicate: false })
    await until(() => b.one.got.length === 5)
    t.strictSame(b.one.got.map(({ topic, offset, prev }) => [topic, offset, prev]), [
      ['room/x', x1.offset, 0], ['room/y', y1.offset, 0], ['room/x', x2.offset, x1.offset], ['room/x', 0, 0], ['room/x', x3.offset, x2.offset]
    ])
    t.equal(a.backplane.epoch, b.backplane.epoch)
    t.match(a.backplane.epoch, /^[A-Za-z0-9_-]{1,40}$/)
    for (const { event, offset } of b.one.got) {
      t.strictSame(event.cursor === undefined ? 0 : parseCursor(event.cursor), offset === 0 ? 0 : { epoch: a.backplane.epoch, offset })
    }
  })

  t.test('what is carried is what was sent', async (t) => {
    const [a, b] = await start(t, 2)
    await b.backplane.subscribe(b.one, 'user/x')
    const events: Sendable[] = [
      '', 'text', '{"not":json', 'line\nline\r\n\0', '💥\u2028', { data: { a: [1, null, 'é'] } }, { data: '5' }, { data: 5 }, { data: false },
      Buffer.from([0, 1, 128, 255]), new Uint8Array(0), { event: 'named' }, { event: 'named', data: 'x', id: 'mine', retry: 0, comment: 'said' }, { data: 'x'.repeat(200_000) }
    ]
    const except: Spared = { ids: ['one', '*'], users: ['__proto__', 'é'] }
    for (const keep of [kept, null]) {
      for (const event of events) {
        b.one.got.length = 0
        const parcel = parcelOf(event, except)
        await a.backplane.publish('user/x', parcel, { keep, once: false })
        await until(() => b.one.got.length > 0)
        const [delivery] = b.one.got as [Delivery]
        const fields = ({ event, text, json, bytes, id, retry, comment }: Parcel['event']): unknown => ({ event, text, json, bytes: bytes === undefined ? undefined : [...bytes], id, retry, comment })
        t.strictSame(fields(delivery.event), fields(parcel.event))
        t.strictSame(delivery.except, except)
      }
    }
    for (const { event, except: spared } of (await b.backplane.range('user/x', 0, 1_000)).deliveries) {
      t.ok(event.cursor)
      t.strictSame(spared, except)
    }
  })

  t.test('a topic may have any name', async (t) => {
    const [a, b] = await start(t, 2)
    const topics = ['room/*', 'room/>', 'room/?', 'room/[a-z]', 'room/a.b', 'room/__proto__', 'room/ ', 'room/é💥', 'room/{x}', 'room/a b', 'user/room/x', 'room/' + 'x'.repeat(256), 'all', 'presence/a/b']
    for (const topic of topics) await b.backplane.subscribe(b.one, topic)
    for (const topic of [...topics, 'room/other', 'room/a', 'room/axb', 'room/constructor']) await send(a.backplane, topic, topic)
    await send(a.backplane, 'all', 'end')
    await until(() => textsOf(b.one.got).includes('end'))
    t.strictSame(textsOf(b.one.got), [...topics, 'end'], 'and none is a pattern for others')
  })

  t.test('the parcel comes back to the node that sent it, and to no other', async (t) => {
    const [a, b] = await start(t, 2)
    for (const { backplane, one } of [a, b]) await backplane.subscribe(one, 'room/x')
    for (const keep of [kept, null]) {
      const parcel = parcelOf('x')
      await a.backplane.publish('room/x', parcel, { keep, once: false })
      t.equal(a.one.parcels.at(-1), parcel)
    }
    await until(() => b.one.got.length === 2)
  })

  t.test('with once, an id is taken once in a topic, whichever nodes send it at the same time', async (t) => {
    const [a, b] = await start(t, 2)
    for (const { backplane, one } of [a, b]) await backplane.subscribe(one, 'room/x')
    const answers = await Promise.all(Array.from({ length: 10 }, (_, i) => send(([a, b][i % 2] as Part).backplane, 'room/x', { id: 'key', data: i }, { once: true })))
    const taken = answers.filter(({ duplicate }) => !duplicate)
    t.equal(taken.length, 1)
    for (const { accepted, offset } of answers) t.strictSame([accepted, offset], [true, taken[0]?.offset])
    t.match(await send(a.backplane, 'room/y', { id: 'key', data: 'other' }, { once: true }), { duplicate: false })
    t.match(await send(a.backplane, 'room/x', { id: 'other', data: 'end' }, { once: true }), { duplicate: false })
    await until(() => textsOf(b.one.got).includes('end'))
    t.equal(b.one.got.length, 2)
  })

  t.test('an event sent while another is being delivered comes after it, on every node', async (t) => {
    const [a, b, c] = await start(t, 3)
    const inner: Array<Promise<unknown>> = []
    const { deliver } = a.one
    a.one.deliver = (delivery, parcel) => {
      if (!String(delivery.event.text).startsWith('inner')) inner.push(send(a.backplane, 'room/x', `inner ${delivery.event.text}`))
      deliver.call(a.one, delivery, parcel)
    }
    for (const { backplane, one } of [b, a, c]) await backplane.subscribe(one, 'room/x')
    await Promise.all([send(a.backplane, 'room/x', '1'), send(b.backplane, 'room/x', '2')])
    await Promise.all(inner)
    await until(() => [a, b, c].every(({ one }) => one.got.length === 4))
    for (const { one } of [b, c]) t.strictSame(textsOf(one.got), textsOf(a.one.got))
    for (const [before, after] of [['1', 'inner 1'], ['2', 'inner 2']] as const) t.ok(textsOf(a.one.got).indexOf(before) < textsOf(a.one.got).indexOf(after))
  })

  t.test('everything after the offset that a subscription gives is delivered', async (t) => {
    const [a, b] = await start(t, 2)
    const flood = { on: true }
    const sending = (async () => {
      for (let i = 0; flood.on; i++) {
        await send(a.backplane, 'room/x', String(i))
        if (i % 5 === 0) await new Promise((resolve) => setImmediate(resolve))
      }
    })()
    const since = []
    for (let i = 0; i < 10; i++) {
      const late = ear()
      await b.backplane.start(late)
      since.push({ late, offset: await b.backplane.subscribe(late, 'room/x') })
      await new Promise((resolve) => setTimeout(resolve, 2))
    }
    flood.on = false
    await sending
    const { offset: last } = await send(a.backplane, 'room/x', 'end')
    for (const { late, offset } of since) {
      await until(() => textsOf(late.got).includes('end'))
      const after = (await b.backplane.range('room/x', offset, 100_000)).deliveries.map(({ offset }) => offset)
      const got = late.got.map(({ offset }) => offset)
      t.ok(offset <= last)
      t.strictSame(after.filter((offset) => !got.includes(offset)), [])
      await b.backplane.close(late)
    }
  })

  t.test('the log is read after a place, oldest first, a page at a time, alike on every node', async (t) => {
    const [a, b] = await start(t, 2)
    const offsets: number[] = []
    for (let i = 0; i < 10; i++) {
      offsets.push((await send(([a, b][i % 2] as Part).backplane, 'room/x', { id: `id ${i}`, data: String(i) })).offset)
      await send(a.backplane, 'room/y', 'elsewhere')
      await send(a.backplane, 'room/x', 'not kept', { keep: null })
    }
    const all = Array.from({ length: 10 }, (_, i) => String(i))
    for (const { backplane } of [a, b]) {
      const range = async (...args: [Parameters<Backplane['range']>[1], number?]): Promise<[Array<string | undefined>, boolean, boolean, number]> => {
        const { deliveries, complete, more, from } = await backplane.range('room/x', args[0], args[1] ?? 1_000)
        return [textsOf(deliveries), complete, more, from]
      }
      t.strictSame(await range(0), [all, true, false, 0])
      t.strictSame(await range(offsets[3] as number), [all.slice(4), true, false, offsets[3]])
      t.strictSame(await range(offsets[3] as number, 2), [['4', '5'], true, true, offsets[3]])
      t.strictSame(await range(offsets[7] as number, 2), [['8', '9'], true, false, offsets[7]])
      t.strictSame(await range(offsets[9] as number), [[], true, false, offsets[9]])
      t.strictSame((await range(null)).slice(0, 3), [all, true, false])
      t.strictSame((await range(null, 3)).slice(0, 3), [['7', '8', '9'], false, false], 'the last three')
      t.strictSame((await range(null, Infinity)).slice(0, 3), [all, true, false], 'as many as there are')
      t.strictSame(await range(offsets[3] as number, Infinity), [all.slice(4), true, false, offsets[3]])
      t.strictSame(await range({ id: 'id 3' }), [all.slice(4), true, false, offsets[3]])
      const unknown = await range({ id: 'nobody' })
      t.strictSame([unknown[1], unknown[3]], [false, -1])
      t.ok((await backplane.range('room/x', 0, 1)).top >= (offsets[9] as number))
      const { deliveries } = await backplane.range('room/x', 0, 1_000)
      t.strictSame(deliveries.map(({ topic, offset }) => [topic, offset]), offsets.map((offset) => ['room/x', offset]))
      t.match(await backplane.range('room/never', 0, 10), { deliveries: [], complete: true, more: false })
    }
  })

  t.test('what is over a bound is gone, and whoever asks for it is told', async (t) => {
    const [{ backplane }] = await start(t, 1)
    const offsets: number[] = []
    for (let i = 0; i < 10; i++) offsets.push((await send(backplane, 'room/few', String(i), { keep: { ...kept, events: 3 } })).offset)
    const { deliveries } = await backplane.range('room/few', null, 1_000)
    t.strictSame(textsOf(deliveries), ['7', '8', '9'])
    t.match(await backplane.range('room/few', offsets[5] as number, 1_000), { complete: false })
    t.match(await backplane.range('room/few', offsets[6] as number, 1_000), { complete: true })
    t.match(await backplane.range('room/few', null, 1_000), { complete: false })
    for (let i = 0; i < 10; i++) await send(backplane, 'room/bytes', 'x'.repeat(1_000), { keep: { ...kept, bytes: 2_500 } })
    t.equal((await backplane.range('room/bytes', null, 1_000)).deliveries.length, 2)
    const { offset } = await send(backplane, 'room/age', 'old', { keep: { ...kept, age: 1 } })
    await until(async () => (await backplane.range('room/age', null, 1_000)).deliveries.length === 0)
    t.match(await backplane.range('room/age', offset - 1, 1_000), { complete: false })
    t.match(await backplane.range('room/age', offset, 1_000), { complete: true })
  })

  t.test('a node that fails harms no other, and one that is closed hears no more', async (t) => {
    const [a, b, c] = await start(t, 3)
    for (const { backplane, one } of [a, b, c]) await backplane.subscribe(one, 'room/x')
    const { deliver } = b.one
    let thrown = false
    b.one.deliver = () => {
      thrown = true
      throw new Error('thrown by a node')
    }
    t.match(await send(a.backplane, 'room/x', 'one'), { accepted: true })
    await until(() => thrown && c.one.got.length > 0)
    b.one.deliver = deliver
    const leaving = ear()
    await b.backplane.start(leaving)
    await b.backplane.subscribe(leaving, 'room/x')
    await b.backplane.close(leaving)
    await send(a.backplane, 'room/x', 'two')
    await until(() => b.one.got.length > 0 && c.one.got.length > 1)
    t.strictSame([textsOf(leaving.got), textsOf(b.one.got), textsOf(c.one.got)], [[], ['two'], ['one', 'two']])
  })

  t.test('members on two nodes get the same events in the same order, and one who comes back on the other node misses none', async (t) => {
    const join = await make(t)
    const nodes = [await node(t, {}, join()), await node(t, {}, join())] as const
    const encoding = new FakeEncoding('contract')
    const [here, there] = nodes.map((one) => connect(one, { bare: false, encoding }))
    const dataOf = (fake: typeof here): unknown[] => (fake?.wire.events ?? []).filter(({ event }) => event === 'n').map(({ data }) => data)
    for (const fake of [here, there]) t.equal(await fake?.connection.join('room'), true)
    const sent: Array<Promise<unknown>> = []
    for (let i = 0; i < 20; i++) sent.push(nodes[i % 2 as 0 | 1].registry.room('room').send({ event: 'n', data: i }))
    for (const receipt of await Promise.all(sent)) t.match(receipt, { accepted: true, members: 1 })
    await until(() => dataOf(here).length === 20 && dataOf(there).length === 20)
    t.strictSame(dataOf(there), dataOf(here))
    const last = here?.wire.events.filter(({ event }) => event === 'n')[9] as { id: string }
    here?.connection.close()
    await nodes[1].registry.room('room').send({ event: 'n', data: 'missed' })
    const back = connect(nodes[1], { bare: false, encoding, lastEventId: last.id, opened: false })
    await back.connection.join('room')
    back.connection.opened()
    back.connection.settled()
    await until(() => dataOf(back).includes('missed'))
    t.strictSame(dataOf(back), [...dataOf(here).slice(10), 'missed'])
  })

  t.test('connections, rooms and presence are reached across nodes', async (t) => {
    const join = await make(t)
    const [here, there] = [await node(t, {}, join()), await node(t, {}, join())]
    const { connection, wire } = connect(there, { user: 'ada' })
    await connection.join(['room', 'other'], { presence: { meta: 1 } })
    await until(async () => (await here.registry.room('room').presence()).length === 1)
    t.strictSame(await here.registry.room('room').presence(), [{ key: 'ada', metas: [1] }])
    t.equal(await here.registry.send(connection.id, { event: 'n', data: 'direct' }), true)
    t.equal(await here.registry.send('nobody', 'x'), false)
    t.match(await here.registry.user('ada').send({ event: 'n', data: 'user' }), { accepted: true, members: 0 })
    t.match(await here.registry.broadcast({ event: 'n', data: 'spared' }, { except: { user: 'ada' } }), { accepted: true })
    t.match(await here.registry.broadcast({ event: 'n', data: 'all' }), { accepted: true })
    const data = (): unknown[] => wire.events.filter(({ event }) => event === 'n').map(({ data }) => data)
    await until(() => data().length === 3)
    t.strictSame(data(), ['direct', 'user', 'all'])
    t.equal(await here.registry.leave(connection.id, 'other'), true)
    t.strictSame([...connection.rooms], ['room'])
    await here.registry.room('room').clear()
    await until(() => connection.rooms.size === 0)
    await until(async () => (await here.registry.room('room').presence()).length === 0)
    await here.registry.user('ada').disconnect('over')
    await until(() => !connection.open)
    t.equal(await here.registry.close(connection.id), false)
  })
}
