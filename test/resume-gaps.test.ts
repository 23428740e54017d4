import t from 'tap'
import { memory } from '../lib/index.ts'
import type { Backplane, Node } from '../lib/index.ts'
import type { Connection, Gap } from '../lib/index.ts'
import { connect, node, turn } from './fake.ts'
import type { FakeNode } from './fake.ts'
import { until } from './helper.ts'
import { app, detour, offsetOf, transports } from './returner.ts'

/** A backplane whose verbs can be made to fail, and whose log can be lost. */
class Faulty implements Backplane {
  inner = memory()
  readonly failing = new Set<string>()
  readonly #nodes = new Set<Node>()
  readonly #topics = new Set<[Node, string]>()

  get epoch (): string { return this.inner.epoch }
  start (node: Node): Promise<void> { this.#nodes.add(node); return this.inner.start(node) }
  subscribe (node: Node, topic: string): Promise<number> {
    return this.#run('subscribe', topic, () => {
      this.#topics.add([node, topic])
      return this.inner.subscribe(node, topic)
    })
  }

  unsubscribe (...args: Parameters<Backplane['unsubscribe']>): Promise<void> { return this.#run('unsubscribe', args[1], () => this.inner.unsubscribe(...args)) }
  publish (...args: Parameters<Backplane['publish']>): ReturnType<Backplane['publish']> { return this.#run('publish', args[0], () => this.inner.publish(...args)) }
  range (...args: Parameters<Backplane['range']>): ReturnType<Backplane['range']> { return this.#run('range', args[0], () => this.inner.range(...args)) }
  close (node: Node): Promise<void> { return this.inner.close(node) }

  async #run<T> (verb: string, topic: string, work: () => Promise<T>): Promise<T> {
    if (this.failing.has(verb) || this.failing.has(`${verb} ${topic}`)) throw new Error(`${verb} failed`)
    return await work()
  }

  /** Everything that was kept is gone, and the sequence begins again. */
  async lose (): Promise<void> {
    this.inner = memory()
    for (const [node, topic] of this.#topics) await this.inner.subscribe(node, topic)
    for (const node of this.#nodes) node.reset()
  }
}

/** A client that knows the place it was at; what it was told is in its `wire`. */
async function placed (one: FakeNode, ...rooms: string[]): Promise<string> {
  const { connection, wire } = connect(one, { bare: false, broadcast: false })
  await connection.join(rooms)
  await turn()
  connection.close()
  await turn()
  return wire.events[0]?.id as string
}

function gapsOf (one: FakeNode): Gap[] {
  const gaps: Gap[] = []
  one.registry.on('gap', (_connection, gap) => { gaps.push(gap) })
  return gaps
}

for (const transport of transports) {
  t.test(`a ${transport} client whose place is no place of this sequence is told why, and is live`, async (t) => {
    const one = await app(t)
    const { connections } = one.fastify
    const told: Array<[Connection, Gap]> = []
    connections.on('gap', (connection, gap) => { told.push([connection, gap]) })
    const first = one.client(transport, '/in?rooms=a')
    await first.open()
    const { id } = await first.ready()
    const [epoch] = (id as string).split(/-(?=\d+$)/) as [string]
    await connections.room('a').send({ data: 'before' })
    const cases: Array<[string, Gap['reason']]> = [
      [`x${epoch}-1`, 'epoch'],
      ['order-5', 'epoch'], // it may be a cursor: nobody can tell
      [`${epoch}-999999`, 'unknown'],
      [`${epoch}-999999999999999`, 'unknown'],
      [`${epoch}-9999999999999999`, 'unknown'],
      [`${epoch}--1`, 'epoch'],
      [`${epoch}-1e3`, 'unknown'],
      [`${epoch}-`, 'unknown'],
      [`${epoch}`, 'unknown'],
      ['1', 'unknown'],
      ['-1', 'unknown'],
      ['__proto__', 'unknown'],
      ['../../etc/passwd', 'unknown'],
      ['"\'<script>', 'unknown'],
      ['%0d%0aset-cookie', 'unknown'],
      ['ü€😀', 'unknown'],
      ['+ $ ( 0-0 *', 'unknown'],
      ['x'.repeat(12_000), 'unknown']
    ]
    for (const [place, reason] of cases) {
      const client = one.client(transport, '/in?rooms=a')
      await client.open(place)
      await until(() => client.gaps.length > 0)
      await connections.room('a').send({ data: 'live' })
      await client.wait(1)
      t.strictSame(client.got.map(({ event, data }) => event === 'ready' ? (data as { resumed: boolean }).resumed : data), [false, { reason }, 'live'], place.slice(0, 40))
      t.ok(offsetOf(client.readies[0]?.id) < offsetOf(client.events[0]?.id))
      t.equal(client.gaps.length, 1)
      await client.cut()
      const next = one.client(transport, '/in?rooms=a')
      await next.open(client.lastEventId)
      t.match(await next.ready(), { data: { resumed: true } }, 'from there on it resumes')
      await next.cut()
      t.strictSame(told.shift(), [client.connection, { reason }])
    }
    t.equal(connections.stats().gaps, cases.length)
  })

  t.test(`what a ${transport} client cannot be given any more is told, by the name of the room`, async (t) => {
    const one = await app(t, { connections: { history: { events: 3 } } })
    const { connections } = one.fastify
    const client = one.client(transport, '/in?rooms=a,b,c&user=ada')
    await client.open()
    const { id } = await client.ready()
    await client.cut()
    for (let n = 1; n <= 5; n++) for (const room of ['a', 'b']) await connections.room(room).send({ data: `${room}${n}` })
    await connections.room('c').send({ data: 'c1' })
    for (let n = 1; n <= 4; n++) await connections.user('ada').send({ data: `u${n}` })
    client.forget()
    await client.open()
    await client.wait(10)
    t.strictSame(client.got.slice(0, 4).map(({ event, data }) => [event, data]), [
      ['ready', { resumed: false, heartbeat: 15_000 }],
      ['gap', { reason: 'trimmed' }],
      ['gap', { reason: 'trimmed', room: 'a' }],
      ['gap', { reason: 'trimmed', room: 'b' }]
    ])
    t.strictSame(client.data, ['a3', 'b3', 'a4', 'b4', 'a5', 'b5', 'c1', 'u2', 'u3', 'u4'])
    t.equal(client.readies[0]?.id, id)
    t.match(connections.stats(), { resumed: 0, gaps: 3 })
  })

  t.test(`a room a ${transport} client joins late tells its own gap`, async (t) => {
    const one = await app(t, { connections: { history: { events: 1 } } })
    const { connections } = one.fastify
    const client = one.client(transport, '/in?rooms=a')
    await client.open()
    await client.ready()
    await client.cut()
    for (const n of [1, 2, 3]) await connections.room('b').send({ data: n })
    await connections.room('a').send({ data: 'a' })
    await client.open()
    t.strictSame(await client.wait(1), ['a'])
    await client.connection.join('b')
    t.strictSame(await client.wait(2), ['a', 3])
    t.strictSame(client.gaps, [{ reason: 'trimmed', room: 'b' }])
    const lost = one.client(transport, '/in?rooms=a')
    await lost.open('of-no-epoch-1')
    await until(() => lost.gaps.length >= 1)
    await lost.connection.join(['b', 'c'])
    lost.connection.identify('ada')
    await until(() => lost.gaps.length >= 4)
    t.strictSame(lost.gaps, [{ reason: 'epoch' }, { reason: 'epoch', room: 'b' }, { reason: 'epoch', room: 'c' }, { reason: 'epoch' }])
    t.strictSame(lost.data, [])
  })

  t.test(`when history cannot be read a ${transport} client is told so, and is live`, async (t) => {
    const backplane = new Faulty()
    const one = await app(t, { connections: { backplane } })
    const { connections } = one.fastify
    const client = one.client(transport, '/in?rooms=a')
    await client.open()
    await client.ready()
    await client.cut()
    await connections.room('a').send({ data: 'missed' })
    backplane.failing.add('range')
    client.forget()
    await client.open()
    await until(() => client.gaps.length > 0)
    await connections.room('a').send({ data: 'live' })
    t.strictSame(await client.wait(1), ['live'])
    t.strictSame(client.got.map(({ event, data }) => event === 'ready' ? (data as { resumed: boolean }).resumed : data), [false, { reason: 'unknown' }, 'live'])
    t.strictSame(await connections.room('a').history(), { events: [], complete: false })
    backplane.failing.clear()
    await client.cut()
    await client.open()
    t.match(await client.ready(), { data: { resumed: true } })
  })
}

t.test('a failure of the backplane is logged once and answered in the result', async (t) => {
  const backplane = new Faulty()
  const one = await node(t, {}, backplane)
  const { registry, lines } = one
  const gaps = gapsOf(one)
  const id = await placed(one, 'a')
  const errors = (): Array<string | undefined> => lines.splice(0).filter(({ level }) => level === 'error').map(({ fields }) => fields.err?.message)
  backplane.failing.add('publish')
  t.strictSame(await registry.room('a').send({ data: 1 }), { accepted: false, members: 0 })
  t.strictSame(await registry.broadcast({ data: 1 }), { accepted: false, members: 0 })
  t.strictSame(errors(), ['publish failed', 'publish failed'])
  backplane.failing.clear()
  await registry.room('a').send({ data: 'missed' })
  backplane.failing.add('subscribe room/a')
  const { connection, wire } = connect(one, { bare: false, broadcast: false })
  t.equal(await connection.join('a'), false)
  t.strictSame([...connection.rooms], [])
  t.strictSame(errors(), ['subscribe failed'])
  t.equal(await connection.join(['b', 'c']), true)
  await registry.room('b').send({ data: 2 })
  await turn()
  t.match(wire.events, [{ event: 'ready' }, { data: 2 }], 'it is not held for ever')
  t.strictSame(gaps, [])
  backplane.failing.clear()
  t.equal(await connection.join('a'), true)
  backplane.failing.add('subscribe all')
  const broadcast = connect(one, { bare: false })
  await turn()
  t.match(broadcast.wire.events, [{ event: 'ready', data: { resumed: false } }, { event: 'gap', data: { reason: 'unknown' } }])
  t.strictSame(errors(), ['subscribe failed'])
  const back = connect(one, { bare: false, lastEventId: id, broadcast: false, opened: false })
  back.connection.opened()
  backplane.failing.clear()
  backplane.failing.add('subscribe room/x')
  t.strictSame(await Promise.all([back.connection.join('x'), back.connection.join('a')]), [false, true])
  back.connection.settled()
  await turn()
  t.strictSame(back.wire.events.map(({ event, data }) => event ?? data), ['ready', 'missed'])
  t.strictSame(errors(), ['subscribe failed'])
  backplane.failing.clear()
  backplane.failing.add('unsubscribe')
  await back.connection.leave('a')
  await connection.leave('a')
  await turn()
  t.strictSame(errors(), ['unsubscribe failed'])
})

t.test('when a replay fails midway, what was given is not given again', async (t) => {
  const backplane = new Faulty()
  const one = await node(t, { history: { events: 1_000 } }, backplane)
  const gaps = gapsOf(one)
  const id = await placed(one, 'a')
  for (let n = 1; n <= 250; n++) await one.registry.room('a').send({ data: n })
  const { range } = backplane
  let reads = 0
  backplane.range = (...args) => {
    if (++reads > 1) backplane.failing.add('range')
    return range.apply(backplane, args)
  }
  const { connection, wire } = connect(one, { bare: false, broadcast: false, lastEventId: id })
  await connection.join('a')
  await turn()
  await one.registry.room('a').send({ data: 'live' })
  await turn()
  t.strictSame(wire.events.map(({ event, data }) => event === 'ready' ? event : data), ['ready', ...Array.from({ length: 200 }, (_, n) => n + 1), { reason: 'unknown' }, 'live'])
  t.strictSame(gaps, [{ reason: 'unknown' }])
  t.equal(one.lines.filter(({ level }) => level === 'error').length, 1)
})

t.test('a connection that was closed meanwhile is told nothing when history cannot be read', async (t) => {
  const backplane = new Faulty()
  const one = await node(t, {}, backplane)
  const id = await placed(one, 'a')
  for (const fails of [true, false]) {
    let read = (): void => {}
    backplane.range = async (...args) => {
      await new Promise<void>((resolve) => { read = resolve })
      if (fails) throw new Error('range failed')
      return await backplane.inner.range(...args)
    }
    for (const place of [id, 'nowhere']) {
      const { connection, wire } = connect(one, { bare: false, broadcast: false, lastEventId: place })
      await connection.join('a')
      connection.close()
      read()
      await turn()
      t.strictSame(wire.events, [])
      t.equal(connection.open, false)
    }
  }
})

t.test('when the log is lost everybody who has a place is told, and goes on in the new sequence', async (t) => {
  const backplane = new Faulty()
  const one = await node(t, { slow: 'catch-up' }, backplane)
  const { registry } = one
  const id = await placed(one, 'a')
  for (let n = 1; n <= 20; n++) await registry.room('a').send({ data: n })
  const fresh = connect(one, { bare: false, broadcast: false })
  const bare = connect(one, { broadcast: false })
  const back = connect(one, { bare: false, broadcast: false, lastEventId: id })
  const holding = connect(one, { bare: false, broadcast: false, lastEventId: id, opened: false })
  const nothing = connect(one, { bare: false, broadcast: false })
  for (const { connection } of [fresh, bare, back, holding]) await connection.join('a')
  await registry.room('a').send({ data: 21 })
  const old = backplane.epoch
  await backplane.lose()
  await registry.room('a').send({ data: 'new' })
  await turn()
  for (const { wire } of [fresh, back]) {
    t.strictSame(wire.events.slice(-3).map(({ data }) => data), [21, { reason: 'epoch' }, 'new'])
    t.match(wire.events.at(-1)?.id, backplane.epoch)
  }
  t.strictSame(bare.wire.events.map(({ data }) => data), [21, 'new'])
  t.strictSame(nothing.wire.events, [])
  holding.connection.opened()
  holding.connection.settled()
  await turn()
  t.strictSame(holding.wire.events.map(({ event, data }) => event === 'ready' ? event : data), ['ready', { reason: 'epoch' }, 'new'])
  await registry.room('b').send({ data: 'b' })
  await back.connection.join('b')
  await turn()
  t.strictSame(back.wire.events.slice(-2).map(({ data }) => data), [{ reason: 'epoch', room: 'b' }, 'b'], 'nor does its old place count for what it joins late')
  await registry.room('a').send({ data: 'newer' })
  await turn()
  for (const { wire } of [fresh, bare, back, holding]) t.equal(wire.events.at(-1)?.data, 'newer')
  const next = connect(one, { bare: false, broadcast: false })
  await next.connection.join('a')
  await turn()
  t.equal(offsetOf(next.wire.events[0]?.id), 3)
  t.not(old, backplane.epoch)
})

t.test('when the log is lost during a replay, what comes in the new sequence is live', async (t) => {
  const backplane = new Faulty()
  const one = await node(t, {}, backplane)
  const id = await placed(one, 'a')
  for (let n = 1; n <= 20; n++) await one.registry.room('a').send({ data: n })
  const range = backplane.range.bind(backplane)
  let lost = false
  backplane.range = async (...args) => {
    const read = await range(...args)
    if (!lost) {
      lost = true
      await backplane.lose()
    }
    return read
  }
  const { connection, wire } = connect(one, { bare: false, broadcast: false, lastEventId: id })
  await connection.join('a')
  await turn()
  await one.registry.room('a').send({ data: 'new' })
  await turn()
  t.strictSame(wire.events.map(({ event, data }) => event === undefined ? data : event), ['ready', 'gap', 'new'], 'what was read of the old one is not given after that')
  t.equal(one.registry.stats().resumed, 0)
  t.equal(connection.given, 1)
})

t.test('a place that was looked up in a sequence that is lost meanwhile is none in the next', async (t) => {
  for (const reason of ['epoch', 'unknown']) {
    const backplane = new Faulty()
    const one = await node(t, {}, backplane)
    const there = connect(one, { bare: false, broadcast: false })
    await there.connection.join('a')
    await one.registry.room('a').send({ id: 'mine', data: 1 })
    const { range } = backplane
    backplane.range = async (...args) => {
      const read = await range.apply(backplane, args)
      backplane.range = range
      await backplane.lose()
      return { ...read, top: 9 }
    }
    const { connection, wire } = connect(one, { bare: false, broadcast: false, lastEventId: reason === 'epoch' ? `${backplane.epoch}-9` : 'mine' })
    await connection.join('a')
    await turn()
    for (let n = 1; n <= 10; n++) await one.registry.room('a').send({ data: n })
    await turn()
    t.strictSame(wire.events.map(({ event, id, data }) => event === 'ready' ? id : data), [`${backplane.epoch}-0`, { reason }, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
  }
})

/** A backplane that loses what it is told to on the way to its nodes. */
function lossy (): { backplane: Backplane, lost: Set<string>, reads: string[], nodes: Set<Node> } {
  const inner = memory()
  const lost = new Set<string>()
  const reads: string[] = []
  const proxies = new Map<Node, Node>()
  const nodes = new Set<Node>()
  const proxy = (node: Node): Node => {
    const known = proxies.get(node)
    if (known !== undefined) return known
    nodes.add(node)
    const made: Node = { id: node.id, log: node.log, missed: (topic, offset) => node.missed(topic, offset), reset: () => node.reset(), deliver (delivery, parcel) { if (!lost.delete(delivery.event.text as string)) node.deliver(delivery, parcel) } }
    proxies.set(node, made)
    return made
  }
  const backplane = detour(inner, {
    subscribe: (node, topic) => inner.subscribe(proxy(node), topic),
    unsubscribe: (node, topic) => inner.unsubscribe(proxy(node), topic),
    range (topic, after, limit) {
      reads.push(`${topic} ${String(after)}`)
      return inner.range(topic, after, limit)
    }
  })
  return { backplane, lost, reads, nodes }
}

t.test('what did not reach a node is seen with the next event of the room, and given to all members with one read', async (t) => {
  const { backplane, lost, reads } = lossy()
  const one = await node(t, {}, backplane)
  const room = one.registry.room('a')
  await room.send('0')
  const members = Array.from({ length: 10 }, (_, n) => connect(one, { bare: n % 2 === 0, broadcast: false }))
  for (const { connection } of members) await connection.join('a')
  for (const text of ['2', '3', '5']) lost.add(text)
  for (let n = 1; n <= 6; n++) {
    await room.send(String(n))
    await turn()
  }
  for (const { wire } of members) {
    const events = wire.events.filter(({ event }) => event === undefined)
    t.strictSame(events.map(({ data }) => data), ['1', '2', '3', '4', '5', '6'])
    t.strictSame(events.map(({ id }) => offsetOf(id)), [2, 3, 4, 5, 6, 7])
  }
  t.strictSame(reads, ['room/a 2', 'room/a 5'])
  t.equal(one.registry.stats().gaps, 0)
})

t.test('who was given later events of other rooms gets what was missed without a place', async (t) => {
  const { backplane, lost } = lossy()
  const one = await node(t, {}, backplane)
  const { connection, wire } = connect(one, { bare: false, broadcast: false })
  await connection.join(['a', 'b'])
  lost.add('a2')
  for (const text of ['a1', 'a2', 'b3', 'a4', 'b5']) {
    await one.registry.room(text.slice(0, 1)).send(text)
    await turn()
  }
  t.strictSame(wire.events.slice(1).map(({ data, id }) => [data, id === undefined ? 0 : offsetOf(id)]), [['a1', 1], ['b3', 3], ['a2', 0], ['a4', 4], ['b5', 5]])
})

t.test('what the backplane says did not come is given to all members with one read, also where nothing follows', async (t) => {
  const { backplane, lost, reads, nodes } = lossy()
  const one = await node(t, {}, backplane)
  const { connection, wire } = connect(one, { bare: false, broadcast: false })
  await connection.join(['a', 'b'])
  for (const text of ['a2', 'a4', 'a5']) lost.add(text)
  for (const text of ['a1', 'a2', 'b3', 'a4', 'a5']) await one.registry.room(text.slice(0, 1)).send(text)
  const given = (): unknown => wire.events.slice(1).map(({ data, id }) => [data, id === undefined ? 0 : offsetOf(id)])
  const [self] = nodes
  for (const [topic, offset] of [['room/nobody', 5], ['room/a', 1], ['room/b', 3], ['room/a', 0]] as const) self?.missed(topic, offset)
  await turn()
  t.strictSame([given(), reads], [[['a1', 1], ['b3', 3]], []], 'what is there is not read')
  for (let i = 0; i < 2; i++) self?.missed('room/a', 5)
  await turn()
  t.strictSame(given(), [['a1', 1], ['b3', 3], ['a2', 0], ['a4', 4], ['a5', 5]])
  t.equal(reads.filter((read) => read === 'room/a 1').length, 1)
  await one.registry.room('a').send('a6')
  await turn()
  t.strictSame((given() as unknown[]).at(-1), ['a6', 6])
  t.equal(one.registry.stats().gaps, 0)
})

t.test('several rooms may miss something at once also where something else was given since', async (t) => {
  const { backplane, lost, nodes } = lossy()
  const one = await node(t, {}, backplane)
  const { connection, wire } = connect(one, { bare: false, broadcast: false })
  await connection.join(['a', 'b', 'c'])
  for (const text of ['a2', 'b3', 'a5', 'b6']) lost.add(text)
  for (const text of ['a1', 'a2', 'b3', 'c4', 'a5', 'b6']) await one.registry.room(text.slice(0, 1)).send(text)
  const [self] = nodes
  self?.missed('room/a', 5)
  self?.missed('room/b', 6)
  await one.registry.room('c').send('c7')
  await turn()
  const given = wire.events.slice(1).map(({ data, id }) => [data, id === undefined ? 0 : offsetOf(id)])
  t.strictSame(given, [['a1', 1], ['c4', 4], ['a2', 0], ['b3', 0], ['a5', 5], ['b6', 6], ['c7', 7]])
  t.equal(one.registry.stats().gaps, 0)
})

t.test('what a replay has given is not given again where it is found later to have been missed, and nothing comes after what is later', async (t) => {
  const { backplane, lost, nodes } = lossy()
  const one = await node(t, {}, backplane)
  const { connection, wire } = connect(one, { bare: false, broadcast: false })
  await connection.join(['a', 'b'])
  for (const text of ['b2', 'a4', 'b5']) lost.add(text)
  for (const text of ['a1', 'b2', 'a3', 'a4', 'b5', 'a6']) await one.registry.room(text.slice(0, 1)).send(text)
  await turn()
  const [self] = nodes
  const given = (): unknown => wire.events.slice(1).map(({ data, id }) => [data, id === undefined ? 0 : offsetOf(id)])
  t.strictSame(given(), [['a1', 1], ['a3', 3], ['a4', 4], ['b5', 5], ['a6', 6]])
  self?.missed('room/b', 5)
  await turn()
  t.strictSame(given(), [['a1', 1], ['a3', 3], ['a4', 4], ['b5', 5], ['a6', 6], [{ reason: 'unknown', room: 'b' }, 0]], 'b2 would come after b5')
  await connection.join('c')
  lost.add('c7')
  await one.registry.room('c').send('c7')
  await one.registry.room('a').send('a8')
  self?.missed('room/c', 7)
  await turn()
  t.strictSame((given() as unknown[]).slice(6), [['a8', 8], ['c7', 0]])
})

t.test('what was missed before a client came in, or that it had had by then, is not given to it', async (t) => {
  const { backplane, lost, nodes } = lossy()
  const one = await node(t, {}, backplane)
  const there = connect(one, { bare: false, broadcast: false })
  await there.connection.join(['a', 'b'])
  for (const text of ['a1', 'a2']) lost.add(text)
  for (const text of ['a1', 'a2', 'b3']) await one.registry.room(text.slice(0, 1)).send(text)
  await turn()
  const returning = connect(one, { bare: false, broadcast: false, lastEventId: `${backplane.epoch}-2` })
  const fresh = connect(one, { bare: false, broadcast: false })
  for (const { connection } of [returning, fresh]) await connection.join(['a', 'b'])
  await turn()
  const [self] = nodes
  self?.missed('room/a', 2)
  await one.registry.room('b').send('b4')
  await turn()
  const given = ({ wire }: typeof fresh): unknown => wire.events.map(({ event, data, id }) => [event ?? data, id === undefined ? 0 : offsetOf(id)])
  t.strictSame(given(there), [['ready', 0], ['b3', 3], ['a1', 0], ['a2', 0], ['b4', 4]])
  t.strictSame(given(returning), [['ready', 2], ['b3', 3], ['b4', 4]])
  t.strictSame(given(fresh), [['ready', 3], ['b4', 4]])
  t.equal(one.registry.stats().gaps, 0)
})

t.test('who comes to a node that is behind and cannot read is not given again what it has had', async (t) => {
  const { backplane, lost, nodes } = lossy()
  const one = await node(t, {}, backplane)
  const there = connect(one, { bare: false, broadcast: false })
  await there.connection.join(['a', 'b'])
  for (const text of ['a2', 'a3', 'a4']) lost.add(text)
  for (const text of ['b1', 'a2', 'a3', 'a4']) await one.registry.room(text.slice(0, 1)).send(text)
  await turn()
  const { range } = backplane
  backplane.range = () => Promise.reject(new Error('range failed'))
  const returning = [`${backplane.epoch}-3`, `${backplane.epoch}-0`, 'nowhere'].map((lastEventId) => connect(one, { bare: false, broadcast: false, lastEventId }))
  for (const { connection } of returning) await connection.join(['a', 'b'])
  await turn()
  backplane.range = range
  const [self] = nodes
  self?.missed('room/a', 4)
  await turn()
  await one.registry.room('b').send('b5')
  await turn()
  t.strictSame(returning.map(({ wire }) => wire.events.map(({ event, data, id }) => event === 'ready' ? offsetOf(id as string) : event ?? data)), [
    [3, 'gap', 'a4', 'b5'],
    [0, 'gap', 'b1', 'a2', 'a3', 'a4', 'b5'],
    [1, 'gap', 'a2', 'a3', 'a4', 'b5']
  ])
})

t.test('several rooms may miss something at once', async (t) => {
  const { backplane, lost } = lossy()
  const one = await node(t, {}, backplane)
  const { connection, wire } = connect(one, { bare: false, broadcast: false })
  await connection.join(['a', 'b'])
  for (const text of ['a2', 'b2']) lost.add(text)
  for (const text of ['a1', 'b1', 'a2', 'b2', 'a3', 'b3', 'a4']) await one.registry.room(text.slice(0, 1)).send(text)
  await turn()
  t.strictSame(wire.events.slice(1).map(({ data }) => data).sort(), ['a1', 'a2', 'a3', 'a4', 'b1', 'b2', 'b3'])
  t.equal(one.registry.stats().gaps, 0)
})

t.test('what was missed while a connection was held or behind is read with the rest, in the order of its room', async (t) => {
  const { backplane, lost } = lossy()
  const one = await node(t, { slow: 'catch-up', maxBuffered: 1_000 }, backplane)
  const place = await placed(one, 'a')
  const returning = connect(one, { bare: false, broadcast: false, lastEventId: place, opened: false })
  const behind = connect(one, { bare: false, broadcast: false })
  returning.connection.opened()
  for (const { connection } of [returning, behind]) await connection.join(['a', 'b'])
  await turn()
  const send = async (text: string): Promise<void> => { await one.registry.room(text.slice(0, 1)).send(text) }
  await send('a1')
  lost.add('a2')
  await send('a2')
  await send('b1')
  await turn()
  behind.wire.buffered = 900
  await send('b'.repeat(200))
  await turn()
  await send('a3')
  behind.wire.buffered = 0
  returning.connection.settled()
  await turn()
  t.strictSame(returning.wire.events.slice(1).map(({ data }) => data), ['a1', 'a2', 'b1', 'b'.repeat(200), 'a3'])
  t.strictSame(behind.wire.events.slice(1).map(({ data }) => data), ['a1', 'b1', 'b'.repeat(200), 'a2', 'a3'])
})

t.test('a first place is never before what was given, also where another join fails meanwhile', async (t) => {
  const inner = memory()
  const waiting = new Map<string, (err?: Error) => void>()
  const backplane = detour(inner, {
    async subscribe (node, topic) {
      const offset = await inner.subscribe(node, topic)
      if (topic.startsWith('room/')) await new Promise<void>((resolve, reject) => waiting.set(topic, (err) => err === undefined ? resolve() : reject(err)))
      return offset
    }
  })
  const one = await node(t, {}, backplane)
  const { connection, wire } = connect(one, { bare: false, broadcast: false })
  const joins = [connection.join('a'), connection.join('b')]
  await turn()
  waiting.get('room/a')?.(new Error('subscribe failed'))
  t.equal(await joins[0], false)
  await one.registry.room('b').send('1')
  await turn()
  waiting.get('room/b')?.()
  t.equal(await joins[1], true)
  await turn()
  t.strictSame(wire.events.map(({ event, data, id }) => [event ?? data, offsetOf(id)]), [['1', 1], ['ready', 1]])
})

t.test('each client that is told a gap is counted', async (t) => {
  const one = await node(t)
  for (let n = 0; n < 3; n++) {
    const { connection } = connect(one, { bare: false, lastEventId: 'nowhere' })
    await connection.join('a')
  }
  await turn()
  t.match(one.registry.stats(), { gaps: 3, resumed: 0 })
})
