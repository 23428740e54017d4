import t from 'tap'
import { CheckedEvent } from '../lib/event.ts'
import { History } from '../lib/history.ts'
import type { HistoryPage, Sendable } from '../lib/index.ts'
import type { Delivery } from '../types/backplane.ts'
import { node } from './fake.ts'
import { build } from './helper.ts'

const limits = { events: 100, bytes: 1_000_000, age: 1_000_000 }

function delivery (offset: number, id?: string): Delivery {
  const event = new CheckedEvent()
  event.text = String(offset)
  event.id = id
  return { topic: 'room/x', event, except: null, offset, prev: 0 }
}

function filled (count: number, given: Partial<typeof limits> = {}, floor = 0): History {
  const history = new History({ ...limits, ...given }, floor)
  for (let offset = floor + 1; offset <= floor + count; offset++) history.add(delivery(offset), 10, offset)
  return history
}

function offsets ({ deliveries }: { deliveries: Delivery[] }): number[] { return deliveries.map(({ offset }) => offset) }

t.test('a new log is complete from its floor on', async (t) => {
  const history = new History(limits, 7)
  t.equal(history.size, 0)
  t.equal(history.last, 7)
  t.match(history.range(7, 10, 9), { deliveries: [], complete: true, more: false, from: 7, top: 9 })
  t.match(history.range(6, 10, 9), { complete: false })
  t.match(history.range(null, 10, 9), { deliveries: [], complete: false })
  t.match(new History(limits, 0).range(null, 10, 9), { deliveries: [], complete: true })
})

t.test('the oldest goes when there are more events than are kept', async (t) => {
  const history = filled(5, { events: 3 })
  t.equal(history.size, 3)
  t.equal(history.floor, 2)
  t.equal(history.last, 5)
  t.strictSame(offsets(history.range(2, 10, 5)), [3, 4, 5])
  t.equal(history.range(2, 10, 5).complete, true)
  t.equal(history.range(1, 10, 5).complete, false)
})

t.test('the oldest goes when the data has more bytes than are kept', async (t) => {
  const history = filled(10, { bytes: 35 })
  t.equal(history.size, 3)
  t.equal(history.floor, 7)
  history.add(delivery(11), 36, 11)
  t.equal(history.size, 0, 'an event that is larger than all of it is not kept either')
  t.equal(history.floor, 11)
  t.equal(history.bytes, 0)
})

t.test('the oldest goes when it is older than is kept', async (t) => {
  const history = filled(5, { age: 3 })
  t.strictSame(offsets(history.range(null, 10, 5)), [3, 4, 5])
  history.trim(7)
  t.strictSame(offsets(history.range(null, 10, 5)), [5])
  history.trim(8)
  t.equal(history.size, 0)
  t.equal(history.floor, 5)
  t.match(history.range(5, 10, 5), { deliveries: [], complete: true })
})

t.test('many small events weigh more than their data', async (t) => {
  const history = filled(3)
  t.ok(history.bytes > 3 * 10)
  t.equal(filled(6).bytes, 2 * history.bytes)
  t.equal(filled(100, { events: 3 }).bytes, history.bytes)
})

t.test('a range begins after an offset, also one that was never here', async (t) => {
  const history = new History(limits, 0)
  for (const offset of [3, 7, 20, 21, 40]) history.add(delivery(offset), 1, 1)
  const from = (after: number): number[] => offsets(history.range(after, 10, 50))
  t.strictSame(from(0), [3, 7, 20, 21, 40])
  t.strictSame(from(2), [3, 7, 20, 21, 40])
  t.strictSame(from(3), [7, 20, 21, 40])
  t.strictSame(from(19), [20, 21, 40])
  t.strictSame(from(39), [40])
  t.strictSame(from(40), [])
  t.strictSame(from(49), [])
})

