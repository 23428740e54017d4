// Tokens as a language model would give them: POST, answered with an event stream. Who stops reading stops the generator.
import { setTimeout } from 'node:timers/promises'
import type { FastifyInstance } from 'fastify'
import type { State } from './app.ts'

const answers = [
  'Use Server-Sent Events when the server does the talking. It is plain HTTP: cookies, proxies and compression rules you already have, and an EventSource that comes back by itself and says where it stopped. Prices, notifications, progress and tokens like these are its home ground.',
  'Use a WebSocket when the client has as much to say as the server, or says it often: a chat, a game, a shared document. You write the coming back yourself, and the answer to "where did I stop?" is a cursor in the address. Here both kinds join the same rooms, so the choice is made for each client and not for the whole application.',
  'Press Stop while I am still typing. The browser drops the connection, its signal aborts, and the generator that makes these words runs its finally block at once: no token is made for nobody. Watch the number of generators in the corner fall back to zero. With a real model that is money you do not spend.'
]

export async function ask (app: FastifyInstance, { state }: { state: State }): Promise<void> {
  const body = { type: 'object', required: ['prompt'], properties: { prompt: { type: 'string', minLength: 1, maxLength: 500 } } }

  app.post<{ Body: { prompt: string } }>('/ask', { schema: { body } }, async (request, reply) => {
    reply.sse((connection) => tokens(request.body.prompt, connection.signal))
  })

  async function * tokens (prompt: string, signal: AbortSignal): AsyncGenerator<{ event: string, data: unknown }> {
    state.generators++
    try {
      let count = 0
      for (const token of pick(prompt).match(/\s*\S{1,6}/g) ?? []) {
        yield { event: 'token', data: { token } }
        count++
        await setTimeout(state.pace * (0.4 + 1.2 * Math.random()), null, { signal })
      }
      yield { event: 'done', data: { count } }
    } finally {
      state.generators--
    }
  }
}

function pick (prompt: string): string {
  const about = /stop|cancel|abort/i.test(prompt) ? 2 : /websocket|chat|both/i.test(prompt) ? 1 : 0
  return answers[about] as string
}
