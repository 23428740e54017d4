import Fastify from 'fastify'
import type { FastifyInstance } from 'fastify'
import { sseReal } from 'fastify-real'

interface Order { item: string }

// An order reaches every browser: `broadcast` goes to all connections that have no source of their own.
export async function build (): Promise<FastifyInstance> {
  const app = Fastify()
  await app.register(sseReal)
  let number = 0

  app.get('/notifications', { sse: true }, async (request, reply) => { reply.sse() })

  app.post<{ Body: Order }>('/orders', async (request, reply) => {
    const order = { number: ++number, item: request.body.item }
    await app.connections.broadcast({ event: 'notification', data: order })
    return reply.code(201).send(order)
  })
  return app
}

if (import.meta.filename === process.argv[1]) console.log(await (await build()).listen({ port: Number(process.env.PORT ?? 3000) }))
