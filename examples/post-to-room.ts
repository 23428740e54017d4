import Fastify from 'fastify'
import type { FastifyInstance } from 'fastify'
import { sseReal, wsReal } from 'fastify-real'

// From HTTP into a room, on both transports at once; the answer says how many it was given to, and where it stands.
export async function build (): Promise<FastifyInstance> {
  const app = Fastify()
  await app.register(sseReal)
  await app.register(wsReal)

  app.get<{ Params: { name: string } }>('/rooms/:name', {
    sse: true,
    ws: { async onConnect (connection, request) { await connection.join(request.params.name) } }
  }, async (request, reply) => {
    await reply.sse().join(request.params.name)
  })

  app.put<{ Params: { name: string }, Body: { id?: string, text: string } }>('/rooms/:name', async (request) => {
    const { id, text } = request.body
    // with an id of its own a post may be repeated: the second is a duplicate and reaches nobody
    const { members, duplicate = false } = await app.connections.room(request.params.name).send({ event: 'posted', id, data: text }, { once: id !== undefined })
    return { members, duplicate }
  })
  return app
}

if (import.meta.filename === process.argv[1]) console.log(await (await build()).listen({ port: Number(process.env.PORT ?? 3000) }))
