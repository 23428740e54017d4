// What must and what must not compile, beside the types of @fastify/websocket.
import '@fastify/websocket'
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import Fastify from 'fastify'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { Readable } from 'node:stream'
import { describe, expect, test } from 'tstyche'
import { Type } from 'typebox'
import type {
  Connection, Disconnect, Event, Message, Prepared, Presence, PresenceChange, Receipt, Registry, Room, Sendable, WebSocket, WsHandlers
} from './index.ts'

declare module './api.ts' {
  interface ConnectionState { nickname?: string }
}

const app = Fastify()
const typed = Fastify().withTypeProvider<TypeBoxTypeProvider>()
const http2 = Fastify({ http2: true })
declare const prepared: Prepared

const team = Type.Object({ team: Type.String() })
const said = Type.Object({ text: Type.String() })
const tick = { 200: { content: { 'text/event-stream': { schema: Type.Object({ at: Type.Number() }) } } } }

describe('a handler of an { sse } route', () => {
  test('is a generator that is given its connection, with the generics of the route', () => {
    app.get<{ Params: { team: string }, Querystring: { since?: string } }>('/', { sse: true }, async function * (request, reply, connection) {
      expect(this).type.toBe<FastifyInstance>()
      expect(request.params).type.toBe<{ team: string }>()
      expect(connection.request.params).type.toBe<{ team: string }>()
      expect(connection.request.query).type.toBe<{ since?: string }>()
      expect(reply.connection).type.toBe<typeof connection | null>()
      expect(connection).type.toBeAssignableTo<Connection>()
      yield 'text'
      yield new Uint8Array(1)
      yield { event: 'tick', data: { at: 1 }, id: 1, retry: 0, comment: '' }
      yield prepared
    })
    app.get('/', { sse: { accept: 'dual', retry: 1_000, allowedOrigins: ['https://example.com'] } }, function * () { yield 'sync' })
  })

  test('yields only what can be sent', () => {
    // @ts-expect-error No overload matches this call
    app.get('/', { sse: true }, async function * () { yield 42 })
    // @ts-expect-error No overload matches this call
    app.get('/', { sse: true }, function * () { yield { evnt: 'tick' } })
    // @ts-expect-error No overload matches this call
    app.get('/', { sse: true }, async function * () { yield { event: 'tick', retry: 'soon' } })
    // @ts-expect-error No overload matches this call
    app.route({ method: 'GET', url: '/', sse: true, handler: async function * () { yield 42 } })
    // @ts-expect-error No overload matches this call
    app.get('/', { sse: true, handler: async function * () { yield 42 } })
    // @ts-expect-error No overload matches this call
    app.get('/', { sse: true }, async () => new Set([1]))
  })

  test('yields the data that its response schema declares, through a type provider', () => {
    typed.get('/', { sse: true, schema: { params: team, response: tick } }, async function * (request, reply, connection) {
      expect(request.params).type.toBe<{ team: string }>()
      expect(connection.request.params).type.toBe<{ team: string }>()
      reply.sse([{ data: { at: 1 } }])
      reply.sse([1], { map: (at) => ({ data: { at } }) })
      // @ts-expect-error is not assignable to type 'number'
      reply.sse([{ data: { at: 'noon' } }])
      yield { event: 'tick', data: { at: 1 } }
      yield new Uint8Array(1)
      yield { comment: 'no data' }
    })
    // @ts-expect-error No overload matches this call
    typed.get('/', { sse: true, schema: { response: tick } }, async function * () { yield { data: { at: 'noon' } } })
    // @ts-expect-error No overload matches this call
    typed.get('/', { sse: true, schema: { response: tick } }, async function * () { yield 'text' })
    // without a provider the schema says nothing to TypeScript
    app.get('/', { sse: true, schema: { response: tick } }, async function * () { yield { data: { at: 'noon' } } })
  })

  test('may answer in any way that runs, and calls reply.sse()', () => {
    app.get('/', { sse: true }, (request, reply) => reply.sse(['text']))
    app.get('/', { sse: true }, async (request, reply) => { await reply.sse().join('room') })
    app.get('/', { sse: true }, () => ['text', { data: 1 }])
    app.get('/', { sse: true }, async () => Readable.from(['text']))
    app.get('/', { sse: true }, (request, reply) => reply.code(204).send())
    app.get('/', { sse: { accept: 'dual' } }, async (request) => request.wantsEvents ? ['text'] : { count: 1 })
    app.get('/', { sse: true }, () => ({ event: 'one', data: 1 }))
    app.get('/', { sse: { accept: 'dual' } }, async () => [1, 2, 3])
    app.get('/', { sse: true, async handler (request, reply) { reply.sse() } })
    app.post('/', { sse: true }, (request, reply) => reply.sse())
    app.route({ method: ['GET', 'POST'], url: '/', sse: true, handler: (request, reply) => reply.sse() })
  })

  test('answers with the Reply of the route, with a stream or with the reply', () => {
    app.get<{ Reply: { state: 'up' | 'down' } }>('/', { sse: true }, async (request, reply) => {
      if (request.ip === '') return reply
      return request.wantsEvents ? reply.sse() : { state: 'up' }
    })
    app.get<{ Reply: { state: 'up' | 'down' } }>('/', { sse: true }, async function * () { yield 'up' })
    app.get<{ Reply: { state: 'up' | 'down' } }>('/', { sse: true }, async () => Readable.from(['up']))
    // @ts-expect-error No overload matches this call
    app.get<{ Reply: { state: 'up' | 'down' } }>('/', { sse: true }, async () => ({ state: 'broken' }))
    typed.get('/', { sse: true, schema: { response: { 404: said, ...tick } } }, async (request, reply) => reply.code(404).send({ text: 'gone' }))
    // @ts-expect-error Type 'number' is not assignable to type 'string'
    typed.get('/', { sse: true, schema: { response: { 404: said } } }, async (request, reply) => reply.code(404).send({ text: 1 }))
  })

  test('has options that are known, of the right kind', () => {
    // @ts-expect-error No overload matches this call
    app.get('/', { sse: 'yes' }, async function * () { yield 'text' })
    // @ts-expect-error No overload matches this call
    app.get('/', { sse: { accept: 'both' } }, async function * () { yield 'text' })
    // @ts-expect-error No overload matches this call
    app.get('/', { sse: { retri: 1 } }, async function * () { yield 'text' })
    // @ts-expect-error No overload matches this call
    app.route({ method: 'GET', url: '/', sse: { accept: 'both' }, handler: async function * () { yield 'text' } })
    app.get('/', { sse: false }, async () => 'an ordinary route')
    // @ts-expect-error! two errors: neither the options nor the handler fits another overload
    app.get('/', { sse: false }, async (request, reply, connection) => 'an ordinary route')
  })

  test('keeps the hooks of the route typed', () => {
    app.get<{ Params: { team: string } }>('/', {
      sse: true,
      async preHandler (request) { expect(request.params).type.toBe<{ team: string }>() }
    }, async function * () { yield 'text' })
  })
})

