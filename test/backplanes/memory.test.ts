import t from 'tap'
import type { Test } from 'tap'
import { memory } from '../../lib/backplanes/memory.ts'
import { parseCursor, toEvent } from '../../lib/event.ts'
import type { Cursor } from '../../lib/event.ts'
import type { Sendable } from '../../types/api.ts'
import type { Backplane, Delivery, Kept, Node, Parcel, Publication } from '../../types/backplane.ts'
import { until } from '../helper.ts'

const kept: Kept = { events: 100, bytes: 1_000_000, age: 1_000_000 }

interface Ear extends Node { got: Delivery[], errors: object[] }

let nodes = 0
function ear (heard?: (delivery: Delivery) => void): Ear {
  const got: Delivery[] = []
  const errors: object[] = []
  return {
    id: String(++nodes),
    got,
    errors,
    deliver (delivery) {
      got.push(delivery)
      heard?.(delivery)
    },
    missed () {},
    reset () {},
    log: { error (fields) { errors.push(fields) }, warn () {} }
  }
}

function parcel (data: unknown, id?: string): Parcel {
  return { event: toEvent({ data, id } as Sendable, { maxBytes: Infinity }), except: null }
}

function send (backplane: Backplane, topic: string, data: unknown, { keep = kept, once = false, id }: { keep?: Kept | null, once?: boolean, id?: string } = {}): Promise<Publication> {
  return backplane.publish(topic, parcel(data, id), { keep, once })
}

function texts (deliveries: Delivery[]): Array<string | undefined> { return deliveries.map(({ event }) => event.text) }

async function range (backplane: Backplane, topic: string, after: number | null = 0): Promise<[texts: Array<string | undefined>, complete: boolean]> {
  const { deliveries, complete } = await backplane.range(topic, after, 1_000)
  return [texts(deliveries), complete]
}

/** Catches the timers that are set in it; gives what fires them. */
function sweeper (t: Test): () => void {
  const { setInterval } = globalThis
  const sweeps: Array<() => void> = []
  globalThis.setInterval = ((sweep: () => void) => {
    sweeps.push(sweep)
    return setInterval(() => {}, 1_000_000).unref()
  }) as never
  t.teardown(() => { globalThis.setInterval = setInterval })
  return () => { for (const sweep of sweeps) sweep() }
}

t.test('an event reaches the nodes that subscribed to its topic, until they unsubscribe', async (t) => {
  const backplane = memory()
  const [one, two] = [ear(), ear()]
  await backplane.start(one)
  await backplane.start(two)
  await backplane.subscribe(one, 'room/a')
  await backplane.subscribe(one, 'room/b')
  await backplane.subscribe(two, 'room/a')
  t.match(await send(backplane, 'room/a', 'x'), { accepted: true, offset: 1, duplicate: false, nodes: 2 })
  t.match(await send(backplane, 'room/b', 'y'), { nodes: 1 })
  t.match(await send(backplane, 'room/c', 'z'), { accepted: true, offset: 3, nodes: 0 })
  await backplane.unsubscribe(one, 'room/a')
  await backplane.unsubscribe(one, 'room/a')
  await backplane.unsubscribe(one, 'room/nowhere')
  await send(backplane, 'room/a', 'x2')
  await backplane.close(one)
  await send(backplane, 'room/b', 'y2')
  t.strictSame(texts(one.got), ['x', 'y'])
  t.strictSame(texts(two.got), ['x', 'x2'])
  await backplane.close(two)
})

t.test('there is one sequence over all topics, and each event knows the one before it in its topic', async (t) => {
  const backplane = memory()
  const node = ear()
  for (const topic of ['room/a', 'room/b']) await backplane.subscribe(node, topic)
  for (const topic of ['room/a', 'room/b', 'room/b', 'room/a']) await send(backplane, topic, topic)
  t.strictSame(node.got.map(({ topic, offset, prev }) => [topic, offset, prev]), [['room/a', 1, 0], ['room/b', 2, 0], ['room/b', 3, 2], ['room/a', 4, 1]])
  const cursors = node.got.map(({ event }) => parseCursor(event.cursor as string) as Cursor)
  t.strictSame(cursors.map(({ epoch, offset }) => [epoch, offset]), [1, 2, 3, 4].map((offset) => [backplane.epoch, offset]))
  t.match(backplane.epoch, /^[A-Za-z0-9_-]{1,40}$/)
  t.not(memory().epoch, backplane.epoch, 'each log has an identity of its own')
})

t.test('what is not kept has no place and leaves no trace', async (t) => {
  const backplane = memory()
  const node = ear()
  await backplane.subscribe(node, 'room/a')
  await send(backplane, 'room/a', 'kept')
  t.match(await send(backplane, 'room/a', 'not', { keep: null }), { accepted: true, offset: 0 })
  t.match(node.got[1], { offset: 0, event: { text: 'not', cursor: undefined } })
  t.strictSame(await range(backplane, 'room/a'), [['kept'], true])
})

