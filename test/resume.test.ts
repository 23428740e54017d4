import { setImmediate } from 'node:timers/promises'
import t from 'tap'
import { memory } from '../lib/index.ts'
import type { Connection } from '../lib/index.ts'
import { LogReader } from '../lib/log-reader.ts'
import { connect, FakeEncoding, node, turn } from './fake.ts'
import { until, wsClient } from './helper.ts'
import { app, cuts, detour, joinAll, offsetOf, transports } from './returner.ts'

const alone = { sse: { broadcast: false }, ws: { broadcast: false } }

for (const transport of transports) {
  t.test(`a ${transport} client is told where it stands when its first kept room is joined, once`, async (t) => {
    const one = await app(t, { connections: { heartbeat: 12_000 } })
    await one.fastify.connections.room('z').send({ data: 0 })
    const client = one.client(transport, '/in?rooms=a,b&user=ada')
    await client.open()
    await until(() => one.fastify.connections.room('b').size === 1)
    const { id } = await one.fastify.connections.room('b').send({ data: 1 })
    await client.wait(1)
    t.strictSame(client.got.map(({ event }) => event), ['ready', undefined])
    t.match(client.got[0], { event: 'ready', data: { resumed: false, heartbeat: 12_000 } })
    t.equal(offsetOf(client.got[0]?.id), 1)
    t.match(client.got[0]?.id, /^[A-Za-z0-9_-]{1,64}$/)
    t.equal(client.got[1]?.id, id)
  })

  t.test(`a ${transport} client that was cut before its first event misses nothing`, async (t) => {
    for (const how of cuts) {
      const one = await app(t)
      const client = one.client(transport, '/in?rooms=a')
      await client.open()
      await client.ready()
      await client.cut(how)
      await one.fastify.connections.room('a').send({ data: 1 })
      await one.fastify.connections.broadcast({ data: 2 })
      await client.open()
      t.strictSame(await client.wait(2), [1, 2])
      t.strictSame(client.gaps, [])
    }
  })

  t.test(`a returning ${transport} client gets what it missed in all its rooms, in one order, with names and kinds of data`, async (t) => {
    const one = await app(t)
    const { connections } = one.fastify
    const client = one.client(transport, '/in?rooms=a,b&user=ada')
    await client.open()
    await client.ready()
    await until(() => connections.room('b').size === 1)
    await connections.room('a').send({ data: 'seen' })
    await client.wait(1)
    const place = client.lastEventId
    await client.cut()
    const receipts = [
      await connections.room('b').send({ event: 'named', data: { n: 1 } }),
      await connections.room('c').send({ data: 'of a room it is not in' }),
      await connections.user('ada').send('text'),
      await connections.user('bob').send('not for it'),
      await connections.broadcast({ data: null }),
      await connections.room('a').send({ event: 'empty' })
    ]
    client.forget()
    await client.open()
    await client.wait(4)
    await connections.room('a').send({ data: 'live' })
    await client.wait(5)
    const ids = [0, 2, 4, 5].map((index) => receipts[index]?.id)
    t.strictSame(client.got.slice(0, 5), [
      { id: place, event: 'ready', data: { resumed: true, heartbeat: 15_000 } },
      { id: ids[0], event: 'named', data: { n: 1 } },
      { id: ids[1], event: undefined, data: 'text' },
      { id: ids[2], event: undefined, data: null },
      { id: ids[3], event: 'empty', data: '' }
    ])
    t.equal(client.got.length, 6)
    t.equal(connections.stats().resumed, 1)
    t.equal(connections.stats().gaps, 0)
  })

  t.test(`a returning ${transport} client that missed nothing is told so`, async (t) => {
    const one = await app(t)
    const client = one.client(transport, '/in?rooms=a')
    await client.open()
    await client.ready()
    await client.cut()
    await one.fastify.connections.room('elsewhere').send({ data: 0 })
    client.forget()
    await client.open()
    t.match(await client.ready(), { id: client.lastEventId, data: { resumed: true } })
    await one.fastify.connections.room('a').send({ data: 1 })
    t.strictSame(await client.wait(1), [1])
  })

  t.test(`on a replay to a ${transport} client an excepted user still applies, an excepted connection does not`, async (t) => {
    const one = await app(t)
    const { connections } = one.fastify
    const client = one.client(transport, '/in?rooms=a&user=ada')
    await client.open()
    await client.ready()
    await until(() => connections.room('a').size === 1)
    const { connection } = client
    for (const except of [connection, connection.id, { user: 'ada' }, [{ user: 'bob' }, { user: 'ada' }]]) await connections.room('a').send({ data: 'spared' }, { except })
    await connections.room('a').send({ data: 'live' })
    t.strictSame(await client.wait(1), ['live'])
    await client.cut()
    await connections.room('a').send({ data: 'by id' }, { except: connection.id })
    await connections.room('a').send({ data: 'by user' }, { except: { user: 'ada' } })
    await connections.room('a').send({ data: 'by another user' }, { except: { user: 'bob' } })
    await connections.broadcast({ data: 'all but one' }, { except: { user: 'ada' } })
    await client.open()
    t.strictSame(await client.wait(3), ['live', 'by id', 'by another user'])
  })

  t.test(`a ${transport} connection that joined no kept room gets exactly its own bytes`, async (t) => {
    for (const options of [{ connections: { history: false as const } }, { ...alone, connections: {} }]) {
      const one = await app(t, {
        ...options,
        async join (connection, rooms) {
          await joinAll(connection, rooms)
          connection.send({ id: 'own', data: connection.lastEventId ?? 'none' })
        }
      })
      const rooms = options.connections.history === false ? 'a' : ''
      const client = one.client(transport, `/in${rooms === '' ? '' : `?rooms=${rooms}`}`)
      for (const id of ['', 'own', 'xyz-5', `${'x'.repeat(20)}`]) {
        await client.open(id)
        await client.wait(1)
        if (rooms !== '') {
          t.match(await one.fastify.connections.room('a').send({ data: 'room' }), { accepted: true, members: 1, id: undefined })
          await client.wait(2)
        }
        await setImmediate()
        t.strictSame(client.got, [
          { id: 'own', event: undefined, data: id === '' ? transport === 'sse' ? 'none' : '' : id },
          ...(rooms === '' ? [] : [{ id: undefined, event: undefined, data: 'room' }])
        ])
        await client.cut()
        client.forget()
      }
      t.match(one.fastify.connections.stats(), { gaps: 0, resumed: 0 })
    }
  })

  t.test(`history may be chosen by topic: what is not kept gives a ${transport} client no place`, async (t) => {
    const asked: string[] = []
    const one = await app(t, {
      connections: {
        history (topic) {
          asked.push(`${topic.kind} ${topic.name}`)
          return topic.name === 'kept' ? { events: 2 } : false
        }
      }
    })
    const { connections } = one.fastify
    const plain = one.client(transport, '/in?rooms=not&user=ada')
    await plain.open()
    await until(() => connections.room('not').size === 1)
    await connections.room('not').send({ data: 1 })
    await plain.wait(1)
    t.strictSame(plain.got, [{ id: undefined, event: undefined, data: 1 }])
    const client = one.client(transport, '/in?rooms=not,kept')
    await client.open()
    await client.ready()
    await client.cut()
    for (const n of [1, 2]) {
      t.equal((await connections.room('not').send({ data: 'not' })).id, undefined)
      t.type((await connections.room('kept').send({ data: n })).id, 'string')
    }
    await client.open()
    t.strictSame(await client.wait(2), [1, 2])
    await connections.room('not').send({ data: 'live' })
    await client.wait(3)
    t.strictSame(client.got.at(-1), { id: undefined, event: undefined, data: 'live' })
    t.strictSame([...new Set(asked)].sort(), ['all ', 'room kept', 'room not', 'user ada'])
  })

  t.test(`a room a returning ${transport} client joins later is replayed by itself, without moving its place`, async (t) => {
    const one = await app(t)
    const { connections } = one.fastify
    const client = one.client(transport, '/in?rooms=a')
    await client.open()
    await client.ready()
    await client.cut()
    for (const n of [1, 2, 3, 4]) await connections.room(n % 2 === 0 ? 'b' : 'a').send({ data: n })
    await client.open()
    t.strictSame(await client.wait(2), [1, 3])
    const place = client.lastEventId
    client.forget()
    const joined = client.connection.join(['b', 'c'])
    await connections.room('b').send({ data: 5 })
    await connections.room('a').send({ data: 6 })
    t.equal(await joined, true)
    await client.wait(4)
    t.strictSame(client.data, [2, 4, 5, 6])
    t.equal(client.events[0]?.id, undefined, 'the client is past it in its other rooms')
    const offsets = [offsetOf(place), ...client.events.slice(1).map(({ id }) => offsetOf(id))]
    t.strictSame(offsets, [...offsets].sort((a, b) => a - b))
    client.forget()
    await client.connection.leave('b')
    await connections.room('b').send({ data: 7 })
    await client.connection.join('b')
    await connections.room('b').send({ data: 8 })
    t.strictSame(await client.wait(1), [8], 'a room it left and joins again is joined afresh')
    t.strictSame(client.gaps, [])
  })

  t.test(`several rooms a returning ${transport} client joins later at once are replayed once each`, async (t) => {
    const one = await app(t)
    const { connections } = one.fastify
    const client = one.client(transport)
    await client.open()
    await client.ready()
    await client.cut()
    const rooms = ['a', 'b', 'c', 'd']
    for (const room of rooms) await connections.room(room).send({ data: room })
    await connections.broadcast({ data: 'all' })
    await client.open()
    await client.wait(1)
    await Promise.all(rooms.map((room) => client.connection.join(room)))
    for (const room of rooms) await connections.room(room).send({ data: `${room} live` })
    await client.wait(9)
    await connections.broadcast({ data: 'end' })
    await client.wait(10)
    t.strictSame(client.data, ['all', ...rooms, ...rooms.map((room) => `${room} live`), 'end'])
  })

  t.test(`a returning ${transport} client whose first kept room is joined late is told where it stands then`, async (t) => {
    const one = await app(t, alone)
    const { connections } = one.fastify
    const client = one.client(transport, '/in?rooms=a')
    await client.open()
    const { id } = await client.ready()
    await client.cut()
    await connections.room('a').send({ data: 1 })
    const late = one.client(transport)
    await late.open(id)
    await until(() => (late.connection as unknown as { held: boolean }).held === false)
    t.strictSame(late.got, [])
    await late.connection.join('a')
    t.strictSame(await late.wait(1), [1])
    t.match(late.got, [{ id, event: 'ready', data: { resumed: true } }, { event: undefined, data: 1 }])
    t.not(late.events[0]?.id, undefined)
  })

  t.test(`a room that is left during the hold is not replayed to a ${transport} client`, async (t) => {
    const one = await app(t, {
      async join (connection, rooms) {
        await joinAll(connection, rooms)
        if (connection.lastEventId) await connection.leave('a')
      }
    })
    const { connections } = one.fastify
    const client = one.client(transport, '/in?rooms=a,b')
    await client.open()
    await client.ready()
    await client.cut()
    for (const room of ['a', 'b']) await connections.room(room).send({ data: room })
    await client.open()
    t.strictSame(await client.wait(1), ['b'])
    await client.connection.join('a')
    await connections.room('a').send({ data: 'live' })
    t.strictSame(await client.wait(3), ['b', 'a', 'live'], 'it is when it is joined again')
  })

  t.test(`a user a ${transport} connection becomes late is replayed too`, async (t) => {
    const one = await app(t, { join: (connection) => { connection.identify('ada') } })
    const client = one.client(transport)
    await client.open()
    await client.ready()
    await client.cut()
    await one.fastify.connections.user('ada').send({ data: 1 })
    await client.open()
    t.strictSame(await client.wait(1), [1])
    t.equal(client.connection.user, 'ada')
  })
}

