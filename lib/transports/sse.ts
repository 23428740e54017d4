import type { FastifyInstance, FastifyPluginAsync, FastifyReply, FastifyRequest, RouteOptions } from 'fastify'
import fp from 'fastify-plugin'
import { Readable } from 'node:stream'
import type { Sendable, SseOptions, SseReplyOptions } from '../../types/api.ts'
import { isThenable } from '../arguments.ts'
import { sharedRegistry } from '../connections.ts'
import { NameTakenError, NotAcceptableError, OriginError, RegisteredError, ReplySentError, RouteError, RouteOrderError, SseTwiceError } from '../errors.ts'
import { checkSse } from '../options.ts'
import type { SseSettings } from '../options.ts'
import type { Registry } from '../registry.ts'
import { checkSource, isGeneratorFunction, isIterable } from '../source.ts'
import { isAllowedOrigin } from '../origin.ts'
import { isUpgrade } from '../upgrade.ts'
import { acceptability } from './sse-accept.ts'
import { marks } from '../route-order.ts'
import { HEAD, negotiate, serializerOf, setHead, turnAway, vary } from './sse-head.ts'
import { FAILED, INSIDE, isAnswered, keys, RETURNED, setAnswered, setPhase } from './sse-phase.ts'
import { kStream, sendElse, SseReply, streamOf } from './sse-reply.ts'

const kSettings = Symbol('fastify-real.sse') // in the config of every route that was declared after the plugin

type Handler = (this: FastifyInstance, request: FastifyRequest, reply: FastifyReply, ...more: unknown[]) => unknown
type Route = RouteOptions & { sse?: boolean | SseOptions, config?: object }

async function plugin (fastify: FastifyInstance, options: SseOptions): Promise<void> {
  if (fastify.hasReplyDecorator(kStream)) throw new RegisteredError('sseReal')
  for (const name of ['sse', 'connection']) if (fastify.hasReplyDecorator(name)) throw new NameTakenError(`reply.${name}`)
  if (fastify.hasRequestDecorator('wantsEvents')) throw new NameTakenError('request.wantsEvents')
  const defaults = checkSse(options, 'sseReal.', null)
  const registry = await sharedRegistry(fastify)
  fastify.decorate(marks.sseReal, true)
  fastify.decorateReply(kStream, null)
  fastify.decorateReply(keys.answered, false)
  fastify.decorateReply(keys.phase, 0)
  fastify.decorateReply('connection', { getter (this: FastifyReply) { return streamOf(this)?.connection ?? null } })
  fastify.decorateRequest('wantsEvents', { getter (this: FastifyRequest) { return acceptability(this.headers.accept).wanted } })
  fastify.decorateReply('sse', function (this: FastifyReply, source?: unknown, given: SseReplyOptions<never> = nothingGiven) {
    return begin(registry, this, source, given)
  } as never)
  fastify.addHook('onRoute', (route) => prepare(registry, defaults, route as never))
  warnOfCuts(fastify, registry.options.heartbeat)
}

// over HTTP/1 a stream turns the timeout of its own socket off; a session is shared
function warnOfCuts (fastify: FastifyInstance, heartbeat: number): void {
  const { http2, http2SessionTimeout = 0, connectionTimeout = 0 } = fastify.initialConfig as { http2?: boolean, http2SessionTimeout?: number, connectionTimeout?: number }
  for (const [name, timeout] of Object.entries({ http2SessionTimeout, connectionTimeout })) {
    if (http2 !== true || timeout === 0 || (heartbeat > 0 && heartbeat < timeout)) continue
    fastify.log.warn({ heartbeat, [name]: timeout }, `the heartbeat is no shorter than ${name}: quiet streams will be cut`)
  }
}

/** Server-Sent Events: `reply.sse()` on any reply, and the route option `sse`. */
export const sseReal: FastifyPluginAsync<SseOptions> = fp(plugin, { name: 'fastify-real-sse', fastify: '5.x' })

function begin (registry: Registry, reply: FastifyReply, source: unknown, given: SseReplyOptions<never>): SseReply['connection'] {
  const { method, routeOptions: { url, config } } = reply.request
  const settings = (config as { [kSettings]?: SseSettings })[kSettings]
  if (settings === undefined) throw new RouteOrderError(`${method} ${url ?? reply.request.url}`, 'sseReal')
  if (streamOf(reply)?.failed === false) throw new SseTwiceError()
  if (isAnswered(reply)) throw new ReplySentError()
  checkOrigin(settings, reply.request)
  const own = given === nothingGiven ? settings : checkSse(given, 'reply.sse.', settings)
  const { map } = given
  if (source !== undefined) checkSource(source, map !== undefined, { maxBytes: registry.options.maxEventBytes, serialize: serializerOf(reply) })
  return new SseReply(registry, reply, own, source, map === undefined ? {} : { map: map as (item: unknown) => Sendable }).connection
}

const nothingGiven: SseReplyOptions<never> = {}

