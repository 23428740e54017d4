import Fastify from 'fastify'
import type { FastifyInstance } from 'fastify'
import { sseReal } from 'fastify-real'

// A live dashboard: one timer for everybody, not one for each reader. Who comes back is replayed what it missed.
export async function build ({ every = 1000 } = {}): Promise<FastifyInstance> {
  const app = Fastify()
  await app.register(sseReal)
  const prices = new Map([['AURA', 100], ['BOREAL', 95], ['CIRRUS', 90]])

  const timer = setInterval(() => {
    for (const [symbol, price] of prices) {
      const next = Math.round(price * (1 + (Math.random() - 0.5) / 50) * 100) / 100
      prices.set(symbol, next)
      void app.connections.room('prices').send({ event: 'price-update', data: { symbol, price: next } })
    }
  }, every)
  app.addHook('onClose', async () => clearInterval(timer))

  app.get('/prices', { sse: true }, async (request, reply) => {
    const connection = reply.sse()
    connection.send({ event: 'snapshot', data: Object.fromEntries(prices) })
    await connection.join('prices')
  })
  return app
}

if (import.meta.filename === process.argv[1]) console.log(await (await build()).listen({ port: Number(process.env.PORT ?? 3000) }))