t.test('the place is taken from the header, else from the query', async (t) => {
  const one = await app(t)
  const client = one.client('sse', '/in?rooms=a')
  await client.open()
  const { id: early } = await client.ready()
  for (const n of [1, 2]) await one.fastify.connections.room('a').send({ data: n })
  const receipt = await one.fastify.connections.room('a').send({ data: 3 })
  await until(() => client.lastEventId === receipt.id)
  await client.cut()
  const byQuery = one.client('sse', `/in?rooms=a&lastEventId=${early}`)
  await byQuery.open('')
  t.strictSame(await byQuery.wait(3), [1, 2, 3])
  await byQuery.open(receipt.id)
  await one.fastify.connections.room('a').send({ data: 4 })
  t.strictSame((await byQuery.wait(5)).slice(3), [4, 4], 'a polyfill comes back with both, and its URL is old') // both of its streams are open
})

t.test('an empty place is none', async (t) => {
  const one = await app(t)
  await one.fastify.connections.room('a').send({ data: 0 })
  const client = one.client('sse', '/in?rooms=a&lastEventId=')
  await client.open('')
  t.match(await client.ready(), { data: { resumed: false } })
  t.equal(client.connection.lastEventId, '')
  t.strictSame(client.got.length, 1)
})

t.test('a WebSocket that did not ask for resume gets no ids, no ready and no gap', async (t) => {
  const one = await app(t)
  const client = await wsClient(one.port, '/in?rooms=a')
  await until(() => one.fastify.connections.room('a').size === 1)
  await one.fastify.connections.room('a').send('text')
  await one.fastify.connections.room('a').send({ id: 'own', event: 'x', data: 1 })
  await client.wait(2)
  t.strictSame(client.messages, ['text', '{"id":"own","event":"x","data":1}'])
})

