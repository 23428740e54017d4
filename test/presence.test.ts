import fc from 'fast-check'
import t from 'tap'
import type { Test } from 'tap'
import { memory } from '../lib/backplanes/memory.ts'
import { Presence } from '../lib/presence.ts'
import type { PresenceHost, PresenceMessage } from '../lib/presence.ts'
import { PresentRoom } from '../lib/present-room.ts'
import type { PresenceChange } from '../types/index.ts'
import { connect, encodings, FaultyBackplane, node, turn } from './fake.ts'
import type { Fake, FakeNode, FakeOptions } from './fake.ts'
import { until } from './helper.ts'
import { Clock } from './presence-world.ts'
import { site } from './site.ts'

/** What a connection was told of who is present, of all its rooms. */
function told ({ wire }: Fake): Array<Omit<PresenceChange, 'room'>> {
  return wire.events.filter(({ event }) => event === 'presence').map(({ data }) => roomless(data as PresenceChange))
}

function roomless ({ room: _, ...change }: PresenceChange): Omit<PresenceChange, 'room'> { return change }

/** Who is present as far as it was told. Throws when it was told nonsense. */
function present (fake: Fake): string[] {
  const keys = new Set<string>()
  for (const { snapshot = [], joined = [], left = [], updated = [] } of told(fake)) {
    for (const { key } of snapshot) keys.add(key)
    for (const { key } of updated) if (!keys.has(key)) throw new Error(`${key} is not here and cannot be updated`)
    for (const { key } of left) if (!keys.delete(key)) throw new Error(`${key} is not here and cannot leave`)
    for (const { key } of joined) {
      if (keys.has(key)) throw new Error(`${key} is here already`)
      keys.add(key)
    }
  }
  return [...keys].sort()
}

async function enter (one: FakeNode, key: string, meta: unknown, options: FakeOptions = {}): Promise<Fake> {
  const fake = connect(one, options)
  await fake.connection.join('room', { presence: { key, meta } })
  return fake
}

async function watch (one: FakeNode): Promise<Fake> {
  const fake = connect(one)
  await fake.connection.join('room', { presence: true })
  await until(() => told(fake).length > 0)
  return fake
}

interface Clustered extends FakeNode { faults: FaultyBackplane }

/** Three nodes on one backplane, each with faults of its own. */
async function cluster (t: Test, timeout = 200): Promise<[Clustered, Clustered, Clustered]> {
  const shared = memory()
  const start = async (): Promise<Clustered> => {
    const faults = new FaultyBackplane(shared)
    return { ...await node(t, { presence: { timeout } }, faults), faults }
  }
  return [await start(), await start(), await start()]
}

t.test('joining again with the same changes nothing, for who shares a key with others too', async (t) => {
  const one = await node(t)
  const watcher = await watch(one)
  const { connection } = await enter(one, 'ada', 1)
  await enter(one, 'ada', 2)
  await turn()
  const before = told(watcher).length
  await connection.join('room', { presence: { key: 'ada', meta: 1 } })
  await turn()
  t.equal(told(watcher).length, before)
  await connection.join('room', { presence: { key: 'ada', meta: 3 } })
  await turn()
  t.strictSame(told(watcher).slice(before), [{ updated: [{ key: 'ada', metas: [3, 2] }] }])
})

t.test('each change names its room', async (t) => {
  const one = await node(t)
  const watcher = connect(one)
  await watcher.connection.join(['a', 'b'], { presence: { key: 'ada' } })
  await turn()
  await enter(one, 'bob', 1)
  const { connection } = connect(one)
  await connection.join('b', { presence: { key: 'bob' } })
  await turn()
  await connection.leave('b')
  await turn()
  const changes = watcher.wire.events.filter(({ event }) => event === 'presence').map(({ data }) => Object.entries(data as PresenceChange).map(([name, value]) => typeof value === 'string' ? value : name))
  t.strictSame(changes, [['a', 'snapshot'], ['b', 'snapshot'], ['b', 'joined'], ['b', 'left']])
})

t.test('who asks gets a snapshot first, then who joined, who left and who changed', async (t) => {
  const one = await node(t)
  const ada = await enter(one, 'ada', { tab: 1 })
  await turn()
  t.strictSame(told(ada), [{ snapshot: [{ key: 'ada', metas: [{ tab: 1 }] }] }])
  const bob = await enter(one, 'bob', { tab: 1 })
  await turn()
  t.strictSame(told(bob), [{ snapshot: [{ key: 'ada', metas: [{ tab: 1 }] }, { key: 'bob', metas: [{ tab: 1 }] }] }])
  t.strictSame(told(ada).slice(1), [{ joined: [{ key: 'bob', metas: [{ tab: 1 }] }] }])
  await bob.connection.join('room', { presence: { key: 'bob', meta: { tab: 'changed' } } })
  await turn()
  t.strictSame(told(ada).slice(2), [{ updated: [{ key: 'bob', metas: [{ tab: 'changed' }] }] }])
  t.strictSame(told(bob).slice(1), told(ada).slice(2), 'no second snapshot')
  bob.connection.close()
  await turn()
  t.strictSame(told(ada).slice(3), [{ left: [{ key: 'bob', metas: [{ tab: 'changed' }] }] }])
})

