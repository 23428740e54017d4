import type { FastifyReply } from 'fastify'

/** The reply's own `send`, past what we have put before it. */
export function send (reply: FastifyReply, payload?: unknown): FastifyReply {
  return (Object.getPrototypeOf(reply) as FastifyReply).send.call(reply, payload)
}
