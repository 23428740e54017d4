import Fastify from 'fastify'
import type { FastifyInstance } from 'fastify'
import { EventEmitter } from 'node:events'
import { sseReal } from 'fastify-real'

// A tap on everything that is sent: `deliver` is where a log, a queue or another system is fed. And the way back in.
export async function build ({ outside = new EventEmitter() } = {}): Promise<FastifyInstance> {
  const app = Fastify()
  await app.register(sseReal)

  app.connections.on('deliver', (topic, { id, event, data }) => {
    outside.emit('sent', { topic, id, event, data })
  })
  outside.on('received', ({ room, data }: { room: string, data: unknown }) => {
    void app.connections.room(room).send({ event: 'outside', data })
  })

  app.get('/feed', { sse: true }, async (request, reply) => { await reply.sse().join('feed') })
  app.post('/feed', async (request) => await app.connections.room('feed').send({ event: 'inside', data: request.body }))
  return app
}

if (import.meta.filename === process.argv[1]) console.log(await (await build()).listen({ port: Number(process.env.PORT ?? 3000) }))