t.test('several connections of one key are one entry with several metas', async (t) => {
  const one = await node(t)
  const watcher = await watch(one)
  const phone = await enter(one, 'ada', 'phone')
  await turn()
  const desk = await enter(one, 'ada', 'desk')
  await turn()
  phone.connection.close()
  await turn()
  await desk.connection.leave('room')
  await turn()
  t.strictSame(told(watcher), [
    { snapshot: [] },
    { joined: [{ key: 'ada', metas: ['phone'] }] },
    { updated: [{ key: 'ada', metas: ['phone', 'desk'] }] },
    { updated: [{ key: 'ada', metas: ['desk'] }] },
    { left: [{ key: 'ada', metas: ['desk'] }] }
  ], 'left is said when the last of them goes')
})

t.test('a burst of changes is one event', async (t) => {
  const one = await node(t)
  const watcher = await watch(one)
  const before = await enter(one, 'old', 1)
  const other = await enter(one, 'other', 1)
  await turn()
  const burst = []
  for (let i = 0; i < 20; i++) burst.push(await enter(one, `key ${i}`, i))
  void burst[0]?.connection.leave('room')
  void burst[1]?.connection.join('room', { presence: { key: 'key 1', meta: 'again' } })
  before.connection.close()
  void other.connection.join('room', { presence: { key: 'other', meta: 2 } })
  await turn()
  const [, , change, ...more] = told(watcher)
  t.strictSame(more, [])
  t.equal(change?.joined?.length, 19)
  t.match(change, { left: [{ key: 'old', metas: [1] }], updated: [{ key: 'other', metas: [2] }] })
  t.strictSame(change?.joined?.find(({ key }) => key === 'key 1'), { key: 'key 1', metas: ['again'] })
})

t.test('who leaves and comes back in one turn was never away', async (t) => {
  const one = await node(t)
  const watcher = await watch(one)
  const first = await enter(one, 'ada', 'page')
  await turn()
  first.connection.close()
  await enter(one, 'ada', 'page')
  await turn()
  t.strictSame(told(watcher), [{ snapshot: [] }, { joined: [{ key: 'ada', metas: ['page'] }] }])
  const flash = await enter(one, 'flash', 1)
  flash.connection.close()
  await turn()
  t.equal(told(watcher).length, 2, 'who came and went was never there')
})

t.test('members who did not ask get no presence, and who only watches is not present', async (t) => {
  const one = await node(t)
  const plain = connect(one)
  await plain.connection.join('room')
  const watcher = await watch(one)
  const ada = await enter(one, 'ada', null)
  await turn()
  t.strictSame(await one.registry.room('room').presence(), [{ key: 'ada', metas: [null] }])
  t.strictSame(told(plain), [])
  t.strictSame(told(watcher).at(-1), { joined: [{ key: 'ada', metas: [null] }] })
  await ada.connection.join('room', { presence: true })
  await turn()
  t.strictSame(told(watcher).at(-1), { left: [{ key: 'ada', metas: [null] }] }, 'it only watches now')
  await ada.connection.join('room')
  await watcher.connection.leave('room')
  await enter(one, 'bob', 1)
  await turn()
  t.strictSame(told(ada).at(-1), { joined: [{ key: 'bob', metas: [1] }] }, 'joining without presence changes nothing')
  t.equal(told(watcher).length, 3, 'who left is told no more')
})

t.test('the key is the user unless another is given, and may change', async (t) => {
  const one = await node(t)
  const watcher = await watch(one)
  const { connection } = connect(one, { user: '42' })
  await connection.join('room', { presence: {} })
  await turn()
  await connection.join('room', { presence: { key: 'other', meta: [1] } })
  await turn()
  t.strictSame(told(watcher).slice(1), [{ joined: [{ key: '42', metas: [null] }] }, { joined: [{ key: 'other', metas: [[1]] }], left: [{ key: '42', metas: [null] }] }])
  t.throws(() => connect(one).connection.join('room', { presence: {} }), { code: 'FST_ERR_REAL_ARGUMENT', message: /presence\.key/ })
})

t.test('what the caller changes later is not announced', async (t) => {
  const one = await node(t)
  const meta = { at: 1 }
  await enter(one, 'ada', meta)
  meta.at = 2
  t.strictSame(await one.registry.room('room').presence(), [{ key: 'ada', metas: [{ at: 1 }] }])
})

