import { Readable } from 'node:stream'
import t from 'tap'
import { toEvent } from '../lib/event.ts'
import type { Event } from '../lib/index.ts'
import { connect, node, turn } from './fake.ts'
import { until } from './helper.ts'
import { site, transports } from './site.ts'

t.test('an id is 128 random bits that nobody can guess or choose', async (t) => {
  const one = await node(t)
  const ids = new Set<string>()
  const counts = new Map<string, number>()
  for (let i = 0; i < 20_000; i++) {
    const { connection } = connect(one, { broadcast: false, opened: false })
    ids.add(connection.id)
    counts.set(connection.id.slice(0, 1), (counts.get(connection.id.slice(0, 1)) ?? 0) + 1)
    connection.close()
  }
  t.equal(ids.size, 20_000)
  for (const id of [...ids].slice(0, 1_000)) t.match(id, /^[A-Za-z0-9_-]{22}$/)
  t.equal(counts.size, 64)
  for (const count of counts.values()) t.ok(count > 180 && count < 460, 'no first character is more likely than another')
  await turn()
  t.equal(one.registry.size, 0)
})

t.test('an id is never taken from the client, and never told to others', async (t) => {
  const { app: { connections }, open } = await site(t)
  const claimed = 'AAAAAAAAAAAAAAAAAAAAAA'
  for (const transport of transports) {
    const first = await open(transport, { id: claimed, connection: claimed, connectionId: claimed }, { 'x-connection-id': claimed, 'x-request-id': claimed, cookie: `id=${claimed}` })
    const second = await open(transport)
    t.not(first.connection.id, claimed)
    t.equal(connections.get(claimed), undefined)
    await first.connection.join('room', { presence: { key: 'ada' } })
    await second.connection.join('room', { presence: { key: 'bob' } })
    await connections.room('room').send({ event: 'n', data: 1 }, { except: 'nobody' })
    await connections.broadcast({ event: 'n', data: 2 })
    await second.wait(2, 'n')
    await until(() => second.got().length >= 3)
    t.notOk(JSON.stringify(second.got()).includes(first.connection.id))
  }
})

t.test('what a connection is, it says', async (t) => {
  const { open } = await site(t)
  for (const transport of transports) {
    const { connection } = await open(transport, { user: 'ada', color: 'red' })
    t.match(connection, { transport, user: 'ada', open: true, buffered: 0, lastEventId: undefined })
    t.equal((connection.request.query as { color: string }).color, 'red')
    t.strictSame([...connection.rooms], [])
    t.equal(connection.signal.aborted, false)
  }
})

t.test('the state of a connection is its own', async (t) => {
  const one = await node(t)
  const [a, b] = [connect(one).connection, connect(one).connection]
  t.strictSame([a.state, b.state], [{}, {}])
  Object.assign(a.state, { nickname: 'ada' })
  t.equal(one.registry.get(a.id)?.state, a.state)
  t.strictSame([a.state, b.state], [{ nickname: 'ada' }, {}])
})

t.test('the signal aborts at the end, with the reason, also for who asks later', async (t) => {
  const { open } = await site(t)
  for (const transport of transports) {
    const [closed, left] = [await open(transport), await open(transport)]
    const { signal } = closed.connection
    t.equal(closed.connection.signal, signal)
    closed.connection.close(4000, 'enough')
    t.match(signal, { aborted: true, reason: { name: 'AbortError', message: /enough/ } })
    left.leave()
    await until(() => !left.connection.open)
    t.match(left.connection.signal, { aborted: true, reason: { name: 'AbortError' } })
  }
})

t.test('a close is told to the client once, whatever follows', async (t) => {
  const { app: { connections }, open, ends } = await site(t)
  let disconnects = 0
  connections.on('disconnect', () => { disconnects++ })
  for (const transport of transports) {
    disconnects = 0
    const { connection, ended } = await open(transport)
    connection.close(4000, 'first')
    connection.close(4001, 'second')
    connection.close()
    t.equal(await ended(), transport === 'sse' ? 0 : 4000)
    await until(() => ends.has(connection))
    t.match(ends.get(connection), { code: 4000, reason: 'first', clean: true })
    connection.close()
    await turn()
    t.equal(disconnects, 1)
  }
})

t.test('a close code or reason that cannot be sent is refused at once', async (t) => {
  const { connection } = connect(await node(t))
  for (const code of [0, 999, 1004, 1005, 1006, 1015, 2000, 2999, 5000, 1e9, -1, 1000.5, NaN, '1000', null, {}]) t.throws(() => connection.close(code as number), { code: 'FST_ERR_REAL_ARGUMENT' })
  for (const reason of [5, null, {}, ['x']]) t.throws(() => connection.close(1000, reason as string), { code: 'FST_ERR_REAL_ARGUMENT' })
  t.equal(connection.open, true)
})

t.test('a long reason is cut on a character', async (t) => {
  const one = await node(t)
  for (const [reason, cut] of [['x'.repeat(200), 'x'.repeat(123)], ['é'.repeat(100), 'é'.repeat(61)], ['💥'.repeat(100), '💥'.repeat(30)], ['a\ud800', 'a\ufffd']] as const) {
    const { connection, wire } = connect(one)
    connection.close(1000, reason)
    t.strictSame(wire.reason, { code: 1000, reason: cut })
  }
})

