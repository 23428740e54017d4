import t from 'tap'
import type { Sendable } from '../lib/index.ts'
import { until } from './helper.ts'
import { app, transports } from './returner.ts'

for (const transport of transports) {
  t.test(`ids of the application go to a ${transport} client as they are, and it resumes by them`, async (t) => {
    const one = await app(t)
    const { connections } = one.fastify
    const client = one.client(transport, '/in?rooms=a,b')
    await client.open()
    await client.ready()
    await until(() => connections.room('b').size === 1)
    const ids = ['order-1', '0', 'ü€😀 x', 'a:b/c?d=e&f', '42']
    for (const id of ids) {
      const receipt = await connections.room('a').send({ id: id === '0' ? 0 : id, data: [id] })
      t.not(receipt.id, id, 'the receipt has the cursor')
    }
    t.strictSame(await client.wait(5), ids.map((id) => [id]))
    t.strictSame(client.events.map(({ id }) => id), ids)
    await client.cut()
    await connections.room('b').send({ data: 'b' })
    await connections.room('a').send({ id: 'next', data: 'a' })
    for (const [index, id] of ids.entries()) {
      const back = one.client(transport, '/in?rooms=a,b')
      await back.open(id)
      t.strictSame(await back.wait(6 - index), [...ids.slice(index + 1).map((id) => [id]), 'b', 'a'])
      t.strictSame(back.gaps, [])
      t.match(back.readies, [{ data: { resumed: true } }])
      await back.cut()
    }
  })

  t.test(`among the rooms a ${transport} client joined the earliest match of its id wins, and none is a gap`, async (t) => {
    const cases: Array<[rooms: string, id: string, data: number[], gaps: object[]]> = [
      ['a,b', 'x', [3, 4, 5], []],
      ['a', 'x', [], []],
      ['b', 'x', [5], []],
      ['a,b', 'only', [], [{ reason: 'unknown' }]],
      ['a,b,c', 'only', [], []]
    ]
    for (const [rooms, id, data, gaps] of cases) {
      const one = await app(t)
      const { connections } = one.fastify
      await connections.room('a').send({ data: 1 })
      await connections.room('b').send({ id: 'x', data: 2 })
      await connections.room('a').send({ data: 3 })
      await connections.room('a').send({ id: 'x', data: 4 })
      await connections.room('b').send({ data: 5 })
      await connections.room('c').send({ id: 'only', data: 6 })
      const client = one.client(transport, `/in?rooms=${rooms}`)
      await client.open(id)
      await client.ready()
      await connections.room(rooms.slice(0, 1)).send({ data: 'live' })
      t.strictSame(await client.wait(data.length + 1), [...data, 'live'], `${id} in ${rooms}`)
      t.strictSame(client.gaps, gaps)
    }
  })

  t.test(`a room a ${transport} client joins late is looked up by the place that is known, or its own`, async (t) => {
    const one = await app(t)
    const { connections } = one.fastify
    await connections.room('b').send({ data: 1 })
    await connections.room('a').send({ id: 'x', data: 2 })
    await connections.room('b').send({ data: 3 })
    await connections.room('c').send({ id: 'only', data: 4 })
    await connections.room('c').send({ id: 'own', data: 5 })
    await connections.room('a').send({ data: 6 })
    const known = one.client(transport, '/in?rooms=a')
    await known.open('x')
    t.strictSame(await known.wait(1), [6])
    await known.connection.join(['b', 'c'])
    t.strictSame(await known.wait(4), [6, 3, 4, 5])
    t.strictSame(known.events.slice(1).map(({ id }) => id), [undefined, undefined, undefined], 'nor does an id of the application move its place')
    t.strictSame(known.gaps, [])
    const unknown = one.client(transport, '/in?rooms=a')
    await unknown.open('only')
    await until(() => unknown.gaps.length === 1)
    await unknown.connection.join('c')
    t.strictSame(await unknown.wait(1), [5])
    t.strictSame(unknown.gaps, [{ reason: 'unknown' }])
    await unknown.connection.join('d')
    await until(() => unknown.gaps.length === 2)
    t.strictSame(unknown.gaps[1], { reason: 'unknown', room: 'd' })
  })

  t.test(`an id on a direct send to a ${transport} client in a kept room is refused`, async (t) => {
    const one = await app(t)
    const client = one.client(transport, '/in?rooms=a')
    await client.open()
    await client.ready()
    t.throws(() => client.connection.send({ id: 'mine', data: 1 }), { code: 'FST_ERR_REAL_DIRECT_ID' })
    t.equal(client.connection.send({ data: 2 }), true)
    t.strictSame(await client.wait(1), [2])
    t.equal(client.events[0]?.id, undefined)
  })

  t.test(`a source that gives a ${transport} client in a kept room an id of its own is told to end`, async (t) => {
    const one = await app(t)
    const client = one.client(transport, '/in?rooms=a')
    await client.open()
    await client.ready()
    let finallies = 0
    async function * source (): AsyncGenerator<Sendable> {
      try {
        yield { data: 1 }
        yield { id: 'mine', data: 2 }
      } finally { finallies++ }
    }
    await t.rejects(client.connection.from(source()), { code: 'FST_ERR_REAL_DIRECT_ID' })
    await until(() => finallies === 1)
    t.equal(client.connection.send({ data: 3 }), true)
    t.strictSame(await client.wait(2), [1, 3])
  })
}

