import type { FastifyInstance } from 'fastify'
import t from 'tap'
import type { Test } from 'tap'
import { nats } from '../../lib/backplanes/nats.ts'
import { build, listen, sseClient, until, wsClient } from '../helper.ts'
import type { SseClient } from '../helper.ts'
import { natsConnection, natsServer, withNats } from '../nats.ts'
import type { NatsServer } from '../nats.ts'

/** An application like those of a cluster: whoever comes says who it is and what it joins. */
async function site (t: Test, server: NatsServer, name: string): Promise<{ app: FastifyInstance, port: number }> {
  const app = await build(t, {
    connections: {
      identify: (request) => (request.query as { user?: string }).user,
      presence: { timeout: 1_000 },
      backplane: nats({ connection: await natsConnection(t, server), name })
    }
  })
  app.get('/feed/:room', { sse: true }, async (request, reply) => {
    const { room } = request.params as { room: string }
    await reply.sse().join(room, { presence: (request.query as { user?: string }).user === undefined ? true : { meta: 1 } })
  })
  app.get('/ws/:room', { ws: true }, {
    async onConnect (connection, request) { await connection.join((request.params as { room: string }).room) },
    async onMessage (_connection, message) { await app.connections.room('x').send({ event: 'n', data: String(message) }) }
  })
  return { app, port: await listen(app) }
}

function said (client: SseClient): unknown[] { return client.events.filter(({ event }) => event === 'n').map(({ data }) => data) }

withNats(() => {
  t.test('two applications over NATS are one', async (t) => {
    const server = await natsServer(t)
    const [here, there] = await Promise.all([site(t, server, 'apps'), site(t, server, 'apps')])

    t.test('rooms, users and broadcasts reach clients on both, SSE and WebSocket, in one order', async (t) => {
      const sse = await sseClient(here.port, '/feed/x?user=ada')
      const ws = await wsClient(there.port, '/ws/x?user=ada')
      const other = await sseClient(there.port, '/feed/x')
      for (const client of [sse, other]) await client.wait(({ event }) => event === 'ready')
      await until(() => there.app.connections.room('x').size === 2)
      for (let i = 0; i < 10; i++) await [here, there][i % 2]?.app.connections.room('x').send({ event: 'n', data: String(i) })
      ws.send('from ws')
      await until(() => said(sse).includes('from ws'))
      t.match(await here.app.connections.user('ada').send({ event: 'n', data: 'to ada' }), { accepted: true, members: 1 })
      await until(() => said(sse).includes('to ada'))
      t.match(await there.app.connections.broadcast({ event: 'n', data: 'to all' }, { except: { user: 'ada' } }), { accepted: true, members: 1 })
      t.match(await here.app.connections.room('x').send({ event: 'n', data: 'end' }), { accepted: true, members: 1 })
      await until(() => said(sse).includes('end') && said(other).includes('end') && ws.messages.some((message) => String(message).includes('end')))
      const room = [...Array.from({ length: 10 }, (_, i) => String(i)), 'from ws']
      t.strictSame(said(sse), [...room, 'to ada', 'end'])
      t.strictSame(said(other), [...room, 'to all', 'end'])
      t.strictSame(ws.messages.map((message) => (JSON.parse(String(message)) as { event: string, data: string })).filter(({ event }) => event === 'n').map(({ data }) => data), [...room, 'to ada', 'end'])
      t.equal((await there.app.connections.room('x').history()).events.length, 12)
      ws.close()
      sse.close()
      other.close()
    })

    t.test('a client that comes back on the other one misses nothing', async (t) => {
      const sse = await sseClient(here.port, '/feed/resume')
      await sse.wait(({ event }) => event === 'ready')
      await here.app.connections.room('resume').send({ event: 'n', data: '1' })
      const { id } = await sse.wait(({ data }) => data === '1')
      sse.close()
      for (const data of ['2', '3']) await here.app.connections.room('resume').send({ event: 'n', data })
      const back = await sseClient(there.port, '/feed/resume', { 'last-event-id': id })
      await here.app.connections.room('resume').send({ event: 'n', data: '4' })
      await back.wait(({ data }) => data === '4')
      t.strictSame(said(back), ['2', '3', '4'])
      t.equal(back.events.filter(({ event }) => event === 'gap').length, 0)
      back.close()
    })

    t.test('presence is seen on both', async (t) => {
      const watcher = await sseClient(here.port, '/feed/present')
      const ada = await sseClient(there.port, '/feed/present?user=ada')
      await watcher.wait(({ event, data }) => event === 'presence' && data.includes('"ada"'))
      t.strictSame(await here.app.connections.room('present').presence(), [{ key: 'ada', metas: [1] }])
      ada.close()
      await watcher.wait(({ event, data }) => event === 'presence' && data.includes('"left"'))
      watcher.close()
    })

    t.test('a connection is reached by its id wherever it is, and a user is ended everywhere', async (t) => {
      const one = await sseClient(here.port, '/feed/ends?user=bob')
      const two = await wsClient(there.port, '/ws/ends?user=bob')
      const three = await sseClient(there.port, '/feed/ends?user=eve')
      await until(() => here.app.connections.room('ends').size === 1 && there.app.connections.room('ends').size === 2)
      const [id] = [...here.app.connections.room('ends').members()].map(({ id }) => id) as [string]
      t.equal(await there.app.connections.send(id, { event: 'n', data: 'direct' }), true)
      await one.wait(({ data }) => data === 'direct')
      t.match(await there.app.connections.room('ends').send({ event: 'n', data: 'spared' }, { except: [id, { user: 'eve' }] }), { accepted: true, members: 1 })
      await until(() => two.messages.some((message) => String(message).includes('spared')))
      t.equal(await there.app.connections.leave(id, 'ends'), true)
      await until(() => here.app.connections.room('ends').size === 0)
      await here.app.connections.user('bob').disconnect('over')
      await until(() => one.ended && two.closed !== null)
      t.strictSame([two.closed?.reason, three.ended, said(one)], ['over', false, ['direct']])
      const [other] = [...there.app.connections.room('ends').members()].map(({ id }) => id) as [string]
      t.equal(await here.app.connections.close(other), true)
      await until(() => three.ended)
      t.equal(await here.app.connections.close(other), false)
    })
  })
})
