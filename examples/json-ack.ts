import Fastify from 'fastify'
import type { FastifyInstance } from 'fastify'
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import { Type } from 'typebox'
import { wsReal } from 'fastify-real'

const schema = {
  message: Type.Object({ ref: Type.Integer(), text: Type.String({ minLength: 1, maxLength: 280 }) })
}

// Messages are JSON that fits a schema, and are answered by their `ref`. What does not fit is answered with an event `refused`;
// the connection stays.
export async function build (): Promise<FastifyInstance> {
  const app = Fastify()
  await app.register(wsReal)

  app.withTypeProvider<TypeBoxTypeProvider>().get('/notes', { ws: true, schema }, {
    onMessage (connection, { ref, text }) {
      connection.send({ event: 'ack', data: { ref, length: text.length } })
    },
    onError (connection, error) {
      connection.request.log.info({ err: error }, 'a message was refused')
    }
  })
  return app
}

if (import.meta.filename === process.argv[1]) console.log(await (await build()).listen({ port: Number(process.env.PORT ?? 3000) }))
