// One server, in a process of its own: it is told what to run, runs it against bench/clients.mjs, and tells what it cost.
import { once } from 'node:events'
import { createServer } from 'node:net'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { eventOf, gen } from './events.mjs'

const { contender, kind, crowd, rooms, memory, phases } = JSON.parse(process.argv[2])
const SETTLE = 100
const HEARTBEAT = 15_000 // what fastify-real has by default

const create = contender === 'fastify-real' ? (await import('./contender.mjs')).create : (await import('./peers.mjs')).peers[contender]
const server = await create({ kind, heartbeatMs: HEARTBEAT, deflate: false, gen, first: null })
const numbers = new Array(Math.max(rooms, 1)).fill(0)
let delivered = 0

// mulberry32: every contender is given the same rooms
let state = 42
function random (below) {
  state = (state + 0x6d2b79f5) | 0
  let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
  mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
  return ((mixed ^ (mixed >>> 14)) >>> 0) % below
}

function send () {
  if (rooms === 0) return server.broadcast(eventOf(numbers[0]++))
  const room = random(rooms)
  server.broadcast(eventOf(numbers[room]++), `r${room}`)
}

async function collect () {
  for (let i = 0; i < (memory ? 3 : 1); i++) {
    globalThis.gc()
    await sleep(SETTLE)
  }
  return process.memoryUsage().rss
}

const control = createServer()
control.listen(0, '127.0.0.1')
await once(control, 'listening')
process.send({ port: server.port, control: control.address().port })
const [clients] = await once(control, 'connection')
clients.setNoDelay(true)
const lines = createInterface({ input: clients })[Symbol.asyncIterator]()

async function answer (question) {
  if (question !== '') clients.write(`${question}\n`)
  const { value, done } = await lines.next()
  if (done) process.exit(1) // the clients have gone; they said why
  return value
}

/** The next turn begins when everybody has had the last one. */
async function turns (events, atLeast, milliseconds) {
  const end = performance.now() + milliseconds
  let count = 0
  for (; count < atLeast || performance.now() < end; count++) {
    for (let i = 0; i < events; i++) send()
    await answer('')
  }
  const deliveries = count * events * (rooms === 0 ? crowd : crowd / rooms)
  delivered += deliveries
  return deliveries
}

async function cpuOf (work) {
  const cpu = process.cpuUsage()
  const deliveries = await work()
  const { user, system } = process.cpuUsage(cpu)
  return (user + system) / deliveries
}

const run = {
  async turns ({ events, warm, time, atLeast }) {
    await answer(`expect ${events * (rooms === 0 ? crowd : crowd / rooms)}`)
    await turns(events, warm, 0)
    return cpuOf(() => turns(events, atLeast, time))
  },

  async streams ({ readers, tokens }) {
    await answer(`streams ${readers} ${Math.ceil(tokens / 10)}`)
    return cpuOf(async () => {
      await answer(`streams ${readers} ${tokens}`)
      return readers * tokens
    })
  },

  async echo ({ warm, time }) {
    await answer('echo')
    while (Number(await answer('count')) < warm) await sleep(10)
    const cost = await cpuOf(async () => {
      const from = Number(await answer('count'))
      await sleep(time)
      return Number(await answer('count')) - from
    })
    await answer('stop')
    return cost
  }
}

async function connected (count) {
  await answer('')
  while (server.size() < count) await sleep(5)
  return collect()
}

// a quarter of them first: what a server needs anyway, and grows to in its first second, is no connection's
const before = await connected(crowd / 4)
clients.write('more\n')
const after = await connected(crowd)
const costs = {}
if (memory) costs.memory = (after - before) / (crowd * 3 / 4)
for (const phase of phases) costs[phase.id] = await run[phase.type](phase)
process.send({ costs, delivered })
clients.write('end\n')
