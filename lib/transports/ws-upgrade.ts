import type { EventEmitter } from 'node:events'
import { ServerResponse, STATUS_CODES } from 'node:http'
import type { IncomingMessage, Server } from 'node:http'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { FastifyInstance, FastifyServerOptions } from 'fastify'
import FindMyWay from 'find-my-way'
import { ShuttingDownError, UpgradeError } from '../errors.ts'
import type { Registry } from '../registry.ts'
import { Crowd } from '../crowd.ts'
import { strays } from '../route-order.ts'
import { setUpgrade } from '../upgrade.ts'

const PATIENCE = 60_000 // for a handshake, where the server has no headersTimeout
const LONGEST = 2_147_483_647 // that a timer can wait; with more it would not wait at all

const servers = new WeakMap<object, Upgrades>()

/** A socket on its way to be a WebSocket's. */
interface Underway { readonly socket: Duplex }

/** The one listener for upgrades of a server: it takes those of our routes, and leaves all others to whoever else listens. */
export class Upgrades {
  readonly #fastify: FastifyInstance
  readonly #server: Server
  readonly #registry: Registry
  readonly #router: FindMyWay.Instance<FindMyWay.HTTPVersion.V1>
  readonly #rewrite: ((request: IncomingMessage) => unknown) | undefined
  readonly #underway = new Crowd<Underway>()