describe('the handlers of a { ws } route', () => {
  test('are given the connection and the request with the generics of the route', () => {
    app.get<{ Params: { team: string } }>('/', { ws: true }, {
      onConnect (connection, request) {
        expect(request.params).type.toBe<{ team: string }>()
        expect(connection.request).type.toBe<typeof request>()
        expect(connection).type.toBeAssignableTo<Connection>()
      },
      async onMessage (connection, message) {
        expect(connection.request.params).type.toBe<{ team: string }>()
        expect(message).type.toBe<string | Buffer>()
        expect(message).type.toBe<Message>()
      },
      onDisconnect (connection, end) { expect(end).type.toBe<Disconnect>() },
      onError (connection, error) { expect(error).type.toBe<Error>() }
    })
  })

  test('are declared in four ways, each with options', () => {
    app.get('/', { ws: true }, {})
    app.get('/', { ws: { maxPayload: 1_024, protocols: ['chat'] } }, { onMessage (connection, message) { connection.send(message) } })
    app.get('/', { ws: { maxPayload: 1_024, onMessage (connection, message) { connection.send(message) } } }, async (request) => request.ip)
    app.ws('/', { onMessage (connection, message) { connection.send(message) } })
    app.ws('/', { ws: { maxPending: 1 }, logLevel: 'warn' }, { onMessage (connection, message) { connection.send(message) } })
    app.route({ method: 'GET', url: '/', ws: true, handler: { onMessage (connection, message) { connection.send(message) } } })
    app.route({ method: 'GET', url: '/', ws: { onConnect (connection) { connection.close() } }, handler: (request, reply) => reply.send('') })
    app.get('/', { ws: true, handler: { onConnect (connection) { connection.close(4000, 'full') } } })
  })

  test('may be declared apart, for several routes', () => {
    const echo = { onMessage (connection: Connection, message: Message) { connection.send(message) } }
    const handlers: WsHandlers = echo
    app.ws('/', echo)
    app.ws('/', handlers)
    app.get('/', { ws: true }, echo)
    app.get('/', { ws: handlers }, async () => 'ok')
    app.get('/', { sse: true, ws: echo }, async function * () { yield 'ok' })
    app.route({ method: 'GET', url: '/', ws: true, handler: echo })
    expect(app.ws).type.not.toBeCallableWith('/', { schema: { message: said } }, echo)
  })

  test('stand beside the handler of an event stream', () => {
    app.get('/', { sse: true, ws: { onMessage (connection, message) { expect(message).type.toBe<Message>() } } }, async function * () { yield 'text' })
    app.get('/', { sse: { retry: 1 }, ws: { onMessage () {} } }, (request, reply) => reply.sse())
    app.route({ method: 'GET', url: '/', sse: true, ws: { onConnect () {} }, handler: (request, reply) => reply.sse() })
    // @ts-expect-error! two errors: neither the options nor the handler fits another overload
    app.get('/', { sse: true, ws: true }, async function * () { yield 'text' })
    // @ts-expect-error! two errors: neither the options nor the handler fits another overload
    app.get('/', { sse: true, ws: { onMesage () {} } }, async function * () { yield 'text' })
    // @ts-expect-error! two errors: neither the options nor the handler fits another overload
    app.get('/', { sse: true, ws: { onMessage () {} } }, async function * () { yield 42 })
  })

  test('are given messages as schema.message has them, through a type provider', () => {
    typed.get('/', { ws: true, schema: { params: team, message: said } }, {
      onConnect (connection, request) { expect(request.params).type.toBe<{ team: string }>() },
      onMessage (connection, message) { expect(message).type.toBe<{ text: string }>() }
    })
    typed.ws('/', { schema: { message: said } }, { onMessage (connection, message) { expect(message).type.toBe<{ text: string }>() } })
    typed.route({
      method: 'GET',
      url: '/',
      ws: true,
      schema: { message: said },
      handler: { onMessage (connection, message) { expect(message).type.toBe<{ text: string }>() } }
    })
    typed.get('/', {
      sse: true,
      schema: { message: said },
      ws: { onMessage (connection, message) { expect(message).type.toBe<{ text: string }>() } }
    }, (request, reply) => reply.sse())
    typed.get('/', {
      schema: { message: said },
      ws: { onMessage (connection, message) { expect(message).type.toBe<{ text: string }>() } }
    }, async () => 'plain')
    typed.ws('/', { schema: { params: team } }, { onMessage (connection, message) { expect(message).type.toBe<Message>() } })
  })

  test('are given messages as the generics have them, or unknown JSON', () => {
    app.ws('/', { schema: { message: { type: 'object' } } }, { onMessage (connection, message) { expect(message).type.toBe<unknown>() } })
    app.ws<{ Message: { text: string } }>('/', { schema: { message: { type: 'object' } } }, {
      onMessage (connection, message) { expect(message).type.toBe<{ text: string }>() }
    })
    // with generics, and none for the message, TypeScript would take parsed JSON for text
    // @ts-expect-error Type '{ type: string; }' is not assignable to type 'undefined'
    app.ws<{ Params: { team: string } }>('/', { schema: { message: { type: 'object' } } }, {})
    // @ts-expect-error Types of parameters 'message' and 'message' are incompatible
    app.ws<{ Message: { text: string } }>('/', { schema: { message: {} } }, { onMessage (connection, message: { text: number }) {} })
  })

  test('are known, and functions', () => {
    app.get('/', { ws: true }, { onMessage () {} })
    // @ts-expect-error No overload matches this call
    app.get('/', { ws: true }, { onMesage () {} })
    // @ts-expect-error No overload matches this call
    app.get('/', { ws: true }, { onMessage: 'echo' })
    // @ts-expect-error No overload matches this call
    app.get('/', { ws: { onMesage () {} } }, async () => 'plain')
    // @ts-expect-error 'onMesage' does not exist in type
    app.ws('/', { onMesage () {} })
    // @ts-expect-error! two errors: neither the options nor the handler fits another overload
    app.route({ method: 'GET', url: '/', ws: true, handler: { onMesage () {} } })
    // @ts-expect-error 'maxPaylod' does not exist in type
    app.ws('/', { ws: { maxPaylod: 1 } }, {})
  })

  test('want { ws }', () => {
    // @ts-expect-error No overload matches this call
    app.get('/', {}, { onMessage () {} })
    // @ts-expect-error No overload matches this call
    app.get('/', { onMessage () {} })
    // @ts-expect-error No overload matches this call
    app.get('/', { ws: true }, async () => 'plain')
    // @ts-expect-error No overload matches this call
    app.route({ method: 'GET', url: '/', handler: { onMessage () {} } })
    app.get('/', { ws: false }, async () => 'an ordinary route')
  })
})

