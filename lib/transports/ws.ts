import type { FastifyInstance, FastifyPluginAsync } from 'fastify'
import fp from 'fastify-plugin'
import type { WsOptions } from '../../types/api.ts'

// loaded when it is registered: who has event streams only would pay for `ws` and @fastify/websocket too
async function load (fastify: FastifyInstance, options: WsOptions): Promise<void> {
  const { plugin } = await import('./ws-plugin.ts')
  await plugin(fastify, options)
}

/** WebSocket routes with handler objects: the route option `ws`, and `fastify.ws()`. */
export const wsReal: FastifyPluginAsync<WsOptions> = fp(load, { name: 'fastify-real-ws', fastify: '5.x' })