  private constructor (fastify: FastifyInstance, registry: Registry) {
    this.#fastify = fastify
    this.#server = fastify.server as Server
    this.#registry = registry
    this.#router = FindMyWay(routerOptions(fastify))
    this.#rewrite = rewriterOf(fastify)
    const underway = this.#underway
    registry.drain.guests.add({
      get size () { return underway.size },
      close () {}, // they are answered 503
      terminate () { for (const { socket } of underway) socket.destroy() }
    })
    fastify.addHook('onReady', async () => {
      if (this.#server.listenerCount('upgrade') > 1) return // they may be another plugin's
      for (const route of strays.get(this.#server) ?? []) this.add(route, null)
    })
    // before others: one that answers whatever comes would find the socket taken, and not we
    this.#server.prependListener('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) => this.#on(request, socket, head))
  }

  static of (fastify: FastifyInstance, registry: Registry): Upgrades {
    let upgrades = servers.get(fastify.server)
    if (upgrades === undefined) servers.set(fastify.server, upgrades = new Upgrades(fastify, registry))
    return upgrades
  }

  /** Takes the upgrades of a route; with a target they are handed to it, as a server would. */
  add ({ url, prefix = '', routePath }: { url: string, prefix?: string, routePath?: string }, target: EventEmitter | null): void {
    // Fastify gives the `/` of a prefix a second path, and runs no hooks for it
    const urls = prefix !== '' && routePath === '' ? [url, `${url}/`] : [url]
    for (const one of urls) {
      try {
        this.#router.on('GET', one, destroy as never, target) // it is asked, and calls nobody
      } catch {} // it is there already, for other constraints or without its slash; or Fastify refuses it, too
    }
  }

  #on (request: IncomingMessage, socket: Duplex, head: Buffer): void {
    const wanted = request.headers.upgrade as string
    const isWebSocket = /(?:^|,)\s*websocket\s*(?:,|$)/i.test(wanted)
    const found = isWebSocket ? this.#router.find('GET', this.#pathOf(request)) : null
    if (found === null && wanted !== 'h2c' && this.#server.listenerCount('upgrade') > 1) return
    const before = answerBefore(request, socket)
    if (before !== null) return this.#wait(before, request, socket, head)
    if (!isWebSocket) return giveBack(this.#server, request, socket, head)
    const refusal = this.#refusal(request, found !== null)
    if (found !== null && found.store !== null && refusal === null) {
      found.store.emit('upgrade', request, socket, head)
      return
    }
    socket.on('error', destroy) // node has taken its own listener away
    const free = this.#bound(socket)
    if (refusal === null) this.#route(request, socket, head, free)
    else socket.end(refusal)
  }

  // the request itself is rewritten on its way through the router
  #pathOf (request: IncomingMessage): string {
    return this.#rewrite === undefined ? request.url as string : String(this.#rewrite.call(this.#fastify, request))
  }

  // what was asked before it on this socket is answered first
  #wait (before: ServerResponse, request: IncomingMessage, socket: Duplex, head: Buffer): void {
    socket.on('error', destroy)
    const free = this.#bound(socket)
    const next = (): void => {
      if (socket.destroyed) return // its error may still be on the way
      const another = answerBefore(request, socket)
      if (another !== null) {
        another.once('close', next)
        return
      }
      socket.removeListener('error', destroy)
      free()
      ;(socket as Socket).setTimeout(0) // node takes it for idle
      this.#on(request, socket, head)
    }
    before.once('close', next)
  }

  #refusal (request: IncomingMessage, known: boolean): string | null {
    if (!known) return answer(404, new UpgradeError('there is no WebSocket at this path'))
    if (this.#registry.draining) return answer(503, new ShuttingDownError(), `retry-after: ${Math.ceil(this.#registry.options.drain.grace / 1000)}\r\n`)
    const rule = check(request)
    if (rule !== null) return answer(400, new UpgradeError(rule))
    if (request.headers['sec-websocket-version'] === '13') return null
    return answer(426, new UpgradeError('the version must be 13'), 'sec-websocket-version: 13\r\nupgrade: websocket\r\n')
  }

  // through the router, as any request: hooks, schema and auth apply, and a refusal is an ordinary answer
  #route (request: IncomingMessage, socket: Duplex, head: Buffer, free: () => void): void {
    const response = new ServerResponse(request)
    response.shouldKeepAlive = false
    try {
      response.assignSocket(socket as Socket)
    } catch (err) {
      free()
      return this.#fastify.log.warn({ err, url: request.url }, 'another listener has taken an upgrade of ours')
    }
    response.once('finish', () => socket.end())
    const release = (): void => {
      response.detachSocket(socket as Socket)
      socket.removeListener('error', destroy)
      free()
    }
    setUpgrade(response, { socket, head, release })
    this.#fastify.routing(request, response)
  }

  // node has taken its own timers away too
  #bound (socket: Duplex): () => void {
    const one: Underway = { socket }
    const timer = setTimeout(() => socket.destroy(), Math.min(this.#server.headersTimeout || PATIENCE, LONGEST)).unref()
    const free = (): void => {
      clearTimeout(timer)
      socket.removeListener('close', free) // it may live for long
      this.#underway.delete(one)
    }
    socket.on('close', free)
    this.#underway.add(one)
    return free
  }
}

function destroy (this: Duplex): void { this.destroy() }

// there is no public way to ask; one to this very request is another listener's
function answerBefore (request: IncomingMessage, socket: Duplex): ServerResponse | null {
  const { _httpMessage: response } = socket as { _httpMessage?: ServerResponse | null }
  return response === null || response === undefined || response.req === request ? null : response
}

// RFC 9112, section 3.2; RFC 6455, section 4.2.1
function check ({ method, httpVersion, headers, rawHeaders }: IncomingMessage): string | null {
  if (method !== 'GET') return 'the method must be GET'
  if (httpVersion !== '1.1') return 'the version must be HTTP/1.1'
  let hosts = 0
  for (let i = 0; i < rawHeaders.length; i += 2) if (/^host$/i.test(rawHeaders[i] as string)) hosts++
  if (hosts !== 1) return 'there must be one Host header'
  if (!/^websocket$/i.test(headers.upgrade as string)) return 'the Upgrade header must be websocket'
  return /^[+/0-9A-Za-z]{22}==$/.test(headers['sec-websocket-key'] ?? '') ? null : 'the Sec-WebSocket-Key header must be 16 bytes as base64'
}

/** An ordinary answer on a socket that has no response of its own. */
function answer (status: number, { code, message }: { code: string, message: string }, headers = ''): string {
  const body = JSON.stringify({ statusCode: status, code, error: STATUS_CODES[status], message })
  return `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\n${headers}connection: close\r\ncontent-type: application/json; charset=utf-8\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`
}

// `Upgrade: h2c` and the like may be ignored (RFC 9110, section 7.8), but node has stopped reading HTTP: it begins again, without it
function giveBack (server: Server, { method, url, httpVersion, rawHeaders }: IncomingMessage, socket: Duplex, head: Buffer): void {
  let text = `${method} ${url} HTTP/${httpVersion}\r\n`
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const name = rawHeaders[i] as string
    let value = rawHeaders[i + 1] as string
    if (/^(?:upgrade|http2-settings)$/i.test(name)) continue
    if (/^connection$/i.test(name)) value = value.split(',').filter((token) => !/^\s*(?:upgrade|http2-settings)\s*$/i.test(token)).join(',')
    text += `${name}: ${value}\r\n`
  }
  socket.unshift(Buffer.concat([Buffer.from(`${text}\r\n`, 'latin1'), head]))
  server.emit('setSecureContext' in server ? 'secureConnection' : 'connection', socket)
}

// there is no public way to ask for `rewriteUrl`; a plugin's instance inherits from that which has it
function rewriterOf (fastify: FastifyInstance): ((request: IncomingMessage) => unknown) | undefined {
  const symbols: symbol[] = []
  for (let one = fastify as object | null; one !== null; one = Object.getPrototypeOf(one) as object | null) symbols.push(...Object.getOwnPropertySymbols(one))
  const key = symbols.find(({ description }) => description === 'fastify.options') as symbol
  return (fastify as unknown as Record<symbol, FastifyServerOptions | undefined>)[key]?.rewriteUrl as never
}

// as Fastify's own router is set up, so that both find the same routes
const SHARED = ['ignoreTrailingSlash', 'ignoreDuplicateSlashes', 'caseSensitive', 'maxParamLength', 'useSemicolonDelimiter', 'allowUnsafeRegex']

function routerOptions ({ initialConfig }: FastifyInstance): object {
  const given = { ...initialConfig, ...(initialConfig as { routerOptions?: object }).routerOptions } as Record<string, unknown>
  return Object.fromEntries(SHARED.filter((name) => given[name] !== undefined).map((name) => [name, given[name]]))
}
