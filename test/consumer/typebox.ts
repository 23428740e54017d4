// The same through a type provider.
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { Type } from 'typebox'
import type {} from 'fastify-real'

export const routes: FastifyPluginAsyncTypebox = async (fastify) => {
  fastify.ws('/said', { schema: { message: Type.Object({ text: Type.String() }) } }, {
    onMessage (connection, { text }) { connection.send({ data: text.trim() }) }
  })
}
