// npm run bench: fastify-real and its peers, one server and one process of clients for each run, the contenders in turn.
//   --quick              one round of three contenders, at a small size: does it run? (nothing is written)
//   --only=sse,echo      these workloads only: sse, ws, rooms-sse, rooms-ws, tokens, echo (nothing is written)
//   --rounds=5           default 3
// A row is a ratio of server CPU per delivery, the one measured thing that a busy machine changes little.
import { fork, spawnSync } from 'node:child_process'
import { existsSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { arch, cpus, release, type } from 'node:os'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { chart } from './chart.mjs'
import { markdown, table, tabulate } from './report.mjs'

const { values: flags } = parseArgs({ options: { quick: { type: 'boolean', default: false }, only: { type: 'string' }, rounds: { type: 'string' } } })
const OURS = 'fastify-real'
const LIMIT = 60_000 // of a run
const here = (name) => fileURLToPath(new URL(name, import.meta.url))
const rounds = Number(flags.rounds ?? (flags.quick ? 1 : 3))
const size = flags.quick ? { crowd: 100, crowded: 400, tokens: 200, time: 100 } : { crowd: 1_000, crowded: 2_000, tokens: 1_000, time: 500 }

// so much at least, and for so long: on a busy machine a time alone is not enough to have the code compiled
const burst = (id, events, warm, atLeast) => ({ id, type: 'turns', events, warm, atLeast, time: size.time })
const bursts = [burst('1', 1, 50, 50), burst('10', 10, 5, 5), burst('100', 100, 0, 1)]
const broadcast = (kind, full, others) => ({
  kind,
  crowd: size.crowd,
  contenders: { ...Object.fromEntries(full.map((name) => [name, bursts])), ...Object.fromEntries(others.map((name) => [name, bursts.slice(0, 1)])) }
})
const rooms = (kind, names) => ({
  kind,
  crowd: size.crowded,
  rooms: size.crowded / 10,
  memory: true,
  contenders: Object.fromEntries(names.map((name) => [name, [burst('rooms', 10, 300, 300)]]))
})

const workloads = {
  sse: broadcast('sse', [OURS, 'http', '@fastify/sse'], ['better-sse', 'fastify-sse-v2']),
  ws: broadcast('ws', [OURS, 'ws', '@fastify/websocket'], ['socket.io', 'crossws']),
  'rooms-sse': rooms('sse', [OURS, 'http', '@fastify/sse', 'better-sse']),
  'rooms-ws': rooms('ws', [OURS, 'ws', '@fastify/websocket', 'socket.io']),
  tokens: {
    kind: 'sse',
    crowd: 0,
    contenders: Object.fromEntries([OURS, 'http', '@fastify/sse', 'better-sse'].map((name) => [name, [{ id: 'tokens', type: 'streams', readers: 100, tokens: size.tokens }]]))
  },
  echo: {
    kind: 'ws',
    crowd: 64,
    contenders: Object.fromEntries([OURS, 'ws', '@fastify/websocket', 'crossws'].map((name) => [name, [{ id: 'echo', type: 'echo', warm: size.crowd * 15, time: size.time }]]))
  }
}

/** Runs one contender once; gives what it cost, by phase. Rejects when a delivery was missing, came twice or out of order. */
function runOne (name, { contenders, rooms = 0, memory = false, ...workload }) {
  const config = { ...workload, contender: name, rooms, memory, phases: contenders[name] }
  const children = []
  const start = (file, more) => {
    const child = fork(here(file), [JSON.stringify({ ...config, ...more })], { execArgv: ['--expose-gc', '--no-warnings'] })
    children.push(child)
    return child
  }
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`nothing came for ${LIMIT / 1_000} s`)), LIMIT)
    const told = {}
    const settle = () => {
      if (told.server === undefined || told.clients === undefined) return
      clearTimeout(timer)
      const { errors, delivered } = told.clients
      if (errors.length > 0) reject(new Error(errors.join('; ')))
      else if (told.server.delivered > 0 && told.server.delivered !== delivered) reject(new Error(`${delivered} events came instead of ${told.server.delivered}`))
      else resolve(told.server.costs)
    }
    const listen = (child, key) => {
      child.on('exit', (code) => { if (told[key] === undefined) reject(new Error(`the ${key} exited with ${code}`)) })
      child.on('message', (message) => {
        if (message.port !== undefined) return listen(start('clients.mjs', message), 'clients')
        told[key] = message
        settle()
      })
    }
    listen(start('server.mjs', {}), 'server')
  }).finally(() => { for (const child of children) child.kill('SIGKILL') })
}

function versionsOf (names) {
  const require = createRequire(import.meta.url)
  const versions = Object.fromEntries(names.map((name) => [name, require(`./node_modules/${name}/package.json`).version]))
  return { [OURS]: require('../package.json').version, ...versions }
}

if (!existsSync(here('node_modules'))) {
  console.log('installing what is compared with')
  const { status } = spawnSync('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund'], { cwd: here('.'), stdio: 'inherit', shell: process.platform === 'win32' })
  if (status !== 0) process.exit(1)
}

const only = flags.only?.split(',') ?? Object.keys(workloads)
for (const name of only) if (!Object.hasOwn(workloads, name)) throw new Error(`there is no workload ${name}`)
const costs = {} // by workload, phase and contender: one figure a round
const failures = []
const began = performance.now()
for (let round = 0; round < rounds; round++) {
  for (const id of only) {
    const workload = workloads[id]
    const names = Object.keys(workload.contenders).slice(0, flags.quick ? 3 : undefined)
    for (let i = 0; i < names.length; i++) {
      const name = names[(i + round) % names.length]
      process.stdout.write(`round ${round + 1} of ${rounds}, ${id}: ${name} `)
      try {
        const from = performance.now()
        const run = await runOne(name, workload)
        for (const [phase, cost] of Object.entries(run)) ((costs[`${id} ${phase}`] ??= {})[name] ??= []).push(cost)
        console.log(Object.values(run).map((cost) => cost.toPrecision(3)).join(' '), `(${((performance.now() - from) / 1_000).toFixed(1)} s)`)
      } catch (err) {
        failures.push(`${id}: ${name}: ${err.message}`)
        console.log(`FAILED: ${err.message}`)
      }
    }
  }
}

const rows = tabulate(costs)
console.log(`\n${table(rows)}\n`)
console.log(`${Math.round((performance.now() - began) / 1_000)} s`)
if (failures.length > 0) {
  console.error(`not every event came once and in order:\n${failures.join('\n')}`)
  process.exitCode = 1
} else if (!flags.quick && flags.only === undefined) {
  const peers = Object.keys(createRequire(import.meta.url)('./package.json').devDependencies)
  const [{ model }] = cpus()
  const machine = { cores: cpus().length, model, system: `${type()} ${release()} ${arch()}`, node: process.version }
  writeFileSync(here('RESULTS.md'), markdown({ rows, machine, versions: versionsOf(peers), rounds, size, date: new Date().toISOString().slice(0, 10) }))
  writeFileSync(here('chart.svg'), chart(rows))
  console.log('written: bench/RESULTS.md, bench/chart.svg')
}
