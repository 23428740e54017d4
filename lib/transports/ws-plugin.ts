import websocket from '@fastify/websocket'
import type { FastifyInstance, RouteOptions } from 'fastify'
import { EventEmitter } from 'node:events'
import type { WsHandlers, WsOptions } from '../../types/api.ts'
import { isBuiltIn } from '../arguments.ts'
import * as reasons from '../close-reasons.ts'
import { sharedRegistry } from '../connections.ts'
import { NameTakenError, RegisteredError, RouteError, WebsocketFirstError } from '../errors.ts'
import { checkWs } from '../options.ts'
import { marks } from '../route-order.ts'
import { isGet, nameOf, needsHandlers, WsRoute } from './ws-route.ts'
import type { Route } from './ws-route.ts'
import { Upgrades } from './ws-upgrade.ts'

/** What wsReal does; it is loaded when it is registered. */
export async function plugin (fastify: FastifyInstance, options: WsOptions): Promise<void> {
  if (fastify.hasDecorator(marks.wsReal)) throw new RegisteredError('wsReal')
  if (fastify.hasDecorator('websocketServer')) throw new WebsocketFirstError()
  if (fastify.hasDecorator('ws')) throw new NameTakenError('fastify.ws')
  const defaults = checkWs(options, 'wsReal.', null)
  const registry = await sharedRegistry(fastify)
  const upgrades = Upgrades.of(fastify, registry)
  const target = new EventEmitter() // @fastify/websocket listens here, so that only upgrades of its own routes reach it
  const routes: WsRoute[] = []
  const handlers = new WeakMap<object, unknown>()
  fastify.decorate(marks.wsReal, true)
  fastify.decorate('ws', declare as never)
  // before @fastify/websocket, whose own hook refuses handlers that are no function
  fastify.addHook('onRoute', function (this: FastifyInstance, given: RouteOptions) {
    const route = given as Route
    const isOurs = route.ws !== undefined && route.ws !== false
    if (route.websocket === true || route.wsHandler !== undefined) {
      if (isOurs) throw new RouteError(nameOf(route), 'is a route of @fastify/websocket and has ws too')
      if (isGet(route)) upgrades.add(route, target)
      return
    }
    if (isOurs) routes.push(new WsRoute(this, registry, upgrades, defaults, route))
    else if (typeof route.handler !== 'function') throw new RouteError(nameOf(route), 'has an object of handlers and so needs ws: true')
    handlers.set(route, route.handler)
  })
  await fastify.register(websocket, { options: { server: target as never, maxPayload: defaults.maxPayload }, preClose: (done) => done() })
  // it wraps them all, to close what should not have come to them; but nothing comes, and sseReal has to see what they are
  fastify.addHook('onRoute', (route) => { if (handlers.has(route)) route.handler = handlers.get(route) as never })
  fastify.addHook('onReady', async () => { for (const route of routes) route.compile() })
  const { websocketServer } = fastify
  registry.drain.guests.add({
    get size () { return websocketServer.clients.size },
    close () { for (const client of websocketServer.clients) client.close(reasons.shutdown.code, reasons.shutdown.reason) },
    terminate () { for (const client of websocketServer.clients) client.terminate() }
  })
}

/** `fastify.ws(path, options?, handlers)` */
function declare (this: FastifyInstance, url: string, ...given: [object, WsHandlers?]): FastifyInstance {
  const [options, handlers] = given.length > 1 ? given as [{ ws?: WsOptions }, WsHandlers] : [{}, given[0]]
  if (typeof handlers !== 'object' || handlers === null) throw new RouteError(`GET ${url}`, needsHandlers)
  if (typeof options !== 'object' || options === null || isBuiltIn(options)) throw new RouteError(`GET ${url}`, 'has options that are no object')
  const { ws = true } = options as { ws?: WsOptions }
  return this.route({ ...options as object, method: 'GET', url, ws, handler: handlers } as never)
}
