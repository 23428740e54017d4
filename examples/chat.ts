import Fastify from 'fastify'
import type { FastifyInstance } from 'fastify'
import { sseReal, wsReal } from 'fastify-real'

// One room, two transports: who writes is on WebSocket, who only reads may be on SSE.
export async function build (): Promise<FastifyInstance> {
  const app = Fastify()
  await app.register(sseReal)
  await app.register(wsReal)
  const lobby = app.connections.room('lobby')

  app.get('/chat', { ws: true }, {
    async onConnect (connection) {
      await connection.join('lobby')
      await lobby.send({ event: 'joined', data: { name: nameOf(connection.id) } })
    },
    async onMessage (connection, message) {
      await lobby.send({ event: 'said', data: { name: nameOf(connection.id), text: String(message) } })
    },
    async onDisconnect (connection, { rooms }) {
      if (rooms.includes('lobby')) await lobby.send({ event: 'left', data: { name: nameOf(connection.id) } })
    }
  })

  app.get('/read', { sse: true }, async (request, reply) => {
    await reply.sse().join('lobby')
  })
  return app
}

function nameOf (id: string): string { return id.slice(0, 8) }

if (import.meta.filename === process.argv[1]) console.log(await (await build()).listen({ port: Number(process.env.PORT ?? 3000) }))