t.test('what is sent between a join and its acknowledgement comes after ready, once', async (t) => {
  const inner = memory()
  let acknowledge = (): void => {}
  const backplane = detour(inner, {
    async subscribe (node, topic) {
      const offset = await inner.subscribe(node, topic)
      if (topic === 'room/a') await new Promise<void>((resolve) => { acknowledge = resolve })
      return offset
    }
  })
  const one = await node(t, {}, backplane)
  const { connection, wire } = connect(one, { bare: false, broadcast: false })
  const joined = connection.join('a')
  await turn()
  await one.registry.room('a').send({ data: 1 })
  await turn()
  t.strictSame(wire.events, [])
  acknowledge()
  t.equal(await joined, true)
  await one.registry.room('a').send({ data: 2 })
  await turn()
  t.strictSame(wire.events.map(({ event, data, id }) => [event, event === 'ready' || data, offsetOf(id)]), [['ready', true, 0], [undefined, 1, 1], [undefined, 2, 2]])
  t.equal(await connection.join(['a', 'b']), true)
  const { connection: other, wire: otherWire } = connect(one, { bare: false, broadcast: false, lastEventId: wire.events[0]?.id as string })
  const [first, second] = [other.join('a'), other.join('c')]
  await one.registry.room('c').send({ data: 3 })
  t.strictSame(await Promise.all([first, second]), [true, true])
  await turn()
  t.strictSame(otherWire.events.slice(1).map(({ data }) => data), [1, 2, 3])
})