function checkOrigin ({ allowedOrigins }: SseSettings, request: FastifyRequest): void {
  const { origin } = request.headers
  if (allowedOrigins !== undefined && origin !== undefined && !isAllowedOrigin(allowedOrigins, origin, request)) throw new OriginError(origin.slice(0, 200))
}

/** Wraps the handler of a route, so that its reply can become a stream. */
function prepare (registry: Registry, defaults: SseSettings, route: Route): void {
  const { sse } = route
  const isEvents = sse !== undefined && sse !== false
  const settings = isEvents && sse !== true ? checkSse(sse, `route ${route.url} sse.`, defaults) : defaults
  const handler = route.handler as Handler
  if (typeof handler !== 'function') return // an object of WebSocket handlers: it is wsReal's
  if (isEvents && handler.length > 2 && !isGeneratorFunction(handler)) throw new RouteError(`${[route.method].flat().join(', ')} ${route.url}`, 'has a handler that is no generator, and so is given no connection; reply.sse() makes one')
  route.config = { ...route.config, [kSettings]: settings } as never
  takeOverLast(route)
  route.handler = (isEvents ? eventsHandler(registry, settings, handler) : plainHandler(handler)) as never
}

// a hook after ours would not run: other plugins, too, add theirs when a route is declared
function takeOverLast (route: Route): void {
  let hooks: unknown[] = []
  const { onSend } = route
  Object.defineProperty(route, 'onSend', {
    enumerable: true,
    configurable: true,
    get: () => hooks.at(-1) === takeOver ? hooks : (hooks = [...hooks.filter((hook) => hook !== takeOver), takeOver]),
    set (given: unknown) { hooks = [given ?? []].flat() }
  })
  route.onSend = onSend as never
}

function takeOver (request: FastifyRequest, reply: FastifyReply, payload: unknown, done: (err?: null, payload?: unknown) => void): void {
  const stream = streamOf(reply)
  if (payload === HEAD) {
    if (stream?.take() !== true) done(null, null)
  } else {
    stream?.decline() // an answer given before, or what a hook has put in its place
    done(null, payload)
  }
}

function plainHandler (handler: Handler): Handler {
  return function (request, reply, ...more) {
    let result: unknown
    setPhase(reply, INSIDE)
    try {
      result = handler.call(this, request, reply, ...more)
    } catch (err) {
      return abandon(reply, err)
    }
    if (!isThenable(result)) return settle(reply, result, result !== undefined)
    return result.then((value) => settle(reply, value, true), (err: unknown) => abandon(reply, err))
  }
}

function eventsHandler (registry: Registry, settings: SseSettings, handler: Handler): Handler {
  const isGenerator = isGeneratorFunction(handler)
  const isDual = settings.accept === 'dual'
  return async function (request, reply) {
    if (isUpgrade(reply.raw)) return handler.call(this, request, reply)
    const { acceptable, wanted } = acceptability(request.headers.accept)
    checkOrigin(settings, request)
    if (isDual) vary(reply, 'Accept')
    else if (!acceptable) throw new NotAcceptableError()
    const streams = !isDual || wanted || isGenerator
    if (streams && request.method === 'HEAD') return setHead(reply, negotiate(reply, settings.compression)).send(HEAD)
    const refusal = streams ? registry.refusal((await registry.whoIs(request)).user, request) : null
    if (refusal !== null) return turnAway(reply, refusal, registry)
    reply.send = sendElse
    setPhase(reply, INSIDE)
    try {
      if (isGenerator) reply.sse(((connection: unknown) => handler.call(this, request, reply, connection)) as never)
      const result = isGenerator ? undefined : handler.call(this, request, reply)
      const value = await result
      if (isAnswered(reply)) return settle(reply, value ?? reply, true)
      if (value === undefined && !isThenable(result) && !isGenerator) return settle(reply, reply, false) // it calls reply.sse() later, or answers
      if (streamOf(reply) === null && isEvents(value, streams, reply)) reply.sse(value as never)
      return settle(reply, value, true)
    } catch (err) {
      if (streamOf(reply) === null) delete (reply as Partial<FastifyReply>).send // the error is no answer of the handler's: who makes one of it may make a stream
      return abandon(reply, err)
    }
  }
}

/** What the handler of an `{ sse }` route returned is its source, and not an ordinary answer. */
function isEvents (value: unknown, streams: boolean, reply: FastifyReply): boolean {
  if (isIterable(value) && !Array.isArray(value) && !(value instanceof Readable) && !(value instanceof ReadableStream)) return true
  return streams && reply.statusCode < 204 && !(value instanceof Error) && !(value instanceof Response)
}

/** `answers`: what the handler returned is an answer, if there is no stream. */
function settle (reply: FastifyReply, value: unknown, answers: boolean): unknown {
  setPhase(reply, RETURNED)
  const stream = streamOf(reply)
  if (stream !== null) return stream.settle()
  if (answers) setAnswered(reply)
  return value
}

function abandon (reply: FastifyReply, err: unknown): unknown {
  setPhase(reply, FAILED)
  const stream = streamOf(reply)
  if (stream === null) throw err
  return stream.abandon(err)
}
