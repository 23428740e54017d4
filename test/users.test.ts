import { randomUUID } from 'node:crypto'
import t from 'tap'
import { memory } from '../lib/index.ts'
import type { ConnectionsOptions, Identity } from '../lib/index.ts'
import { connect, node, turn } from './fake.ts'
import type { Fake } from './fake.ts'
import { build, listen, until, wsClient } from './helper.ts'
import { site, transports } from './site.ts'

function dataOf ({ wire }: Fake): unknown[] { return wire.events.map(({ data }) => data) }

t.test('what is sent to a user reaches all its tabs, on every node and transport, and nobody else', async (t) => {
  const backplane = memory()
  const [here, there] = [await site(t, { connections: { backplane, identify: userOf } }), await site(t, { connections: { backplane, identify: userOf } })]
  const tabs = [await here.open('sse', { user: '42' }), await here.open('ws', { user: '42' }), await there.open('sse', { user: '42' }), await there.open('ws', { user: '42' })]
  const others = [await here.open('ws', { user: '43' }), await here.open('sse')]
  for (const { connection } of tabs) t.equal(connection.user, '42')
  t.equal(others[1]?.connection.user, null)
  t.match(await here.app.connections.user('42').send({ event: 'notice', data: 'hello' }), { accepted: true, members: 2, nodes: 2 })
  await here.app.connections.broadcast({ event: 'notice', data: 'end' })
  for (const tab of tabs) t.strictSame(await tab.wait(2), ['hello', 'end'])
  for (const other of others) t.strictSame(await other.wait(1), ['end'])
  const user = here.app.connections.user('42')
  t.strictSame([user.name, user.size], ['42', 2])
  t.strictSame([...user.members()], tabs.slice(0, 2).map(({ connection }) => connection))
  t.equal(user.has(tabs[0]?.connection as never), true)
  t.equal(user.has(tabs[2]?.connection as never), false, 'that one is on the other node')
  t.equal(here.app.connections.stats().users, 2)
  tabs[0]?.leave()
  await until(() => user.size === 1)
  t.match(await user.send({ event: 'notice', data: 'again' }), { members: 1 })
  t.strictSame((await tabs[1]?.wait(3))?.[2], 'again')
})

function userOf ({ query }: { query: unknown }): string | undefined { return (query as { user?: string }).user }

t.test('identify may be sync or async, and give a user, an object or nothing', async (t) => {
  const answers: Array<[() => Identity | Promise<Identity>, string | null]> = [
    [() => 'ada', 'ada'], [async () => 'ada', 'ada'], [() => ({ id: 'ada' }), 'ada'], [async () => ({ id: 'ada', expires: Date.now() + 1e9 }), 'ada'], [() => ({ id: 'ada', expires: new Date(Date.now() + 1e9) }), 'ada'],
    [() => ({ id: 'ada', expires: undefined }), 'ada'], [() => null, null], [() => undefined, null], [async () => {}, null]
  ]
  for (const [identify, user] of answers) {
    const { app, open } = await site(t, { connections: { identify: identify as never } })
    for (const transport of transports) {
      const { connection } = await open(transport)
      t.equal(connection.user, user)
      t.equal(app.connections.user('ada').has(connection), user === 'ada')
    }
  }
})

t.test('identify is asked once for a request, after the hooks of its route', async (t) => {
  let asked = 0
  const { app, open } = await site(t, {
    connections: {
      async identify (request) {
        asked++
        return (request as unknown as { who: string }).who
      }
    },
    routes (app) {
      app.decorateRequest('who', '')
      app.addHook('preHandler', async (request) => { (request as unknown as { who: string }).who = 'from the hook' })
      app.get('/plain', async (_request, reply) => { reply.sse() })
      app.get('/hooked', { sse: true, ws: {} }, async (_request, reply) => { reply.sse() })
    }
  })
  for (const [transport, path] of [['sse', '/hooked'], ['ws', '/hooked'], ['sse', '/plain']] as const) {
    asked = 0
    const { connection } = await open(transport, { path })
    t.equal(connection.user, 'from the hook')
    t.equal(asked, 1)
    t.ok(app.connections.user('from the hook').has(connection))
  }
})

