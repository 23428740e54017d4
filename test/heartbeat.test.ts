import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import type { Test } from 'tap'
import { Heartbeat } from '../lib/heartbeat.ts'
import type { Beating } from '../lib/heartbeat.ts'
import type { CloseReason } from '../types/transport.ts'
import { build, listen, sseClient, until, wsClient } from './helper.ts'

class Beaten implements Beating {
  readonly did: string[] = []
  wroteAt = 0
  pingedAt = 0
  endsAt = 0
  inactivity = 0
  expires = 0
  /** Whether it answers a ping. */
  lives = true
  readonly wire: Beating['wire']

  constructor (pingWhenSilent: boolean, given: Partial<Pick<Beaten, 'endsAt' | 'inactivity' | 'expires' | 'lives'>> = {}) {
    Object.assign(this, given)
    const wire = {
      pingWhenSilent,
      missed: 0,
      ping: () => {
        this.did.push('ping')
        if (!pingWhenSilent && !this.lives) wire.missed++
      },
      terminate: () => { this.did.push('terminate') }
    }
    this.wire = wire
  }

  end ({ reason }: CloseReason): void { this.did.push(`end ${reason}`) }
  closed ({ reason }: CloseReason, clean: boolean): void { this.did.push(`closed ${reason} ${clean}`) }
}

interface Beat { clock: Heartbeat, members: Beaten[], steps: (count: number) => void, timers: () => number }

/** A heartbeat whose timer is turned by hand. */
function turned (t: Test, interval: number, ...members: Beaten[]): Beat {
  let timers = 0
  let beat: (() => void) | null = null
  const { setInterval: original, clearInterval: clear } = globalThis
  t.teardown(() => Object.assign(globalThis, { setInterval: original, clearInterval: clear }))
  Object.assign(globalThis, {
    setInterval (callback: () => void, delay: number) {
      t.equal(delay, clock.step)
      timers++
      beat = callback
      return { unref () { return this } }
    },
    clearInterval () {
      timers--
      beat = null
    }
  })
  const clock = new Heartbeat(interval, () => members)
  clock.start()
  return { clock, members, steps (count) { for (let i = 0; i < count; i++) beat?.() }, timers: () => timers }
}

t.test('there is one timer, and only while it is started', async (t) => {
  const { clock, steps, timers } = turned(t, 800)
  clock.start()
  t.equal(timers(), 1)
  steps(3)
  t.equal(clock.tick, 3)
  clock.stop()
  clock.stop()
  t.equal(timers(), 0)
  clock.start()
  t.equal(timers(), 1)
  steps(1)
  t.equal(clock.tick, 4, 'it goes on counting where it was')
})

t.test('a step is an eighth of the interval, but 5 to 250 milliseconds', async (t) => {
  const step = (interval: number): number => new Heartbeat(interval, () => []).step
  t.strictSame([0, 1, 40, 400, 2_000, 15_000, 1e9].map(step), [250, 5, 5, 50, 250, 250, 250])
})

t.test('after so many steps so many milliseconds are over for certain', async (t) => {
  const { steps } = new Heartbeat(0, () => [])
  const inSteps = steps.bind(new Heartbeat(0, () => []))
  t.equal(inSteps(0), 0, '0 is off')
  t.strictSame([1, 250, 251, 1_000, 0.5].map(inSteps), [2, 2, 3, 5, 2])
})

t.test('an event stream gets a sign of life on silence only', async (t) => {
  const [silent, busy] = [new Beaten(true), new Beaten(true)]
  const { clock, steps } = turned(t, 800, silent, busy)
  for (let i = 0; i < 80; i++) {
    busy.wroteAt = clock.tick
    steps(1)
  }
  t.equal(silent.did.filter((what) => what === 'ping').length, 10, 'once in each interval')
  t.strictSame(busy.did, [])
  steps(8)
  t.strictSame(busy.did, ['ping'], 'it has fallen silent')
})

t.test('silence is counted from what was written last', async (t) => {
  const member = new Beaten(true)
  const { clock, steps } = turned(t, 800, member)
  steps(5)
  member.wroteAt = clock.tick
  steps(7)
  t.strictSame(member.did, [])
  steps(1)
  t.strictSame(member.did, ['ping'])
})

t.test('an event stream is never taken for lost, whatever becomes of its signs of life', async (t) => {
  const member = new Beaten(true, { lives: false })
  turned(t, 800, member).steps(800)
  t.equal(member.did.filter((what) => what !== 'ping').length, 0)
})

t.test('a WebSocket is asked for a sign of life in each interval, also while it is written to', async (t) => {
  const member = new Beaten(false)
  const { clock, steps } = turned(t, 800, member)
  for (let i = 0; i < 80; i++) {
    member.wroteAt = clock.tick
    steps(1)
  }
  t.strictSame(member.did, new Array(10).fill('ping'))
})

