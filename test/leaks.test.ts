import t from 'tap'
import { bareSocket, bareStream } from './bare.ts'
import type { Bare } from './bare.ts'
import { child } from './child.ts'
import type { Child } from './child.ts'
import { until } from './helper.ts'

interface Health { heap: number, files: number, timers: number, handles: number, listeners: string[][] }

async function ask<T> ({ port }: Child, path: string): Promise<T> {
  const response = await fetch(`http://127.0.0.1:${port}${path}`, { headers: { connection: 'close' } })
  return await response.json() as T
}

const opens: Array<(port: number) => Promise<Bare>> = [
  (port) => bareStream(port, '/live'),
  (port) => bareStream(port, '/source'),
  (port) => bareStream(port, '/alone', 'Last-Event-ID: abc-7\r\n'),
  (port) => bareSocket(port, '/hall'),
  (port) => bareSocket(port, '/alone?lastEventId=')
]
const CLOSE = Buffer.from([0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8])
const leaves: Array<(client: Bare) => void> = [
  ({ socket }) => socket.end(),
  ({ socket }) => socket.destroy(),
  ({ socket }) => socket.resetAndDestroy(),
  ({ socket }) => socket.end(CLOSE) // for a stream nothing but noise before it leaves
]

/** As many come and go, of each kind and in each way. */
async function visit (server: Child, count: number): Promise<void> {
  const batch = opens.length * leaves.length * 5
  for (let done = 0; done < count; done += batch) {
    const clients = await Promise.all(Array.from({ length: batch }, (_, i) => (opens[i % opens.length] as typeof opens[0])(server.port)))
    for (const [i, client] of clients.entries()) (leaves[Math.floor(i / opens.length) % leaves.length] as typeof leaves[0])(client)
  }
  await until(async () => (await ask<{ connections: number }>(server, '/stats')).connections === 0)
}

t.test('ten thousand connections that come and go leave nothing behind', async (t) => {
  const server = await child(t, 'server.ts', { execArgv: ['--expose-gc'], env: { LOG: 'off' } })
  await visit(server, 2_000) // what is made once is made
  const base = await ask<Health>(server, '/health')
  const heaps = [base.heap]
  const ROUNDS = 4
  for (let round = 0; round < ROUNDS; round++) {
    await visit(server, 2_000)
    heaps.push((await ask<Health>(server, '/health')).heap)
  }
  await until(async () => (await ask<Health>(server, '/health')).files <= base.files)
  const now = await ask<Health>(server, '/health')
  t.same(now.listeners, base.listeners)
  t.equal(now.handles, base.handles)
  t.ok(slope(heaps) / 2_000 < 512, `bytes of a connection that is gone: ${slope(heaps) / 2_000}; ${heaps.join(' ')}`)
  const stats = await ask<Record<string, number>>(server, '/stats')
  t.match(stats, { connections: 0, rooms: 0, users: 0, connected: 2_000 * (ROUNDS + 1), disconnected: 2_000 * (ROUNDS + 1) })
  t.equal(stats.finished, stats.begun, 'every source has run to its end')
  server.kill('SIGTERM')
  t.same(await server.exited(), { code: 0, signal: null })
  t.equal(server.errors, '')
})

t.test('no timer of theirs runs on, not even one that would hold no process', async (t) => {
  const server = await child(t, 'server.ts', { env: { TIMERS: '1', OPTIONS: JSON.stringify({ hold: 3_600_000 }) } })
  const least = async (): Promise<number> => Math.min((await ask<Health>(server, '/health')).timers, (await ask<Health>(server, '/health')).timers)
  await visit(server, 100)
  const base = await least()
  await visit(server, 1_000)
  await until(async () => await least() <= base)
  t.ok(base > 0 && base < 50, `${base}`)
  server.kill('SIGTERM')
  t.same(await server.exited(), { code: 0, signal: null })
})

/** How much is added by each round: least squares. */
function slope (values: number[]): number {
  const mean = (numbers: number[]): number => numbers.reduce((sum, value) => sum + value, 0) / numbers.length
  const middle = (values.length - 1) / 2
  const level = mean(values)
  return values.reduce((sum, value, i) => sum + (i - middle) * (value - level), 0) / values.reduce((sum, _, i) => sum + (i - middle) ** 2, 0)
}
