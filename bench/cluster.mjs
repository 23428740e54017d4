// npm run bench:cluster: what an event costs on one, two and four nodes, beside socket.io with its Redis Streams adapter.
//   --quick           one round of two nodes, at a small size (nothing is written)
//   --rounds=5        default 3
//   --nodes=1,2       so many nodes only; default 1,2,4
//   --continue=FILE   goes on with the rounds in this file, and leaves its own there: for a machine that is quiet now and then
// Every run has a broker, its nodes and its clients in processes of their own, all fresh. Each room is written by one node, all nodes
// write as much, and the next turn begins when everybody has had the last one.
import { fork, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { createConnection, createServer } from 'node:net'
import { cpus, release, tmpdir, type } from 'node:os'
import { delimiter, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const { values: flags } = parseArgs({ options: { quick: { type: 'boolean', default: false }, rounds: { type: 'string' }, nodes: { type: 'string' }, continue: { type: 'string' } } })
const rounds = Number(flags.rounds ?? (flags.quick ? 1 : 3))
const ROOMS = 20
const MEMBERS = 12 // of each room, on as many nodes as there are
const WARM = flags.quick ? 10 : 100 // turns, of the first size
const TURNS = [20, 200] // events of a turn: one to each room, and ten
const EVENTS = flags.quick ? 600 : 4_000 // that are measured, of each
const PATIENCE = 3_000 // with a turn whose events do not come
const TICK = 10_000 // microseconds of a tick of the processor's time in /proc
const contenders = ['redis', 'nats', 'socket.io']
const cases = []
for (const kept of [true, false]) for (const nodes of flags.nodes?.split(',').map(Number) ?? (flags.quick ? [2] : [1, 2, 4])) cases.push({ kept, nodes })

const here = (name) => fileURLToPath(new URL(name, import.meta.url))
const programs = Object.fromEntries(['redis-server', 'nats-server'].map((name) => [name, [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin'].map((folder) => join(folder, name)).find(existsSync)]))
for (const [name, path] of Object.entries(programs)) if (path === undefined) throw new Error(`${name} is not installed`)

async function startBroker (contender) {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address()
  server.close()
  const folder = mkdtempSync(join(tmpdir(), 'bench-'))
  const child = contender === 'nats'
    ? spawn(programs['nats-server'], ['-a', '127.0.0.1', '-p', String(port), '-js', '-sd', folder], { stdio: 'ignore' })
    : spawn(programs['redis-server'], ['--port', String(port), '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', '--dir', folder], { stdio: 'ignore' })
  const listens = () => new Promise((resolve) => {
    const socket = createConnection(port, '127.0.0.1').on('connect', () => { socket.destroy(); resolve(true) }).on('error', () => resolve(false))
  })
  while (!await listens()) await sleep(10)
  await sleep(100)
  return {
    url: `${contender === 'nats' ? 'nats' : 'redis'}://127.0.0.1:${port}`,
    /** Microseconds of processor time, where the system tells. */
    cpu () {
      try {
        const fields = readFileSync(`/proc/${child.pid}/stat`, 'latin1').split(') ')[1].split(' ')
        return (Number(fields[11]) + Number(fields[12])) * TICK
      } catch {
        return NaN
      }
    },
    stop () {
      child.kill('SIGKILL')
      rmSync(folder, { recursive: true, force: true })
    }
  }
}

/** Runs one contender once: what an event cost, and whether it came. */
async function runOne (contender, { kept, nodes: count }) {
  const broker = await startBroker(contender)
  const children = []
  const start = (file, config) => {
    const child = fork(here(file), [JSON.stringify({ contender, kept, rooms: ROOMS, ...config })])
    child.on('exit', (code) => { if (!isOver) problems.push(`${file} exited with ${code}`) })
    children.push(child)
    return child
  }
  const problems = []
  let isOver = false
  const answer = (child, key) => new Promise((resolve, reject) => {
    const done = (settle, value) => {
      child.off('message', heard).off('exit', gone)
      settle(value)
    }
    const heard = (message) => { if (key in message) done(resolve, message) }
    const gone = () => done(reject, new Error(`a process exited before it said ${key}`))
    child.on('message', heard).on('exit', gone)
  })
  try {
    const nodes = Array.from({ length: count }, () => start('cluster-node.mjs', { broker: broker.url, members: ROOMS * MEMBERS / count }))
    const full = nodes.map((node) => answer(node, 'full'))
    const ports = (await Promise.all(nodes.map((node) => answer(node, 'port')))).map(({ port }) => port)
    const clients = start('cluster-clients.mjs', { ports, members: MEMBERS })
    let got = { delivered: 0, faults: { missing: 0, again: 0 } }
    let arrived = () => {}
    clients.on('message', (message) => {
      if (message.delivered === undefined) return
      got = message
      arrived()
    })
    await answer(clients, 'opened')
    await Promise.all(full)

    // each node writes to rooms of its own: a room's events have one order
    let published = 0
    let lost = 0
    const first = nodes.map(() => 0)
    const share = ROOMS / count
    const turn = async (events) => {
      const answers = nodes.map(async (node, at) => {
        const answered = answer(node, 'answered')
        node.send({ command: 'send', rooms: share, from: at * share, count: events / count, first: first[at] })
        first[at] += events / count
        return (await answered).answered
      })
      published += events
      const wanted = published * MEMBERS - lost
      const had = new Promise((resolve) => { arrived = () => { if (got.delivered >= wanted) resolve(true) } })
      arrived()
      if ((await Promise.all(answers)).reduce((sum, one) => sum + one) !== events) problems.push('an event was refused')
      if (await Promise.race([had, sleep(PATIENCE, false, { ref: false })])) return
      lost += wanted - got.delivered
      problems.push(`${wanted - got.delivered} deliveries did not come`)
    }
    const measured = async (events) => {
      const told = (command, key) => Promise.all(nodes.map(async (node) => {
        const answered = answer(node, key)
        node.send({ command })
        return await answered
      }))
      await told('begin', 'begun')
      const brokerFrom = broker.cpu()
      for (let i = 0; i < EVENTS / events && problems.length < 5; i++) await turn(events)
      const costs = await told('end', 'cpu')
      const sum = (key) => costs.reduce((total, cost) => total + cost[key], 0) / EVENTS
      return { publish: sum('cpu'), delivery: sum('cpu') / MEMBERS, broker: (broker.cpu() - brokerFrom) / EVENTS, bytes: sum('bytes') }
    }
    for (let i = 0; i < WARM; i++) await turn(TURNS[0])
    const costs = {}
    for (const events of TURNS) costs[events] = await measured(events)
    await sleep(100) // for what should not come any more
    const { missing, again } = got.faults
    return {
      costs,
      delivered: 100 * (got.delivered - again) / (published * MEMBERS),
      again,
      problems: [...problems, ...missing > 0 ? [`${missing} are missing in their order`] : [], ...again > 0 ? [`${again} came again`] : []]
    }
  } finally {
    isOver = true
    for (const child of children) child.kill('SIGKILL')
    broker.stop()
  }
}

function spread (values) {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  return { median: sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2, min: sorted[0], max: sorted.at(-1) }
}

const keyOf = (contender, { kept, nodes }) => `${contender} ${kept} ${nodes}`
const runs = flags.continue !== undefined && existsSync(flags.continue) ? JSON.parse(readFileSync(flags.continue, 'utf8')) : {}
const failures = []
const began = performance.now()
for (let round = 0; round < rounds; round++) {
  for (const one of cases) {
    for (let i = 0; i < contenders.length; i++) {
      const contender = contenders[(i + round) % contenders.length]
      process.stdout.write(`round ${round + 1} of ${rounds}, ${one.nodes} nodes, ${one.kept ? 'kept' : 'not kept'}: ${contender} `)
      try {
        const run = await runOne(contender, one)
        ;(runs[keyOf(contender, one)] ??= []).push(run)
        const text = TURNS.map((events) => `${run.costs[events].publish.toFixed(0)} us, broker ${run.costs[events].broker.toFixed(0)} us, ${run.costs[events].bytes.toFixed(0)} bytes`)
        console.log(`${text.join('; ')}; ${run.delivered.toFixed(2)} %${run.problems.length > 0 ? ` ${[...new Set(run.problems)].join('; ')}` : ''}`)
        if (run.problems.length > 0 && contender !== 'socket.io') failures.push(`${keyOf(contender, one)}: ${run.problems.join('; ')}`)
      } catch (err) {
        failures.push(`${keyOf(contender, one)}: ${err.message}`)
        console.log(`FAILED: ${err.message}`)
      }
    }
  }
}

const name = { redis: 'fastify-real, redis()', nats: 'fastify-real, nats()', 'socket.io': 'socket.io, redis-streams-adapter' }
const round = (value) => value >= 100 ? value.toFixed(0) : value.toFixed(1)
const text = ({ median, min, max }) => `${round(median)} [${round(min)}-${round(max)}]`
const row = (values) => `| ${values.join(' | ')} |`
const lines = [row(['', 'nodes', 'events a turn', 'CPU of all nodes per publish, us', 'per delivery, us', 'of socket.io\'s', 'CPU of the broker per publish, us', 'bytes to and from the broker per publish', 'delivered']), row(Array(9).fill('---'))]
const all = [...new Set(Object.keys(runs).map((key) => key.slice(key.indexOf(' ') + 1)))].map((key) => ({ kept: key.startsWith('true'), nodes: Number(key.split(' ')[1]) }))
for (const one of all.sort((a, b) => Number(b.kept) - Number(a.kept) || a.nodes - b.nodes)) {
  for (const events of TURNS) {
    for (const contender of contenders) {
      const mine = runs[keyOf(contender, one)]
      if (mine === undefined) continue
      const theirs = runs[keyOf('socket.io', one)]
      const of = (key) => spread(mine.map(({ costs }) => costs[events][key]))
      const ratio = contender === 'socket.io' || theirs === undefined ? '' : (({ median, min, max }) => `${median.toFixed(2)} [${min.toFixed(2)}-${max.toFixed(2)}]`)(spread(mine.map(({ costs }, at) => costs[events].delivery / theirs[Math.min(at, theirs.length - 1)].costs[events].delivery)))
      const again = mine.reduce((sum, run) => sum + run.again, 0)
      const delivered = Math.min(...mine.map((run) => run.delivered))
      lines.push(row([`${name[contender]}, ${one.kept ? 'kept' : 'not kept'}`, one.nodes, events, text(of('publish')), of('delivery').median.toFixed(1), ratio, text(of('broker')), text(of('bytes')), `${delivered.toFixed(2)} %${again > 0 ? `, ${again} twice` : ''}`]))
    }
  }
}
if (flags.continue !== undefined) writeFileSync(flags.continue, JSON.stringify(runs))
console.log(`\n${lines.join('\n')}\n\n${Math.round((performance.now() - began) / 1_000)} s`)
if (failures.length > 0) {
  console.error(`not every event came once and in order:\n${failures.join('\n')}`)
  process.exitCode = 1
} else if (!flags.quick) {
  const require = createRequire(import.meta.url)
  const version = (of, from = require) => `${of} ${from(`./node_modules/${of}/package.json`).version}`
  const root = createRequire(new URL('../package.json', import.meta.url))
  const [{ model }] = cpus()
  writeFileSync(here('CLUSTER.md'), `# What an event costs on several nodes

\`npm run bench:cluster\`, ${new Date().toISOString().slice(0, 10)}: ${cpus().length} x ${model}, ${type()} ${release()}, Node ${process.version}; ${version('socket.io')}, ${version('@socket.io/redis-streams-adapter')}, ${version('@redis/client', root)}, ${version('@nats-io/transport-node', root)}.

${ROOMS} rooms of ${MEMBERS} WebSocket clients each, spread over all nodes; an event is 200 bytes of JSON. All nodes publish; the next turn
begins when every client has had the last one, and each of them checks that every event comes once and in order. The figures are of
${EVENTS} events after ${WARM * TURNS[0]} others: median [least-most] of ${Math.max(...Object.values(runs).map(({ length }) => length))} rounds, in which the contenders take turns. A ratio is of the same round.
Kept: fastify-real with the default history, for clients that can resume; socket.io with \`connectionStateRecovery\`, whose adapter writes
every event to the stream either way. The brokers run with their defaults, Redis without persistence, JetStream with its file store.

${lines.join('\n')}
`)
  console.log('written: bench/CLUSTER.md')
}