t.test('what comes live while history is being read is given once', async (t) => {
  const inner = memory()
  let read = (): void => {}
  const backplane = detour(inner, {
    async range (...args) {
      await new Promise<void>((resolve) => { read = resolve })
      return await inner.range(...args)
    }
  })
  const one = await node(t, {}, backplane)
  const first = connect(one, { bare: false, broadcast: false })
  await first.connection.join('a')
  await turn()
  await one.registry.room('a').send({ data: 1 })
  const { connection, wire } = connect(one, { bare: false, broadcast: false, lastEventId: first.wire.events[0]?.id as string })
  await connection.join('a')
  await turn()
  await one.registry.room('a').send({ data: 2 })
  read()
  await turn()
  await one.registry.room('a').send({ data: 3 })
  await turn()
  t.strictSame(wire.events.slice(1).map(({ data }) => data), [1, 2, 3])
})

t.test('what is sent while more than may wait is on hold is read again from history', async (t) => {
  const one = await node(t, { maxBuffered: 1_000, history: { events: 1_000 } })
  const { connection: first, wire: firstWire } = connect(one, { bare: false })
  await first.join('a')
  await turn()
  const id = firstWire.events[0]?.id as string
  const { connection, wire } = connect(one, { bare: false, lastEventId: id, opened: false })
  connection.opened()
  await connection.join('a')
  for (let n = 1; n <= 100; n++) await one.registry.room('a').send({ data: { n, filler: 'x'.repeat(100) } })
  connection.settled()
  await until(() => wire.events.length > 100)
  await one.registry.room('a').send({ data: { n: 101 } })
  await turn()
  t.strictSame(wire.events.slice(1).map(({ data }) => (data as { n: number }).n), Array.from({ length: 101 }, (_, index) => index + 1))
  t.equal(one.registry.stats().gaps, 0)
})