t.test('an identify that throws or answers nonsense is an ordinary error, and nothing is opened', async (t) => {
  const forms: Array<NonNullable<ConnectionsOptions['identify']>> = [
    () => { throw Object.assign(new Error('no'), { statusCode: 401 }) },
    async () => { throw Object.assign(new Error('no'), { statusCode: 401 }) },
    () => 5 as never, () => '' as never, () => ({ id: 5 }) as never, () => ({}) as never, async () => ({ id: 'a', expires: 'soon' }) as never, () => ({ id: 'a', expires: NaN }), () => ['a'] as never, () => 'a\nb'
  ]
  for (const [index, identify] of forms.entries()) {
    const app = await build(t, { connections: { identify } })
    let called = false
    app.get('/live', { sse: true, ws: {} }, async (_request, reply) => { called = true; reply.sse() })
    app.get('/plain', async (_request, reply) => { reply.sse() })
    const port = await listen(app)
    const status = index < 2 ? 401 : 500
    t.equal((await app.inject({ url: '/live', headers: { accept: 'text/event-stream' } })).statusCode, status)
    t.equal((await app.inject('/plain')).statusCode, status)
    await t.rejects(wsClient(port, '/live'), { statusCode: status } as never)
    t.equal(called, false)
    await until(() => app.connections.size === 0)
    t.strictSame([...app.connections], [])
    t.match(app.connections.stats(), { connections: 0, users: 0 })
  }
})

t.test('a connection is identified late, switches, and is nobody again', async (t) => {
  const one = await node(t)
  const { registry } = one
  const fake = connect(one)
  const { connection } = fake
  connection.identify('ada')
  t.equal(connection.user, 'ada')
  await registry.user('ada').send({ data: 'to ada' })
  connection.identify('ada')
  t.equal(registry.user('ada').size, 1)
  connection.identify('bob')
  t.strictSame([registry.user('ada').size, registry.user('bob').size, registry.stats().users], [0, 1, 1])
  await registry.user('ada').send({ data: 'lost' })
  await registry.user('bob').send({ data: 'to bob' })
  await registry.broadcast({ data: 'spared' }, { except: { user: 'bob' } })
  await registry.broadcast({ data: 'not spared' }, { except: { user: 'ada' } })
  connection.identify(null)
  t.strictSame([connection.user, registry.user('bob').size, registry.stats().users], [null, 0, 0])
  connection.identify(null)
  await registry.user('bob').send({ data: 'lost' })
  await turn()
  t.strictSame(dataOf(fake), ['to ada', 'to bob', 'not spared'])
  connection.identify('ada')
  connection.close()
  connection.identify('bob')
  t.strictSame([registry.user('ada').size, registry.user('bob').size, registry.stats().users], [0, 0, 0], 'a closed connection is nobody\'s')
})

t.test('what the handler says of a connection holds against a late answer of identify', async (t) => {
  let answer: (who: string) => void = () => {}
  const { app, open } = await site(t, {
    connections: { identify: async () => await new Promise<string>((resolve) => { answer = resolve }) },
    routes (app) {
      app.get('/plain', async (_request, reply) => { reply.sse().identify('said by the handler') })
    }
  })
  app.connections.on('connect', () => setImmediate(() => answer('answered')))
  const { connection } = await open('sse', { path: '/plain' })
  t.equal(connection.user, 'said by the handler')
  t.equal(app.connections.user('answered').size, 0)
})

t.test('clear makes the tabs of a user nobody\'s, and disconnect ends them, streams with a source too', async (t) => {
  const backplane = memory()
  const [here, there] = [await site(t, { connections: { backplane, identify: userOf } }), await site(t, { connections: { backplane, identify: userOf } })]
  const tabs = [await here.open('sse', { user: '42' }), await there.open('ws', { user: '42' }), await here.open('sse', { user: '42', path: '/source' }), await there.open('sse', { user: '42', path: '/source' })]
  const other = await there.open('ws', { user: '43' })
  await here.app.connections.user('42').clear()
  for (const { connection } of tabs) t.strictSame([connection.user, connection.open], [null, true])
  for (const { connection } of tabs) connection.identify('42')
  await here.app.connections.user('42').disconnect('signed out')
  for (const [index, { connection, ended }] of tabs.entries()) {
    t.equal(connection.open, false)
    t.equal(await ended(), index === 1 ? 1000 : 0)
    const { ends } = index % 2 === 0 ? here : there
    await until(() => ends.has(connection))
    t.match(ends.get(connection), { reason: 'signed out' })
  }
  t.equal(other.connection.open, true)
  t.equal(here.app.connections.stats().users, 0)
})