t.test('with once an id is sent to a room one time', async (t) => {
  const one = await app(t)
  const { connections } = one.fastify
  const client = one.client('sse', '/in?rooms=a,b')
  await client.open()
  await client.ready()
  await until(() => connections.room('b').size === 1)
  const first = await connections.room('a').send({ id: 'x', data: 1 }, { once: true })
  t.match(first, { accepted: true, members: 1 })
  t.notHas(first, 'duplicate')
  t.strictSame(await connections.room('a').send({ id: 'x', data: 2 }, { once: true }), { accepted: true, id: first.id, duplicate: true, members: 0, nodes: 0 })
  t.strictSame((await connections.room('a').send({ id: 'x', data: 3 })).members, 1, 'without once it is no key')
  t.match(await connections.room('b').send({ id: 'x', data: 4 }, { once: true }), { members: 1 }, 'each room has its own')
  t.match(await connections.user('ada').send({ id: 'x', data: 5 }, { once: true }), { accepted: true })
  t.match(await connections.user('ada').send({ id: 'x', data: 6 }, { once: true }), { duplicate: true })
  t.strictSame(await client.wait(3), [1, 3, 4])
})

t.test('once needs an id and a kept room', async (t) => {
  const one = await app(t, { connections: { history: ({ name }) => name === 'kept' ? {} : false } })
  const { connections } = one.fastify
  t.throws(() => connections.room('kept').send({ data: 1 }, { once: true }), { code: 'FST_ERR_REAL_EVENT' })
  t.throws(() => connections.room('kept').send({ id: '', data: 1 }, { once: true }), { code: 'FST_ERR_REAL_EVENT' })
  t.throws(() => connections.room('kept').send({ id: 'x', comment: 'nothing is dispatched, so nothing is kept' }, { once: true }), { code: 'FST_ERR_REAL_EVENT' })
  t.throws(() => connections.room('not').send({ id: 'x', data: 1 }, { once: true }), { code: 'FST_ERR_REAL_EVENT' })
  t.throws(() => connections.room('kept').send({ id: '', data: 1 }), { code: 'FST_ERR_REAL_EVENT', message: /place/ }, 'an empty id would take the client\'s place')
  t.match(await connections.room('not').send({ id: '', data: 1 }), { accepted: true })
})

t.test('what has nothing to dispatch is not kept', async (t) => {
  const one = await app(t)
  const client = one.client('sse', '/in?rooms=a')
  await client.open()
  const { id } = await client.ready()
  t.equal((await one.fastify.connections.room('a').send({ comment: 'c' })).id, undefined)
  t.equal((await one.fastify.connections.room('a').send({ retry: 5 })).id, undefined)
  await one.fastify.connections.room('a').send({ data: 1 })
  await client.wait(1)
  await client.cut()
  await client.open(id)
  t.strictSame(await client.wait(2), [1, 1])
})