t.test('what is not kept and does not fit the hold is counted, and told once', async (t) => {
  const one = await node(t, { maxBuffered: 1_000, history: ({ name }) => name !== 'unkept' && {} })
  const first = connect(one, { bare: false, broadcast: false })
  await first.connection.join('a')
  await turn()
  const { connection, wire } = connect(one, { bare: false, broadcast: false, lastEventId: first.wire.events[0]?.id as string, opened: false })
  connection.opened()
  await connection.join(['a', 'unkept'])
  for (let n = 0; n < 10; n++) await one.registry.room('unkept').send('x'.repeat(300))
  await one.registry.room('a').send('kept')
  connection.settled()
  await until(() => wire.events.length === 6) // the gap waits until there is room for it
  t.strictSame(wire.events.map(({ event, data }) => event === 'ready' ? event : data), ['ready', 'kept', ...Array.from({ length: 3 }, () => 'x'.repeat(300)), { reason: 'slow', dropped: 7 }])
  t.match(one.registry.stats(), { dropped: 7, gaps: 1 })
  await one.registry.room('a').send('live')
  await turn()
  t.equal(wire.events.at(-1)?.data, 'live')
})

t.test('what waits for the acknowledgement of a first join and does not fit is read again too', async (t) => {
  const one = await node(t, { maxBuffered: 1_000, history: { events: 1_000 } })
  const { connection, wire } = connect(one, { bare: false, broadcast: false })
  const joined = connection.join('a')
  const sent = Array.from({ length: 50 }, (_, n) => one.registry.room('a').send({ data: { n, filler: 'x'.repeat(100) } }))
  await Promise.all([joined, ...sent])
  await until(() => wire.events.length > 50)
  t.strictSame(wire.events.map(({ event }) => event).slice(0, 2), ['ready', undefined])
  t.strictSame(wire.events.slice(1).map(({ data }) => (data as { n: number }).n), Array.from({ length: 50 }, (_, n) => n))
})

t.test('a crowd that is replayed the same in one turn shares its frames, and what is joined of them', async (t) => {
  const one = await node(t)
  const encoding = new FakeEncoding('crowd')
  const place = connect(one, { bare: false, encoding })
  await place.connection.join('a')
  await turn()
  const id = place.wire.events[0]?.id as string
  place.connection.close()
  for (let n = 1; n <= 50; n++) await one.registry.room('a').send({ data: n })
  await turn()
  encoding.made = 0
  const crowd = Array.from({ length: 40 }, () => connect(one, { bare: false, encoding, lastEventId: id, opened: false }))
  const written = new Set<Uint8Array>()
  for (const { connection, wire } of crowd) {
    const write = wire.write.bind(wire)
    wire.write = (frame) => { written.add(frame); write(frame) }
    connection.opened()
    void connection.join('a')
  }
  await setImmediate()
  for (const { connection } of crowd) connection.settled()
  await turn()
  for (const { wire } of crowd) t.strictSame(wire.events.slice(1).map(({ data }) => data), Array.from({ length: 50 }, (_, n) => n + 1))
  t.equal(encoding.made, 51)
  t.equal(written.size, 1)
  encoding.made = 0
  for (const { connection } of crowd) connection.close()
  await one.registry.room('b').send({ data: 'late' })
  const late = Array.from({ length: 40 }, () => connect(one, { bare: false, encoding, lastEventId: id }))
  for (const { connection } of late) await connection.join('a')
  await turn()
  await Promise.all(late.map(({ connection }) => connection.join('b')))
  await turn()
  t.strictSame(late.map(({ wire }) => wire.events.at(-1)?.data), late.map(() => 'late'))
  t.equal(encoding.made, 51, '`ready` at that place was made for those before')
})

