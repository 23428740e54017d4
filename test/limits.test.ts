import { connect as connectSocket } from 'node:net'
import t from 'tap'
import { addressOf } from '../lib/admission.ts'
import { connect, node } from './fake.ts'
import { build, listen, sseClient, until, wsClient } from './helper.ts'
import type { Refusal } from './helper.ts'
import { site } from './site.ts'

const codes = { maxConnections: ['FST_ERR_REAL_TOO_MANY_CONNECTIONS', 503], maxPerUser: ['FST_ERR_REAL_TOO_MANY_OF_USER', 429], maxPerAddress: ['FST_ERR_REAL_TOO_MANY_OF_ADDRESS', 429] } as const
const names = Object.keys(codes) as Array<keyof typeof codes>

for (const name of names) {
  const [code, status] = codes[name]

  t.test(`over ${name} an EventSource is told to wait, all others get ${status}, and there is room again after a leave`, async (t) => {
    const { app, port, open } = await site(t, {
      connections: { [name]: 2 },
      routes (app) {
        app.get('/plain', async (_request, reply) => { reply.sse() })
        app.get('/dual', { sse: { accept: 'dual' } }, async (request, reply) => {
          if (!request.wantsEvents) return { ordinary: true }
          reply.sse()
        })
      }
    })
    const query = '?user=ada'
    const [sse, ws] = [await open('sse', { user: 'ada' }), await open('ws', { user: 'ada' })]
    for (const path of [`/live${query}`, `/plain${query}`, `/dual${query}`]) {
      const client = await sseClient(port, path)
      await until(() => client.ended)
      t.equal(client.response.statusCode, 200, `an EventSource never comes back after any other status: ${path}`)
      t.equal(client.response.headers['content-type'], 'text/event-stream')
      t.equal(client.cut, false)
      t.match(client.text, /^retry: \d+\n\n$/)
      t.ok((client.parser.retry as number) >= 30_000 && (client.parser.retry as number) <= 60_000)
    }
    const retries = new Set<number | undefined>()
    for (let i = 0; i < 5; i++) {
      const client = await sseClient(port, `/live${query}`)
      await until(() => client.ended)
      retries.add(client.parser.retry)
    }
    t.ok(retries.size > 1, 'with jitter')
    for (const path of ['/live', '/plain']) {
      const answer = await app.inject({ url: path + query, headers: { accept: '*/*' } })
      t.equal(answer.statusCode, status, path)
      t.match(answer.json(), { code, statusCode: status })
      t.match(answer.headers['retry-after'], /^\d+$/)
      t.ok(Number(answer.headers['retry-after']) >= 30)
    }
    t.strictSame((await app.inject({ url: `/dual${query}`, headers: { accept: 'application/json' } })).json(), { ordinary: true }, 'an ordinary answer opens nothing')
    const refusal = await wsClient(port, `/live${query}`).catch((err: Refusal) => err) as Refusal
    t.equal(refusal.statusCode, status)
    t.match(JSON.parse(refusal.body), { code })
    t.match(refusal.headers['retry-after'], /^\d+$/)
    t.equal(app.connections.size, 2)
    t.equal(app.connections.stats().refused, 11)
    sse.drop()
    await until(() => app.connections.size === 1)
    const again = await open('ws', { user: 'ada' })
    t.equal(again.connection.open, true)
    ws.leave()
    again.drop()
    await until(() => app.connections.size === 0)
    t.match(app.connections.stats(), { connections: 0, users: 0 })
  })

  t.test(`${name} holds when many come at once`, async (t) => {
    const { app, port } = await site(t, {
      connections: { [name]: 5, identify: async () => await new Promise<string>((resolve) => setImmediate(resolve, 'ada')) },
      routes (app) {
        app.addHook('onSend', async (_request, _reply, payload) => {
          await new Promise((resolve) => setTimeout(resolve, 5))
          return payload
        })
        app.get('/slow', { sse: true, ws: {} }, async (_request, reply) => { reply.sse() })
      }
    })
    const answers = await Promise.allSettled(Array.from({ length: 30 }, () => wsClient(port, '/slow')))
    t.equal(answers.filter(({ status }) => status === 'fulfilled').length, 5)
    for (const answer of answers) if (answer.status === 'rejected') t.equal((answer.reason as Refusal).statusCode, status)
    t.equal(app.connections.size, 5)
    for (const answer of answers) if (answer.status === 'fulfilled') answer.value.close()
    await until(() => app.connections.size === 0)
    const streams = await Promise.all(Array.from({ length: 30 }, () => sseClient(port, '/slow')))
    await until(() => streams.filter(({ ended }) => ended).length === 25)
    t.equal(app.connections.size, 5)
    for (const stream of streams) stream.close()
    await until(() => app.connections.size === 0)
  })
}

