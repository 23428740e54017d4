import type { FastifyInstance, FastifyReply, FastifyRequest, FastifySchemaCompiler, RouteOptions } from 'fastify'
import { validateHeaderName, validateHeaderValue } from 'node:http'
import { WebSocketServer } from 'ws'
import type { Server } from 'ws'
import type { Disconnect, WsHandlers, WsOptions } from '../../types/api.ts'
import type { Link } from '../../types/transport.ts'
import { isBuiltIn } from '../arguments.ts'
import type { Connection } from '../connection.ts'
import { OriginError, RouteError, UpgradeRequiredError } from '../errors.ts'
import { lastEventIdIn } from '../event.ts'
import type { Identified } from '../identity.ts'
import { checkWs } from '../options.ts'
import type { WsSettings } from '../options.ts'
import { isAllowedOrigin, isSameOrigin } from '../origin.ts'
import type { Registry } from '../registry.ts'
import { send } from '../reply.ts'
import { isUpgrade, takeUpgrade } from '../upgrade.ts'
import type { Upgrade } from '../upgrade.ts'
import { Inbox } from './ws-inbox.ts'
import type { InboxHost } from './ws-inbox.ts'
import { negotiate } from './ws-offer.ts'
import type { Deflation } from './ws-offer.ts'
import { compileMessage } from './ws-schema.ts'
import type { Read } from './ws-schema.ts'
import type { Upgrades } from './ws-upgrade.ts'
import { WireSocket, WsWire } from './ws-wire.ts'

const FULL = 30 // seconds before a client that found no room may try again, at least
const HANDLERS = ['onConnect', 'onMessage', 'onDisconnect', 'onError'] as const

type Handler = (this: FastifyInstance, request: FastifyRequest, reply: FastifyReply, ...more: unknown[]) => unknown
type Done = (err?: Error | null, payload?: unknown) => void
export type Route = Omit<RouteOptions, 'ws' | 'sse'> & { ws?: unknown, sse?: unknown, websocket?: boolean, wsHandler?: unknown, prefix?: string, routePath?: string }

const kUpgrade = Symbol('fastify-real.upgrade')

/** A reply that is to become a WebSocket, unless a hook fails or somebody else answers. */
interface Upgrading extends FastifyReply { [kUpgrade]?: Upgrade | null }

export function isGet ({ method }: Pick<Route, 'method'>): boolean { return [method].flat().includes('GET') }

export function nameOf ({ method, url }: Pick<Route, 'method' | 'url'>): string { return `${[method].flat().join(', ')} ${url}` }

export const needsHandlers = 'has ws: true and so needs an object of handlers as its last argument'

