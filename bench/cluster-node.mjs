// One node of a cluster, in a process of its own: it sends what it is told to, and tells what it cost.
import { subscribe } from 'node:diagnostics_channel'
import { createServer } from 'node:http'
import { createRequire } from 'node:module'
import { eventOf } from './events.mjs'

const { contender, kept, broker, members } = JSON.parse(process.argv[2])
const root = createRequire(new URL('../package.json', import.meta.url))
const links = []
subscribe('net.client.socket', ({ socket }) => links.push(socket)) // those to the broker: a node opens no others

const node = await { redis: ours, nats: ours, 'socket.io': peer }[contender]()

async function ours () {
  const { connections, wsReal } = await import('../dist/lib/index.js')
  const { default: Fastify } = await import('fastify')
  const app = Fastify()
  await app.register(connections, { backplane: await backplane(), maxConnections: 100_000, maxPerAddress: 100_000, ...kept ? {} : { history: false } })
  await app.register(wsReal)
  app.get('/', { ws: true }, { onConnect: (connection, { query }) => connection.join(query.room) })
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address()
  // what a client that resumes is sent has an id, and is JSON
  return { port, size: () => app.connections.size, send: (room, event) => app.connections.room(room).send({ event: 'n', data: event }) }
}

async function backplane () {
  if (contender === 'redis') {
    const { createClient } = root('@redis/client')
    const { redis } = await import('../dist/lib/backplanes/redis.js')
    return redis({ client: createClient({ url: broker }) })
  }
  const { connect } = root('@nats-io/transport-node')
  const { nats } = await import('../dist/lib/backplanes/nats.js')
  return nats({ connection: (safe) => connect({ servers: broker, ...safe }) })
}

async function peer () {
  const { Server } = await import('socket.io')
  const { createAdapter } = await import('@socket.io/redis-streams-adapter')
  const { createClient } = root('@redis/client')
  const client = createClient({ url: broker })
  await client.connect()
  const http = createServer()
  const io = new Server(http, { transports: ['websocket'], serveClient: false, adapter: createAdapter(client), ...kept ? { connectionStateRecovery: {} } : {} })
  io.on('connection', (socket) => { socket.join(socket.handshake.query.room) })
  await new Promise((resolve) => http.listen(0, '127.0.0.1', resolve))
  return { port: http.address().port, size: () => io.of('/').sockets.size, async send (room, event) { io.to(room).emit('n', event) } }
}

const bytes = () => links.reduce((sum, { bytesRead, bytesWritten }) => sum + bytesRead + bytesWritten, 0)
let from = null

const commands = {
  /** So many events, to each of its rooms in turn; an event has its number in its room. */
  async send ({ rooms, from, count, first }) {
    const sent = []
    for (let i = 0; i < count; i++) sent.push(node.send(`r${from + (first + i) % rooms}`, eventOf(Math.floor((first + i) / rooms))))
    const receipts = await Promise.all(sent)
    process.send({ answered: receipts.filter((receipt) => receipt?.accepted !== false).length })
  },
  begin () {
    from = { cpu: process.cpuUsage(), bytes: bytes() }
    process.send({ begun: true })
  },
  end () {
    const { user, system } = process.cpuUsage(from.cpu)
    process.send({ cpu: user + system, bytes: bytes() - from.bytes })
  }
}

process.on('message', ({ command, ...options }) => { void commands[command](options) })
process.on('disconnect', () => process.exit())
const waiting = setInterval(() => {
  if (node.size() < members) return
  clearInterval(waiting)
  setTimeout(() => process.send({ full: true }), 100) // joins are acknowledged
}, 10)
process.send({ port: node.port })