t.test('of users and addresses, each has a limit of its own', async (t) => {
  const one = await node(t, { maxPerUser: 2, maxPerAddress: 3 })
  const { registry } = one
  const request = (ip: string): never => ({ ip }) as never
  for (const user of ['ada', 'ada', 'bob']) connect(one, { user, ip: '10.0.0.1' })
  t.match(registry.refusal('ada', request('10.0.0.2')), { code: 'FST_ERR_REAL_TOO_MANY_OF_USER' })
  t.match(registry.refusal('eve', request('10.0.0.1')), { code: 'FST_ERR_REAL_TOO_MANY_OF_ADDRESS' })
  t.equal(registry.refusal('bob', request('10.0.0.2')), null)
  t.equal(registry.refusal(null, request('10.0.0.2')), null)
  t.equal(registry.refusal(null, request(undefined as never)), null, 'of nobody, nobody is counted')
  t.equal(registry.stats().refused, 2)
})

t.test('a user known late is counted too', async (t) => {
  const { app, open, ends } = await site(t, { connections: { maxPerUser: 1 } })
  const [one, other] = [await open('ws'), await open('sse')]
  one.connection.identify('ada')
  t.equal(one.connection.open, true)
  other.connection.identify('ada')
  t.equal(other.connection.open, false)
  await until(() => ends.has(other.connection))
  t.match(ends.get(other.connection), { code: 1008, reason: 'too many connections' })
  t.strictSame([...app.connections], [one.connection])
  one.connection.identify(null)
  const third = await open('ws')
  third.connection.identify('ada')
  t.equal(third.connection.open, true)
})

t.test('a user that an async identify gives a plain route is counted too, and its stream ends', async (t) => {
  const { app, port } = await site(t, {
    connections: { maxPerUser: 1, identify: async () => await new Promise<string>((resolve) => setTimeout(resolve, 5, 'ada')) },
    routes (app) { app.get('/plain', async (_request, reply) => { reply.sse() }) }
  })
  const first = await sseClient(port, '/plain')
  await until(() => app.connections.user('ada').size === 1)
  const second = await sseClient(port, '/plain')
  await until(() => second.ended)
  t.equal(first.ended, false)
  t.equal(app.connections.size, 1)
})

t.test('addresses are what request.ip says, so trustProxy counts, and IPv6 is counted by /64', async (t) => {
  const { app, port, open } = await site(t, { fastify: { trustProxy: true }, connections: { maxPerAddress: 1 } })
  const from = (ip: string): Record<string, string> => ({ 'x-forwarded-for': ip })
  await open('sse', {}, from('192.0.2.1'))
  await open('ws', {}, from('192.0.2.2'))
  await open('ws', {}, from('2001:db8:1:2::1'))
  await open('sse', {}, from('2001:db8:1:3::1'))
  for (const ip of ['192.0.2.1', '::ffff:192.0.2.2', '2001:db8:1:2:ffff::9', '2001:0DB8:0001:0003::']) {
    await t.rejects(wsClient(port, '/live', { headers: from(ip) }), { statusCode: 429 } as never, ip)
  }
  t.equal(app.connections.size, 4)
})

t.test('without trustProxy a header names no address', async (t) => {
  const { port, open } = await site(t, { connections: { maxPerAddress: 1 } })
  await open('sse', {}, { 'x-forwarded-for': '192.0.2.1' })
  await t.rejects(wsClient(port, '/live', { headers: { 'x-forwarded-for': '192.0.2.2' } }), { statusCode: 429 } as never)
})

