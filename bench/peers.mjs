// What fastify-real is compared with, each the smallest server that its README suggests, as published. Each loads only its own
// packages. They answer as bench/contender.mjs does.
import { once } from 'node:events'
import { createServer } from 'node:http'

/** Who is connected, and in which room: what most peers leave to their users. */
class Crowd {
  all = new Set()
  rooms = new Map()

  add (member, room) {
    this.all.add(member)
    if (room === '') return
    const members = this.rooms.get(room) ?? new Set()
    this.rooms.set(room, members.add(member))
  }

  remove (member, room) {
    this.all.delete(member)
    this.rooms.get(room)?.delete(member)
  }

  of (room) { return room === undefined ? this.all : this.rooms.get(room) ?? [] }
}

const roomOf = (url) => /[?&]room=([^&]*)/.exec(url)?.[1] ?? ''
const sseText = (event) => `data: ${JSON.stringify(event)}\n\n`

async function listen (server) {
  server.listen({ port: 0, host: '127.0.0.1', backlog: 4096 })
  await once(server, 'listening')
  return server.address().port
}

async function listenFastify (app) {
  await app.listen({ port: 0, host: '127.0.0.1', backlog: 4096 })
  return app.server.address().port
}

export const peers = {
  /** node:http and nothing else: one buffer for everybody, a timer for each connection. */
  async http ({ heartbeatMs, gen }) {
    const crowd = new Crowd()
    const beat = Buffer.from(':\n\n')
    const server = createServer(async (request, response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' })
      if (request.url.startsWith('/stream')) {
        for await (const event of gen(request.url)) if (!response.write(sseText(event))) await once(response, 'drain')
        return response.end()
      }
      const room = roomOf(request.url)
      crowd.add(response, room)
      response.flushHeaders()
      const timer = setInterval(() => response.write(beat), heartbeatMs)
      response.on('close', () => {
        crowd.remove(response, room)
        clearInterval(timer)
      })
    })
    return {
      port: await listen(server),
      size: () => crowd.all.size,
      broadcast (event, room) {
        const bytes = Buffer.from(sseText(event))
        for (const response of crowd.of(room)) response.write(bytes)
      }
    }
  },

  async '@fastify/sse' ({ heartbeatMs, gen }) {
    const [{ default: fastify }, { default: plugin }] = await Promise.all([import('fastify'), import('@fastify/sse')])
    const crowd = new Crowd()
    const app = fastify()
    await app.register(plugin, { heartbeatInterval: heartbeatMs })
    app.get('/sse', { sse: true }, async (request, { sse }) => {
      const room = roomOf(request.url)
      sse.keepAlive()
      crowd.add(sse, room)
      sse.onClose(() => crowd.remove(sse, room))
      await sse.send({ data: 'hello' }) // it sends no head before the first event
    })
    app.get('/stream', { sse: true }, async (request, reply) => {
      await reply.sse.send((async function * () { for await (const data of gen(request.url)) yield { data } })())
    })
    return {
      port: await listenFastify(app),
      size: () => crowd.all.size,
      broadcast (data, room) { for (const sse of crowd.of(room)) sse.send({ data }).catch(() => {}) }
    }
  },

  async 'fastify-sse-v2' ({ heartbeatMs, gen }) {
    const [{ default: fastify }, { FastifySSEPlugin: plugin }] = await Promise.all([import('fastify'), import('fastify-sse-v2')])
    const crowd = new Crowd()
    const app = fastify()
    await app.register(plugin, { retryDelay: false })
    app.get('/sse', (request, reply) => {
      const room = roomOf(request.url)
      crowd.add(reply, room)
      const timer = setInterval(() => reply.sse({ comment: 'beat' }), heartbeatMs) // it has none of its own
      request.raw.on('close', () => {
        crowd.remove(reply, room)
        clearInterval(timer)
      })
      reply.sse({ data: 'hello' })
    })
    app.get('/stream', (request, reply) => {
      reply.sse((async function * () { for await (const event of gen(request.url)) yield { data: JSON.stringify(event) } })())
    })
    return {
      port: await listenFastify(app),
      size: () => crowd.all.size,
      broadcast (event, room) {
        const data = JSON.stringify(event)
        for (const reply of crowd.of(room)) reply.sse({ data })
      }
    }
  },

  async 'better-sse' ({ heartbeatMs, gen }) {
    const { createChannel, createSession } = await import('better-sse')
    const all = createChannel()
    const rooms = new Map()
    const server = createServer(async (request, response) => {
      const session = await createSession(request, response, { keepAlive: heartbeatMs })
      if (request.url.startsWith('/stream')) {
        await session.iterate(gen(request.url))
        return response.end()
      }
      const room = roomOf(request.url)
      if (room !== '' && !rooms.has(room)) rooms.set(room, createChannel())
      all.register(session)
      rooms.get(room)?.register(session)
    })
    return {
      port: await listen(server),
      size: () => all.sessionCount,
      broadcast (event, room) { (room === undefined ? all : rooms.get(room)).broadcast(event) }
    }
  },

  async ws ({ heartbeatMs }) {
    const { WebSocketServer } = await import('ws')
    const crowd = new Crowd()
    const server = createServer()
    new WebSocketServer({ server, clientTracking: false }).on('connection', (socket, request) => greet(crowd, socket, request))
    setInterval(() => { for (const socket of crowd.all) socket.ping() }, heartbeatMs)
    return { port: await listen(server), size: () => crowd.all.size, broadcast: (event, room) => sendAll(crowd, event, room) }
  },

  async '@fastify/websocket' ({ heartbeatMs }) {
    const [{ default: fastify }, { default: plugin }] = await Promise.all([import('fastify'), import('@fastify/websocket')])
    const crowd = new Crowd()
    const app = fastify()
    await app.register(plugin)
    app.get('/ws', { websocket: true }, (socket, request) => greet(crowd, socket, request))
    setInterval(() => { for (const socket of crowd.all) socket.ping() }, heartbeatMs)
    return { port: await listenFastify(app), size: () => crowd.all.size, broadcast: (event, room) => sendAll(crowd, event, room) }
  },

  async crossws ({ heartbeatMs }) {
    const { default: crossws } = await import('crossws/adapters/node')
    let size = 0
    const websocket = crossws({
      idleTimeout: heartbeatMs / 1_000,
      hooks: {
        open (peer) {
          size++
          peer.subscribe('all')
          const room = roomOf(peer.request.url)
          if (room !== '') peer.subscribe(room)
        },
        message (peer, message) { peer.send(message.text()) },
        close () { size-- },
        error () {}
      }
    })
    const server = createServer().on('upgrade', websocket.handleUpgrade)
    return { port: await listen(server), size: () => size, broadcast (event, room = 'all') { websocket.publish(room, event) } }
  },

  async 'socket.io' ({ heartbeatMs }) {
    const { Server } = await import('socket.io')
    const server = createServer()
    const io = new Server(server, { transports: ['websocket'], serveClient: false, pingInterval: heartbeatMs })
    io.on('connection', (socket) => {
      const { room } = socket.handshake.query
      if (room !== undefined) socket.join(room)
    })
    return { port: await listen(server), size: () => io.engine.clientsCount, broadcast (event, room) { (room === undefined ? io : io.to(room)).emit('event', event) } }
  }
}

function greet (crowd, socket, request) {
  const room = roomOf(request.url)
  crowd.add(socket, room)
  socket.on('close', () => crowd.remove(socket, room))
  socket.on('error', () => {})
  socket.on('message', (message, isBinary) => socket.send(message, { binary: isBinary }))
}

function sendAll (crowd, event, room) {
  const text = JSON.stringify(event)
  for (const socket of crowd.of(room)) socket.send(text)
}