t.test('a meta that is accepted can be told, however deep it is', async (t) => {
  const [here, there] = await cluster(t, 10_000)
  const watchers = [await watch(here), await watch(there)]
  const { connection } = connect(here)
  const accepts = async (depth: number): Promise<boolean> => await new Promise((resolve) => setImmediate(() => { // where the stack is as empty as it gets
    try {
      let meta: unknown = 'deep'
      for (let i = 0; i < depth; i++) meta = [meta]
      void connection.join('room', { presence: { key: 'ada', meta } })
      resolve(true)
    } catch (err) {
      t.match(err, { code: 'FST_ERR_REAL_ARGUMENT', message: /^presence\.meta/ })
      resolve(false)
    }
  }))
  let [low, high] = [1, 100_000]
  while (high - low > 1) {
    const middle = (low + high) >> 1
    if (await accepts(middle)) low = middle
    else high = middle
    await turn()
  }
  t.ok(low > 1_000)
  t.equal(await accepts(1), true)
  t.equal(await accepts(low), true)
  const depthOf = (watcher: Fake): number => {
    let depth = 0
    for (let meta = told(watcher).at(-1)?.updated?.[0]?.metas[0]; Array.isArray(meta); meta = meta[0] as unknown) depth++
    return depth
  }
  for (const watcher of watchers) await until(() => depthOf(watcher) === low)
  for (const { lines } of [here, there]) t.strictSame(lines, [])
})

t.test('a key or meta out of bounds is refused', async (t) => {
  const one = await node(t, { maxEventBytes: 1_000 })
  const { connection } = connect(one)
  for (const presence of [{ key: 'x'.repeat(257) }, { key: '' }, { key: ['x'] }, { key: 'x', meta: 'x'.repeat(999) }, { key: 'x', meta: () => {} }]) {
    t.throws(() => connection.join('room', { presence: presence as never }), { code: 'FST_ERR_REAL_ARGUMENT' })
  }
  t.strictSame([...connection.rooms], [])
  t.equal(await connection.join('room', { presence: { key: 'x'.repeat(256), meta: 'x'.repeat(998) } }), true)
})

t.test('leave, close, clear and disconnect all clean up', async (t) => {
  const one = await node(t)
  const { registry } = one
  const watcher = await watch(one)
  const all = []
  for (const key of ['leaves', 'is closed', 'is cleared', 'is dropped']) all.push(await enter(one, key, 1))
  await turn()
  await all[0]?.connection.leave('room')
  t.strictSame((await registry.room('room').presence()).map(({ key }) => key), ['is cleared', 'is closed', 'is dropped'])
  all[1]?.connection.close()
  all[3]?.wire.link?.closed({ code: 1006, reason: 'lost' }, false)
  t.strictSame((await registry.room('room').presence()).map(({ key }) => key), ['is cleared'])
  await registry.room('room').clear()
  t.strictSame(await registry.room('room').presence(), [])
  await turn()
  t.strictSame(told(watcher).map((change) => Object.keys(change)), [['snapshot'], ['joined']], 'who was cleared with the others hears no more')
})

t.test('presence in several rooms is of each alone', async (t) => {
  const one = await node(t)
  const { connection } = connect(one, { user: 'ada' })
  await connection.join(['a', 'b'], { presence: { meta: 1 } })
  await connection.join('c', { presence: { meta: 2 } })
  const list = async (name: string): Promise<unknown> => one.registry.room(name).presence()
  t.strictSame([await list('a'), await list('b'), await list('c'), await list('d')], [[{ key: 'ada', metas: [1] }], [{ key: 'ada', metas: [1] }], [{ key: 'ada', metas: [2] }], []])
  t.strictSame(await one.registry.user('a').presence(), [], 'a user is no room')
  await connection.leave('b')
  t.strictSame([await list('a'), await list('b')], [[{ key: 'ada', metas: [1] }], []])
  connection.close()
  t.strictSame([await list('a'), await list('c')], [[], []])
})

t.test('presence is announced when the connection goes live, not before', async (t) => {
  const one = await node(t, { hold: 1_000_000 })
  const watcher = await watch(one)
  const unopened = connect(one, { opened: false })
  await unopened.connection.join('room', { presence: { key: 'unopened' } })
  const held = connect(one, { opened: false, bare: false, lastEventId: 'x-1' })
  held.connection.opened()
  await held.connection.join(['room', 'other'], { presence: { key: 'held' } })
  await held.connection.leave('other')
  const gone = connect(one, { opened: false })
  await gone.connection.join('room', { presence: { key: 'gone' } })
  gone.connection.close()
  await turn()
  t.strictSame(told(watcher), [{ snapshot: [] }])
  t.strictSame(await one.registry.room('room').presence(), [])
  unopened.connection.opened()
  await turn()
  t.strictSame(told(watcher).slice(1), [{ joined: [{ key: 'unopened', metas: [null] }] }])
  held.connection.live()
  await until(() => told(watcher).length > 2)
  t.strictSame(told(watcher).slice(2), [{ joined: [{ key: 'held', metas: [null] }] }])
  t.strictSame(await one.registry.room('other').presence(), [])
})

