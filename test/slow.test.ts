import { setImmediate } from 'node:timers/promises'
import t from 'tap'
import type { Test } from 'tap'
import { memory } from '../lib/index.ts'
import type { Connection, ConnectionsOptions } from '../lib/index.ts'
import { sse, sseChunked } from '../lib/transports/sse-frame.ts'
import { sseGzipChunked } from '../lib/transports/sse-gzip-frame.ts'
import { wsResume } from '../lib/transports/ws-frame.ts'
import { connect, node, turn } from './fake.ts'
import { until, wsClient } from './helper.ts'
import { app, detour, offsetOf, transports } from './returner.ts'
import type { App, Client } from './returner.ts'

// the kernels take about 6.5 MB for a paused reader of the loopback before a server sees that it is behind
const PIECE = 100_000
const PIECES = 200
const MiB = 1_048_576
const filler = 'x'.repeat(PIECE)
const enough = { events: 100_000, bytes: 1_000 * MiB }
const plenty = { ...enough, totalBytes: 1_000 * MiB }

/** Sends 20 MB to a room, a piece a turn; gives how many were accepted. Nobody is waited for. */
async function pour ({ fastify: { connections } }: App, pieces = PIECES, from = 0): Promise<void> {
  for (let n = from; n < from + pieces; n++) {
    const { accepted } = await connections.room('a').send({ data: { n, filler } })
    if (!accepted) throw new Error('it was not accepted')
    await setImmediate()
  }
}

/** A reader that reads nothing for now. */
async function stalled (one: App, transport: string, path = '/in?rooms=a'): Promise<Client> {
  const client = one.client(transport, path)
  await client.open()
  if (client.got.length === 0) await client.ready()
  await until(() => client.connection.rooms.size > 0)
  client.socket.pause()
  return client
}

function numbers (client: Client): number[] { return client.events.filter(({ event }) => event === undefined).map(({ data }) => (data as { n: number }).n) }

function upTo (count: number): number[] { return Array.from({ length: count }, (_, n) => n) }

/** Which connections were found too far behind, and how each ended. */
function watch ({ fastify: { connections } }: App): { slow: Connection[], ends: Array<[Connection, string, number]> } {
  const seen: ReturnType<typeof watch> = { slow: [], ends: [] }
  connections.on('slow', (connection) => { seen.slow.push(connection) })
  connections.on('disconnect', (connection, { reason, code }) => { seen.ends.push([connection, reason, code]) })
  return seen
}