t.test('a disconnect says how it ended, how long it was and how much it was given', async (t) => {
  const one = await node(t)
  const { connection, wire } = connect(one)
  const said: unknown[] = []
  one.registry.on('disconnect', (who, end) => { said.push(who, end) })
  await connection.join(['a', 'b'])
  connection.send({ data: 'x' })
  await one.registry.room('a').send({ data: 'yy' })
  connection.close(4000, 'over')
  t.strictSame(said, [], 'not before the wire is closed')
  await turn()
  wire.link?.closed({ code: 1006, reason: 'lost' }, false)
  t.equal(said.length, 2)
  t.equal(said[0], connection)
  t.match(said[1], { code: 4000, reason: 'over', clean: true, rooms: ['a', 'b'], events: 2, bytes: wire.text.length })
  t.ok((said[1] as { duration: number }).duration >= 0)
})

t.test('a closed connection takes nothing and throws at nobody', async (t) => {
  const one = await node(t)
  const { connection, wire } = connect(one, { user: 'ada' })
  connection.close()
  await turn()
  t.match(connection, { open: false })
  t.equal(connection.send('x'), false)
  connection.give(toEvent('x', { maxBytes: 9 }))
  t.equal(await connection.join('room'), false)
  t.equal(await connection.join('room', { presence: true }), false)
  await connection.leave('room')
  connection.identify('bob')
  connection.identify(null)
  connection.live()
  await connection.drained()
  await connection.from(['x'])
  t.throws(() => connection.send({ nonsense: 1 } as never), { code: 'FST_ERR_REAL_EVENT' }, 'but for mistakes of the caller')
  await turn()
  t.equal(wire.text, '')
  t.match(one.registry.stats(), { connections: 0, rooms: 0, users: 0, sent: 0 })
})

t.test('what was sent before a close still goes out, also what waited for a join', async (t) => {
  const { app: { connections }, open } = await site(t)
  for (const transport of transports) {
    const { connection, ended, data } = await open(transport, transport === 'ws' ? { lastEventId: '' } : {})
    connection.send({ event: 'n', data: 'direct' })
    void connection.join('room')
    void connections.room('room').send({ event: 'n', data: 'room' })
    connection.close()
    await ended()
    t.strictSame(data('n'), ['direct', 'room'])
  }
})

t.test('a send is false when the reader is too far behind, and true again when it has caught up', async (t) => {
  const one = await node(t, { maxBuffered: 1_000 })
  const { connection, wire } = connect(one)
  t.equal(connection.send('x'.repeat(5_000)), true, 'one event may be larger when nothing waits')
  t.equal(connection.send('x'), false)
  t.ok(connection.buffered >= 5_000)
  await turn()
  wire.buffered = 5_000
  t.equal(connection.buffered, 5_000)
  t.equal(connection.send('x'), false)
  t.equal(one.registry.stats().dropped, 2)
  let settled = false
  const drained = connection.drained().then(() => { settled = true })
  await turn()
  t.equal(settled, false)
  wire.buffered = 0
  wire.link?.flushed()
  await drained
  t.equal(connection.send('x'), true)
})

t.test('what a room sends to a reader too far behind is not written when it is closed in the same turn', async (t) => {
  const one = await node(t, { maxBuffered: 1_000 })
  const { connection, wire } = connect(one)
  await connection.join('a')
  wire.buffered = 5_000
  await one.registry.room('a').send('x')
  connection.close()
  await turn()
  t.equal(wire.text, '')
  t.equal(one.registry.stats().slow, 0, 'it ends anyway')
})

t.test('any source is sent on any transport, and ends with it', async (t) => {
  const { open } = await site(t)
  const n = (data: unknown): Event => ({ event: 'n', data })
  for (const transport of transports) {
    const { connection, wait, data } = await open(transport)
    await connection.from([n(1), n(2)])
    await connection.from(Readable.from([n(3)]))
    await connection.from(new Blob(['4']).stream() as ReadableStream<Uint8Array>, { map: (bytes) => n(Number(Buffer.from(bytes).toString())) })
    await connection.from(async (to) => { to.send(n(5)) })
    await connection.from(async function * () { yield n(6) })
    await t.rejects(connection.from(async function * () { yield n(7); throw new Error('its own') }), { message: 'its own' })
    for (const source of [null, undefined, 5, true]) t.throws(() => connection.from(source as never), { code: 'FST_ERR_REAL_SOURCE' })
    await wait(7, 'n')
    t.strictSame(data('n'), [1, 2, 3, 4, 5, 6, 7])
    let ended = false
    const endless = connection.from(async function * (to) {
      try {
        for (;;) {
          yield n('again')
          await new Promise((resolve) => setTimeout(resolve, 1))
          if (to.signal.aborted) return
        }
      } finally {
        ended = true
      }
    })
    await wait(9, 'n')
    connection.close()
    await endless
    await until(() => ended)
  }
})

t.test('waiting for the reader ends with the connection', async (t) => {
  const one = await node(t)
  const { connection, wire } = connect(one)
  wire.buffered = 1_000_000
  wire.whenFlushed = () => {} // it never reads
  const drained = connection.drained()
  connection.close()
  await drained
  t.equal(connection.open, false)
})

t.test('a connection logs its open and its close with the logger of its request', async (t) => {
  const one = await node(t)
  const { connection } = connect(one)
  connection.close(4000, 'x'.repeat(120))
  await turn()
  t.match(one.requests.map(({ level, fields, message }) => [level, fields, message]), [
    ['info', { connection: connection.id, transport: 'fake' }, 'connection opened'],
    ['info', { connection: connection.id, transport: 'fake', code: 4000, reason: 'x'.repeat(120), clean: true, events: 0, bytes: 0 }, 'connection closed']
  ])
})
