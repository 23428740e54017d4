import Fastify from 'fastify'
import type { FastifyInstance } from 'fastify'
import { setTimeout } from 'node:timers/promises'
import { sseReal } from 'fastify-real'

// Stands for a model: it gives a word at a time, and stops when nobody reads any more.
async function * answer (question: string, signal: AbortSignal, every: number): AsyncGenerator<string> {
  for (const word of `You asked: ${question} That is a good question.`.split(' ')) {
    await setTimeout(every, null, { signal })
    yield word
  }
}

// A POST that is answered with a stream: a token an event, and a last one that says that it is complete.
export async function build ({ every = 50 } = {}): Promise<FastifyInstance> {
  const app = Fastify()
  await app.register(sseReal)

  const body = { type: 'object', required: ['question'], properties: { question: { type: 'string' } } }

  app.post<{ Body: { question: string } }>('/ask', { schema: { body } }, async (request, reply) => {
    reply.sse(async function * (connection) {
      for await (const token of answer(request.body.question, connection.signal, every)) yield { data: { token } }
      yield { event: 'complete', data: '' }
    })
  })
  return app
}

if (import.meta.filename === process.argv[1]) console.log(await (await build()).listen({ port: Number(process.env.PORT ?? 3000) }))