t.test('what is sent while something is delivered comes after it, for everybody', async (t) => {
  const backplane = memory()
  const echo = ({ event }: Delivery): void => { if (event.text?.length === 1) void send(backplane, 'room/a', `${event.text}!`) }
  const [one, two] = [ear(echo), ear()]
  for (const node of [one, two]) await backplane.subscribe(node, 'room/a')
  await send(backplane, 'room/a', 'x')
  await send(backplane, 'room/a', 'y')
  for (const node of [one, two]) t.strictSame(texts(node.got), ['x', 'x!', 'y', 'y!'])
})

t.test('what is delivered to a node after it subscribed is past the offset it was given', async (t) => {
  const backplane = memory()
  const late = ear()
  let from: Promise<number> | null = null
  const one = ear(({ event }) => {
    if (event.text !== 'first') return
    void send(backplane, 'room/b', 'not kept', { keep: null })
    void send(backplane, 'room/b', 'second')
    from = backplane.subscribe(late, 'room/b')
  })
  await backplane.subscribe(one, 'room/a')
  await send(backplane, 'room/a', 'first')
  t.strictSame(texts(late.got), ['not kept', 'second'])
  t.equal(await from, 1)
  t.equal(late.got[1]?.offset, 2)
})

t.test('a node that fails harms neither the others nor the sender', async (t) => {
  const backplane = memory()
  const bad = ear(() => { throw new Error('of the node') })
  const good = ear()
  for (const node of [bad, good]) await backplane.subscribe(node, 'room/a')
  t.match(await send(backplane, 'room/a', 'x'), { accepted: true, nodes: 2 })
  t.match(await send(backplane, 'room/a', 'y'), { accepted: true })
  t.strictSame(texts(good.got), ['x', 'y'])
  t.strictSame(bad.errors.map((fields) => (fields as { topic: string, err: Error }).err.message), ['of the node', 'of the node'])
})

t.test('with once an id is taken one time in each topic, as long as it is kept', async (t) => {
  const backplane = memory()
  const node = ear()
  for (const topic of ['room/a', 'room/b']) await backplane.subscribe(node, topic)
  const keep = { ...kept, events: 2 }
  const first = await send(backplane, 'room/a', 1, { id: 'x', once: true, keep })
  t.match(await send(backplane, 'room/a', 2, { id: 'x', once: true, keep }), { accepted: true, duplicate: true, offset: first.offset, nodes: 0 })
  t.match(await send(backplane, 'room/b', 3, { id: 'x', once: true, keep }), { duplicate: false })
  t.match(await send(backplane, 'room/a', 4, { id: 'y', once: true, keep }), { duplicate: false })
  t.match(await send(backplane, 'room/a', 5, { id: 'z', once: true, keep }), { duplicate: false })
  t.match(await send(backplane, 'room/a', 6, { id: 'x', once: true, keep }), { duplicate: false }, 'it is no longer kept')
  t.strictSame(texts(node.got), ['1', '3', '4', '5', '6'])
  const short = { ...kept, age: 1 }
  await send(backplane, 'room/c', 1, { id: 'x', once: true, keep: short })
  await until(async () => !(await send(backplane, 'room/c', 2, { id: 'x', once: true, keep: short })).duplicate)
})

t.test('an id of the application is looked up', async (t) => {
  const backplane = memory()
  await send(backplane, 'room/a', 'x', { id: 'one' })
  await send(backplane, 'room/a', 'y')
  t.match(await backplane.range('room/a', { id: 'one' }, 10), { from: 1, complete: true, top: 2 })
  t.match(await backplane.range('room/a', { id: 'two' }, 10), { from: -1, complete: false, top: 2 })
  t.match(await backplane.range('room/b', { id: 'one' }, 10), { from: -1, complete: false, top: 2 }, 'in its own topic only')
})

t.test('a topic nothing was sent to is complete', async (t) => {
  const backplane = memory()
  await send(backplane, 'room/b', 'x')
  t.strictSame(await range(backplane, 'room/a', 0), [[], true])
  t.strictSame(await range(backplane, 'room/a', null), [[], true])
  t.match(await backplane.range('room/a', 1, 10), { from: 1, top: 1, more: false })
  t.match(await backplane.range('room/a', null, 10), { from: 0, top: 1, more: false })
})

t.test('what is older than is kept goes at the next look', async (t) => {
  const backplane = memory()
  await send(backplane, 'room/a', 'x', { keep: { ...kept, age: 1 } })
  await until(async () => (await range(backplane, 'room/a'))[0].length === 0)
  t.strictSame(await range(backplane, 'room/a', 0), [[], false], 'a cursor before it has a gap')
  t.strictSame(await range(backplane, 'room/a', 1), [[], true], 'one at it has none')
})

