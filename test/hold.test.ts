import t from 'tap'
import { CheckedEvent } from '../lib/event.ts'
import { Framed } from '../lib/frame.ts'
import { Hold } from '../lib/hold.ts'
import { until } from './helper.ts'
import { app, offsetOf, transports } from './returner.ts'

function framed (offset: number, size = 10): Framed {
  const event = new CheckedEvent()
  event.text = 'x'.repeat(size)
  return new Framed(event, offset)
}

function hold (limit = 100, time = 1_000_000): { hold: Hold, released: () => number } {
  let count = 0
  return { hold: new Hold(limit, time, () => { count++ }), released: () => count }
}

t.test('it is released when the handler has settled, once all joins are acknowledged', async (t) => {
  const { hold: one, released } = hold()
  one.joining()
  one.joining()
  t.equal(one.idle, false)
  one.joined()
  one.settle()
  t.equal(released(), 0)
  one.joined()
  t.equal(one.idle, true)
  t.equal(released(), 1)
  one.joining()
  one.joined()
  t.equal(released(), 2, 'and again for what is joined after that')
  const { hold: other, released: otherReleased } = hold()
  other.settle()
  t.equal(otherReleased(), 1, 'at once where nothing is joined')
})

t.test('it is released some time after the last join was acknowledged', async (t) => {
  const { hold: one, released } = hold(100, 5)
  one.joining()
  one.joined()
  await until(() => released() === 1)
  const { setTimeout } = globalThis
  const timers: Array<() => void> = []
  const stopped: unknown[] = []
  globalThis.setTimeout = ((callback: () => void) => {
    timers.push(callback)
    return setTimeout(() => {}, 1_000_000).unref()
  }) as never
  const { clearTimeout } = globalThis
  globalThis.clearTimeout = ((timer: unknown) => { stopped.push(timer); clearTimeout(timer as never) }) as never
  t.teardown(() => Object.assign(globalThis, { setTimeout, clearTimeout }))
  const { hold: two, released: twoReleased } = hold()
  two.joining()
  t.equal(timers.length, 0)
  two.joined()
  two.joining()
  t.strictSame([timers.length, stopped.length], [1, 1], 'while a join is under way no time runs out')
  two.joined()
  t.equal(timers.length, 2, 'each join begins it again')
  timers[1]?.()
  t.equal(twoReleased(), 1)
  two.joining()
  two.joined()
  t.strictSame([timers.length, twoReleased()], [2, 2])
  const { hold: three } = hold()
  three.joining()
  three.joined()
  three.end()
  t.equal(stopped.length, 3, 'its end stops it')
})

t.test('who waits for it waits until it is over, and not for ever where nothing is joined', async (t) => {
  const { hold: one, released } = hold(100, 1)
  const over: number[] = []
  const waits = [1, 2].map(async (n) => { await one.whenOver(); over.push(n) })
  await until(() => released() === 1)
  t.strictSame(over, [])
  one.end()
  await Promise.all(waits)
  t.strictSame(over, [1, 2])
  const { hold: two, released: twoReleased } = hold()
  two.settle()
  const wait = two.whenOver()
  t.equal(twoReleased(), 1)
  two.end()
  await wait
})

t.test('what waits is given back in its order', async (t) => {
  const { hold: one } = hold()
  const events = [framed(0), framed(1), framed(2)]
  const firsts = events.map((event) => {
    one.add(event)
    return one.first
  })
  t.strictSame(firsts, [Infinity, 1, 1])
  t.strictSame(one.end(), events)
  t.strictSame(one.end(), [])
})

t.test('kept events beyond the limit are missed, and none after them is given before they were read again', async (t) => {
  const { hold: one } = hold(30)
  const [first, second, small, again] = [framed(1, 20), framed(2, 20), framed(3, 1), framed(4, 20)]
  one.add(first)
  one.add(second)
  t.equal(one.missed, true)
  one.add(small)
  one.forgetKept()
  t.equal(one.missed, false)
  one.add(again)
  t.strictSame(one.end(), [again])
  t.equal(one.takeDropped(), 0)
})

t.test('events that are not kept and do not fit are counted', async (t) => {
  const { hold: one } = hold(30)
  const [first, small] = [framed(0, 20), framed(0, 10)]
  for (const event of [first, framed(0, 20), small, framed(0, 1)]) one.add(event)
  t.equal(one.missed, false)
  t.equal(one.takeDropped(), 2)
  one.forgetKept()
  one.add(framed(0, 1))
  t.equal(one.takeDropped(), 1, 'they stay where kept ones are forgotten')
  t.strictSame(one.end(), [first, small])
})

t.test('what waited and is over takes no room', async (t) => {
  const { hold: one } = hold(30)
  one.add(framed(1, 30))
  one.end()
  const events = [framed(2, 10), framed(3, 20)]
  for (const event of events) one.add(event)
  t.equal(one.missed, false)
  t.strictSame(one.end(), events)
})

