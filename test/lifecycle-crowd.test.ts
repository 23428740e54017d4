import t from 'tap'
import { child } from './child.ts'
import { until } from './helper.ts'
import { closeCode, isWhole, bareSocket, bareStream, retryOf } from './bare.ts'
import type { Bare } from './bare.ts'

const EACH = 1_000
const STUCK = 30
const PILE = 6 * 1_048_576 // the kernel takes about four megabytes for a reader that does not read
const grace = 4_000
const within = 1_000

/** Opens many, some at a time: a listener has a backlog. */
async function many (count: number, open: () => Promise<Bare>): Promise<Bare[]> {
  const made: Bare[] = []
  while (made.length < count) made.push(...await Promise.all(Array.from({ length: Math.min(50, count - made.length) }, open)))
  return made
}

t.test('a server with a thousand streams and a thousand WebSockets, thirty of each not reading, ends within the grace and its process with it', async (t) => {
  const server = await child(t, 'server.ts', { env: { OPTIONS: JSON.stringify({ drain: { grace, within }, slow: 'drop' }) } })
  const { port } = server
  const reading = { sse: await many(EACH - STUCK - 10, () => bareStream(port, '/live')), ws: await many(EACH - STUCK, () => bareSocket(port, '/hall')) }
  const sources = await many(10, () => bareStream(port, '/source'))
  const stuck = [...await many(STUCK, () => bareStream(port, '/live?room=stuck')), ...await many(STUCK, () => bareSocket(port, '/hall?room=stuck'))]
  const stats = async (): Promise<Record<string, number>> => await (await fetch(`http://127.0.0.1:${port}/stats`)).json() as Record<string, number>
  await until(async () => (await stats()).connections === 2 * EACH)
  for (const { socket } of stuck) socket.pause()
  t.match(await (await fetch(`http://127.0.0.1:${port}/pile?room=stuck&bytes=${PILE}`)).json(), { accepted: true, members: 2 * STUCK })

  const began = performance.now()
  server.kill('SIGTERM')
  const told = await server.told('done')
  t.same(await server.exited(), { code: 0, signal: null })
  t.equal(server.errors, '')
  t.match(told, { connected: 2 * EACH, disconnected: 2 * EACH, opened: 2 * EACH, closed: 2 * EACH, begun: 10, finished: 10 })
  t.equal(told.clean, 2 * (EACH - STUCK), 'all that read ended cleanly')

  const readers = [...reading.sse, ...sources, ...reading.ws]
  await until(() => readers.every(({ closed }) => closed))
  const streams = [...reading.sse, ...sources]
  t.equal(streams.filter(isWhole).length, streams.length, 'every stream has its last chunk')
  t.equal(streams.filter((client) => client.at + retryOf(client) >= began + grace).length, streams.length, 'none comes back before the grace is over')
  const retries = streams.map(retryOf)
  t.ok(Math.max(...retries) <= grace + within)
  t.ok(new Set(retries).size > streams.length / 10, 'nor all at once')
  t.equal(reading.ws.filter((client) => closeCode(client) === 1001).length, reading.ws.length)
  for (const { socket } of stuck) socket.resume()
  await until(() => stuck.every(({ closed }) => closed))
  t.equal(stuck.filter(isWhole).length, 0, 'those that do not read were cut')
})