t.test('a range has at most as many as are asked for, and tells that there are more', async (t) => {
  const history = filled(10)
  t.match(history.range(0, 3, 10), { more: true, complete: true })
  t.strictSame(offsets(history.range(0, 3, 10)), [1, 2, 3])
  t.match(history.range(7, 3, 10), { more: false })
  t.strictSame(offsets(history.range(null, 3, 10)), [8, 9, 10], 'without a place the last ones')
  t.match(history.range(null, 3, 10), { more: false, complete: false })
  t.match(history.range(null, 10, 10), { more: false, complete: true })
})

t.test('an id of the application is looked up, the earliest first', async (t) => {
  const history = new History({ ...limits, events: 4 }, 0)
  const ids = ['a', 'b', 'a', 'c', 'd']
  ids.slice(0, 3).forEach((id, index) => history.add(delivery(index + 1, id), 1, 1))
  t.equal(history.find('a'), 1)
  t.match(history.range({ id: 'b' }, 10, 3), { from: 2, complete: true })
  t.strictSame(offsets(history.range({ id: 'a' }, 10, 3)), [2, 3])
  t.match(history.range({ id: 'z' }, 10, 3), { from: -1, complete: false, deliveries: [] })
  t.match(history.range({ id: '__proto__' }, 10, 3), { from: -1 })
  t.equal(filled(3).find('a'), -1, 'where no event has an id')
  ids.slice(3).forEach((id, index) => history.add(delivery(index + 4, id), 1, 1))
  t.equal(history.find('a'), -1, 'the one that would be meant is gone: whoever saw it may have missed what followed')
  t.equal(history.holds('a'), 3, 'but one with it is still here')
  t.equal(history.find('b'), 2)
  t.equal(history.holds('b'), 2)
  t.equal(history.holds('z'), -1)
  history.add(delivery(6, 'a'), 1, 1)
  t.equal(history.find('a'), -1, 'nor is it the next one, as long as there is another between')
  for (let offset = 7; offset <= 10; offset++) history.add(delivery(offset), 1, 1)
  t.equal(history.find('c'), -1)
  history.add(delivery(11, 'a'), 1, 1)
  t.equal(history.find('a'), 11, 'once all of them are gone it is an id like any other')
})

t.test('a log that is written to for long holds no more than it keeps', async (t) => {
  const history = filled(100_000, { events: 5 })
  t.strictSame(offsets(history.range(null, 10, 100_000)), [99_996, 99_997, 99_998, 99_999, 100_000])
  t.strictSame(offsets(history.range(99_998, 10, 100_000)), [99_999, 100_000])
  t.equal(history.floor, 99_995)
})

t.test('a room shows what was sent to it, oldest first, as it was given', async (t) => {
  const { registry } = await node(t)
  const room = registry.room('a')
  t.strictSame(await room.history(), { events: [], complete: true })
  const sent: Sendable[] = ['text', { data: { n: 1 } }, { event: 'named', data: [null] }, { event: 'empty' }, Buffer.from([1, 2, 255]), { id: 'own', data: 0 }, { data: '' }]
  const receipts = []
  for (const event of sent) receipts.push(await room.send(event))
  await room.send({ comment: 'nothing to keep' })
  await registry.room('b').send('elsewhere')
  t.strictSame(await room.history(), {
    events: [
      { id: receipts[0]?.id, data: 'text' },
      { id: receipts[1]?.id, data: { n: 1 } },
      { id: receipts[2]?.id, event: 'named', data: [null] },
      { id: receipts[3]?.id, event: 'empty', data: '' },
      { id: receipts[4]?.id, data: Buffer.from([1, 2, 255]) },
      { id: 'own', data: 0 },
      { id: receipts[6]?.id, data: '' }
    ],
    complete: true
  })
})