describe('reply.sse()', () => {
  test('takes every kind of source', () => {
    app.get('/', async (request, reply) => {
      expect(reply.sse()).type.toBeAssignableTo<Connection>()
      expect(reply.sse('text').request.ip).type.toBe<string>()
      reply.sse({ event: 'one', data: 1 })
      reply.sse(['text', { data: 1 }])
      reply.sse(Readable.from(['text']))
      reply.sse(new ReadableStream<string>())
      reply.sse((async function * () { yield 'text' })())
      reply.sse(async function * (connection) { yield connection.id })
      reply.sse(async (connection) => { connection.send('text') }, { retry: 1_000, maxAge: false })
      reply.sse(async () => Readable.from(['text']))
      reply.sse([1, 2], { map: (n) => ({ data: n.toFixed() }), inactivity: 1_000 })
      expect(reply.connection).type.toBeAssignableTo<Connection | null>()
    })
  })

  test('refuses items that cannot be sent, and options that are none', () => {
    app.get('/', async (request, reply) => {
      // @ts-expect-error Argument of type 'number[]' is not assignable
      reply.sse([1, 2])
      // @ts-expect-error Argument of type '42' is not assignable
      reply.sse(42)
      // @ts-expect-error Type 'number' is not assignable to type 'Sendable
      reply.sse([1, 2], { map: (n) => n })
      // @ts-expect-error 'evnt' does not exist in type
      reply.sse({ evnt: 'tick', data: 1 })
      // @ts-expect-error No overload matches this call
      reply.sse([], { accept: 'dual' })
    })
  })
})