for (const slow of ['catch-up', 'drop'] as const) {
  t.test(`a reader that missed changes gets a fresh snapshot, and no change before it (slow: ${slow})`, async (t) => {
    const one = await node(t, { slow, maxBuffered: 1_000 })
    const watcher = connect(one, { bare: false, broadcast: false })
    await watcher.connection.join('room', { presence: true })
    await until(() => told(watcher).length === 1)
    const { connection } = await enter(one, 'joe', 1, { broadcast: false })
    await until(() => told(watcher).length === 2)
    watcher.wire.buffered = 990
    watcher.wire.whenFlushed = () => {} // it does not read
    await one.registry.room('room').send({ data: 'x'.repeat(500) })
    await turn()
    await enter(one, 'ada', 1)
    connection.close()
    await turn()
    watcher.wire.buffered = 0
    if (slow === 'catch-up') watcher.wire.link?.flushed()
    await enter(one, 'sue', 1)
    await turn()
    watcher.wire.link?.flushed()
    await until(() => told(watcher).length > 2)
    t.strictSame(told(watcher).slice(2), [{ snapshot: [{ key: 'ada', metas: [1] }, { key: 'sue', metas: [1] }] }])
    await enter(one, 'bob', 1)
    await turn()
    t.strictSame(told(watcher).slice(3), [{ joined: [{ key: 'bob', metas: [1] }] }])
  })
}

t.test('changes that do not fit into what waits for a replay are in a fresh snapshot', async (t) => {
  const one = await node(t, { maxBuffered: 1_000 })
  const watcher = await watch(one)
  const { connection } = watcher
  connection.holdAgain()
  const big = 'x'.repeat(600)
  for (const key of ['ada', 'bob', 'joe']) {
    await enter(one, key, key === 'joe' ? 1 : big, { broadcast: false })
    await turn()
  }
  t.equal(told(watcher).length, 1)
  connection.goLive(0)
  await turn()
  t.strictSame(told(watcher).slice(1), [
    { joined: [{ key: 'ada', metas: [big] }] },
    { snapshot: [{ key: 'ada', metas: [big] }, { key: 'bob', metas: [big] }, { key: 'joe', metas: [1] }] }
  ])
})

t.test('one change is made once for all who are told', async (t) => {
  const one = await node(t)
  const watchers = [await watch(one), await watch(one), await watch(one)]
  const before = encodings.one.made
  await enter(one, 'ada', 1, { encoding: encodings.other })
  await turn()
  t.strictSame(watchers.map((watcher) => told(watcher).length), [2, 2, 2])
  t.equal(encodings.one.made - before, 1)
})

t.test('a stream and a WebSocket see the same people', async (t) => {
  const { app: { connections }, open } = await site(t)
  const [ada, bob] = [await open('sse', { user: 'ada' }), await open('ws', { user: 'bob' })]
  await ada.connection.join('room', { presence: { meta: { on: 'sse' } } })
  await ada.wait(1, 'presence')
  await bob.connection.join('room', { presence: { meta: { on: 'ws' } } })
  t.strictSame(await bob.wait(1, 'presence'), [{ room: 'room', snapshot: [{ key: 'ada', metas: [{ on: 'sse' }] }, { key: 'bob', metas: [{ on: 'ws' }] }] }])
  t.strictSame(await ada.wait(2, 'presence'), [{ room: 'room', snapshot: [{ key: 'ada', metas: [{ on: 'sse' }] }] }, { room: 'room', joined: [{ key: 'bob', metas: [{ on: 'ws' }] }] }])
  ada.drop()
  t.strictSame((await bob.wait(2, 'presence'))[1], { room: 'room', left: [{ key: 'ada', metas: [{ on: 'sse' }] }] })
  bob.leave()
  await until(() => connections.size === 0)
  t.strictSame(await connections.room('room').presence(), [])
})

// --- several nodes

t.test('a snapshot shows everybody on every node', async (t) => {
  const [here, there, third] = await cluster(t)
  await enter(here, 'ada', 'here')
  await enter(there, 'ada', 'there')
  await enter(there, 'bob', 1)
  await turn()
  const watcher = await watch(third)
  t.strictSame(told(watcher), [{ snapshot: [{ key: 'ada', metas: ['here', 'there'] }, { key: 'bob', metas: [1] }] }])
  for (const { registry } of [here, there, third]) {
    t.strictSame((await registry.room('room').presence()).map(({ key, metas }) => [key, [...metas].sort()]), [['ada', ['here', 'there']], ['bob', [1]]])
  }
})

t.test('changes on one node are told on the others', async (t) => {
  const [here, there] = await cluster(t)
  const watcher = await watch(here)
  const ada = await enter(there, 'ada', 1)
  await turn()
  await ada.connection.join('room', { presence: { key: 'ada', meta: 2 } })
  await turn()
  const home = await enter(here, 'ada', 'home')
  await turn()
  ada.connection.close()
  await turn()
  home.connection.close()
  await turn()
  t.strictSame(told(watcher), [
    { snapshot: [] },
    { joined: [{ key: 'ada', metas: [1] }] },
    { updated: [{ key: 'ada', metas: [2] }] },
    { updated: [{ key: 'ada', metas: ['home', 2] }] },
    { updated: [{ key: 'ada', metas: ['home'] }] },
    { left: [{ key: 'ada', metas: ['home'] }] }
  ])
})