t.test('a WebSocket that misses two pongs is lost half an interval after the second ping', async (t) => {
  const member = new Beaten(false, { lives: false })
  const { steps } = turned(t, 800, member)
  steps(8)
  t.strictSame(member.did, ['ping'])
  steps(8)
  t.strictSame(member.did, ['ping', 'ping'])
  steps(3)
  t.strictSame(member.did, ['ping', 'ping'])
  steps(1)
  t.strictSame(member.did, ['ping', 'ping', 'terminate', 'closed lost false'])
})

t.test('one pong missed, or a late one, harms nobody', async (t) => {
  const member = new Beaten(false, { lives: false })
  const wire = member.wire as { missed: number }
  const { clock, steps } = turned(t, 800, member)
  let late = 0
  while (clock.tick < 400) {
    steps(1)
    if (wire.missed < 2 || clock.tick - member.pingedAt < 3) continue
    wire.missed = 0 // the last step at which a pong is in time
    late++
  }
  t.strictSame(member.did, new Array(50).fill('ping'))
  t.equal(late, 24)
})

t.test('a right ends at its time, an age at its step, a silence after so many steps; what has ended gets no sign of life', async (t) => {
  const now = Date.now()
  const members = {
    expired: new Beaten(false, { expires: now - 1 }),
    soon: new Beaten(false, { expires: now + 50 }),
    later: new Beaten(false, { expires: now + 3_600_000 }),
    old: new Beaten(true, { endsAt: 8 }),
    inactive: new Beaten(true, { inactivity: 8 })
  }
  const { steps } = turned(t, 800, ...Object.values(members))
  steps(1)
  t.strictSame(members.expired.did, ['end expired'])
  t.strictSame(members.soon.did, ['end expired'], 'before the next step, not after it')
  steps(6)
  t.strictSame([members.old.did, members.inactive.did, members.later.did], [[], [], []])
  steps(1)
  t.strictSame(members.old.did, ['end age'])
  t.strictSame(members.inactive.did, ['end inactive'])
  t.strictSame(members.later.did, ['ping'])
})

t.test('who is sent something is not inactive; a sign of life is nothing sent', async (t) => {
  const [busy, silent] = [new Beaten(true, { inactivity: 20 }), new Beaten(true, { inactivity: 20 })]
  const { clock, steps } = turned(t, 800, busy, silent)
  for (let i = 0; i < 19; i++) {
    steps(1)
    busy.wroteAt = clock.tick
  }
  t.strictSame(silent.did, ['ping', 'ping'])
  steps(1)
  t.strictSame(silent.did, ['ping', 'ping', 'end inactive'])
  t.strictSame(busy.did, [])
})

t.test('without a heartbeat there are no signs of life, but ages and rights end', async (t) => {
  const members = [new Beaten(true), new Beaten(false, { lives: false }), new Beaten(true, { endsAt: 5 }), new Beaten(false, { expires: 1 })]
  turned(t, 0, ...members).steps(5)
  t.strictSame(members.map(({ did }) => did[0]), [undefined, undefined, 'end age', 'end expired'])
})

t.test('the shortest heartbeat there can be still asks twice', async (t) => {
  const member = new Beaten(false, { lives: false })
  turned(t, 1, member).steps(3)
  t.strictSame(member.did, ['ping', 'ping', 'terminate', 'closed lost false'])
})

// --- on real sockets

const heartbeat = 40

/** The loop stands still, so that no timer and no socket is looked at. */
function stall (milliseconds: number): void {
  for (const end = performance.now() + milliseconds; performance.now() < end;);
}

t.test('a silent stream gets `:` and a line end, a WebSocket a ping', async (t) => {
  const app = await build(t, { connections: { heartbeat } })
  app.get('/events', { sse: true }, async (_request, reply) => { reply.sse() })
  app.get('/ws', { ws: true }, { onMessage () {} })
  const port = await listen(app)
  const [events, socket] = [await sseClient(port, '/events'), await wsClient(port, '/ws')]
  let pings = 0
  socket.socket.on('ping', () => { pings++ })
  await until(() => events.parser.comments.length >= 3 && pings >= 3)
  t.match(events.text, /(?:^|\n):\n:\n/)
  t.strictSame(events.events.filter(({ event }) => event !== 'ready'), [])
  for (const client of [events, socket]) client.close()
})

t.test('a WebSocket that answers no ping is lost, those that answer stay', async (t) => {
  const app = await build(t, { connections: { heartbeat } })
  const ends: unknown[] = []
  app.connections.on('disconnect', (connection, { code, reason, clean }) => { ends.push([connection.lastEventId, code, reason, clean]) })
  app.get('/ws', { ws: true }, { onMessage () {} })
  const port = await listen(app)
  const living = await wsClient(port, '/ws?lastEventId=living')
  const dead = await wsClient(port, '/ws?lastEventId=dead', { autoPong: false })
  await until(() => dead.closed !== null)
  t.strictSame(ends, [['dead', 1006, 'lost', false]])
  t.equal(living.closed, null)
  t.equal(app.connections.size, 1)
  living.close()
})

