import t from 'tap'
import { build } from '../helper.ts'

t.test('a handler that waits for a connection and is no generator is refused when it is declared', async (t) => {
  const app = await build(t)
  t.throws(() => app.get('/a', { sse: true }, async (request, reply, connection) => { connection.send('text') }), {
    code: 'FST_ERR_REAL_ROUTE',
    message: 'route GET /a has a handler that is no generator, and so is given no connection; reply.sse() makes one'
  })
  app.get('/b', { sse: true }, async function * (request, reply, connection) { yield connection.transport })
  app.get('/c', { sse: true }, function * (request, reply, connection) { yield connection.transport })
  app.get('/d', { sse: true }, async (request, reply) => { reply.sse('text') })
  for (const path of ['/b', '/c', '/d']) t.match((await app.inject(path)).body, /^data: (?:sse|text)\n\n$/m)
})