describe('a connection', () => {
  test('has a state that applications type', () => {
    expect<Connection['state']>().type.toHaveProperty('nickname')
    expect<Connection['state']['nickname']>().type.toBe<string | undefined>()
  })

  test('sends what can be sent, and joins with or without presence', () => {
    expect<Connection>().type.toHaveProperty('lastEventId')
    app.ws('/', {
      async onConnect (connection) {
        expect(connection.send('text')).type.toBe<boolean>()
        expect(connection.join(['a', 'b'], { presence: { key: 'ada', meta: { away: true } } })).type.toBe<Promise<boolean>>()
        await connection.join('a', { presence: true })
        await connection.from(['text'])
        await connection.from([1], { map: (n) => ({ data: n }) })
        // @ts-expect-error Argument of type 'number[]' is not assignable
        await connection.from([1])
        // @ts-expect-error 'dat' does not exist in type
        connection.send({ dat: 1 })
        // @ts-expect-error Type 'false' is not assignable
        await connection.join('a', { presence: false })
        // @ts-expect-error Cannot assign to 'user' because it is a read-only property
        connection.user = 'ada'
      }
    })
  })
})

describe('the registry', () => {
  test('is on every instance, and gives connections and rooms', () => {
    expect(app.connections).type.toBe<Registry>()
    expect(http2.connections).type.toBe<Registry>()
    expect(app.connections.get('id')).type.toBe<Connection | undefined>()
    expect([...app.connections]).type.toBe<Connection[]>()
    expect(app.connections.room('a')).type.toBe<Room>()
    expect(app.connections.user('ada')).type.toBe<Room>()
    expect(app.connections.room('a').presence()).type.toBe<Promise<Presence[]>>()
    expect(app.connections.broadcast('text')).type.toBe<Promise<Receipt>>()
  })

  test('spares connections of every route and server, ids and users', () => {
    const { connections } = app
    typed.ws('/', { schema: { params: team, message: said } }, {
      async onMessage (connection, { text }) {
        await connections.room('a').send({ event: 'said', data: text }, { except: connection, once: true })
        await connections.broadcast(text, { except: [connection, connection.id, { user: 'ada' }] })
        expect(connections.room('a').has(connection)).type.toBe<boolean>()
      }
    })
    http2.get('/', { sse: true }, async (request, reply) => { await connections.broadcast('here', { except: reply.sse() }) })
    // @ts-expect-error Type 'number' is not assignable
    void connections.broadcast('text', { except: 42 })
  })

  test('types the listeners of its events', () => {
    app.connections
      .on('connect', (connection) => expect(connection).type.toBe<Connection>())
      .on('disconnect', (connection, { code, rooms }) => expect({ code, rooms }).type.toBe<{ code: number, rooms: string[] }>())
      .on('join', (connection, room) => expect(room).type.toBe<string>())
      .on('gap', (connection, { reason }) => expect(reason).type.toBe<'epoch' | 'trimmed' | 'unknown' | 'slow'>())
      .on('deliver', (topic, { data }) => expect(data).type.toBe<unknown>())
    // @ts-expect-error Argument of type '"conect"' is not assignable
    app.connections.on('conect', () => {})
  })
})

