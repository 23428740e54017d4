import { subscribe } from 'node:diagnostics_channel'
import type { FastifyInstance, FastifyReply, FastifyRequest, RouteOptions } from 'fastify'
import { RouteOrderError } from './errors.ts'
import { isGeneratorFunction } from './source.ts'

type Plugin = 'sseReal' | 'wsReal'

// a scope that has the plugin says so with this decorator, to every copy of this package in the process: each sees all instances
export const marks: Record<Plugin, symbol> = { sseReal: Symbol.for('fastify-real.sseReal'), wsReal: Symbol.for('fastify-real.wsReal') }

/** Routes of a server with `ws` that were declared where wsReal was not loaded: an upgrade has to find them to be told so. */
export const strays = new WeakMap<object, RouteOptions[]>()

/**
 * A plugin cannot see routes that were declared before it was loaded, and Fastify would answer them as if nothing had been asked
 * for. Fastify announces every instance it makes; from then on such routes are known, and answer with the reason.
 * @see https://fastify.dev/docs/latest/Reference/Hooks/#diagnostics-channel-hooks
 */
subscribe('fastify.initialization', (message) => {
  (message as { fastify: FastifyInstance }).fastify.addHook('onRoute', function (this: FastifyInstance, route: RouteOptions & { sse?: unknown, ws?: unknown }) {
    if (isOn(route.ws) && guard(this, route, 'wsReal')) strays.set(this.server, [...strays.get(this.server) ?? [], route])
    if (isOn(route.sse)) guard(this, route, 'sseReal')
  })
})

function isOn (option: unknown): boolean {
  return option === true || (typeof option === 'object' && option !== null)
}

function guard (fastify: FastifyInstance, route: RouteOptions, plugin: Plugin): boolean {
  if (fastify.hasDecorator(marks[plugin])) return false
  const { handler, method, url } = route
  route.handler = function (this: FastifyInstance, request: FastifyRequest, reply: FastifyReply) {
    if (fastify.hasDecorator(marks[plugin]) || typeof handler !== 'function' || isGeneratorFunction(handler)) throw new RouteOrderError(`${[method].flat().join(', ')} ${url}`, plugin)
    return handler.call(this, request, reply) // nobody's option of ours: another plugin has its own `sse`
  } as RouteOptions['handler']
  return true
}