for (const transport of transports) {
  t.test(`a ${transport} reader that is too far behind is closed, harms nobody, and loses nothing`, async (t) => {
    const one = await app(t, { connections: { history: plenty } })
    const seen = watch(one)
    const slow = await stalled(one, transport)
    const { connection } = slow
    const quick = one.client(transport, '/in?rooms=a')
    await quick.open()
    await quick.ready()
    await pour(one)
    t.equal(connection.open, false)
    t.equal(connection.send('x'), false)
    t.strictSame(seen.slow, [connection])
    t.equal((await quick.wait(PIECES)).length, PIECES, 'the other has everything')
    slow.socket.resume()
    await until(() => slow.ended && seen.ends.length > 0)
    t.strictSame(seen.ends, [[connection, 'slow', 1013]])
    const before = numbers(slow).length
    t.ok(before > 0 && before < PIECES)
    await slow.open()
    await slow.wait(PIECES)
    await one.fastify.connections.room('a').send({ data: { n: PIECES } })
    await slow.wait(PIECES + 1)
    t.strictSame(numbers(slow), upTo(PIECES + 1))
    t.strictSame(slow.gaps, [])
    t.match(one.fastify.connections.stats(), { slow: 1, connections: 2, gaps: 0 })
  })

  t.test(`with drop a ${transport} reader that is too far behind stays, and is told how much it was not given`, async (t) => {
    const one = await app(t, { connections: { slow: 'drop' } })
    const seen = watch(one)
    const slow = await stalled(one, transport)
    const { connection } = slow
    await pour(one)
    t.equal(connection.open, true)
    t.ok(connection.buffered <= MiB)
    t.equal(connection.send({ data: filler.repeat(10) }), false)
    t.strictSame(seen.slow, [connection])
    const { dropped } = one.fastify.connections.stats()
    slow.socket.resume()
    await until(() => slow.gaps.length > 0)
    await one.fastify.connections.room('a').send({ data: { n: PIECES } })
    await slow.wait(PIECES + 1 - (slow.gaps[0] as { dropped: number }).dropped)
    t.strictSame(slow.gaps, [{ reason: 'slow', dropped: dropped - 1 }], 'once; what was sent to it alone was answered')
    const got = numbers(slow)
    t.equal(got.length + dropped - 1, PIECES + 1)
    t.equal(got.at(-1), PIECES)
    t.strictSame(got, [...got].sort((a, b) => a - b))
    t.strictSame(seen.ends, [])
    t.match(one.fastify.connections.stats(), { slow: 1, gaps: 1 })
    await pour(one, 1, PIECES + 1)
    await slow.wait(got.length + 1)
    t.equal(slow.gaps.length, 1)
  })

  t.test(`with catch-up a ${transport} reader that was too far behind gets all that is kept, in order, and is told of the rest once`, async (t) => {
    const one = await app(t, {
      connections: { slow: 'catch-up', history: ({ name }) => name === 'unkept' ? false : enough },
      async join (connection, rooms) {
        for (const room of rooms) await connection.join(room, room === 'a' ? { presence: { key: connection.id } } : {})
      }
    })
    const { connections } = one.fastify
    const seen = watch(one)
    const slow = await stalled(one, transport, '/in?rooms=a,unkept,b')
    const { connection } = slow
    await until(() => connection.rooms.size === 3)
    await pour(one, PIECES / 2)
    await connections.room('a').send({ data: { n: -1 } }, { except: connection })
    await pour(one, PIECES / 2, PIECES / 2)
    t.strictSame(seen.slow, [connection])
    t.equal(connection.open, true)
    t.equal(connection.send('direct'), false)
    for (let n = 0; n < 3; n++) await connections.room('unkept').send({ event: 'unkept', data: n })
    await connections.room('b').send({ event: 'b', data: 'of another room' })
    const joined = one.client(transport, '/in?rooms=a')
    await joined.open()
    await joined.ready()
    await until(async () => (await connections.room('a').presence()).length === 2)
    t.ok(connection.buffered <= MiB)
    slow.socket.resume()
    await until(() => numbers(slow).length >= PIECES && slow.gaps.length > 0 && slow.got.at(-1)?.event === 'presence')
    t.strictSame(numbers(slow), upTo(PIECES), 'nothing twice, and nothing it was spared')
    t.strictSame(slow.gaps, [{ reason: 'slow', dropped: 3 }])
    t.equal(slow.events.filter(({ event }) => event === 'b').length, 1)
    const snapshots = slow.events.filter(({ event }) => event === 'presence').map(({ data }) => data as { snapshot?: Array<{ key: string }> })
    t.strictSame(snapshots.at(-1)?.snapshot?.map(({ key }) => key).sort(), [connection.id, joined.connection.id].sort())
    const offsets = slow.events.filter(({ event }) => event === undefined || event === 'b').map(({ id }) => offsetOf(id))
    t.ok(offsets.every((offset, index) => index === 0 || offset > (offsets[index - 1] as number)), 'its cursors only grow')
    t.equal(connection.send('direct'), true)
    await pour(one, 1, PIECES)
    await until(() => numbers(slow).length > PIECES)
    t.strictSame(seen.ends, [])
    t.match(connections.stats(), { slow: 1, gaps: 1 })
  })

  t.test(`a ${transport} reader that lags again and again loses nothing`, async (t) => {
    const one = await app(t, { connections: { slow: 'catch-up', history: plenty, maxBuffered: 300_000 } })
    const seen = watch(one)
    const slow = await stalled(one, transport)
    let sent = 0
    for (let round = 1; round <= 2; round++) {
      while (seen.slow.length < round) await pour(one, 1, sent++) // the kernels take more the second time
      await pour(one, 20, sent)
      slow.socket.resume()
      await pour(one, 20, sent + 20)
      sent += 40
      await until(() => numbers(slow).length === sent)
      slow.socket.pause()
    }
    t.strictSame(numbers(slow), upTo(sent))
    t.strictSame(slow.gaps, [])
  })
}

