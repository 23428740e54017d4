import type { OutgoingHttpHeaders } from 'node:http'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { checkLastEventId, lastEventIdIn } from '../event.ts'
import type { Registry } from '../registry.ts'
import { acceptability, acceptsGzip } from './sse-accept.ts'

/** Handed to Fastify so that its onSend hooks run. Nothing reads it: our own onSend hook, the last, takes the reply over. */
export const HEAD: object = Object.freeze({ pipe: nothing, resume: nothing, on: nothing })

const EVENT_STREAM = 'text/event-stream'
const FULL = 30_000 // before an EventSource that found no room tries again, at least

/** Whether what is sent is compressed, as far as the client and whoever has answered before agree; said in `Vary` either way. */
export function negotiate (reply: FastifyReply, compression: boolean): boolean {
  if (!compression) return false
  vary(reply, 'Accept-Encoding')
  return !reply.hasHeader('content-encoding') && acceptsGzip(reply.request.headers['accept-encoding'])
}

export function vary (reply: FastifyReply, name: string): void {
  const names = [reply.getHeader('vary') ?? []].flat().join(', ')
  if (!names.split(',').some((one) => ['*', name.toLowerCase()].includes(one.trim().toLowerCase()))) reply.header('vary', names === '' ? name : `${names}, ${name}`)
}

/** The head of an event stream; what the handler or a hook has set stays. */
export function setHead (reply: FastifyReply, compressed: boolean = false): FastifyReply {
  if (compressed) reply.header('content-encoding', 'gzip')
  reply.header('content-type', EVENT_STREAM).header('x-accel-buffering', 'no')
  if (!reply.hasHeader('cache-control')) reply.header('cache-control', 'no-cache, no-transform')
  return reply
}

/** Something else is the answer: an object cannot be sent as an event stream. */
export function unsetHead (reply: FastifyReply, compressed: boolean): void {
  if (reply.getHeader('content-type') === EVENT_STREAM) reply.removeHeader('content-type')
  if (compressed) reply.removeHeader('content-encoding')
}

/** What the hooks have made of it, but for what they say of another body. */
export function headOf (reply: FastifyReply): OutgoingHttpHeaders {
  const { raw } = reply
  raw.removeHeader('content-length')
  const headers = reply.getHeaders() as OutgoingHttpHeaders // a copy
  if ('content-length' in headers) delete headers['content-length']
  // not removed: node takes that for a wish that it stay away
  if (raw.req.httpVersion === '1.1' && 'transfer-encoding' in headers) headers['transfer-encoding'] = 'chunked'
  return headers
}

export function hasBody (statusCode: number): boolean { return statusCode >= 200 && ![204, 205, 304].includes(statusCode) }

/**
 * There is no room: an EventSource is told to wait, since it never comes back after any status but 200; others get the error.
 * Gives what to send, or throws.
 */
export function turnAway (reply: FastifyReply, refusal: Error, { draining, options }: Registry): string {
  if (draining && reply.request.raw.httpVersionMajor === 1) reply.header('connection', 'close')
  const delay = draining ? options.drain.grace + Math.random() * options.drain.within : FULL * (1 + Math.random())
  if (acceptability(reply.request.headers.accept).wanted) {
    setHead(reply).code(200)
    return `retry: ${Math.round(delay)}\n\n`
  }
  reply.header('retry-after', Math.ceil(delay / 1000))
  throw refusal
}

export function lastEventIdOf (request: FastifyRequest): string | undefined {
  const header = request.headers['last-event-id']
  // node reads header bytes as latin1, but an EventSource sends UTF-8 (WHATWG 9.2.4)
  if (typeof header === 'string') return checkLastEventId(Buffer.from(header, 'latin1').toString())
  return lastEventIdIn(request)
}

/** What the route's schema makes of the data of its events. */
export function serializerOf (reply: FastifyReply): ((data: unknown) => string) | undefined {
  const response = (reply.request.routeOptions.schema?.response ?? {}) as Record<string, { content?: Record<string, { schema?: unknown }> } | undefined>
  if (response['200']?.content?.[EVENT_STREAM]?.schema === undefined) return undefined
  return reply.getSerializationFunction('200', EVENT_STREAM) as (data: unknown) => string
}

function nothing (): void {}

export function jitter (milliseconds: number): number {
  return Math.round(milliseconds * (0.8 + 0.4 * Math.random()))
}
