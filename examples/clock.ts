import Fastify from 'fastify'
import type { FastifyInstance } from 'fastify'
import { setTimeout } from 'node:timers/promises'
import { sseReal } from 'fastify-real'

// A stream from a generator. It ends when the reader leaves: the signal wakes the sleep, `finally` runs.
export async function build ({ every = 1000 } = {}): Promise<FastifyInstance> {
  const app = Fastify()
  await app.register(sseReal)

  app.get('/clock', { sse: true }, async function * (request, reply, connection) {
    try {
      while (true) {
        yield { event: 'time', data: new Date().toISOString() }
        await setTimeout(every, null, { signal: connection.signal })
      }
    } finally {
      app.log.info('a reader left')
    }
  })
  return app
}

if (import.meta.filename === process.argv[1]) console.log(await (await build()).listen({ port: Number(process.env.PORT ?? 3000) }))
