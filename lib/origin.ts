import type { FastifyRequest } from 'fastify'
import type { AllowedOrigins } from '../types/api.ts'

/** An Origin header against what a route allows. Exact: no prefix, suffix, port or scheme may differ. */
export function isAllowedOrigin (allowed: AllowedOrigins, origin: string, request: FastifyRequest): boolean {
  return typeof allowed === 'function' ? allowed(origin, request) === true : allowed.includes(origin)
}

/** The origin is that of the server itself, as `trustProxy` lets Fastify see it. */
export function isSameOrigin (origin: string, request: FastifyRequest): boolean {
  const own = `${request.protocol}://${request.host}`
  return URL.canParse(own) && new URL(own).origin === origin
}
