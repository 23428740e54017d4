// Prices every second, orders, and what the server has to say of itself.
import type { FastifyInstance } from 'fastify'
import type { State } from './app.ts'
import { chatRooms } from './chat.ts'

const symbols = ['AURA', 'BOREAL', 'CIRRUS']
const items = ['Espresso machine', 'Desk lamp', 'Field notebook', 'Wool blanket', 'Bicycle bell', 'Film camera', 'Tea kettle', 'Walnut stool']
const means = [104, 96, 88] // what the prices keep coming back to
const shown = 60 // prices on the chart of somebody who comes new

export async function market (app: FastifyInstance, { state }: { state: State }): Promise<void> {
  const { connections } = app
  const prices = connections.room('prices')
  let values = means
  let orders = 0

  function move (at: number): State['prices'][number] {
    values = values.map((value, i) => round(value + (Math.random() - 0.5) * 2 + (means[i] as number - value) * 0.04))
    const price = { at, values }
    state.prices = [...state.prices.slice(1 - shown), price]
    return price
  }

  async function tick (): Promise<void> {
    // into the state first, the cursor after: what a newcomer reads lacks nothing up to its cursor
    const { id } = await prices.send({ event: 'prices', data: move(Date.now()) })
    state.cursor = id ?? state.cursor
    const { byTransport, sent, resumed, gaps } = connections.stats()
    await connections.room('stats').send({ event: 'stats', data: { byTransport, sent, resumed, gaps, generators: state.generators, rooms: await chatRooms(app) } })
  }

  for (let i = shown; i > 0; i--) move(Date.now() - i * state.tick)
  const timer = setInterval(() => { void tick() }, state.tick)
  app.addHook('onClose', async () => clearInterval(timer))

  app.get('/snapshot', async (_request, reply) => {
    reply.header('cache-control', 'no-store')
    const { tick, kept, cursor, prices, orders } = state
    return { tick, kept, cursor, symbols, prices, orders }
  })

  const body = { type: 'object', required: ['by'], properties: { by: { type: 'string', minLength: 1, maxLength: 20 } } }
  app.post<{ Body: { by: string } }>('/orders', { schema: { body } }, async (request) => {
    const order = { id: ++orders, item: items[orders % items.length] as string, by: request.body.by, at: Date.now() }
    state.orders = [...state.orders.slice(-19), order]
    const receipt = await connections.broadcast({ event: 'order', data: order })
    return { id: order.id, members: receipt.members }
  })
}

function round (value: number): number { return Math.round(value * 100) / 100 }
