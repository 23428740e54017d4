import { connect } from '@nats-io/transport-node'
import { createClient } from '@redis/client'
import Fastify from 'fastify'
import type { FastifyInstance } from 'fastify'
import { connections, wsReal } from 'fastify-real'
import { nats } from 'fastify-real/nats'
import { redis } from 'fastify-real/redis'

// One chat on two nodes. Start it twice, with PORT=3000 and PORT=3001, and open a page on each. `/kill` kills the node a page is on:
// the page goes on at the other one, from the last event it saw.
const { BROKER = 'redis://localhost:6379', NODES = 'localhost:3000,localhost:3001' } = process.env

export async function build (): Promise<FastifyInstance> {
  const app = Fastify()
  const nodes = NODES.split(',')
  const backplane = BROKER.startsWith('nats:')
    ? nats({ connection: (safe) => connect({ servers: BROKER, ...safe }) })
    : redis({ client: createClient({ url: BROKER }) })
  await app.register(connections, { backplane })
  await app.register(wsReal, { allowedOrigins: nodes.map((node) => `http://${node}`) }) // a page comes to the other node, too

  app.get('/chat', { ws: true }, {
    async onConnect (connection) { await connection.join('chat') },
    async onMessage (_connection, message) {
      if (String(message) === '/kill') process.kill(process.pid, 'SIGKILL')
      await app.connections.room('chat').send({ event: 'said', data: { text: String(message), node: process.env.PORT } })
    }
  })

  app.get('/', async (_request, reply) => reply.type('text/html; charset=utf-8').send(`<!doctype html>
<title>A cluster</title>
<p>On <b></b></p>
<form><input autofocus placeholder="Say something, or /kill"></form>
<ol></ol>
<script>
const nodes = ${JSON.stringify(nodes)}
const [where, form, input, list] = ['b', 'form', 'input', 'ol'].map((name) => document.querySelector(name))
let at = Math.max(0, nodes.indexOf(location.host))
let lastEventId = ''
let socket
function open () {
  socket = new WebSocket('ws://' + nodes[at] + '/chat?lastEventId=' + lastEventId)
  socket.onopen = () => { where.textContent = nodes[at] }
  socket.onmessage = ({ data }) => {
    const { id, event, data: said } = JSON.parse(data)
    lastEventId = id ?? lastEventId
    if (event === 'said') list.appendChild(document.createElement('li')).textContent = said.text + ' (sent on ' + said.node + ')'
  }
  socket.onclose = () => {
    where.textContent = 'no node'
    at = (at + 1) % nodes.length
    setTimeout(open, 500)
  }
}
form.onsubmit = (event) => {
  event.preventDefault()
  socket.send(input.value)
  input.value = ''
}
open()
</script>`))
  return app
}

if (import.meta.filename === process.argv[1]) console.log(await (await build()).listen({ port: Number(process.env.PORT ?? 3000) }))