t.test('a client that leaves during its replay harms nobody', async (t) => {
  const one = await app(t, { connections: { history: { events: 10_000, bytes: 100_000_000 } } })
  const client = one.client('sse', '/in?rooms=a')
  await client.open()
  const { id } = await client.ready()
  await client.cut()
  for (let n = 0; n < 300; n++) await one.fastify.connections.room('a').send({ data: 'x'.repeat(50_000) })
  for (const how of cuts) {
    await client.open(id)
    client.socket.pause()
    await until(() => client.connection.buffered > 100_000)
    if (how === 'fin' || how === 'close' || how === 'end') client.socket.resume()
    await client.cut(how)
  }
  await until(() => one.fastify.connections.size === 0)
  t.equal(one.fastify.connections.stats().connections, 0)
})

t.test('a replay that is larger than may wait obeys its reader, and the reader is not closed for it', async (t) => {
  const maxBuffered = 200_000
  const one = await app(t, { connections: { maxBuffered, history: { events: 10_000, bytes: 100_000_000 } } })
  for (const transport of transports) {
    const client = one.client(transport, '/in?rooms=a')
    await client.open()
    const { id } = await client.ready()
    await client.cut()
    const events = 300
    for (let n = 0; n < events; n++) await one.fastify.connections.room('a').send({ data: { n, filler: 'x'.repeat(50_000) } })
    client.forget()
    await client.open(id)
    client.socket.pause()
    const { connection } = client
    let most = 0
    await until(() => {
      most = Math.max(most, connection.buffered)
      return connection.buffered > 100_000
    })
    client.socket.resume()
    await until(() => {
      most = Math.max(most, connection.buffered)
      return client.events.length >= events
    })
    t.strictSame(client.events.map(({ data }) => (data as { n: number }).n), Array.from({ length: events }, (_, n) => n))
    t.ok(most <= maxBuffered, `at most ${most} bytes waited`)
    t.equal(connection.open, true)
    await one.fastify.connections.room('a').send({ data: { n: 'live' } })
    await client.wait(events + 1)
    t.match(client.events.at(-1), { data: { n: 'live' } })
    await client.cut()
  }
  t.equal(one.fastify.connections.stats().slow, 0)
})

t.test('a connection that has left very many rooms is replayed no more', async (t) => {
  const one = await node(t)
  const first = connect(one, { bare: false })
  await first.connection.join('x')
  await turn()
  const id = first.wire.events[0]?.id as string
  for (const room of ['a', 'b']) await one.registry.room(room).send({ data: room })
  const { connection, wire } = connect(one, { bare: false, lastEventId: id })
  const join = async (connection: Connection, room: string): Promise<void> => {
    await connection.join(room)
    await turn()
  }
  await join(connection as never, 'a')
  t.equal(wire.events.at(-1)?.data, 'a')
  for (let n = 0; n < 1_000; n++) {
    await join(connection as never, String(n))
    await connection.leave(String(n))
  }
  await join(connection as never, 'b')
  t.equal(wire.events.at(-1)?.data, 'a')
  await one.registry.room('b').send({ data: 'live' })
  await turn()
  t.equal(wire.events.at(-1)?.data, 'live')
})

t.test('who comes while nothing is sent shares one `ready`, and no more than so many are kept', async (t) => {
  const reader = new LogReader(memory(), { offset: 0, heartbeat: 0 })
  const first = reader.ready(1, false)
  reader.forgetFrames()
  t.equal(reader.ready(1, false), first)
  t.not(reader.ready(1, true), first)
  for (let offset = 2; offset <= 100; offset++) reader.ready(offset, false)
  reader.forgetFrames()
  t.not(reader.ready(1, false), first)
})
