import Fastify from 'fastify'
import type { FastifyInstance } from 'fastify'
import { setTimeout } from 'node:timers/promises'
import { sseReal } from 'fastify-real'

// Ids of your own: the browser sends the last one back, and the source goes on from there. `retry` says how soon.
export async function build ({ every = 300 } = {}): Promise<FastifyInstance> {
  const app = Fastify()
  await app.register(sseReal)

  app.get('/updates', { sse: { retry: 5000 } }, async function * (request, reply, connection) {
    const last = Number(connection.lastEventId ?? 0)
    const start = Number.isSafeInteger(last) ? last : 0
    if (start >= 10) return reply.code(204).send()
    for (let id = start + 1; id <= 10; id++) {
      yield { event: 'update', id, data: { number: id } }
      await setTimeout(every, null, { signal: connection.signal })
    }
  })
  return app
}

if (import.meta.filename === process.argv[1]) console.log(await (await build()).listen({ port: Number(process.env.PORT ?? 3000) }))
