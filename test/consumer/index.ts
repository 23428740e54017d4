// An application as its author would write it. It is compiled, never run: against the built package, once as Node resolves it and once
// as bundlers do, with every declaration file checked.
import Fastify from 'fastify'
import type { FastifyPluginAsync } from 'fastify'
import { closeReasons, connections, defaults, errors, event, memory, sharedRegistry, sseReal, wsReal } from 'fastify-real'
import type { Acceptance, Backplane, Connection, Event, Link, Registry, Sendable, WebSocket, Wire, WsHandlers } from 'fastify-real'
import { injectSSE, injectWS } from 'fastify-real/testing'

declare module 'fastify-real' {
  interface ConnectionState { nickname: string }
}

const fastify = Fastify()
await fastify.register(connections, { backplane: memory(), history: { events: 10 }, identify: (request) => request.ip })
await fastify.register(sseReal, { retry: 1_000 })
await fastify.register(wsReal, { maxPayload: defaults.ws.maxPayload })

const tick = event({ event: 'tick', data: 1 })

fastify.get('/clock', { sse: true }, async function * (request, reply, connection) {
  connection.state.nickname = request.ip
  yield tick
})

fastify.get<{ Params: { room: string } }>('/chat/:room', { ws: true }, {
  async onConnect (connection, request) { await connection.join(request.params.room) },
  async onMessage (connection, message) { await fastify.connections.room('chat').send(message, { except: connection }) }
})

fastify.get('/raw', { websocket: true }, (socket: WebSocket) => { socket.close(closeReasons.shutdown.code) })

const plain: FastifyPluginAsync = async (fastify) => {
  fastify.get('/', { sse: { accept: 'dual' } }, (request, reply) => request.wantsEvents ? reply.sse() : { count: fastify.connections.size })
}
await fastify.register(plain)

const secure = Fastify({ http2: true, https: { cert: '', key: '' } })
await secure.register(sseReal)
secure.get('/', { sse: true }, async function * (request, reply, connection) { yield connection.id })

const registry: Registry = await sharedRegistry(fastify)
const stream = await injectSSE(fastify, '/clock')
const socket = await injectWS(fastify, '/chat/a')
for await (const { event, data } of stream) socket.send(`${event}: ${data}`)

export type { Acceptance, Backplane, Connection, Event, Link, Sendable, Wire, WsHandlers }
export { errors, registry }
