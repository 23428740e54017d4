// Crowd of several rooms get what was lost on the way before what came after it, once, and in the order of the sequence.
import { createClient } from '@redis/client'
import t from 'tap'
import type { Test } from 'tap'
import { connect, turn } from '../fake.ts'
import { until } from '../helper.ts'
import { hide, withRedis } from '../redis.ts'
import { both, gaps, heard, sleep, some, World } from '../redis-world.ts'
import type { Member } from '../redis-world.ts'

/** A client of Redis itself, past the relay. */
async function broker (t: Test, { server }: World): Promise<{ flushAll (): Promise<unknown> }> {
  const cli = createClient({ url: `redis://127.0.0.1:${server.port}` })
  await cli.connect()
  t.after(() => cli.destroy())
  return cli
}

/** Two nodes; on the first somebody in room `a`, who has heard one event of the second. */
async function pair (t: Test): Promise<{ world: World, cli: Awaited<ReturnType<typeof broker>>, fake: Awaited<ReturnType<World['returning']>> }> {
  const world = await World.start(t)
  const cli = await broker(t, world)
  const fake = await world.returning(world.here, ['a'])
  await world.say(world.there, 'a')
  await until(() => heard(fake).length === 1)
  return { world, cli, fake }
}

withRedis(t, () => {
  for (const [name, options] of Object.entries({ 'all that comes waits': {}, 'more comes than may wait': { maxHeld: 1_000 } })) {
    t.test(`however often the subscriptions are lost, also where ${name}`, async (t) => {
      const world = await World.start(t, options)
      const { relay, here, there } = world
      for (const rooms of [both, ['a'], ['b'], both]) for (const one of [here, there]) await world.member(one, rooms)
      for (let round = 0; round < 8; round++) {
        relay.delay = Math.random() * 20 // live events come before what was lost is known
        await world.flood(40, (i) => {
          if (i === 5 || some(20) === 0) relay.cutSubscribers()
          if (some(40) === 0) return world.member(some(2) > 0 ? here : there, [both, ['b']][some(2)] as string[])
          if (some(40) === 0) return world.member(some(2) > 0 ? here : there, both, heard((world.members[0] as Member).fake).length === 0 ? undefined : (world.members[0] as Member).fake.wire.events.at(-1)?.id as string)
        })
      }
      await world.end(t)
      if (name !== 'all that comes waits') t.ok(here.lines.some(({ message }) => message === 'more came from redis than may wait, and is read from the log'))
    })
  }

  t.test('a connection that goes deaf, or is lost again before it is known what was lost', async (t) => {
    const world = await World.start(t, { audit: 100 })
    for (const rooms of [both, ['a'], ['b']]) await world.member(world.here, rooms)
    for (let round = 0; round < 4; round++) {
      world.relay.delay = 10
      await world.flood(60, (i) => {
        if (i === 10) world.relay.mute()
        if (i === 40 || i === 42) world.relay.cutSubscribers()
        return undefined
      })
    }
    await world.end(t)
  })

  t.test('what did not come though the connection stayed', async (t) => {
    const world = await World.start(t, { audit: 1_000 })
    const { relay, here, there } = world
    for (const rooms of [both, ['a'], ['b']]) await world.member(here, rooms)
    for (let round = 0; round < 5; round++) {
      relay.delay = 30
      await world.say(there, 'a')
      world.accepted.push({ data: `a ${round} hidden`, offset: await hide(world.server.port, 'room/a', `a ${round} hidden`) })
      const sending = [world.say(there, 'a'), world.say(there, 'b'), world.say(here, 'a'), world.say(there, 'b')]
      await Promise.all(sending)
    }
    await world.judge(t)
    world.accepted.push({ data: 'b last', offset: await hide(world.server.port, 'room/b', 'b last') })
    await world.judge(t) // nothing follows
    await world.end(t)
  })

  t.test('a room that is left and joined again, or joined for the first time, while there are no subscriptions', async (t) => {
    const world = await World.start(t, { audit: 200 })
    const { relay, here, there } = world
    const leaving = await world.member(here, ['b'])
    await world.member(here, ['a'])
    await world.say(there, 'b')
    await world.judge(t)
    relay.refusing = true
    relay.cutSubscribers()
    await until(() => here.lines.some(({ message }) => message === 'the subscriptions to redis are lost'))
    await leaving.fake.connection.leave('b')
    world.members.shift()
    await sleep(1_200) // until it is dropped
    const joining = [world.member(here, ['b']), world.member(here, both), world.member(here, ['c', 'a'])]
    await world.say(there, 'a')
    const own = world.say(here, 'a')
    relay.delay = 20
    relay.refusing = false
    await Promise.all(joining)
    await own
    await world.flood(20, () => undefined)
    await world.end(t)
  })

  t.test('another sequence, while what was lost of the one before is not known', async (t) => {
    const world = await World.start(t, { audit: 200 })
    const { relay, here, there } = world
    const cli = await broker(t, world)
    const fakes = [(await world.member(here, both)).fake, (await world.member(here, ['a'])).fake] as const
    for (let round = 1; round <= 3; round++) {
      for (const room of both) await world.say(there, room)
      relay.delay = 20
      relay.cutSubscribers()
      await world.say(there, 'a')
      await cli.flushAll()
      world.accepted.length = 0
      for (let i = 0; i < 10; i++) await Promise.all([world.say(there, 'a'), world.say(there, 'b')])
      for (const fake of fakes) {
        await until(() => gaps(fake).length === round && heard(fake).at(-1)?.data === world.accepted.filter(({ data }) => fake === fakes[0] || data.startsWith('a')).at(-1)?.data)
        const reset = fake.wire.events.map(({ event }) => event).lastIndexOf('gap')
        const after = heard({ ...fake, wire: { events: fake.wire.events.slice(reset) } as never })
        t.strictSame(after, world.accepted.filter(({ data }) => fake === fakes[0] || data.startsWith('a')).sort((one, other) => (one.offset as number) - (other.offset as number)))
        t.strictSame(gaps(fake), new Array(round).fill('epoch'))
      }
    }
  })

  t.test('what came of a sequence that was lost again before it was known', async (t) => {
    const { world, cli, fake } = await pair(t)
    const { relay, here, there } = world
    let ask = (): void => {}
    const later = new Promise<void>((resolve) => { ask = resolve })
    relay.before = (_text, subscribes) => subscribes ? undefined : later
    for (let i = 0; i < 2; i++) {
      await cli.flushAll()
      await world.say(there, 'a')
    }
    ask()
    const { data } = await world.say(there, 'a')
    await until(() => heard(fake).at(-1)?.data === data)
    t.strictSame(heard(fake), [world.accepted[0], ...world.accepted.slice(2)])
    t.strictSame(gaps(fake), ['epoch'])
    await world.say(here, 'a')
    await until(() => heard(fake).length === 4)
  })

  t.test('an answer of the sequence before that comes after the first event of the next', async (t) => {
    const { world, cli, fake } = await pair(t)
    const { relay, here, there } = world
    let answer = (): void => {}
    relay.answers = new Promise<void>((resolve) => { answer = resolve })
    await connect(here, { bare: false, broadcast: false }).connection.join('b') // its mark has come, not the answer to what sent it
    await cli.flushAll()
    await world.say(there, 'a')
    await until(() => heard(fake).length === 2)
    answer()
    await world.say(here, 'a')
    await until(() => heard(fake).at(-1)?.data === world.accepted.at(-1)?.data)
    t.strictSame(heard(fake), world.accepted)
    t.strictSame(gaps(fake), ['epoch'])
  })

  t.test('a room that is being subscribed to when the sequence begins anew is joined when that is acknowledged, and not before', async (t) => {
    const { world, cli, fake: watcher } = await pair(t)
    const { relay, here, there } = world
    let isAsked = false
    let subscribe = (): void => {}
    relay.before = (text, subscribes) => {
      if (!subscribes || !text.includes('room/b')) return undefined
      isAsked = true
      return new Promise<void>((resolve) => { subscribe = resolve })
    }
    const first = connect(here, { bare: false, broadcast: false })
    const isFirstIn = first.connection.join('b')
    await until(() => isAsked)
    await cli.flushAll()
    await world.say(there, 'a')
    await until(() => gaps(watcher).length === 1)
    const second = connect(here, { bare: false, broadcast: false })
    let joined = 0 // how many were accepted before
    const isSecondIn = second.connection.join(both).then(() => { joined = world.accepted.length })
    await turn()
    for (const room of ['b', 'a']) await world.say(there, room)
    await until(() => heard(watcher).at(-1)?.data === world.accepted.at(-1)?.data)
    subscribe()
    await Promise.all([isFirstIn, isSecondIn])
    for (const room of ['b', 'a']) await world.say(there, room)
    await until(() => heard(second).at(-1)?.data === world.accepted.at(-1)?.data)
    const since = world.accepted.slice(joined)
    t.strictSame(heard(second).slice(-since.length), since, 'all that was sent since it has joined, in its order')
    t.strictSame(heard(first).at(-1), world.accepted.at(-2))
    t.strictSame([gaps(first), gaps(second)], [[], []])
  })

  t.test('who sends while there are no subscriptions waits for what it sent, but not for ever', async (t) => {
    const world = await World.start(t, { audit: 100, timeout: 400 })
    const { relay, here } = world
    const { fake } = await world.member(here, ['a'])
    relay.cutSubscribers()
    await world.say(here, 'a')
    await turn()
    await world.judge(t)
    relay.refusing = true
    relay.cutSubscribers()
    await until(() => here.lines.filter(({ message }) => message === 'the subscriptions to redis are lost').length >= 2)
    const { data } = await world.say(here, 'a')
    t.not(heard(fake).at(-1)?.data, data, 'it was accepted, and has not come')
    await world.end(t)
  })
})