t.test('a WebSocket is lost also while it is written to, since writing proves nothing', async (t) => {
  const app = await build(t, { connections: { heartbeat } })
  app.get('/ws', { ws: true }, { onMessage () {} })
  const dead = await wsClient(await listen(app), '/ws', { autoPong: false })
  const timer = setInterval(() => { void app.connections.broadcast('tick') }, 5)
  t.teardown(() => clearInterval(timer))
  await until(() => dead.closed !== null)
  t.ok(dead.messages.length > 5)
})

t.test('a loop that stands still for many intervals takes nobody for lost', async (t) => {
  const app = await build(t, { connections: { heartbeat } })
  const ends: string[] = []
  app.connections.on('disconnect', (_connection, { reason }) => { ends.push(reason) })
  app.get('/events', { sse: true }, async (_request, reply) => { reply.sse() })
  app.get('/ws', { ws: true }, { onMessage () {} })
  const port = await listen(app)
  const clients = [await sseClient(port, '/events'), await wsClient(port, '/ws'), await wsClient(port, '/ws')] as const
  let pings = 0
  for (const { socket } of clients.slice(1) as Array<typeof clients[1]>) socket.on('ping', () => { pings++ })
  for (let i = 0; i < 4; i++) {
    const before = pings
    await until(() => pings > before) // so that a pong may be on its way while the loop stands still
    stall(heartbeat * 6)
  }
  for (let i = 0; i < 6; i++) { // and for as long as each turn of it
    stall(heartbeat * 3)
    await sleep(0)
  }
  const before = pings
  await until(() => pings >= before + 6)
  t.strictSame(ends, [])
  t.equal(app.connections.size, 3)
  for (const client of clients) client.close()
})

t.test('a stream that is busy outlives its inactivity, a silent one does not', async (t) => {
  const app = await build(t, { connections: { heartbeat: 80 } })
  app.get('/events', { sse: { inactivity: 100 } }, async ({ query }, reply) => {
    const connection = reply.sse()
    if ('room' in (query as object)) await connection.join('busy')
  })
  const port = await listen(app)
  const [busy, silent] = [await sseClient(port, '/events?room'), await sseClient(port, '/events')]
  const reasons: string[] = []
  app.connections.on('disconnect', (_connection, { reason }) => { reasons.push(reason) })
  while (reasons.length === 0) {
    await app.connections.room('busy').send('tick')
    await sleep(5)
  }
  t.strictSame(reasons, ['inactive'])
  await until(() => silent.ended)
  t.equal(silent.cut, false, 'it is ended, not cut')
  const seen = busy.events.length
  await app.connections.room('busy').send('one more')
  await busy.wait(seen + 1)
  t.equal(busy.ended, false)
  busy.close()
})

t.test('a stream without a source ends at its age, one with a source does not', async (t) => {
  const app = await build(t, { connections: { heartbeat: 40 } })
  app.get('/open', { sse: { maxAge: 60 } }, async (_request, reply) => { reply.sse() })
  app.get('/source', { sse: { maxAge: 60 } }, async function * (_request, _reply, connection) {
    while (connection.open) {
      yield 'tick'
      await sleep(5)
    }
  })
  const port = await listen(app)
  const reasons: string[] = []
  app.connections.on('disconnect', (_connection, { reason }) => { reasons.push(reason) })
  const source = await sseClient(port, '/source')
  for (let i = 1; i <= 3; i++) {
    const open = await sseClient(port, '/open')
    await until(() => open.ended)
    t.equal(open.cut, false)
  }
  t.strictSame(reasons, ['age', 'age', 'age'])
  t.equal(source.ended, false)
  source.close()
})

t.test('a right that ends ends the connection, busy or idle: a stream is ended, a WebSocket closed with 4401', async (t) => {
  const app = await build(t, { connections: { heartbeat: 40, identify: () => ({ id: 'ada', expires: Date.now() + 100 }) } })
  app.get('/events', { sse: true }, async (_request, reply) => { reply.sse() })
  app.get('/ws', { ws: true }, { onMessage () {} })
  const port = await listen(app)
  const clients = [await sseClient(port, '/events'), await wsClient(port, '/ws')] as const
  const timer = setInterval(() => { void app.connections.broadcast('tick') }, 5)
  t.teardown(() => clearInterval(timer))
  await until(() => clients[0].ended && clients[1].closed !== null)
  t.equal(clients[0].cut, false)
  t.strictSame(clients[1].closed, { code: 4401, reason: 'expired' })
})

t.test('the timer runs while there are connections, and keeps no process alive', async (t) => {
  const app = await build(t, { connections: { heartbeat: 40 } })
  app.get('/ws', { ws: true }, { onMessage () {} })
  const { clock } = app.connections as unknown as { clock: Heartbeat }
  const client = await wsClient(await listen(app), '/ws')
  await until(() => clock.tick > 2)
  client.close()
  await until(() => app.connections.size === 0)
  const { tick } = clock
  await sleep(clock.step * 4)
  t.equal(clock.tick, tick)
})
