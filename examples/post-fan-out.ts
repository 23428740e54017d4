import Fastify from 'fastify'
import type { FastifyInstance } from 'fastify'
import { connections, sseReal } from 'fastify-real'

// Whatever is posted goes to everybody who listens: text as it is, JSON as JSON. It is all data, so nobody can name an event.
export async function build (): Promise<FastifyInstance> {
  const app = Fastify()
  await app.register(connections, { heartbeat: 15_000 })
  await app.register(sseReal)

  app.get('/events', { sse: true }, async (request, reply) => { reply.sse() })

  app.post('/broadcast', async (request, reply) => {
    await app.connections.broadcast({ data: request.body })
    return reply.code(202).send()
  })
  return app
}

if (import.meta.filename === process.argv[1]) console.log(await (await build()).listen({ port: Number(process.env.PORT ?? 3000) }))
