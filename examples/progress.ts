import Fastify from 'fastify'
import type { FastifyInstance } from 'fastify'
import { setTimeout } from 'node:timers/promises'
import { sseReal } from 'fastify-real'

// A stream that comes to an end. An EventSource would come back for more, so the page closes it on `complete`;
// if it comes back all the same, 204 stops it for good.
export async function build ({ every = 200 } = {}): Promise<FastifyInstance> {
  const app = Fastify()
  await app.register(sseReal)

  app.get('/progress', { sse: true }, async function * (request, reply, connection) {
    if (connection.lastEventId === '100') return reply.code(204).send()
    for (let percent = 0; percent <= 100; percent += 10) {
      yield { event: 'progress', id: percent, data: { percent } }
      await setTimeout(every, null, { signal: connection.signal })
    }
    yield { event: 'complete', data: 'done' }
  })
  return app
}

if (import.meta.filename === process.argv[1]) console.log(await (await build()).listen({ port: Number(process.env.PORT ?? 3000) }))