t.test('a WebSocket without resume catches up too, and is told of what was not kept', async (t) => {
  const one = await app(t, { connections: { slow: 'catch-up', history: ({ name }) => name === 'unkept' ? false : enough } })
  const client = await wsClient(one.port, '/in?rooms=a,unkept&key=bare')
  const connection = one.connections.get('bare') as Connection
  await until(() => connection.rooms.size === 2)
  await one.fastify.connections.room('a').send({ data: { n: 0 } })
  await client.wait(1)
  client.socket.pause()
  await pour(one, PIECES, 1)
  await one.fastify.connections.room('unkept').send('not kept')
  void connection.join('b')
  client.socket.resume()
  await until(() => client.messages.length >= PIECES + 2)
  const messages = client.messages.map((message) => JSON.parse(String(message)) as { event?: string, data: { n?: number } })
  t.strictSame(messages.slice(0, PIECES + 1).map(({ data: { n } }) => n), upTo(PIECES + 1))
  t.strictSame(messages.slice(PIECES + 1), [{ event: 'gap', data: { reason: 'slow', dropped: 1 } }])
})

t.test('what catch-up finds trimmed is told', async (t) => {
  const one = await app(t, { connections: { slow: 'catch-up', history: { events: 5 } } })
  for (const transport of transports) {
    const slow = await stalled(one, transport)
    await pour(one)
    slow.socket.resume()
    await until(() => numbers(slow).at(-1) === PIECES - 1)
    t.strictSame(slow.gaps, [{ reason: 'trimmed', room: 'a' }])
    t.strictSame(numbers(slow).slice(-5), upTo(PIECES).slice(-5))
    await slow.cut()
  }
})

t.test('no heartbeat is written to a reader that is behind', async (t) => {
  const one = await app(t, { connections: { heartbeat: 40, slow: 'drop' } })
  const { clock } = one.fastify.connections as unknown as { clock: { tick: number } }
  const slow = await stalled(one, 'sse')
  await pour(one)
  const { buffered } = slow.connection
  t.ok(buffered > 0)
  const { tick } = clock
  await until(() => clock.tick > tick + 40)
  t.equal(slow.connection.buffered, buffered)
  slow.socket.resume()
  await until(() => slow.connection.buffered === 0)
})

for (const [policy, options] of Object.entries({ close: {}, drop: { slow: 'drop' }, 'catch-up': { slow: 'catch-up' } }) as Array<[string, ConnectionsOptions]>) {
  t.test(`30 stalled readers hold no more than they may, with ${policy}`, async (t: Test) => {
    const maxBuffered = 256_000
    const one = await app(t, { connections: { maxBuffered, ...options } })
    const crowd: Client[] = []
    for (let n = 0; n < 30; n++) crowd.push(await stalled(one, transports[n % 2] as string))
    const connections = crowd.map(({ connection }) => connection)
    const before = process.memoryUsage().arrayBuffers
    let most = 0
    let memory = 0
    for (let n = 0; n < 100; n++) {
      await pour(one, 1, n)
      most = Math.max(most, ...connections.map(({ buffered }) => buffered))
      memory = Math.max(memory, process.memoryUsage().arrayBuffers - before)
    }
    t.ok(one.fastify.connections.stats().slow === 30)
    t.ok(most > 100_000 && most <= maxBuffered, `at most ${most} bytes of one`)
    t.ok(memory < 30 * maxBuffered + 40 * MiB, `${Math.round(memory / MiB)} MiB in all`) // and what the clients' sockets had read
    t.equal(connections.filter(({ open }) => open).length, policy === 'close' ? 0 : 30)
    await Promise.all(crowd.map(async (client) => { client.socket.destroy() }))
    await until(() => one.fastify.connections.size === 0)
  })
}

