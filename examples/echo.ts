import Fastify from 'fastify'
import type { FastifyInstance } from 'fastify'
import { wsReal } from 'fastify-real'

// Text comes as a string and goes as text, binary comes as a Buffer and goes as binary: never guessed.
export async function build (): Promise<FastifyInstance> {
  const app = Fastify()
  await app.register(wsReal)

  app.get('/echo', { ws: true }, {
    onConnect (connection) {
      connection.send('welcome')
    },
    onMessage (connection, message) {
      connection.send(typeof message === 'string' ? `you said: ${message}` : message)
    }
  })
  return app
}

if (import.meta.filename === process.argv[1]) console.log(await (await build()).listen({ port: Number(process.env.PORT ?? 3000) }))
