import Fastify from 'fastify'
import { createRequire } from 'node:module'
import t from 'tap'
import { sseReal, wsReal } from '../lib/index.ts'

const { cache } = createRequire(import.meta.url)

/** Of these packages, those that are loaded. */
function loaded (...names: string[]): string[] {
  return names.filter((name) => Object.keys(cache).some((path) => path.replaceAll('\\', '/').includes(`/node_modules/${name}/`)))
}

t.test('who has no WebSockets does not load what they need', async (t) => {
  const streams = Fastify()
  t.after(() => streams.close())
  await streams.register(sseReal)
  streams.get('/feed', { sse: true }, (_request, reply) => { reply.sse(['one']) })
  t.match((await streams.inject('/feed')).body, 'data: one')
  t.strictSame(loaded('fastify', 'ws', '@fastify/websocket'), ['fastify'])

  const sockets = Fastify()
  t.after(() => sockets.close())
  await sockets.register(wsReal)
  sockets.get('/chat', { ws: true }, { onMessage () {} })
  await sockets.ready()
  t.strictSame(loaded('ws', '@fastify/websocket'), ['ws', '@fastify/websocket'])
})