t.test('the snapshot waits for what other nodes have to say', async (t) => {
  const [here, there] = await cluster(t, 10_000)
  await enter(there, 'ada', 1)
  await turn()
  there.faults.held = true
  const watcher = connect(here)
  await watcher.connection.join('room', { presence: { key: 'bob' } })
  const listed = here.registry.room('room').presence()
  await turn()
  t.strictSame(told(watcher), [])
  there.faults.release()
  const snapshot = [{ key: 'ada', metas: [1] }, { key: 'bob', metas: [null] }]
  t.strictSame(await listed, snapshot)
  await until(() => told(watcher).length > 0)
  t.strictSame(told(watcher), [{ snapshot }])
})

t.test('the snapshot waits for a node that does not answer only so long', async (t) => {
  const [here, there] = await cluster(t, 10_000)
  await enter(there, 'ada', 1)
  await turn()
  there.faults.silent = true
  const watcher = await watch(here)
  t.strictSame(told(watcher), [{ snapshot: [] }])
})

t.test('a node that crashes is forgotten, and each key that is nowhere else has left, once', async (t) => {
  const [here, there, third] = await cluster(t)
  const watchers = [await watch(here), await watch(third)]
  await enter(there, 'only there', 1)
  await enter(there, 'only there', 2)
  await enter(there, 'there too', 1)
  await enter(here, 'there too', 'stays')
  await enter(third, 'elsewhere', 'stays')
  await until(async () => (await here.registry.room('room').presence()).length === 3 && (await third.registry.room('room').presence()).length === 3)
  await turn()
  const before = watchers.map((watcher) => told(watcher).length)
  there.faults.silent = true
  for (const watcher of watchers) await until(() => told(watcher).some(({ left }) => left !== undefined))
  await turn()
  for (const [index, watcher] of watchers.entries()) {
    const changes = told(watcher).slice(before[index])
    t.strictSame(changes.flatMap(({ left = [] }) => left), [{ key: 'only there', metas: [1, 2] }])
    t.strictSame(changes.flatMap(({ joined = [] }) => joined), [], 'nobody blinks')
    t.strictSame(changes.flatMap(({ updated = [] }) => updated), [{ key: 'there too', metas: ['stays'] }])
  }
  t.strictSame(await third.registry.room('room').presence(), [{ key: 'elsewhere', metas: ['stays'] }, { key: 'there too', metas: ['stays'] }])
})

t.test('a node that stops says so', async (t) => {
  const [here, there] = await cluster(t, 1_000_000)
  const watcher = await watch(here)
  await enter(there, 'ada', 1)
  await turn()
  await there.registry.stop()
  await turn()
  t.strictSame(told(watcher).slice(1), [{ joined: [{ key: 'ada', metas: [1] }] }, { left: [{ key: 'ada', metas: [1] }] }])
  t.strictSame(await here.registry.room('room').presence(), [])
})

t.test('a node that was cut off and forgotten is seen again, with all it has, and sees all others', async (t) => {
  for (const first of ['beat', 'change']) {
    const [here, there] = await cluster(t)
    const watcher = await watch(here)
    const far = await watch(there)
    await enter(here, 'ada', 1)
    await enter(there, 'bob', 1)
    await enter(there, 'joe', 1)
    await until(() => [watcher, far].every((fake) => present(fake).length === 3))
    there.faults.silent = true
    await until(() => told(watcher).some(({ left }) => left !== undefined) && told(far).some(({ left }) => left !== undefined))
    if (first === 'change') await enter(there, 'new', 1)
    await turn()
    there.faults.silent = false
    if (first === 'change') await enter(there, 'newer', 1)
    const all = ['ada', 'bob', 'joe', ...first === 'change' ? ['new', 'newer'] : []]
    for (const { registry } of [here, there]) await until(async () => (await registry.room('room').presence()).length === all.length)
    for (const { registry } of [here, there]) t.strictSame((await registry.room('room').presence()).map(({ key }) => key), all)
    for (const fake of [watcher, far]) await until(() => present(fake).length === all.length)
    for (const fake of [watcher, far]) t.strictSame(present(fake), all)
  }
})

t.test('what was said while a node was cut off is said again when it knows, in both directions', async (t) => {
  const [here, there] = await cluster(t, 1_000_000)
  const watchers = [await watch(here), await watch(there)]
  await enter(here, 'ada', 1)
  const { connection } = await enter(there, 'bob', 1)
  await until(() => watchers.every((fake) => present(fake).length === 2))
  there.faults.silent = true
  await enter(here, 'new here', 1)
  await enter(there, 'new there', 1)
  connection.close()
  await turn()
  there.faults.silent = false
  there.faults.missed('presence/nobody', 0)
  there.faults.missed('presence/room', 0)
  for (const fake of watchers) await until(() => present(fake).join() === 'ada,new here,new there')
  t.equal(told(watchers[0] as Fake).filter(({ left }) => left !== undefined).length, 1)
})