t.test('a log goes when its age has run out, also when nobody looks, and leaves where it ended', async (t) => {
  const sweep = sweeper(t)
  const backplane = memory({ rooms: 1 })
  const node = ear()
  await backplane.start(node)
  await send(backplane, 'room/a', 'x', { keep: { ...kept, age: 1 } })
  await send(backplane, 'room/a', 'x2', { keep: { ...kept, age: 1 } })
  const since = performance.now()
  await until(() => performance.now() - since > 2)
  sweep()
  await send(backplane, 'room/b', 'y') // would push the first one out if it were still here
  t.strictSame(await range(backplane, 'room/b', 0), [['y'], true])
  t.strictSame(await range(backplane, 'room/a', 1), [[], false])
  t.strictSame(await range(backplane, 'room/a', 2), [[], true])
  sweep()
  t.strictSame(await range(backplane, 'room/b', 0), [['y'], true], 'what is not too old stays')
  await send(backplane, 'room/a', 'z')
  t.strictSame(await range(backplane, 'room/a', 2), [['z'], true], 'it goes on where it ended')
  t.strictSame(await range(backplane, 'room/a', 1), [['z'], false])
  await backplane.close(node)
})

t.test('the log that was unused the longest goes first when there are too many', async (t) => {
  const backplane = memory({ rooms: 2 })
  await send(backplane, 'room/a', 'a1')
  await send(backplane, 'room/b', 'b1')
  await send(backplane, 'room/a', 'a2')
  await send(backplane, 'room/c', 'c1')
  t.strictSame(await range(backplane, 'room/a', 0), [['a1', 'a2'], true])
  t.strictSame(await range(backplane, 'room/c', 0), [['c1'], true])
  t.strictSame(await range(backplane, 'room/b', 1), [[], false])
  t.strictSame(await range(backplane, 'room/b', 2), [[], true])
  t.strictSame(await range(backplane, 'room/b', null), [[], false])
})

t.test('where logs ended is remembered of as many as there may be logs, and of the rest together', async (t) => {
  const backplane = memory({ rooms: 2 })
  for (let n = 1; n <= 10; n++) await send(backplane, `room/${n}`, n)
  // 9 and 10 have logs, 7 and 8 have floors, 1 to 6 have one together
  t.strictSame(await range(backplane, 'room/8', 8), [[], true])
  t.strictSame(await range(backplane, 'room/8', 7), [[], false])
  t.strictSame(await range(backplane, 'room/1', 6), [[], true])
  t.strictSame(await range(backplane, 'room/1', 5), [[], false], 'it ended before, but that is not known any more')
  t.strictSame(await range(backplane, 'room/new', 6), [[], true])
  t.strictSame(await range(backplane, 'room/new', 5), [[], false])
  await send(backplane, 'room/1', 'again')
  t.strictSame(await range(backplane, 'room/1', 6), [['again'], true])
  t.strictSame(await range(backplane, 'room/1', 5), [['again'], false])
})

t.test('all logs together have their bytes, and looking at them costs none', async (t) => {
  const backplane = memory({ totalBytes: 10_000 })
  const short = { ...kept, age: 1 }
  for (let round = 1; round <= 20; round++) { // what is trimmed by a look is not counted for ever
    await send(backplane, 'room/short', 'x'.repeat(1_000), { keep: short })
    await until(async () => (await range(backplane, 'room/short'))[0].length === 0)
  }
  for (let n = 1; n <= 7; n++) await send(backplane, `room/${n}`, 'x'.repeat(1_000))
  for (let n = 1; n <= 7; n++) t.equal((await range(backplane, `room/${n}`))[0].length, 1)
  await send(backplane, 'room/8', 'x'.repeat(1_000))
  t.equal((await range(backplane, 'room/1'))[0].length, 0, 'the oldest goes')
  for (let n = 2; n <= 8; n++) t.equal((await range(backplane, `room/${n}`))[0].length, 1)
  await send(backplane, 'room/9', 'x'.repeat(20_000))
  for (let n = 2; n <= 9; n++) t.strictSame(await range(backplane, `room/${n}`), [[], false], 'what is larger than all together is not kept')
})

t.test('many small events weigh more than their data', async (t) => {
  const backplane = memory({ totalBytes: 100_000 })
  for (let n = 1; n <= 1_000; n++) await send(backplane, `room/${n}`, '')
  let left = 0
  for (let n = 1; n <= 1_000; n++) left += (await range(backplane, `room/${n}`))[0].length
  t.ok(left > 100 && left < 500, `${left} are left`)
})

t.test('options that make no sense are refused', async (t) => {
  for (const options of [{ rooms: 0 }, { totalBytes: 'all' }, { bytes: 5 }]) t.throws(() => memory(options as never), { code: 'FST_ERR_REAL_OPTION' })
})