t.test('history is read page by page, and says when something is missing', async (t) => {
  const { registry } = await node(t, { history: { events: 10 } })
  const room = registry.room('a')
  const data = ({ events }: HistoryPage): unknown[] => events.map(({ data }) => data)
  const ids: string[] = []
  for (let n = 1; n <= 10; n++) ids.push((await room.send(n === 4 ? { id: 'four', data: 4 } : { data: n })).id as string)
  t.strictSame(data(await room.history({ limit: 3 })), [8, 9, 10], 'without a place the last ones')
  t.equal((await room.history({ limit: 3 })).complete, false)
  t.equal((await room.history({ limit: 10 })).complete, true)
  let after = ids[0]
  const read: unknown[] = []
  for (let complete = false; !complete;) {
    const page = await room.history({ after, limit: 2 })
    read.push(...data(page))
    after = page.events.at(-1)?.id
    complete = page.complete
  }
  t.strictSame(read, [2, 3, 4, 5, 6, 7, 8, 9, 10], 'also over an id of the application')
  t.strictSame(await room.history({ after: ids[9] }), { events: [], complete: true })
  t.strictSame(data(await room.history({ after: 'four' })), [5, 6, 7, 8, 9, 10])
  await room.send({ data: 11 })
  await room.send({ data: 12 })
  t.match(await room.history({ after: ids[1] }), { complete: true })
  t.match(await room.history({ after: ids[0] }), { complete: false }, 'the second is gone')
  t.strictSame(data(await room.history({ after: ids[0] })), [3, 4, 5, 6, 7, 8, 9, 10, 11, 12], 'it gives what there is')
  t.match(await room.history(), { complete: false })
  const [epoch] = (ids[0] as string).split('-')
  for (const place of ['nowhere', 'other-5', `${epoch}-99`, '']) t.match(await room.history({ after: place }), { events: [], complete: false }, place)
})

t.test('history is asked for in words that make sense', async (t) => {
  const { registry } = await node(t)
  const room = registry.room('a')
  for (const options of [{ limit: 0 }, { limit: -1 }, { limit: 1.5 }, { limit: '5' }, { after: 5 }, { after: null }]) {
    t.throws(() => room.history(options as never), { code: 'FST_ERR_REAL_ARGUMENT' })
  }
})

t.test('a user has a history as a room has, and a room of the same name has its own', async (t) => {
  const { registry } = await node(t)
  await registry.user('ada').send('for the user')
  await registry.room('ada').send('for the room')
  t.match(await registry.user('ada').history(), { events: [{ data: 'for the user' }], complete: true })
  t.match(await registry.room('ada').history(), { events: [{ data: 'for the room' }] })
})

t.test('without history nothing is kept', async (t) => {
  const { registry } = await node(t, { history: false })
  t.strictSame(await registry.room('a').send('x'), { accepted: true, members: 0, nodes: 0 })
  t.strictSame(await registry.room('a').history(), { events: [], complete: false })
})

t.test('history has the bounds it was given, also by topic', async (t) => {
  const one = await node(t, { history: { bytes: 100 } })
  for (let n = 0; n < 5; n++) await one.registry.room('a').send('x'.repeat(40))
  t.equal((await one.registry.room('a').history()).events.length, 2)
  const byTopic = await node(t, { history: ({ kind, name }) => kind === 'room' && { events: name === 'small' ? 1 : 3 } })
  for (let n = 0; n < 5; n++) for (const room of ['small', 'large']) await byTopic.registry.room(room).send('x')
  await byTopic.registry.user('large').send('x')
  t.equal((await byTopic.registry.room('small').history()).events.length, 1)
  t.equal((await byTopic.registry.room('large').history()).events.length, 3)
  t.equal((await byTopic.registry.user('large').history()).events.length, 0)
  const { connections } = await build(t, { connections: { history: { rooms: 2 } } })
  for (const room of ['a', 'b', 'c']) await connections.room(room).send('x')
  t.match(await connections.room('a').history(), { events: [], complete: false })
  t.match(await connections.room('b').history(), { events: [{ data: 'x' }], complete: true })
})