t.test('whoever has left a room while its node was cut off, or while others were, has left it for all, though their node is well', async (t) => {
  for (const fault of ['not taken', 'not taken, as it is told', 'not come', 'not come nor answered']) {
    const [here, there, third] = await cluster(t, 300)
    const watcher = await watch(here)
    const { connection } = await enter(there, 'ada', 1)
    await enter(third, 'bob', 1)
    await connect(there).connection.join('other', { presence: { key: 'ada' } }) // it has somebody present elsewhere: it is not forgotten
    await connect(here).connection.join('other', { presence: true })
    await until(() => present(watcher).join() === 'ada,bob')
    if (fault.startsWith('not taken')) there.faults.down = true
    else here.faults.silent = true
    connection.close()
    await turn()
    there.faults.down = here.faults.silent = false
    if (fault === 'not taken, as it is told') there.faults.missed('presence/room', 0)
    if (fault.startsWith('not come')) here.faults.missed('presence/room', 0)
    if (fault === 'not come nor answered') third.faults.missed('presence/room', 0)
    await until(() => present(watcher).join() === 'bob')
    t.strictSame((await here.registry.room('room').presence()).map(({ key }) => key), ['bob'])
    t.strictSame((await here.registry.room('other').presence()).map(({ key }) => key), ['ada'])
    t.strictSame(told(watcher).flatMap(({ left = [] }) => left), [{ key: 'ada', metas: [1] }], 'nobody else has')
  }
})

t.test('a room that could not be followed is followed later', async (t) => {
  const [here, there] = await cluster(t)
  const { subscribe } = here.faults
  let tries = 0
  here.faults.subscribe = async (node, topic) => {
    if (topic.startsWith('presence/') && ++tries < 3) throw new Error('not now')
    return await subscribe.call(here.faults, node, topic)
  }
  await enter(there, 'ada', 1)
  const watcher = await watch(here)
  t.strictSame(told(watcher), [{ snapshot: [] }], 'what is known is told')
  await until(() => told(watcher).length > 1)
  t.strictSame(told(watcher).slice(1), [{ joined: [{ key: 'ada', metas: [1] }] }])
  t.equal(tries, 3)
})

t.test('a node that stood still forgets nobody', async (t) => {
  const [here, there] = await cluster(t, 60)
  const watcher = await watch(here)
  await enter(there, 'ada', 1)
  await until(() => told(watcher).length === 2)
  for (let i = 0; i < 3; i++) {
    const until = performance.now() + 100
    while (performance.now() < until);
    await new Promise((resolve) => setTimeout(resolve, 30))
  }
  t.equal(told(watcher).length, 2)
  t.strictSame(await here.registry.room('room').presence(), [{ key: 'ada', metas: [1] }])
})

t.test('a room nobody is present in is not followed, and there is no timer for it', async (t) => {
  const backplane = memory()
  const one = await node(t, {}, backplane)
  const topics = new Set<string>()
  const { subscribe, unsubscribe } = backplane
  backplane.subscribe = async (node, topic) => { topics.add(topic); return await subscribe.call(backplane, node, topic) }
  backplane.unsubscribe = async (node, topic) => { topics.delete(topic); await unsubscribe.call(backplane, node, topic) }
  const timers = new Set<unknown>()
  const { setInterval, clearInterval } = globalThis
  globalThis.setInterval = ((...args: Parameters<typeof setInterval>) => { const timer = setInterval(...args); timers.add(timer); return timer }) as never
  globalThis.clearInterval = ((timer: never) => { timers.delete(timer); clearInterval(timer) }) as never
  t.teardown(() => Object.assign(globalThis, { setInterval, clearInterval }))
  t.strictSame(await one.registry.room('room').presence(), [])
  await turn()
  t.equal(timers.size, 0)
  const ada = await enter(one, 'ada', 1)
  t.ok(topics.has('presence/room'))
  t.ok(timers.size > 0)
  ada.connection.close()
  await turn()
  await turn()
  t.strictSame([[...topics], timers.size], [[], 0])
})

