import t from 'tap'
import { addressOf, Admission } from '../lib/admission.ts'
import type { Limits } from '../lib/admission.ts'
import { build, listen, refusalOf, sseClient, until, wsClient } from './helper.ts'

function admissionOf (limits: Partial<Limits>): Admission<object> {
  return new Admission({ maxConnections: 0, maxPerUser: 0, maxPerAddress: 0, ...limits })
}

t.test('IPv4 is counted as it is, also when it is mapped into IPv6', async (t) => {
  for (const ip of ['203.0.113.7', '::ffff:203.0.113.7', '::FFFF:203.0.113.7', '0:0:0:0:0:ffff:203.0.113.7', '::ffff:cb00:7107', '0000:0000:0000:0000:0000:ffff:cb00:7107', '::ffff:203.0.113.7%eth0']) t.equal(addressOf(ip), '203.0.113.7', ip)
  t.not(addressOf('::ffff:203.0.113.8'), '203.0.113.7')
})

t.test('IPv6 is counted by its /64, however it is written', async (t) => {
  for (const ip of ['2001:db8:0:1::', '2001:db8:0:1::1', '2001:DB8:0:1:ffff:ffff:ffff:ffff', '2001:0db8:0000:0001:0:0:0:5', '2001:db8::1:0:0:0:9', '2001:db8:0:1::203.0.113.7', '2001:db8:0:1::1%eth0']) t.equal(addressOf(ip), '2001:db8:0:1::/64', ip)
  for (const ip of ['2001:db8:0:2::1', '2001:db8:1:1::1', '2001:db8::1', '::1', 'fe80::1%lo']) t.not(addressOf(ip), '2001:db8:0:1::/64', ip)
  t.equal(addressOf('::1'), '0:0:0:0::/64')
  t.equal(addressOf('::'), '0:0:0:0::/64')
  t.equal(addressOf('1:2:3:4:5:6:7:8'), '1:2:3:4::/64')
  t.equal(addressOf('1::'), '1:0:0:0::/64')
})

t.test('what is no address is counted as it is', async (t) => {
  for (const ip of ['', 'unknown', '203.0.113.7:5000', '[::1]', '::g', '1:2', ':::', '__proto__']) t.equal(addressOf(ip), ip)
  t.equal(addressOf(undefined), '')
})

t.test('without limits nobody is refused', async (t) => {
  const admission = admissionOf({})
  for (let i = 0; i < 1_000; i++) {
    t.equal(admission.refusal('ada', '::1'), null)
    admission.enter('::1')
    admission.addUser('ada', {})
  }
})

t.test('the system is asked for an address only where addresses have a limit', async (t) => {
  let asked = 0
  const request = { get ip () { return `::ffff:192.0.2.${++asked}` } }
  t.equal(admissionOf({ maxConnections: 1, maxPerUser: 1 }).addressOf(request), '')
  t.equal(asked, 0)
  t.equal(admissionOf({ maxPerAddress: 1 }).addressOf(request), '192.0.2.1')
})

t.test('each limit refuses with its own code, and lets in again when one has left', async (t) => {
  const full = admissionOf({ maxConnections: 2 })
  full.enter('a')
  t.equal(full.refusal(null, 'b'), null)
  full.enter('b')
  t.match(full.refusal(null, 'c'), { code: 'FST_ERR_REAL_TOO_MANY_CONNECTIONS', statusCode: 503, message: 'maxConnections (2) is reached' })
  full.exit('a')
  t.equal(full.refusal(null, 'c'), null)

  const address = admissionOf({ maxPerAddress: 1 })
  address.enter('a')
  t.match(address.refusal(null, 'a'), { code: 'FST_ERR_REAL_TOO_MANY_OF_ADDRESS', statusCode: 429 })
  t.equal(address.refusal(null, 'b'), null)
  address.exit('a')
  t.equal(address.refusal(null, 'a'), null)

  const user = admissionOf({ maxPerUser: 1 })
  const connection = {}
  user.addUser('ada', connection)
  t.match(user.refusal('ada', 'a'), { code: 'FST_ERR_REAL_TOO_MANY_OF_USER', statusCode: 429 })
  t.equal(user.refusal('bob', 'a'), null)
  t.equal(user.refusal(null, 'a'), null)
  user.removeUser('ada', connection)
  t.equal(user.refusal('ada', 'a'), null)
})

t.test('what has no address is not limited by it', async (t) => {
  const admission = admissionOf({ maxPerAddress: 1 })
  admission.enter('')
  t.equal(admission.refusal(null, ''), null)
  admission.enter('')
  admission.exit('')
  admission.exit('')
  t.equal(admission.refusal(null, ''), null)
})

