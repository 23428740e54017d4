import t from 'tap'
import type { Test } from 'tap'
import { connect, node, turn } from './fake.ts'
import type { Fake, FakeNode } from './fake.ts'
import { Lossy } from './lossy.ts'
import { offsetOf } from './returner.ts'

/** A node that loses every event whose text says so; what is asked of its backplane waits while the gate is shut. */
class World {
  readonly lossy: Lossy
  one!: FakeNode
  isShut = false
  #waiting: Array<() => void> = []

  constructor () {
    this.lossy = new Lossy({
      loses: ({ event }) => (event.text as string).includes('lost'),
      later: async () => { if (this.isShut) await new Promise<void>((resolve) => { this.#waiting.push(resolve) }) }
    })
  }

  async start (t: Test, slow: 'drop' | 'catch-up' = 'catch-up'): Promise<this> {
    this.one = await node(t, { slow, maxBuffered: 1_000 }, this.lossy.backplane)
    return this
  }

  /** Lets go what waits; what is asked then waits again, unless it is open from now on. */
  async step (isShut: boolean = true): Promise<void> {
    this.isShut = isShut
    for (const go of this.#waiting.splice(0)) go()
    await turn()
  }

  async open (): Promise<void> { await this.step(false) }

  /** To the room that each begins with. */
  async send (...texts: string[]): Promise<void> { for (const text of texts) await this.one.registry.room(text.slice(0, 1)).send(text) }

  async member (...rooms: string[]): Promise<Fake> {
    const fake = connect(this.one, { bare: false, broadcast: false })
    await fake.connection.join(rooms)
    await turn()
    return fake
  }

  /** What members of `a` have not been given is being read. */
  async heal (): Promise<void> {
    await this.send('a lost')
    this.isShut = true
    this.lossy.find()
    await turn()
  }
}

const given = ({ wire }: Fake): unknown[] => wire.events.filter(({ event }) => event !== 'ready').map(({ data }) => data)

t.test('what comes in a room that is joined during a replay is given, however often the log is read', async (t) => {
  const world = await new World().start(t)
  await world.member('c')
  const fake = await world.member('a')
  await world.send('a1', 'c1')
  await world.heal()
  const joined = fake.connection.join('c')
  await world.send('c2', 'a lost too')
  world.lossy.find()
  for (let i = 0; i < 8; i++) await world.step()
  await world.send('c3')
  await world.open()
  t.equal(await joined, true)
  await world.send('c4')
  await turn()
  t.strictSame(given(fake), ['a1', 'a lost', 'c2', 'a lost too', 'c3', 'c4'])
  t.equal(world.one.registry.stats().gaps, 0)
})

t.test('the same where the room is new to the node, and acknowledged late', async (t) => {
  const world = await new World().start(t)
  const fake = await world.member('a')
  await world.send('a1', 'c1')
  await world.heal()
  const joined = fake.connection.join('c')
  await world.send('c2')
  await world.open()
  t.equal(await joined, true)
  await world.send('c3')
  await turn()
  t.strictSame(given(fake), ['a1', 'a lost', 'c3'])
})

t.test('a join that fails meanwhile harms nothing', async (t) => {
  const world = await new World().start(t)
  const fake = await world.member('a')
  await world.heal()
  world.lossy.failing.add('room/c')
  const joined = fake.connection.join('c')
  await world.send('a2')
  await world.open()
  t.equal(await joined, false)
  await world.send('a3')
  await turn()
  t.strictSame(given(fake), ['a lost', 'a2', 'a3'])
})

t.test('what was given live is not given again later, though a join was not acknowledged when the reader fell behind or the log could not be read', async (t) => {
  for (const slow of ['drop', 'catch-up'] as const) {
    const world = await new World().start(t, slow)
    const fake = await world.member('a')
    await world.send('a1')
    await turn()
    if (slow === 'catch-up') await world.heal()
    world.isShut = true
    const joined = fake.connection.join('e')
    if (slow === 'drop') {
      fake.wire.buffered = 990
      await world.send('a'.repeat(50))
      await turn()
      fake.wire.buffered = 0
    } else {
      world.lossy.unreadable.add('room/a')
    }
    await world.open()
    t.equal(await joined, true)
    world.lossy.unreadable.clear()
    await world.send('e1', 'a2')
    await turn()
    await world.send('a lost too')
    world.lossy.find()
    await turn()
    const gap = slow === 'drop' ? { reason: 'slow', dropped: 1 } : { reason: 'unknown' }
    t.strictSame(given(fake), ['a1', gap, 'e1', 'a2', 'a lost too'])
  }
})

t.test('who joins a room while its reader is behind is not given what was there before', async (t) => {
  const world = await new World().start(t)
  const keeper = await world.member('c')
  const fake = await world.member('a')
  fake.wire.buffered = 990
  await world.send('a'.repeat(50))
  await new Promise((resolve) => setImmediate(resolve))
  await world.send('c before')
  await fake.connection.join('c')
  await world.send('c after')
  fake.wire.buffered = 0
  for (let i = 0; i < 3; i++) await turn()
  t.equal(world.one.registry.stats().slow, 1)
  t.strictSame(given(fake), ['a'.repeat(50), 'c after'])
  t.strictSame(given(keeper), ['c before', 'c after'])
  fake.wire.buffered = 990
  await world.send('a'.repeat(51))
  await new Promise((resolve) => setImmediate(resolve))
  fake.wire.buffered = 0
  for (let i = 0; i < 3; i++) await turn()
  t.strictSame(given(fake), ['a'.repeat(50), 'c after', 'a'.repeat(51)], 'nor later')
})

/** Somebody in room `a` whose reader is behind is given so many bytes more, and joins room `c` in the same turn. */
async function joinedBehind (t: Test, buffered: number, bytes: number): Promise<{ world: World, fake: Awaited<ReturnType<World['member']>> }> {
  const world = await new World().start(t)
  await world.member('c')
  const fake = await world.member('a')
  await world.send('a1')
  await turn()
  fake.wire.buffered = buffered
  await world.send('a'.repeat(bytes), 'c before')
  await fake.connection.join('c')
  return { world, fake }
}

t.test('the same where it falls behind with what it was given in the turn in which it joined', async (t) => {
  const { world, fake } = await joinedBehind(t, 990, 50)
  await new Promise((resolve) => setImmediate(resolve))
  fake.wire.buffered = 0
  for (let i = 0; i < 3; i++) await turn()
  t.equal(world.one.registry.stats().slow, 1)
  t.strictSame(given(fake), ['a1', 'a'.repeat(50)])
})

t.test('nor is that given where the log cannot be read at first, and it falls behind again', async (t) => {
  const { world, fake } = await joinedBehind(t, 900, 80)
  world.lossy.unreadable.add('room/a')
  world.isShut = true
  for (let i = 0; i < 2; i++) await turn()
  await world.send('a' + 'b'.repeat(80))
  await world.open()
  world.lossy.unreadable.clear()
  fake.wire.buffered = 0
  for (let i = 0; i < 3; i++) await turn()
  t.equal(world.one.registry.stats().slow, 2)
  t.strictSame(given(fake), ['a1', { reason: 'unknown' }, 'a'.repeat(80), 'a' + 'b'.repeat(80)])
})

t.test('who joins a room that is not acknowledged yet is not given what has come in it by then, though it is held or behind meanwhile; nor twice what it was given', async (t) => {
  for (const way of ['missed', 'slow', 'missed after', 'slow after']) {
    const world = await new World().start(t)
    const fake = await world.member('a')
    await world.send('a1')
    world.isShut = true
    const other = connect(world.one, { bare: false, broadcast: false })
    void other.connection.join('c')
    await world.step()
    await world.send('c before')
    await turn()
    const joined = fake.connection.join('c')
    const isAfter = way.endsWith('after')
    if (isAfter) await world.send('c after')
    if (way.startsWith('missed')) {
      await world.send('a lost')
      world.lossy.find()
    } else {
      if (isAfter) await turn()
      fake.wire.buffered = 990
      await world.send('a'.repeat(50))
      await new Promise((resolve) => setImmediate(resolve))
      fake.wire.buffered = 0
    }
    await turn()
    await world.send('c meanwhile')
    await turn()
    await world.open()
    t.equal(await joined, true)
    await world.send('c later')
    await turn()
    const meant = ['a1', ...(isAfter ? ['c after'] : []), way.startsWith('missed') ? 'a lost' : 'a'.repeat(50), 'c meanwhile', 'c later']
    t.strictSame(given(fake), meant, way)
    t.equal(world.one.registry.stats().slow, way.startsWith('slow') ? 1 : 0)
  }
})

t.test('what is found missing of a room that is being made up for is given once', async (t) => {
  const world = await new World().start(t)
  const fake = await world.member('a', 'b')
  world.isShut = true
  const joined = fake.connection.join('c')
  await world.step()
  await world.send('c lost', 'a lost', 'b1')
  world.lossy.find('room/a')
  await world.step() // it is acknowledged; what was missed of the first is being read
  world.lossy.find('room/c')
  await world.open()
  t.equal(await joined, true)
  await world.send('c2', 'a2')
  await turn()
  t.strictSame(given(fake), ['b1', 'a lost', 'c lost', 'c2', 'a2'])
  t.equal(world.one.registry.stats().gaps, 0)
})

t.test('who could not be subscribed to the broadcast may fall behind, or miss something, as others may', async (t) => {
  for (const way of ['slow', 'missed']) {
    const world = await new World().start(t)
    world.lossy.failing.add('all')
    const fake = connect(world.one, { bare: false })
    await turn()
    await fake.connection.join('a')
    if (way === 'slow') fake.wire.buffered = 990
    await world.send(way === 'slow' ? 'a'.repeat(50) : 'a lost', 'a2')
    await turn()
    fake.wire.buffered = 0
    for (let i = 0; i < 3; i++) await turn()
    t.strictSame(given(fake), [{ reason: 'unknown' }, way === 'slow' ? 'a'.repeat(50) : 'a lost', 'a2'])
    t.equal(world.one.lines.filter(({ level }) => level === 'error').length, 1, 'that of the subscription')
  }
})

t.test('a join that is acknowledged when the sequence has begun anew takes its place in that', async (t) => {
  const world = await new World().start(t)
  const fake = await world.member('a')
  await world.send('a1', 'a2', 'a3')
  world.isShut = true
  const joined = fake.connection.join('c')
  await world.lossy.begin()
  await world.open()
  t.equal(await joined, true)
  t.ok(fake.connection.given <= 0)
  await world.send('c1', 'a4')
  await turn()
  t.strictSame(given(fake), ['a1', 'a2', 'a3', { reason: 'epoch' }, 'c1', 'a4'])
  t.equal(offsetOf(fake.wire.events.at(-1)?.id), 2)
})

t.test('when the sequence begins anew while it is made up for what was missed and joined, all of the new one is given, and nothing else', async (t) => {
  const rooms = ['c', 'e', 'e before'] // one that the node knows, one that it does not, and that being joined already
  for (const [what, steps] of rooms.flatMap((what) => Array.from({ length: 6 }, (_, steps) => [what, steps] as const))) {
    const room = what.slice(0, 1)
    const world = await new World().start(t)
    await world.member('c')
    const fake = await world.member('a', 'b', 'd')
    await world.send('a1', 'b1', 'a lost', 'b lost', 'd2')
    world.isShut = true
    const early = what === room ? null : fake.connection.join(room)
    world.lossy.find()
    await turn()
    const joined = early ?? fake.connection.join(room)
    for (let step = 0; step < steps; step++) await world.step()
    const before = given(fake)
    await world.lossy.begin()
    await world.send('a9')
    await world.open()
    t.equal(await joined, true)
    await world.send('b9', `${room}9`)
    await turn()
    t.strictSame(given(fake).slice(before.length), [{ reason: 'epoch' }, 'a9', 'b9', `${room}9`], `${what} after ${steps} steps`)
    t.strictSame(before.slice(0, 3), ['a1', 'b1', 'd2'])
  }
})

/** What it was given, each with its place. */
const placed = ({ wire }: Fake): Array<[unknown, number]> => wire.events.map(({ event, data, id }) => [event ?? data, offsetOf(id)])

t.test('who joins at once a room that the node knows and one that is new to it is given all after the place it is told', async (t) => {
  for (const between of [false, true]) {
    const world = await new World().start(t)
    await world.member('a')
    await world.send('a before', 'b before') // the node has heard nothing of that
    world.isShut = true
    const fake = connect(world.one, { bare: false, broadcast: false })
    const joined = fake.connection.join(['a', 'b'])
    if (!between) for (const room of ['a', 'b']) world.lossy.unreadable.add(`room/${room}`) // it need not be read
    await world.send(...(between ? ['a1', 'b1', 'a2', 'b2'] : ['b1']))
    await world.open()
    t.equal(await joined, true)
    world.lossy.unreadable.clear()
    await world.send('b3', 'a3')
    await turn()
    const meant = between ? [['ready', 2], ['a1', 3], ['b1', 4], ['a2', 5], ['b2', 6], ['b3', 7], ['a3', 8]] : [['ready', 3], ['b3', 4], ['a3', 5]]
    t.strictSame(placed(fake), meant)
    t.equal(world.one.registry.stats().gaps, 0)
  }
})

t.test('the same where something else is joined while that is read, and where the sequence begins anew by then', async (t) => {
  for (const isNew of [false, true]) {
    const world = await new World().start(t)
    await world.member('a')
    await world.member('c')
    await world.send('a before', 'c before')
    world.isShut = true
    const fake = connect(world.one, { bare: false, broadcast: false })
    const joined = fake.connection.join(['a', 'b'])
    await world.send('b before', 'a1', 'b2')
    await world.step()
    await world.step() // it is acknowledged, and being read
    t.equal(await joined, true)
    const other = fake.connection.join(['c', 'd'])
    await world.send('c1', 'd1', 'a2')
    if (isNew) await world.lossy.begin()
    for (let i = 0; i < 4; i++) await world.step()
    await world.open()
    t.equal(await other, true)
    await world.send('d3', 'c3', 'b3')
    await turn()
    const meant = isNew ? ['ready', 'gap', 'd3', 'c3', 'b3'] : ['ready', 'a1', 'b2', 'c1', 'a2', 'd3', 'c3', 'b3']
    t.strictSame(fake.wire.events.map(({ event, data }) => event ?? data), meant)
  }
})

t.test('a first place is not after what waits of another join, and places only grow', async (t) => {
  const world = await new World().start(t)
  await world.member('a')
  world.isShut = true
  const fake = connect(world.one, { bare: false, broadcast: false })
  const first = fake.connection.join('b')
  await world.step()
  await world.send('a before', 'b1', 'a too')
  t.equal(await fake.connection.join('a'), true)
  await world.open()
  t.equal(await first, true)
  await world.send('b2', 'a2')
  await turn()
  t.strictSame(placed(fake), [['ready', 1], ['b1', 2], ['b2', 4], ['a2', 5]])
})

t.test('who comes when the sequence begins anew is given nothing of the old one after its place in the new', async (t) => {
  const world = await new World().start(t)
  await world.member('a')
  await world.send('a1', 'a2')
  world.isShut = true
  const fake = connect(world.one, { bare: false, broadcast: false })
  const joined = fake.connection.join(['a', 'b'])
  await world.send('a3')
  await world.one.registry.room('a').send({ comment: 'not kept' })
  await world.lossy.begin()
  await world.send('a of the new')
  await world.open()
  t.equal(await joined, true)
  await world.send('b of the new')
  await turn()
  t.strictSame(placed(fake).filter(([what]) => what !== undefined), [['ready', 0], ['a of the new', 1], ['b of the new', 2]])
  t.equal(fake.connection.given, 2)
  const { epoch } = world.lossy.backplane
  t.ok(fake.wire.events.every(({ id }) => id === undefined || id.startsWith(`${epoch}-`)))
})

t.test('who joins at once a room that the node knows and one that is new to it is given nothing that was there before, whatever is replayed to it later', async (t) => {
  for (const way of ['slow', 'missed']) {
    for (const [bare, ...rooms] of [[false, 'a', 'b'], [false, 'b', 'a'], [false, 'c', 'b'], [true, 'a', 'b', 'c']] as Array<[boolean, ...string[]]>) {
      const world = await new World().start(t)
      await world.member('a', 'c')
      const fake = connect(world.one, { bare, broadcast: false })
      if (!bare) await fake.connection.join('c')
      await world.send('a before', 'b before') // of `b` the node has heard nothing
      await turn()
      t.equal(await fake.connection.join(rooms), true)
      const next = way === 'slow' ? 'c'.repeat(50) : 'c lost'
      if (way === 'slow') fake.wire.buffered = 990
      await world.send(next)
      world.lossy.find()
      await turn()
      fake.wire.buffered = 0
      for (let i = 0; i < 3; i++) await turn()
      await world.send('b after', 'a after')
      await turn()
      t.strictSame(given(fake), [next, 'b after', ...(rooms.includes('a') ? ['a after'] : [])], `${way} ${rooms.join()}`)
      t.equal(world.one.registry.stats().slow, way === 'slow' ? 1 : 0)
    }
  }
})

t.test('nor where it is held, or its reader is behind, when they are acknowledged; what came meanwhile in the one that is known is given', async (t) => {
  for (const way of ['slow', 'missed', 'unwritten']) {
    const isMissed = way === 'missed'
    const isWritten = way !== 'unwritten'
    const world = await new World().start(t)
    await world.member('a')
    const fake = connect(world.one, { bare: false, broadcast: false })
    await fake.connection.join('c')
    await turn()
    const next = isMissed ? 'c lost' : 'c'.repeat(50)
    await world.send(next)
    if (!isMissed) fake.wire.buffered = 990
    if (isWritten) await turn()
    await world.send('a before', 'b before')
    world.isShut = isWritten
    const joined = fake.connection.join(['a', 'b'])
    world.lossy.find()
    if (isWritten) await turn()
    await world.send('a meanwhile')
    if (isWritten) await world.open()
    t.equal(await joined, true)
    await turn()
    fake.wire.buffered = 0
    for (let i = 0; i < 3; i++) await turn()
    await world.send('b after')
    await turn()
    t.strictSame(given(fake), [next, 'a meanwhile', 'b after'], way)
    t.equal(world.one.registry.stats().slow, isMissed ? 0 : 1)
  }
})

t.test('who joins its first rooms while its reader is behind is given all that comes from then on', async (t) => {
  for (const bare of [false, true]) {
    for (const rooms of [['a'], ['b'], ['a', 'b']]) {
      const world = await new World().start(t)
      await world.member('a')
      const fake = connect(world.one, { bare, broadcast: false })
      fake.connection.send('x'.repeat(50))
      fake.wire.buffered = 990
      await turn()
      await world.send('a before', 'b before')
      t.equal(await fake.connection.join(rooms), true)
      await turn()
      await world.send('a after', 'b after')
      await turn()
      fake.wire.buffered = 0
      for (let i = 0; i < 3; i++) await turn()
      const meant = [...rooms.map((room) => `${room} after`), { reason: 'slow', dropped: 1 }]
      t.strictSame(given(fake), meant, `${bare ? 'bare' : 'placed'} ${rooms.join()}`)
    }
  }
})
