import Fastify from 'fastify'
import type { FastifyInstance } from 'fastify'
import { wsReal } from 'fastify-real'

// The request stays with its connection: its address as `trustProxy` lets Fastify see it, its query, its headers. What one says goes
// to all others.
export async function build (): Promise<FastifyInstance> {
  const app = Fastify({ trustProxy: 'loopback' })
  await app.register(wsReal)

  app.get('/shout', { ws: true }, {
    async onMessage (connection, message) {
      const { ip } = connection.request
      await app.connections.broadcast({ event: 'shout', data: { from: ip, text: String(message) } }, { except: connection })
    }
  })
  return app
}

if (import.meta.filename === process.argv[1]) console.log(await (await build()).listen({ port: Number(process.env.PORT ?? 3000) }))
