import Fastify from 'fastify'
import type { FastifyInstance } from 'fastify'
import { connections, sseReal } from 'fastify-real'

// A user is all its tabs. Who a request is comes from your own authentication, here from a header for brevity.
export async function build (): Promise<FastifyInstance> {
  const app = Fastify()
  await app.register(connections, { identify: (request) => request.headers['x-user']?.toString(), maxPerUser: 10 })
  await app.register(sseReal)

  app.get('/me', {
    sse: true,
    preHandler: async (request, reply) => { if (request.headers['x-user'] === undefined) return reply.code(401).send({ error: 'who are you?' }) }
  }, async (request, reply) => { reply.sse() })

  app.post<{ Params: { id: string }, Body: { text: string } }>('/users/:id/notify', async (request) => {
    const { members } = await app.connections.user(request.params.id).send({ event: 'notice', data: request.body.text })
    return { tabs: members }
  })
  app.delete<{ Params: { id: string } }>('/users/:id', async (request, reply) => {
    await app.connections.user(request.params.id).disconnect('signed out')
    return reply.code(204).send()
  })
  return app
}

if (import.meta.filename === process.argv[1]) console.log(await (await build()).listen({ port: Number(process.env.PORT ?? 3000) }))