t.test('what other versions of a node say is not understood, and harms nobody', async (t) => {
  const backplane = memory()
  const one = await node(t, {}, backplane)
  const watcher = await watch(one)
  const odd = await node(t, {}, backplane)
  const { CheckedEvent } = await import('../lib/event.ts')
  const say = async (topic: string, data: unknown): Promise<void> => {
    const event = Object.assign(new CheckedEvent(), { text: JSON.stringify(data), json: true })
    await backplane.publish(topic, { event, except: null }, { keep: null, once: false })
  }
  for (const data of [null, 5, 'x', {}, { op: 'state', node: 'odd' }, { op: 'change', node: 'odd', entries: 5 }, { op: 'unknown', node: 'odd' }]) {
    await say('presence/room', data)
    await say('presence/elsewhere', data)
    await say('nodes', data)
  }
  await say('nodes', { op: 'clear', node: 'odd' })
  await say('nodes', { op: 'close', node: 'odd', ask: 'x', id: watcher.connection.id, reason: 5 })
  await say('nodes', { op: 'answer', node: 'odd', ask: 'never asked', done: true })
  await turn()
  t.ok(one.lines.some(({ level, message }) => level === 'warn' && message === 'a message between nodes was not understood'))
  t.notOk(one.lines.some(({ level }) => level === 'error'))
  t.equal(watcher.connection.open, true)
  await enter(odd, 'ada', 1)
  await turn()
  t.strictSame(told(watcher).at(-1), { joined: [{ key: 'ada', metas: [1] }] })
})

t.test('who is present is known while the backplane is down, as far as it is here', async (t) => {
  const faults = new FaultyBackplane(memory())
  const one = await node(t, {}, faults)
  const watcher = await watch(one)
  faults.down = true
  const ada = await enter(one, 'ada', 1)
  await turn()
  t.strictSame(told(watcher).slice(1), [{ joined: [{ key: 'ada', metas: [1] }] }])
  t.strictSame((await one.registry.room('other').presence()), [])
  ada.connection.close()
  await turn()
  t.strictSame(told(watcher).slice(2), [{ left: [{ key: 'ada', metas: [1] }] }])
})

t.test('who looks while a room cannot be followed yet is not kept waiting for ever: who is known here is given', async (t) => {
  const clock = new Clock()
  const left: string[] = []
  clock.install()
  t.after(() => clock.remove())
  const presence = new Presence({
    nodeId: 'here',
    timeout: 15_000,
    subscribe: () => new Promise(() => {}),
    unsubscribe (topic) { left.push(topic) },
    tell: async () => 1,
    announce () {}
  })
  presence.join({ announced: true, blind: false }, 'room', { key: 'ada', meta: 1 })
  const looking = Promise.all([presence.list('room'), presence.list('other')])
  await clock.pass(5_010) // and some turns
  t.strictSame(await Promise.race([looking, 'still waiting']), [[{ key: 'ada', metas: [1] }], []])
  await clock.pass(10)
  t.strictSame(left, ['presence/other'])
  presence.stop()
})

t.test('what is expected of other nodes may have come before it is known how much', async (t) => {
  const room = new PresentRoom('room')
  room.heard('other')
  await room.expect(1)
  room.heard('another')
  t.equal(room.idle, true)
})

t.test('whatever happens on whichever node, every watcher ends up with who is there', async (t) => {
  const keys = ['ada', 'bob', 'joe']
  const step = fc.record({ op: fc.constantFrom('join', 'join', 'watch', 'leave', 'close', 'turn', 'turn'), who: fc.nat(5), key: fc.constantFrom(...keys), meta: fc.nat(2) })
  await fc.assert(fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
    const nodes = await cluster(t, 10_000)
    const watchers = [await watch(nodes[0]), await watch(nodes[1])]
    const fakes = Array.from({ length: 6 }, (_, i) => connect(nodes[i % 3] as FakeNode))
    const here = new Map<number, { key: string, meta: number }>()
    for (const { op, who, key, meta } of steps) {
      const { connection } = fakes[who] as Fake
      if (op === 'turn') await turn()
      if (op === 'join') void connection.join('room', { presence: { key, meta } })
      if (op === 'join' && connection.open) here.set(who, { key, meta })
      if (op === 'watch') void connection.join('room', { presence: true })
      if (op === 'leave') void connection.leave('room')
      if (op === 'close') connection.close()
      if (op === 'watch' || op === 'leave' || op === 'close') here.delete(who)
    }
    await turn()
    await turn()
    const expected = keys.filter((key) => [...here.values()].some((one) => one.key === key)).map((key) => ({ key, metas: [...here.values()].filter((one) => one.key === key).map(({ meta }) => meta).sort() }))
    for (const { registry } of nodes) {
      const listed = (await registry.room('room').presence()).map(({ key, metas }) => ({ key, metas: [...metas].sort() }))
      if (JSON.stringify(listed) !== JSON.stringify(expected)) throw new Error(`${JSON.stringify(listed)} is listed instead of ${JSON.stringify(expected)}`)
    }
    for (const watcher of watchers) {
      const seen = present(watcher).join()
      if (seen !== expected.map(({ key }) => key).join()) throw new Error(`${seen} was told instead of ${JSON.stringify(expected)}`)
    }
    for (const { connection } of [...fakes, ...watchers]) connection.close()
    await turn()
    for (const { registry } of nodes) await registry.stop()
  }), { numRuns: 60 })
  t.pass('the model and the watchers agree')
})

// --- by itself, with a host that is no registry