t.test('one event fits always', async (t) => {
  const { hold: one } = hold(30)
  const large = framed(1, 1_000)
  one.add(large)
  t.equal(one.missed, false)
  t.strictSame(one.end(), [large])
})

for (const transport of transports) {
  t.test(`a returning ${transport} connection is replayed when its handler has settled`, async (t) => {
    let settle = (): void => {}
    const one = await app(t, {
      connections: { hold: 1_000_000 },
      async join (connection) {
        await connection.join('a')
        if (connection.lastEventId) await new Promise<void>((resolve) => { settle = resolve })
        await connection.join('b')
      }
    })
    const client = one.client(transport)
    await client.open()
    const { id } = await client.ready()
    await client.cut()
    const { connections } = one.fastify
    for (const n of [1, 2, 3, 4]) await connections.room(n % 2 === 0 ? 'a' : 'b').send({ data: n })
    await client.open()
    await until(() => connections.room('a').size === 1)
    await connections.room('a').send({ data: 5 })
    t.equal(client.connection.send({ event: 'direct' }), true, 'what is sent to it alone does not wait')
    await client.wait(1)
    t.match(client.events, [{ event: 'direct', id: undefined }])
    settle()
    t.strictSame((await client.wait(6)).slice(1), [1, 2, 3, 4, 5], 'both rooms in one order')
    await connections.room('b').send({ data: 6 })
    t.strictSame((await client.wait(7)).slice(6), [6])
    t.strictSame(client.readies.map(({ id, data }) => [id, (data as { resumed: boolean }).resumed]), [[id, false], [id, true]])
  })

  t.test(`a returning ${transport} connection is replayed some time after its last join, where its handler does not settle`, async (t) => {
    const one = await app(t, {
      connections: { hold: 5 },
      async join (connection) {
        await connection.join('a')
        await new Promise((resolve) => connection.signal.addEventListener('abort', resolve))
      }
    })
    const client = one.client(transport)
    await client.open()
    await client.ready()
    await client.cut()
    await one.fastify.connections.room('a').send({ data: 1 })
    await client.open()
    t.strictSame(await client.wait(1), [1])
  })

  t.test(`live() ends the hold of a returning ${transport} connection`, async (t) => {
    let go = (): void => {}
    const one = await app(t, {
      connections: { hold: 1_000_000 },
      async join (connection) {
        await connection.join('a')
        if (!connection.lastEventId) return
        await new Promise<void>((resolve) => { go = resolve })
        connection.live()
        await new Promise((resolve) => connection.signal.addEventListener('abort', resolve))
      }
    })
    const client = one.client(transport)
    await client.open()
    await client.ready()
    await client.cut()
    await one.fastify.connections.room('a').send({ data: 1 })
    await client.open()
    await until(() => one.fastify.connections.room('a').size === 1)
    go()
    t.strictSame(await client.wait(1), [1])
    client.connection.live()
    await one.fastify.connections.room('a').send({ data: 2 })
    t.strictSame(await client.wait(2), [1, 2], 'twice does nothing')
  })

  t.test(`joins that are not awaited are replayed too, and once, to a returning ${transport} connection`, async (t) => {
    const one = await app(t, { join (connection) { void connection.join('a'); void connection.join(['b', 'c']) } })
    const client = one.client(transport)
    await client.open()
    await client.ready()
    await client.cut()
    for (const room of ['a', 'b', 'c']) await one.fastify.connections.room(room).send({ data: room })
    await client.open()
    t.strictSame(await client.wait(3), ['a', 'b', 'c'])
    await one.fastify.connections.room('a').send({ data: 'live' })
    t.strictSame(await client.wait(4), ['a', 'b', 'c', 'live'])
    const offsets = client.events.map(({ id }) => offsetOf(id))
    t.strictSame(offsets, [...offsets].sort((a, b) => a - b))
  })

  t.test(`a source of a returning ${transport} connection starts after what it missed, also where nothing is joined`, async (t) => {
    for (const rooms of [['a'], []]) {
      const one = await app(t, {
        sse: { broadcast: false },
        ws: { broadcast: false },
        connections: { hold: 5 },
        async join (connection) {
          if (rooms.length > 0) await connection.join(rooms)
          await connection.from(['s1', 's2'])
        }
      })
      const client = one.client(transport)
      await client.open()
      t.strictSame(await client.wait(2), ['s1', 's2'])
      await client.cut()
      for (const room of rooms) await one.fastify.connections.room(room).send({ data: 'missed' })
      await client.open(rooms.length === 0 ? 'of the application' : client.lastEventId)
      t.strictSame((await client.wait(rooms.length + 4)).slice(2), [...rooms.map(() => 'missed'), 's1', 's2'])
    }
  })
}