t.test('a user\'s stream with a source takes what is sent to the user where the route says so', async (t) => {
  const { app: { connections }, open } = await site(t, {
    routes (app) {
      app.get('/both', { sse: { broadcast: true } }, async function * (_request: unknown, _reply: unknown, connection: { signal: AbortSignal }) {
        yield { event: 'begun' }
        await new Promise((resolve) => connection.signal.addEventListener('abort', resolve))
      } as never)
      app.get('/deaf', { sse: { broadcast: false }, ws: { broadcast: false } }, async (_request, reply) => { reply.sse() })
    }
  })
  const both = await open('sse', { user: '42', path: '/both' })
  const deaf = [await open('sse', { user: '42', path: '/deaf' }), await open('ws', { user: '42', path: '/deaf' })]
  t.match(await connections.user('42').send({ event: 'n', data: 1 }), { members: 1 })
  t.match(await connections.broadcast({ event: 'n', data: 2 }), { members: 1 })
  t.strictSame(await both.wait(2, 'n'), [1, 2])
  for (const one of deaf) {
    t.equal(one.connection.send({ event: 'n', data: 'direct' }), true)
    t.strictSame(await one.wait(1, 'n'), ['direct'])
  }
  t.equal(connections.stats().users, 1)
})

t.test('at the end of its right a connection is closed, idle or not', async (t) => {
  const { app: { connections }, open, ends } = await site(t, {
    connections: { heartbeat: 40, identify: ({ query }) => ({ id: 'ada', expires: Number((query as { until: string }).until) }) }
  })
  const past = [await open('sse', { until: String(Date.now() - 1_000) }), await open('ws', { until: '1' })]
  const soon = String(Date.now() + 100)
  const idle = [await open('sse', { until: soon }), await open('ws', { until: soon }), await open('sse', { until: soon, path: '/source' })]
  const busy = [await open('sse', { until: soon }), await open('ws', { until: soon })]
  const never = await open('ws', { until: '0' })
  const later = await open('ws', { until: String(Date.now() + 1e9) })
  const all = [...past, ...idle, ...busy]
  const work = setInterval(() => { for (const { connection } of busy) connection.send({ event: 'n', data: 1 }) }, 2)
  for (const { connection, ended } of all) {
    t.equal(await ended(), connection.transport === 'sse' ? 0 : 4401)
    await until(() => ends.has(connection))
    t.match(ends.get(connection), { code: 4401, reason: 'expired' })
    t.equal(connection.signal.aborted, true)
  }
  clearInterval(work)
  t.strictSame([...connections], [never.connection, later.connection])
})

t.test('a right that ends is that of the connection also when it is known late', async (t) => {
  const { open, ends } = await site(t, {
    connections: { heartbeat: 40, identify: async () => ({ id: 'ada', expires: Date.now() + 50 }) },
    routes (app) { app.get('/plain', async (_request, reply) => { reply.sse() }) }
  })
  const { connection, ended } = await open('sse', { path: '/plain' })
  t.equal(await ended(), 0)
  await until(() => ends.has(connection))
  t.match(ends.get(connection), { reason: 'expired' })
})

t.test('users with hundreds of tabs come and go without a trace', async (t) => {
  const one = await node(t, { maxPerUser: 10_000 })
  const users = Array.from({ length: 20 }, () => randomUUID())
  const all = Array.from({ length: 600 }, (_, i) => connect(one, { user: users[i % users.length] as string, broadcast: i % 3 !== 0 }))
  t.equal(one.registry.stats().users, 20)
  for (const { connection } of all) connection.close()
  t.match(one.registry.stats(), { connections: 0, rooms: 0, users: 0 })
  for (const user of users) t.equal(one.registry.user(user).size, 0)
  await turn()
})