/** A route that takes WebSockets. */
export class WsRoute {
  readonly #fastify: FastifyInstance
  readonly #registry: Registry
  readonly #settings: WsSettings
  readonly #server: Server<typeof WireSocket>
  readonly #route: Route
  readonly #compiler: unknown
  /** What is said in the handshake that is being made. */
  #headers: string[] = []
  #protocol: string | false = false
  readonly #host: InboxHost & { read: Read | null }
  readonly #onDisconnect = (end: Disconnect, link: Link): void => {
    const work = (link as Connection & { wire: WsWire }).wire.disconnected(end)
    if (work !== null) this.#registry.drain.working(work)
  }

  constructor (fastify: FastifyInstance, registry: Registry, upgrades: Upgrades, defaults: WsSettings, route: Route) {
    const { handler } = route as { handler: unknown }
    this.#fastify = fastify
    this.#registry = registry
    this.#route = route
    this.#settings = checkWs(route.ws === true ? {} : route.ws as WsOptions, `route ${route.url} ws.`, defaults)
    const handlers = handlersOf(route)
    this.#host = { handlers, settings: this.#settings, read: null, drain: registry.drain }
    this.#compiler = this.#customCompiler
    const { maxPayload, compression } = this.#settings
    this.#server = new WebSocketServer({
      noServer: true,
      WebSocket: WireSocket,
      clientTracking: false,
      maxPayload,
      perMessageDeflate: compression && { serverNoContextTakeover: true }, // so that one frame is right for all
      handleProtocols: () => this.#protocol
    })
    this.#server.on('headers', (headers) => headers.push(...this.#headers))
    if (isGet(route)) upgrades.add(route, null)
    route.onSend = [...[route.onSend ?? []].flat(), this.#onSend.bind(this)] as never
    route.onError = [...[route.onError ?? []].flat(), this.#onError.bind(this)] as never
    route.handler = this.#wrap(typeof handler === 'function' ? handler as Handler : upgradeRequired) as never
  }

  #wrap (http: Handler): Handler {
    const self = this
    const wrapped: Handler = function (request, reply, ...more) {
      return isUpgrade(reply.raw) ? self.#open(request, reply) : http.call(this, request, reply, ...more)
    }
    return Object.defineProperty(wrapped, Symbol.toStringTag, { value: (http as { [Symbol.toStringTag]?: string })[Symbol.toStringTag] }) // sseReal asks whether it is a generator
  }

  get #customCompiler (): FastifySchemaCompiler<never> | undefined { return this.#route.validatorCompiler ?? this.#fastify.validatorCompiler }

  /** When all that a schema may refer to is there. */
  compile (): void {
    const message = (this.#route.schema as { message?: unknown } | undefined)?.message
    const compiler = this.#customCompiler
    // what Fastify itself has put there meanwhile coerces and strips
    const isCustom = compiler === this.#compiler || compiler?.name !== 'bound buildValidatorFunction'
    if (message !== undefined) this.#host.read = compileMessage(this.#fastify, isCustom ? compiler : undefined, message, this.#route.url)
  }

  async #open (request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> {
    this.#checkOrigin(request)
    const { user } = await this.#registry.whoIs(request)
    this.#checkRoom(user, request, reply)
    const upgrade = takeUpgrade(reply.raw)
    if (upgrade !== null) (reply as Upgrading)[kUpgrade] = upgrade
    reply.send = sendElse
    send(reply) // so that onSend hooks run; our own, the last, makes the handshake
    return await new Promise(() => {}) // it hijacks; or another answer is on its way
  }

  #checkOrigin (request: FastifyRequest): void {
    const { origin } = request.headers
    const { allowedOrigins } = this.#settings
    if (origin === undefined) return
    if (!(allowedOrigins === undefined ? isSameOrigin(origin, request) : isAllowedOrigin(allowedOrigins, origin, request))) throw new OriginError(origin.slice(0, 200))
  }

  #checkRoom (user: string | null, request: FastifyRequest, reply: FastifyReply): void {
    const refusal = this.#registry.refusal(user, request)
    if (refusal === null) return
    reply.header('retry-after', Math.ceil(FULL * (1 + Math.random())))
    throw refusal
  }

  #onSend (request: FastifyRequest, reply: FastifyReply, payload: unknown, done: Done): void {
    const { [kUpgrade]: upgrade = null } = reply as Upgrading
    if (upgrade === null) return done(null, payload)
    const who = this.#registry.whoIs(request) as Identified
    const lastEventId = lastEventIdIn(request)
    let deflation: Deflation
    try {
      this.#checkRoom(who.user, request, reply) // others may have come while hooks were at work
      deflation = this.#settings.compression ? negotiate(request.raw) : { request: request.raw, windowBits: 0 }
      this.#protocol = this.#choose(request)
      this.#headers = headersOf(reply)
    } catch (err) {
      return done(err as Error)
    }
    reply.hijack()
    upgrade.release()
    const { socket, head } = upgrade
    socket.cork() // the answer and what onConnect sends go out in one write
    this.#server.handleUpgrade(deflation.request, socket, head, (ws) => {
      this.#connect(request, new WsWire(ws, socket, lastEventId !== undefined, deflation.windowBits), who, lastEventId)
    })
    socket.uncork()
  }

  #onError (request: FastifyRequest, reply: FastifyReply, error: Error, done: () => void): void {
    (reply as Upgrading)[kUpgrade] = null
    done()
  }

  #connect (request: FastifyRequest, wire: WsWire, who: Identified, lastEventId: string | undefined): void {
    const connection = this.#registry.accept({
      request,
      wire,
      lastEventId,
      broadcast: this.#settings.broadcast,
      onDisconnect: this.#onDisconnect
    }, who)
    const inbox = new Inbox(connection, wire, this.#host)
    wire.attach(connection, inbox, this.#registry.outbox)
    if (this.#registry.options.heartbeat === 0) wire.watch()
    connection.opened()
    inbox.connect()
    this.#registry.outbox.write(connection)
  }

  #choose (request: FastifyRequest): string | false {
    const { protocols } = this.#settings
    if (protocols === undefined) return false
    const offered = new Set((request.headers['sec-websocket-protocol'] ?? '').split(',').map((name) => name.trim()).filter((name) => name !== ''))
    const chosen = typeof protocols === 'function' ? protocols(offered, request) : [...offered].find((name) => protocols.includes(name))
    return typeof chosen === 'string' && offered.has(chosen) ? chosen : false
  }
}

function handlersOf (route: Route): WsHandlers<unknown> {
  const { ws, handler } = route as { ws: object | true, handler: unknown }
  const name = nameOf(route)
  const methods = [route.method].flat()
  if (!isGet(route) && methods.some((method) => method !== 'HEAD')) throw new RouteError(name, 'takes WebSockets, so its method must be GET')
  if (typeof handler === 'function') {
    if (ws === true) throw new RouteError(name, needsHandlers)
    return ws
  }
  const handlers = handler as object
  if (typeof handlers !== 'object' || isBuiltIn(handlers)) throw new RouteError(name, needsHandlers)
  if (route.sse !== undefined && route.sse !== false) throw new RouteError(name, 'has sse and so needs a handler; the object of handlers is the value of ws')
  for (const [key, value] of Object.entries(handlers)) {
    if (!HANDLERS.includes(key as never) || (value !== undefined && typeof value !== 'function')) throw new RouteError(name, `has ${JSON.stringify(key)} among its handlers; they are the functions ${HANDLERS.join(', ')}`)
  }
  if (ws !== true && HANDLERS.some((key) => key in ws)) throw new RouteError(name, 'has handlers in ws and as its last argument; one of the two is enough')
  return handlers as WsHandlers<unknown>
}

// an answer that comes while hooks are at work is the one that is sent
function sendElse (this: FastifyReply, payload?: unknown): FastifyReply {
  (this as Upgrading)[kUpgrade] = null
  return send(this, payload)
}

function upgradeRequired (_request: FastifyRequest, reply: FastifyReply): never {
  reply.header('upgrade', 'websocket').header('connection', 'upgrade')
  throw new UpgradeRequiredError()
}

// what hooks have set goes out with the 101, but what belongs to the handshake or to a body
function headersOf (reply: FastifyReply): string[] {
  const lines: string[] = []
  for (const [name, value] of Object.entries(reply.getHeaders())) {
    if (/^(?:connection|upgrade|keep-alive|transfer-encoding|trailer|te|proxy-.*|sec-websocket-.*|content-.*)$/i.test(name)) continue
    for (const one of [value].flat()) {
      try {
        validateHeaderName(name)
        validateHeaderValue(name, String(one))
      } catch (err) {
        reply.removeHeader(name) // the error is answered
        throw err
      }
      lines.push(`${name}: ${String(one)}`)
    }
  }
  return lines
}
