import Fastify from 'fastify'
import type { FastifyInstance } from 'fastify'
import { setTimeout } from 'node:timers/promises'
import { connections, sseReal } from 'fastify-real'

// Comments are for people who read the stream with curl, and for proxies that cut what is silent. A comment is sent by itself
// after `heartbeat` milliseconds of silence; `{ comment }` sends one at will.
export async function build ({ heartbeat = 15_000, work = 500 } = {}): Promise<FastifyInstance> {
  const app = Fastify()
  await app.register(connections, { heartbeat })
  await app.register(sseReal)

  app.get('/process', { sse: true }, async function * (request, reply, connection) {
    yield { comment: 'five steps, the third is slow' }
    for (let step = 1; step <= 5; step++) {
      await setTimeout(step === 3 ? work * 5 : work, null, { signal: connection.signal })
      yield { event: 'step', data: { step } }
    }
    yield { comment: 'that was all' }
  })
  return app
}

if (import.meta.filename === process.argv[1]) console.log(await (await build()).listen({ port: Number(process.env.PORT ?? 3000) }))