describe('what is sent', () => {
  test('is text, bytes, an event or a prepared one', () => {
    expect<Sendable>().type.toBe<string | Uint8Array | Event | Prepared>()
    expect<Sendable<{ at: number }>>().type.not.toBeAssignableFrom<string>()
    expect<Sendable<'on' | 'off'>>().type.toBeAssignableFrom<'on'>()
    expect<PresenceChange>().type.toBeAssignableFrom<{ room: 'lobby', joined: [{ key: 'ada', metas: [] }] }>()
  })
})

describe('what is not ours stays as it was', () => {
  test('plain routes', () => {
    app.get('/', async (request, reply) => {
      expect(request).type.toBe<FastifyRequest>()
      expect(reply).type.toBe<FastifyReply>()
      return [1, new Set([1])]
    })
    app.get<{ Params: { team: string }, Reply: { ok: boolean } }>('/', { onRequest: async (request) => { expect(request.params.team).type.toBe<string>() } }, async () => ({ ok: true }))
    // @ts-expect-error No overload matches this call
    app.get<{ Reply: { ok: boolean } }>('/', async () => ({ ok: 1 }))
    typed.get('/', { schema: { params: team, response: { 200: said } } }, async (request) => ({ text: request.params.team }))
    app.route({ method: 'GET', url: '/', handler: async (request) => request.ip })
  })

  test('routes of @fastify/websocket', () => {
    app.get('/', { websocket: true }, (socket, request) => {
      expect(socket).type.toBe<WebSocket>()
      expect(request.ws).type.toBe<boolean>()
    })
    app.route({ method: 'GET', url: '/', websocket: true, handler: (socket) => { socket.close() } })
    app.route({ method: 'GET', url: '/', handler: async () => '', wsHandler: (socket) => { socket.close() } })
    expect(app).type.toHaveProperty('injectWS')
  })

  test('functions that take any request, reply or instance', () => {
    const take = (request: FastifyRequest, reply: FastifyReply): void => {}
    const register = (fastify: FastifyInstance): void => {}
    register(app)
    register(typed)
    typed.get('/', { sse: true, schema: { params: team, response: tick } }, async function * (request, reply) {
      take(request, reply)
      yield { data: { at: 1 } }
    })
    app.get<{ Params: { team: string }, Reply: { ok: boolean } }>('/', { sse: true }, async (request, reply) => { take(request, reply) })
  })
})