t.test('users and addresses of names that objects have are counted like any other', async (t) => {
  const admission = admissionOf({ maxPerUser: 1, maxPerAddress: 1 })
  for (const name of ['__proto__', 'constructor', 'toString']) {
    t.equal(admission.refusal(name, name), null)
    admission.enter(name)
    admission.addUser(name, {})
    t.match(admission.refusal(null, name), { code: 'FST_ERR_REAL_TOO_MANY_OF_ADDRESS' })
    t.match(admission.refusal(name, 'other'), { code: 'FST_ERR_REAL_TOO_MANY_OF_USER' })
  }
})

t.test('a user has a set of connections while there is one', async (t) => {
  const admission = admissionOf({})
  const [one, two] = [{}, {}]
  admission.addUser('ada', one)
  admission.addUser('ada', two)
  t.equal(admission.users.get('ada')?.size, 2)
  admission.removeUser('ada', one)
  admission.removeUser('ada', one)
  t.strictSame([...admission.users.get('ada') as Set<object>], [two])
  admission.removeUser('ada', two)
  admission.removeUser('bob', two)
  t.equal(admission.users.size, 0)
})

t.test('whatever comes and goes, nothing is refused below a limit and everything is back to 0 at the end', async (t) => {
  const admission = admissionOf({ maxConnections: 40, maxPerUser: 5, maxPerAddress: 8 })
  const inside: Array<{ user: string, address: string }> = []
  const seen = { in: 0, out: 0, refused: 0 }
  for (let i = 0; i < 20_000; i++) {
    if (Math.random() < 0.55) {
      const [user, address] = [`u${Math.floor(Math.random() * 15)}`, `a${Math.floor(Math.random() * 9)}`]
      const expected = inside.length >= 40 || inside.filter((one) => one.user === user).length >= 5 || inside.filter((one) => one.address === address).length >= 8
      if ((admission.refusal(user, address) !== null) !== expected) t.fail(`${user} at ${address} of ${JSON.stringify(inside)}`)
      if (expected) {
        seen.refused++
        continue
      }
      const connection = { user, address }
      admission.enter(address)
      admission.addUser(user, connection)
      inside.push(connection)
      seen.in++
    } else if (inside.length > 0) {
      const [connection] = inside.splice(Math.floor(Math.random() * inside.length), 1) as [typeof inside[0]]
      admission.exit(connection.address)
      admission.removeUser(connection.user, connection)
      seen.out++
    }
  }
  t.ok(seen.in > 1_000 && seen.out > 1_000 && seen.refused > 1_000, JSON.stringify(seen))
  for (const connection of inside) {
    admission.exit(connection.address)
    admission.removeUser(connection.user, connection)
  }
  t.equal(admission.users.size, 0)
  for (let i = 0; i < 40; i++) admission.enter('')
  t.match(admission.refusal(null, ''), { code: 'FST_ERR_REAL_TOO_MANY_CONNECTIONS' }, 'exactly 40 find room again')
})

t.test('an address is what trustProxy makes of it; both transports count together, and a place that was left is free', async (t) => {
  const app = await build(t, { fastify: { trustProxy: true }, connections: { maxPerAddress: 2 } })
  app.get('/events', { sse: true }, async (_request, reply) => { reply.sse() })
  app.get('/ws', { ws: true }, { onMessage () {} })
  const port = await listen(app)
  const from = (ip: string): Record<string, string> => ({ 'x-forwarded-for': ip })
  const one = await sseClient(port, '/events', from('2001:db8:0:1::1'))
  const two = await wsClient(port, '/ws', { headers: from('2001:db8:0:1::2') })
  t.match(await refusalOf(wsClient(port, '/ws', { headers: from('2001:db8:0:1:5::3') })), { statusCode: 429, body: /FST_ERR_REAL_TOO_MANY_OF_ADDRESS/, headers: { 'retry-after': /^\d+$/ } })
  const waiting = await sseClient(port, '/events', from('2001:db8:0:1::4'))
  await until(() => waiting.ended)
  t.match(waiting.text, /^retry: \d{5,}\n\n$/, 'an EventSource is told to wait')
  const refused = await sseClient(port, '/events', { ...from('2001:db8:0:1::4'), accept: '*/*' })
  t.equal(refused.response.statusCode, 429)
  const other = await wsClient(port, '/ws', { headers: from('2001:db8:0:2::1') })
  t.equal(app.connections.stats().refused, 3)
  one.close()
  two.close()
  await until(() => app.connections.size === 1)
  const again = await Promise.all([sseClient(port, '/events', from('2001:db8:0:1::1')), sseClient(port, '/events', from('2001:db8:0:1::9'))])
  t.strictSame(again.map(({ response }) => response.statusCode), [200, 200])
  t.equal(app.connections.size, 3)
  for (const client of [...again, other]) client.close()
})