t.test('what was sent before it joined is not given to a reader that catches up', async (t) => {
  for (const bare of [true, false]) {
    const one = await node(t, { slow: 'catch-up', maxBuffered: 1_000 })
    const { registry } = one
    const { connection, wire } = connect(one, { bare, broadcast: false })
    const lag = async (room: string, data: string): Promise<void> => {
      wire.buffered = 900
      await registry.room(room).send({ data: data.padEnd(200) })
      await turn()
      wire.buffered = 0
      await turn()
    }
    for (const room of ['a', 'b']) for (const n of [1, 2]) await registry.room(room).send(`${room} before ${n}`)
    await connection.join('a')
    await turn()
    await lag('a', 'a1')
    await registry.room('b').send('b before 3')
    await connection.join('b')
    await lag('b', 'b1')
    await registry.room('a').send('before')
    await turn()
    await connection.leave('a')
    await lag('b', 'b2')
    t.strictSame(wire.events.filter(({ event }) => event === undefined).map(({ data }) => String(data).trim()), ['a1', 'b1', 'before', 'b2'])
    t.equal(registry.stats().slow, 3)
  }
})

t.test('a reader that has caught up before its join is acknowledged misses nothing after it', async (t) => {
  const inner = memory()
  const waiting = new Map<string, () => void>()
  const backplane = detour(inner, {
    async subscribe (node, topic) {
      const offset = await inner.subscribe(node, topic)
      if (topic === 'room/a') await new Promise<void>((resolve) => waiting.set(topic, resolve))
      return offset
    }
  })
  for (const bare of [true, false]) {
    const one = await node(t, { slow: 'catch-up', maxBuffered: 1_000, history: ({ name }) => name === 'a' && {} }, backplane)
    const { connection, wire } = connect(one, { bare, broadcast: false })
    await connection.join('unkept')
    await one.registry.room('a').send('before')
    wire.buffered = 900
    await one.registry.room('unkept').send('x'.repeat(200))
    await setImmediate() // it lags, and has not caught up yet
    const joined = connection.join('a')
    void one.registry.room('a').send('meanwhile')
    wire.buffered = 0
    await turn()
    t.strictSame(wire.events, [])
    waiting.get('room/a')?.()
    t.equal(await joined, true)
    await turn()
    await one.registry.room('a').send('after')
    await turn()
    t.strictSame(wire.events.map(({ event, data }) => event ?? data), [...(bare ? [] : ['ready']), 'meanwhile', 'gap', 'after'])
    connection.close()
    await turn()
  }
})

t.test('a connection that is held for its replay is not closed for what else is written to it', async (t) => {
  const one = await node(t, { maxBuffered: 1_000 })
  const { connection, wire } = connect(one, { bare: false, lastEventId: 'nowhere', opened: false })
  wire.buffered = 500
  while (connection.send({ data: 'x'.repeat(20) }));
  wire.buffered += 100 // pings
  await turn()
  t.equal(connection.open, true)
  t.ok(wire.events.length > 5)
  t.equal(one.registry.stats().slow, 0)
})

t.test('whoever hears of a slow reader may close it, and that is its end', async (t) => {
  for (const slow of ['close', 'drop', 'catch-up'] as const) {
    const one = await node(t, { slow, maxBuffered: 1_000 })
    const { connection, wire } = connect(one)
    const ends: string[] = []
    one.registry.on('slow', (reader) => reader.close(4_000, 'too slow'))
    one.registry.on('disconnect', (_connection, { reason }) => { ends.push(reason) })
    await connection.join('a')
    await turn()
    const { text } = wire
    wire.close = () => {} // until it takes what was written
    wire.buffered = 990
    await one.registry.room('a').send('x'.repeat(20))
    await turn()
    t.equal(connection.open, false, slow)
    wire.buffered = 0
    connection.flushed()
    await turn()
    t.equal(connection.open, false)
    t.equal(connection.send('more'), false)
    await turn()
    t.equal(wire.text, text, 'nothing follows')
    connection.closed({ code: 1_000, reason: 'closed' }, true)
    t.strictSame(ends, ['too slow'])
    t.match(one.registry.stats(), { connections: 0, rooms: 0, dropped: slow === 'catch-up' ? 0 : 1, slow: 1 })
  }
})

