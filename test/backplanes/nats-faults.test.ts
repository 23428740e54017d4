import { connect, headers } from '@nats-io/transport-node'
import type { ConnectionOptions, NatsConnection } from '@nats-io/transport-node'
import t from 'tap'
import type { Test } from 'tap'
import { nats } from '../../lib/backplanes/nats.ts'
import { connect as member, FakeEncoding, node } from '../fake.ts'
import { until } from '../helper.ts'
import { ear, freePort, jetstream, lossy, natsConnection, natsNode, NatsServer, natsServer, Relay, withNats } from '../nats.ts'

const NAME = 'app'
/** The next status of a kind that a connection tells. */
async function once (connection: NatsConnection, kind: string): Promise<void> {
  for await (const { type } of connection.status()) if (type === kind) return
}

/** What has to be accepted: where it is not, the test ends, for what it would wait for does not come. */
async function accepted<T extends { accepted: boolean }> (sending: Promise<T>): Promise<T> {
  const answer = await sending
  if (!answer.accepted) throw new Error('what had to be accepted was refused')
  return answer
}

const fast: ConnectionOptions = { reconnectTimeWait: 50, reconnectJitter: 0 }
const pause = (milliseconds: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, milliseconds))

async function relayed (t: Test, server: NatsServer): Promise<{ relay: Relay, connection: NatsConnection }> {
  const relay = await new Relay(server.port).start(t)
  const connection = await connect({ servers: relay.url, timeout: 500, maxReconnectAttempts: -1, ...fast })
  t.after(() => connection.close())
  return { relay, connection }
}