function alone (tell: PresenceHost['tell'] = async () => undefined, acknowledged: () => Promise<void> = async () => {}): { presence: Presence, told: PresenceMessage[], announced: Array<Omit<PresenceChange, 'room'>>, topics: Set<string> } {
  const told: PresenceMessage[] = []
  const announced: Array<Omit<PresenceChange, 'room'>> = []
  const topics = new Set<string>()
  const presence = new Presence({
    nodeId: 'me',
    timeout: 1_000_000,
    async subscribe (topic) {
      topics.add(topic)
      await acknowledged()
      return 0
    },
    unsubscribe: (topic) => topics.delete(topic),
    async tell (topic, message) {
      told.push(message)
      return await tell(topic, message)
    },
    announce: (_watchers, change) => { announced.push(roomless(change)) }
  })
  return { presence, told, announced, topics }
}

t.test('where the backplane cannot tell how many nodes there are, one answer is waited for', async (t) => {
  const { presence, told, announced } = alone()
  presence.join({ announced: true, blind: false }, 'room', { key: 'ada', meta: 1 })
  await turn()
  t.strictSame(announced, [])
  t.match(told[0], { op: 'ask', node: 'me' })
  presence.heard('presence/room', { op: 'state', node: 'other', entries: [['bob', [2]]] })
  await turn()
  t.strictSame(announced, [{ snapshot: [{ key: 'ada', metas: [1] }, { key: 'bob', metas: [2] }] }])
  presence.stop()
  t.match(told.at(-1), { op: 'bye', node: 'me' })
})

t.test('what comes for a room that nobody is in any more changes nothing', async (t) => {
  const { presence, told, announced, topics } = alone(async () => 1)
  const who = { announced: true, blind: false }
  presence.join(who, 'room', { key: 'ada', meta: 1 })
  presence.join(who, 'other', { key: 'ada', meta: 1 })
  await turn()
  presence.leave(who, 'other')
  await turn()
  t.strictSame([...topics], ['presence/room'])
  const before = told.length
  presence.heard('presence/other', { op: 'ask', node: 'late', entries: [] })
  presence.heard('presence/other', { op: 'change', node: 'late', entries: [['bob', [1]]] })
  await turn()
  t.match(told.slice(before), [{ op: 'again', of: 'late' }], 'but for somebody new being there')
  t.strictSame(announced.map((change) => Object.keys(change)), [['snapshot'], ['snapshot']])
  presence.gone(who)
  await turn()
  t.strictSame([...topics], [])
  presence.heard('presence/room', { op: 'change', node: 'late', entries: [['bob', [1]]] })
  presence.heard('nodes', { op: 'beat', node: 'newer' })
  t.equal(told.filter(({ op }) => op === 'again').length, 1, 'nobody is here who could want to know')
  presence.gone(who)
  who.blind = true
  presence.live(who)
  presence.leave(who, 'room')
  presence.stop()
})

t.test('a node that has said what changed has not yet answered', async (t) => {
  const { presence, announced } = alone(async () => 2)
  presence.join({ announced: true, blind: false }, 'room', { key: null, meta: null })
  await turn()
  presence.heard('presence/room', { op: 'change', node: 'other', entries: [['bob', [1]]] })
  await turn()
  t.strictSame(announced, [])
  presence.heard('presence/room', { op: 'state', node: 'other', entries: [['ada', [1]], ['bob', [1]]] })
  await turn()
  t.strictSame(announced, [{ snapshot: [{ key: 'ada', metas: [1] }, { key: 'bob', metas: [1] }] }])
  presence.stop()
})

t.test('what was not taken is still to be said when something before it is taken late', async (t) => {
  const answers: Array<(nodes: number) => void> = []
  const { presence, topics } = alone((topic) => topic === 'nodes' ? Promise.resolve(2) : new Promise((resolve) => { answers.push(resolve) }))
  const who = { announced: true, blind: false }
  presence.join(who, 'room', { key: 'ada', meta: 1 })
  await turn()
  presence.gone(who)
  await turn()
  const [change, ask, gone] = answers as [(nodes: number) => void, (nodes: number) => void, (nodes: number) => void]
  change(1)
  gone(0)
  ask(1)
  await turn()
  t.strictSame([...topics], ['presence/room'], 'it is not over')
  presence.unsure('presence/room')
  answers.at(-1)?.(1)
  await turn()
  t.strictSame([...topics], [])
})

t.test('a room that everybody has left before it was followed asks for nothing, whoever is in it since', async (t) => {
  const acknowledge: Array<() => void> = []
  const { presence, told } = alone(undefined, () => new Promise((resolve) => { acknowledge.push(resolve) }))
  const who = { announced: true, blind: false }
  presence.join(who, 'room', { key: null, meta: null })
  presence.leave(who, 'room')
  await turn()
  presence.join(who, 'room', { key: null, meta: null })
  acknowledge[0]?.()
  await turn()
  t.strictSame(told, [])
  acknowledge[1]?.()
  await turn()
  t.match(told, [{ op: 'ask', node: 'me' }])
  presence.stop()
})
