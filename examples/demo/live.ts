// The one event stream of a page: prices, orders and a chat room, in one order, with one cursor.
import type { FastifyInstance } from 'fastify'
import { named, topic } from './chat.ts'

export async function live (app: FastifyInstance): Promise<void> {
  const querystring = { type: 'object', properties: { room: named } }
  app.get<{ Querystring: { room?: string } }>('/live', { sse: true, schema: { querystring } }, async (request, reply) => {
    const connection = reply.sse()
    connection.send({ event: 'hello', data: { id: connection.id, at: Date.now() } })
    await connection.join(['prices', 'stats'])
    await connection.join(topic(request.query.room ?? 'lobby'), { presence: true })
  })

  // a page may drop its own connection: nobody else knows the id
  app.post<{ Params: { id: string } }>('/connections/:id/drop', async (request) => {
    return { dropped: await app.connections.close(request.params.id, 'dropped') }
  })
}