withNats(() => {
  t.test('what is sent while the server is away waits for it, and is there once', async (t) => {
    const server = await natsServer(t)
    const connection = await natsConnection(t, server, fast)
    const a = await natsNode(t, { connection, name: NAME, timeout: 20_000 })
    const b = await natsNode(t, { connection: await natsConnection(t, server, fast), name: NAME })
    for (const { backplane, one } of [a, b]) await backplane.subscribe(one, 'room/x')
    await accepted(a.send('room/x', '0'))
    const { epoch } = a.backplane
    const lost = once(connection, 'disconnect')
    await server.stop()
    await lost // what is sent before goes over it, and is in doubt
    const sent = ['1', '2', '3'].map((text) => a.send('room/x', text))
    const unkept = a.send('room/x', 'not kept', { keep: null })
    await a.backplane.subscribe(a.one, 'room/joined while it was away')
    const early = a.send('room/joined while it was away', 'early')
    await server.start()
    const started = performance.now()
    for (const answer of await Promise.all([...sent, unkept, early].map(accepted))) t.equal(answer.duplicate, false)
    t.comment(`accepted ${Math.round(performance.now() - started)} ms after the server listened`)
    await accepted(a.send('room/x', '4'))
    t.strictSame(a.one.texts().filter((text) => /^\d|early/.test(text as string)), ['0', '1', '2', '3', 'early', '4'])
    await until(async () => (await b.backplane.range('room/x', 0, 100).catch(() => null))?.deliveries.length === 5)
    t.strictSame([a.backplane.epoch, b.backplane.epoch, a.one.resets, b.one.resets], [epoch, epoch, 0, 0], 'it has a disk')
  })

  t.test('what is sent while the server is away is refused where that is wanted, or too much, or takes too long', async (t) => {
    const server = await natsServer(t)
    const no = await natsNode(t, { connection: await natsConnection(t, server, fast), name: NAME, whenAway: 'refuse', timeout: 1_000 })
    const few = await natsNode(t, { connection: await natsConnection(t, server, fast), name: NAME, maxPending: 3_000, timeout: 1_000 })
    await server.stop()
    await until(async () => !(await no.send('room/x', 'x')).accepted)
    await pause(100)
    const answers = Promise.all(Array.from({ length: 10 }, () => few.send('room/x', 'x'.repeat(500))))
    const big = few.send('room/x', 'x'.repeat(100_000))
    t.equal((await big).accepted, false)
    t.strictSame(new Set((await answers).map(({ accepted }) => accepted)), new Set([false]))
    t.equal(few.one.said.filter((said) => said === 'too much waits for NATS already, so events are refused').length, 1)
    t.ok(few.one.said.includes('NATS did not acknowledge events in time'))
    t.match(await no.send('room/x', 'x', { keep: null }), { accepted: false })
    await server.start()
    for (const { send } of [no, few]) await until(async () => (await send('room/x', 'x')).accepted)
  })

  t.test('a server that has lost what it kept is told of as a gap, on every node', async (t) => {
    const server = await natsServer(t)
    const encoding = new FakeEncoding('nats')
    const nodes = await Promise.all([0, 1].map(async () => node(t, {}, nats({ connection: await natsConnection(t, server, fast), name: NAME }))))
    const members = nodes.map((one) => member(one, { bare: false, encoding }))
    for (const { connection } of members) await connection.join('room')
    await accepted((nodes[0] as (typeof nodes)[0]).registry.room('room').send({ event: 'n', data: 1 }))
    await until(() => members.every(({ wire }) => wire.events.some(({ event }) => event === 'n')))
    const cursor = members[0]?.wire.events.find(({ event }) => event === 'n')?.id as string
    await server.stop()
    server.forget()
    await server.start()
    await until(async () => (await nodes[0]?.registry.room('room').send({ event: 'n', data: 2 }))?.accepted)
    await until(() => members.every(({ wire }) => wire.events.some(({ data }) => data === 2)))
    for (const { wire } of members) {
      t.strictSame(wire.events.filter(({ event }) => event === 'n' || event === 'gap').map(({ data }) => data), [1, { reason: 'epoch' }, 2])
    }
    const back = member(nodes[1] as (typeof nodes)[0], { bare: false, encoding, lastEventId: cursor, opened: false })
    await back.connection.join('room')
    back.connection.opened()
    back.connection.settled()
    await until(() => back.wire.events.length > 1)
    t.strictSame(back.wire.events.filter(({ event }) => event === 'gap').map(({ data }) => data), [{ reason: 'epoch' }])
  })

  t.test('a server that comes back with an older store has another sequence, also where it has gone past the place again', async (t) => {
    for (const others of [0, 5]) {
      const server = await natsServer(t)
      const { relay, connection } = await relayed(t, server)
      const { backplane, one, send } = await natsNode(t, { connection, name: NAME })
      await accepted(send('room/x', 'one'))
      await backplane.subscribe(one, 'room/x')
      await server.stop('SIGTERM')
      const restore = server.backup()
      await server.start()
      await until(async () => (await send('room/x', 'two')).accepted)
      await accepted(send('room/x', 'three'))
      const before = backplane.epoch
      relay.cut()
      await server.stop()
      restore()
      await server.start()
      const raw = await natsConnection(t, server)
      for (let i = 0; i < others; i++) await raw.request(`${NAME}.k.${before}.room/y`, 'x')
      relay.isCut = false
      await until(() => one.resets >= 1)
      t.not(backplane.epoch, before)
      await raw.close()
      await backplane.close(one)
      await server.stop()
    }
  })

  t.test('a node that was cut off for a while gives its members what they missed, once, in order', async (t) => {
    const server = await natsServer(t)
    const { relay, connection } = await relayed(t, server)
    const encoding = new FakeEncoding('nats')
    const there = await node(t, {}, nats({ connection: await natsConnection(t, server), name: NAME }))
    const here = await node(t, {}, nats({ connection, name: NAME }))
    const { connection: one, wire } = member(here, { bare: false, encoding })
    await one.join(['a', 'b', 'quiet'], { presence: { key: 'here' } })
    const { connection: other } = member(there, { bare: false, encoding })
    const numbers = (): unknown[] => wire.events.filter(({ event }) => event === 'n').map(({ data }) => data)
    let count = 0
    const send = async (room: string): Promise<void> => { await accepted(there.registry.room(room).send({ event: 'n', data: count++ })) }
    await send('a')
    await send('quiet')
    await until(() => numbers().length === 2)
    relay.cut()
    for (let i = 0; i < 20; i++) await send(i % 2 === 0 ? 'a' : 'b')
    await send('quiet')
    await other.join('a', { presence: { key: 'there' } })
    relay.isCut = false
    await until(() => numbers().length === count)
    await send('b')
    await until(() => numbers().length === count)
    t.strictSame([...numbers()].sort((x, y) => Number(x) - Number(y)), Array.from({ length: count }, (_, i) => i), 'each of them once')
    for (const parity of [0, 1]) {
      const own = numbers().slice(2, -2).filter((n) => Number(n) % 2 === parity)
      t.strictSame(own, [...own].sort((x, y) => Number(x) - Number(y)), 'in the order of its room')
    }
    t.strictSame(wire.events.filter(({ event }) => event === 'gap'), [])
    await until(async () => (await here.registry.room('a').presence()).length === 2)
  })

  t.test('a connection on which nothing comes is made anew', async (t) => {
    const server = await natsServer(t)
    const { relay, connection } = await relayed(t, server)
    const { backplane, one, send } = await natsNode(t, { connection, name: NAME, probe: 300, timeout: 20_000 })
    await backplane.subscribe(one, 'room/x')
    relay.mute()
    const lost = send('room/x', 'lost reply')
    await until(() => one.said.includes('nothing comes from NATS any more, so the connection is made anew'))
    t.match(await lost, { accepted: true, duplicate: false })
    t.match(await send('room/x', 'next'), { accepted: true })
    const { deliveries } = await backplane.range('room/x', 0, 100)
    t.strictSame(deliveries.map(({ event }) => event.text), ['lost reply', 'next'], 'what was sent again is one event')
  })

  t.test('a reply that is lost does not make a duplicate of what was sent with once, but of what somebody else sent', async (t) => {
    const server = await natsServer(t)
    const raw = await natsConnection(t, server)
    const { relay, connection } = await relayed(t, server)
    const a = await natsNode(t, { connection, name: NAME, timeout: 20_000 })
    const b = await natsNode(t, { connection: raw, name: NAME })
    relay.mute()
    const own = a.send('room/x', { id: 'mine', data: 1 }, { once: true })
    const unkept = a.send('room/x', 'in doubt', { keep: null })
    await until(async () => (await b.backplane.range('room/x', 0, 10)).deliveries.length === 1)
    await accepted(b.send('room/x', { id: 'theirs', data: 1 }, { once: true }))
    const theirs = a.send('room/x', { id: 'theirs', data: 2 }, { once: true })
    const gone = a.send('room/x', { id: 'gone', data: 3 }, { once: true })
    await until(async () => (await b.backplane.range('room/x', 0, 10)).deliveries.length === 3)
    await jetstream(raw, `STREAM.MSG.DELETE.${NAME}`, { seq: 4 })
    relay.cut()
    relay.isCut = false
    t.match(await own, { accepted: true, duplicate: false, offset: 2 })
    t.match(await theirs, { accepted: true, duplicate: true, offset: 3 })
    t.match(await gone, { accepted: true, duplicate: true, offset: 4 }, 'nobody can tell any more whose it was')
    t.match(await unkept, { accepted: false }, 'nobody knows, and it is not sent twice')
    t.equal((await b.backplane.range('room/x', 0, 10)).deliveries.length, 2)
  })

  t.test('whose it is that was kept with the same id is asked again where no answer comes', async (t) => {
    const server = await natsServer(t)
    const { relay, connection } = await relayed(t, server)
    const lost = { left: 1 }
    const a = await natsNode(t, { connection: lossy(connection, () => false, { swallows: (subject) => subject.includes('DIRECT.GET') && lost.left-- > 0 }), name: NAME, timeout: 20_000 })
    const b = await natsNode(t, { connection: await natsConnection(t, server), name: NAME })
    relay.mute()
    const own = a.send('room/x', { id: 'mine', data: 1 }, { once: true })
    await until(async () => (await b.backplane.range('room/x', 0, 10)).deliveries.length === 1)
    relay.cut()
    relay.isCut = false
    t.match(await own, { accepted: true, duplicate: false, offset: 2 })
    t.ok(lost.left <= 0)
  })

  t.test('what may have been delivered before the sequence began anew is not sent again', async (t) => {
    const server = await natsServer(t)
    const raw = await natsConnection(t, server)
    const { relay, connection } = await relayed(t, server)
    const { backplane, one, send } = await natsNode(t, { connection, name: NAME, timeout: 20_000 })
    const { epoch } = backplane
    relay.mute()
    const sent = send('room/x', 'in doubt')
    await until(async () => (await jetstream<{ state: { last_seq: number } }>(raw, `STREAM.INFO.${NAME}`)).state.last_seq === 2)
    await jetstream(raw, `STREAM.DELETE.${NAME}`)
    relay.cut()
    relay.isCut = false
    t.match(await sent, { accepted: false })
    t.not(backplane.epoch, epoch)
    t.ok(one.said.includes('what became of an event is not known, so it is refused'))
    t.match(await send('room/x', 'next'), { accepted: true })
    t.strictSame((await backplane.range('room/x', 0, 10)).deliveries.map(({ event }) => event.text), ['next'])
  })

  t.test('what is read while the link is lost is read when it is back, unless it stays away', async (t) => {
    const server = await natsServer(t)
    const { relay, connection } = await relayed(t, server)
    const { backplane, send } = await natsNode(t, { connection, name: NAME, timeout: 2_000 })
    await accepted(send('room/x', 'x'))
    relay.cut()
    await once(connection, 'disconnect')
    const read = backplane.range('room/x', 0, 10)
    relay.isCut = false
    t.equal((await read).deliveries.length, 1)
    relay.cut()
    await once(connection, 'disconnect')
    await t.rejects(backplane.range('room/x', 0, 10), { message: /no connection/ })
    await t.rejects(backplane.range('room/x', 0, 10), { message: /no connection/ }, 'at once: it has been away too long')
    relay.isCut = false
    await until(async () => (await backplane.range('room/x', 0, 10).catch(() => null))?.deliveries.length === 1)
    relay.cut()
    await once(connection, 'disconnect')
    const node = ear()
    await backplane.start(node)
    const last = backplane.range('room/x', 0, 10)
    await backplane.close(node)
    t.ok(await Promise.race([last.then(() => false, () => true), pause(100).then(() => true)]))
  })

  t.test('what is read is asked for again where no answer comes, as long as there is time', async (t) => {
    const server = await natsServer(t)
    const lost = { left: 0 }
    const connection = lossy(await natsConnection(t, server), () => false, { swallows: (subject) => subject.includes('STREAM.INFO') && lost.left-- > 0 })
    const { backplane, send } = await natsNode(t, { connection, name: NAME, timeout: 2_500 })
    await send('room/x', 'x')
    lost.left = 1
    t.equal((await backplane.range('room/x', 0, 10)).deliveries.length, 1)
    lost.left = Infinity
    await t.rejects(backplane.range('room/x', 0, 10), { message: /did not answer/ })
  })

  t.test('after its end it does not care what becomes of a connection that was passed in', async (t) => {
    const server = await natsServer(t)
    const { relay, connection } = await relayed(t, server)
    const { backplane, one, send } = await natsNode(t, { connection, name: NAME })
    await backplane.subscribe(one, 'room/x')
    const reading = backplane.range('room/x', 0, 10)
    await reading
    await backplane.close(one)
    relay.cut()
    await once(connection, 'disconnect')
    relay.isCut = false
    await once(connection, 'reconnect')
    t.strictSame([one.said, one.gaps], [[], []])
    await t.rejects(send('room/x', 'x').then(({ accepted }) => { if (!accepted) throw new Error('refused') }))
  })

  t.test('a reading that waits for the link ends with the backplane', async (t) => {
    const server = await natsServer(t)
    const { relay, connection } = await relayed(t, server)
    const { backplane, one } = await natsNode(t, { connection, name: NAME, timeout: 60_000 })
    relay.cut()
    await once(connection, 'disconnect')
    const reading = backplane.range('room/x', 0, 10)
    reading.catch(() => {})
    await new Promise((resolve) => setImmediate(resolve))
    await backplane.close(one)
    await t.rejects(reading, { message: /no connection/ })
  })

  t.test('who joins while the server stands still is in when it does not answer', async (t) => {
    const server = await natsServer(t)
    const a = await natsNode(t, { connection: await natsConnection(t, server), name: NAME, timeout: 300 })
    const b = await natsNode(t, { connection: await natsConnection(t, server), name: NAME })
    server.signal('SIGSTOP')
    let rooms = 0
    await until(async () => { // it may still answer some
      t.equal(await a.backplane.subscribe(a.one, `room/${++rooms}`), 1)
      return a.one.said.includes('the stream of NATS cannot be reached')
    })
    t.equal(await a.backplane.subscribe(a.one, 'room/x'), 1)
    await t.rejects(a.backplane.range('room/x', 0, 10), { message: /did not answer/ })
    t.match(await a.send('room/x', 'too late'), { accepted: false })
    server.signal('SIGCONT')
    await until(async () => (await b.send('room/x', 'x')).accepted)
    await until(() => a.one.texts().includes('x') || a.one.gaps.length > 0)
  })

  t.test('a server that gets its stream back within three seconds takes publications again', async (t) => {
    const server = await natsServer(t)
    const { backplane, one, send } = await natsNode(t, { connection: (safe) => connect({ ...safe, servers: server.url }), name: NAME, whenAway: 'refuse', timeout: 1_000 })
    await backplane.subscribe(one, 'room/x')
    for (const signal of ['SIGKILL', 'SIGTERM'] as const) {
      await server.stop(signal)
      await until(async () => !(await send('room/x', 'x')).accepted)
      await server.start()
      const listening = performance.now()
      await until(async () => (await send('room/x', 'x')).accepted)
      t.comment(`accepted ${Math.round(performance.now() - listening)} ms after it listened`)
    }
    t.equal(one.resets, 0)
  })

  t.test('a server that stands still is waited for, and nothing is doubled', async (t) => {
    const server = await natsServer(t)
    const { backplane, one, send } = await natsNode(t, { connection: await natsConnection(t, server, fast), name: NAME, probe: 60_000, timeout: 20_000 })
    await backplane.subscribe(one, 'room/x')
    server.signal('SIGSTOP')
    const sent = Array.from({ length: 20 }, (_, i) => send('room/x', String(i)))
    await pause(2_000)
    server.signal('SIGCONT')
    for (const answer of await Promise.all(sent)) t.match(answer, { accepted: true, duplicate: false })
    t.strictSame(one.texts(), sent.map((_, i) => String(i)))
  })

  t.test('a place that is forged is not believed for long', async (t) => {
    const server = await natsServer(t)
    const raw = await natsConnection(t, server)
    const { backplane, one, send } = await natsNode(t, { connection: await natsConnection(t, server), name: NAME, audit: 50 })
    await backplane.subscribe(one, 'room/x')
    await send('room/x', 'x')
    const given = headers()
    given.set('Nats-Sequence', '9')
    given.set('Nats-Last-Sequence', '8')
    raw.publish(`${NAME}.d.k.another.room/x`, 'x', { headers: given })
    t.match(await send('room/x', 'y'), { accepted: true })
    t.strictSame(one.texts(), ['x', 'y'])
  })

  t.test('without a server it does not start, or starts alone and finds it later', async (t) => {
    const port = await freePort()
    const make = (safe: ConnectionOptions): Promise<NatsConnection> => connect({ ...safe, servers: `127.0.0.1:${port}` })
    await t.rejects(nats({ connection: make, name: NAME }).start(ear()))
    await t.rejects(nats({ connection: () => new Promise(() => {}), name: NAME, timeout: 100 }).start(ear()), { message: /in time/ })
    const { backplane, one, send } = await natsNode(t, { connection: make, name: NAME, onUnavailable: 'degrade', timeout: 20_000 })
    t.ok(one.said.includes('NATS is not there yet: nothing is sent beyond this node'))
    const offset = await backplane.subscribe(one, 'room/x')
    t.equal(offset, 0)
    await t.rejects(backplane.range('room/x', 0, 10), { message: /no connection/ })
    const early = send('room/x', 'early')
    const unkept = send('room/x', 'not kept', { keep: null })
    const server = new NatsServer(port, [])
    t.after(async () => { await server.stop(); server.forget() })
    await server.start()
    t.match(await early, { accepted: true })
    t.match(await unkept, { accepted: true })
    t.equal(one.resets, 1, 'its members were given places in a sequence that is not')
    t.strictSame(one.texts().sort(), ['early', 'not kept'])
  })

  t.test('a server without JetStream is no backplane', async (t) => {
    const port = await freePort()
    const server = new NatsServer(port, [], false)
    t.after(() => server.stop())
    await server.start()
    const make = (safe: ConnectionOptions): Promise<NatsConnection> => connect({ ...safe, servers: server.url })
    await t.rejects(nats({ connection: make, name: NAME }).start(ear()), { message: /JetStream/ })
  })

  t.test('a connection that has closed for good is made anew where it can be', async (t) => {
    const server = await natsServer(t)
    const made: NatsConnection[] = []
    const { backplane, one, send } = await natsNode(t, {
      name: NAME,
      async connection (safe) {
        t.match(safe, { maxReconnectAttempts: -1, pingInterval: 5_000, noEcho: false })
        const connection = await connect({ ...safe, servers: server.url })
        made.push(connection)
        return connection
      }
    })
    await backplane.subscribe(one, 'room/x')
    await made[0]?.close()
    t.match(await send('room/x', 'x'), { accepted: true })
    t.strictSame([one.texts(), made.length], [['x'], 2])
    await backplane.close(one)
    t.ok(made[1]?.isClosed(), 'what it made it closes')

    const given = await connect({ servers: server.url })
    const other = await natsNode(t, { connection: given, name: NAME, timeout: 300 })
    await other.backplane.subscribe(other.one, 'room/x')
    await given.close()
    await until(() => other.one.said.some((said) => said.includes('closed for good')))
    t.match(await other.send('room/x', 'x'), { accepted: false })
    await other.backplane.subscribe(other.one, 'room/y')
    await t.rejects(nats({ connection: given, name: NAME }).start(ear()), { message: /is closed/ })
  })

  for (const follow of ['rooms', 'all'] as const) {
    t.test(`what was kept while a node was away, and is gone when it is back, is told as missed: ${follow}`, async (t) => {
      const server = await natsServer(t)
      const relay = await new Relay(server.port).start(t)
      const connection = await natsConnection(t, server)
      const there = await natsNode(t, { connection, name: NAME, follow })
      const here = await natsNode(t, { connection: await natsConnection(t, server, { servers: relay.url }), name: NAME, follow })
      await here.backplane.subscribe(here.one, 'room/x')
      const first = await there.send('room/x', 'first')
      await here.backplane.subscribe(here.one, 'room/quiet')
      await until(() => here.one.got.length === 1)
      relay.cut()
      const last = await there.send('room/x', 'gone')
      await jetstream(connection, `STREAM.PURGE.${NAME}`)
      relay.isCut = false
      await until(() => here.one.gaps.length > 0)
      t.ok(here.one.gaps.every(([, offset]) => offset >= last.offset))
      t.match(await here.backplane.range('room/x', first.offset, 10), { complete: false })
      t.match(await here.send('room/x', 'end'), { accepted: true })
      t.strictSame(here.one.texts(), ['first', 'end'])
    })
  }

  t.test('a subscription that is not allowed is told', async (t) => {
    const folder = t.testdir({ 'nats.conf': `authorization { users = [{ user: app, password: app, permissions: { subscribe: { deny: "${NAME}.d.u.u.room/secret" } } }] }` })
    const server = await natsServer(t, ['-c', `${folder}/nats.conf`])
    const { one, backplane, send } = await natsNode(t, { connection: await natsConnection(t, server, { user: 'app', pass: 'app' }), name: NAME })
    await backplane.subscribe(one, 'room/x')
    await backplane.subscribe(one, 'room/secret')
    await until(() => one.said.includes('a subscription was refused'))
    t.match(await send('room/x', 'x'), { accepted: true })
    t.strictSame(one.texts(), ['x'])
  })

  t.test('a node that may not hear what it is answered does not start, and is told why', async (t) => {
    const folder = t.testdir({ 'nats.conf': `authorization { users = [{ user: app, password: app, permissions: { subscribe: { deny: "${NAME}.>" } } }] }` })
    const server = await natsServer(t, ['-c', `${folder}/nats.conf`])
    const connection = await natsConnection(t, server, { user: 'app', pass: 'app' })
    const one = ear()
    await t.rejects(nats({ connection, name: NAME, timeout: 500 }).start(one), { message: /did not answer/ })
    t.ok(one.said.includes('a subscription was refused'))
    t.equal(connection.isClosed(), false)
  })
})