t.test('an address is counted as one, however it is written', async (t) => {
  const cases: Array<[string | undefined, string]> = [
    [undefined, ''], ['192.0.2.1', '192.0.2.1'], ['::ffff:192.0.2.1', '192.0.2.1'], ['::ffff:c000:201', '192.0.2.1'], ['::1', '0:0:0:0::/64'], ['::', '0:0:0:0::/64'], ['fe80::1%eth0', 'fe80:0:0:0::/64'],
    ['2001:db8::1', '2001:db8:0:0::/64'], ['2001:DB8:0:0:1::', '2001:db8:0:0::/64'], ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2::/64'], ['2001:0db8:0001:0002::', '2001:db8:1:2::/64'], ['64:ff9b::192.0.2.1', '64:ff9b:0:0::/64'], ['not an address', 'not an address']
  ]
  for (const [ip, address] of cases) t.equal(addressOf(ip), address, String(ip))
})

t.test('rooms of a connection and bytes of an event have their limits', async (t) => {
  const { app: { connections }, open } = await site(t, { connections: { maxRooms: 2, maxEventBytes: 100 } })
  for (const transport of ['sse', 'ws']) {
    const { connection, wait } = await open(transport)
    t.equal(await connection.join(['a', 'b']), true)
    t.throws(() => connection.join('c'), { code: 'FST_ERR_REAL_TOO_MANY_ROOMS', statusCode: 429 })
    const tooLarge = { code: 'FST_ERR_REAL_TOO_LARGE', statusCode: 500 }
    for (const event of ['x'.repeat(101), { data: 'é'.repeat(51) }, { data: ['x'.repeat(98)] }, { data: Buffer.alloc(101) }]) {
      t.throws(() => connection.send(event), tooLarge)
      t.throws(() => connections.room('a').send(event), tooLarge)
      t.throws(() => connections.broadcast(event), tooLarge)
      t.throws(() => connections.user('x').send(event), tooLarge)
      t.throws(() => connections.send(connection.id, event), tooLarge)
      t.throws(() => connections.send('elsewhere', event), tooLarge)
    }
    t.equal(connection.send({ data: ['x'.repeat(96)] }), true)
    t.strictSame(await wait(1), [['x'.repeat(96)]])
    connection.close()
  }
})

t.test('counters are at 0 again after hundreds have been dropped', async (t) => {
  const { app: { connections }, port, ends } = await site(t, { connections: { maxPerAddress: 1_000, maxPerUser: 1_000, maxConnections: 1_000 } })
  const sockets = []
  for (let i = 0; i < 300; i++) {
    const socket = connectSocket(port, '127.0.0.1').on('error', () => {})
    const upgrade = i % 2 === 0 ? '' : 'connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n'
    socket.write(`GET /live?user=${i % 7} HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n${upgrade}\r\n`)
    sockets.push(socket)
  }
  await until(() => connections.size === 300)
  for (const connection of connections) await connection.join([`room ${Math.floor(Math.random() * 50)}`, 'all of them'], { presence: { key: connection.user as string } })
  t.match(connections.stats(), { connections: 300, users: 7, byTransport: { sse: 150, ws: 150 } })
  for (const [index, socket] of sockets.entries()) {
    if (index % 3 === 0) socket.destroy()
    else socket.resetAndDestroy()
  }
  await until(() => ends.size === 300)
  t.match(connections.stats(), { connections: 0, rooms: 0, users: 0, byTransport: {} })
  t.strictSame([...connections.rooms()], [])
  t.strictSame(await connections.room('all of them').presence(), [])
  for (let i = 0; i < 7; i++) t.equal(connections.user(String(i)).size, 0)
  t.equal((await connections.broadcast('x')).members, 0)
})

t.test('a request that opens nothing is not counted', async (t) => {
  const app = await build(t, { connections: { maxConnections: 1 } })
  app.get('/refused', { sse: true, preHandler: async (_request, reply) => reply.code(403).send({}) }, async (_request, reply) => { reply.sse() })
  app.get('/declines', { sse: true }, async (_request, reply) => reply.code(204).send())
  app.get('/throws', { sse: true }, async (_request, reply) => { reply.sse(); throw Object.assign(new Error('no'), { statusCode: 418 }) })
  await listen(app)
  const status = async (url: string): Promise<number> => (await app.inject({ url, headers: { accept: 'text/event-stream' } })).statusCode
  for (let i = 0; i < 3; i++) t.strictSame([await status('/refused'), await status('/declines'), await status('/throws')], [403, 204, 418])
  t.match(app.connections.stats(), { connections: 0, refused: 0 })
})