t.test('what was taken while there was room goes out, whatever comes after it in its turn', async (t) => {
  for (const slow of ['close', 'drop', 'catch-up'] as const) {
    for (const ends of [false, true]) {
      const one = await node(t, { slow, maxBuffered: 1_000, history: false })
      const { connection, wire } = connect(one, { encoding: sse })
      await turn()
      wire.buffered = 500
      t.equal(connection.send('sent to it alone'), true)
      const from = connection.from(['of a source', 'of it too'])
      await from
      void one.registry.broadcast('x'.repeat(600))
      void one.registry.broadcast('y'.repeat(10))
      if (ends) connection.close()
      await turn()
      t.equal(wire.text, 'data: sent to it alone\n\ndata: of a source\n\ndata: of it too\n\n', `${slow} ${ends}`)
      t.equal(connection.events, 3)
      if (!ends) t.match(one.registry.stats(), { sent: 3, dropped: 2, slow: 1 })
    }
  }
})

t.test('an item of a source waits where its frame has no room, though its data had', async (t) => {
  for (const encoding of [sse, sseChunked, sseGzipChunked, wsResume]) {
    const one = await node(t, { slow: 'drop', maxBuffered: 1_000, history: false })
    const { connection, wire } = connect(one, { encoding })
    for (let size = 300; size <= 500; size++) {
      wire.buffered = 500
      const { events } = connection
      const from = connection.from([{ event: 'a-name', data: 'x'.repeat(size) }])
      await turn()
      wire.buffered = 0
      connection.flushed()
      await from
      while (connection.events === events) await turn() // what flows waits some turns
      t.equal(connection.events, events + 1)
    }
    t.match(one.registry.stats(), { dropped: 0, slow: 0 }, encoding.name)
  }
})

t.test('how many were dropped is told where there is room for it, and no event is left out', async (t) => {
  const one = await node(t, { slow: 'drop', maxBuffered: 1_000, history: false })
  const { connection, wire } = connect(one)
  await turn()
  wire.buffered = 990
  await one.registry.broadcast('dropped')
  await turn()
  connection.flushed() // what was written after that is on its way still
  for (let n = 0; n < 3; n++) {
    await one.registry.broadcast('dropped too')
    await turn()
  }
  wire.buffered = 0
  await turn()
  await turn()
  t.strictSame(wire.events, [{ event: 'gap', data: { reason: 'slow', dropped: 4 } }])
  t.match(one.registry.stats(), { dropped: 4, slow: 1, gaps: 1 })
})

t.test('whoever has more to be given in this turn is told after it how many were dropped, and keeps nobody from running', async (t) => {
  const one = await node(t, { slow: 'drop', maxBuffered: 1_000, history: false })
  const { connection, wire } = connect(one)
  let asked = 0
  wire.whenFlushed = () => { if (wire.buffered === 0 && asked++ < 1_000) process.nextTick(() => connection.flushed()) } // as a socket does that has nothing to write
  await turn()
  wire.buffered = 990
  await one.registry.broadcast('dropped')
  await turn()
  wire.buffered = 0
  connection.send('x'.repeat(990))
  connection.flushed()
  await turn()
  await turn()
  t.match(wire.events, [{ data: 'x'.repeat(990) }, { event: 'gap', data: { reason: 'slow', dropped: 1 } }])
  t.ok(asked < 10)
})

t.test('a direct send is refused where it does not fit, by the bytes that would be written', async (t) => {
  const one = await node(t, { maxBuffered: 1_000, history: false })
  const { connection, wire } = connect(one)
  t.equal(connection.send({ data: 'x'.repeat(5_000) }), true, 'one is taken whatever its size, where nothing waits')
  t.equal(connection.send({ data: '' }), false)
  await turn()
  wire.buffered = 500
  let taken = 0
  while (connection.send({ data: 'x'.repeat(20) })) taken++
  t.ok(taken > 5 && taken < 25)
  await turn()
  t.equal(wire.events.length, taken + 1)
  t.equal(connection.open, true, 'so nobody is closed for what was sent to it alone')
  wire.buffered = 990
  await one.registry.broadcast('x'.repeat(20))
  await turn()
  t.equal(connection.open, false)
  t.match(one.registry.stats(), { dropped: 3, slow: 1 })
})
