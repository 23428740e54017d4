import t from 'tap'
import type { Test } from 'tap'
import type { Connection, Disconnect } from '../../lib/index.ts'
import { injectWS } from '../../lib/testing.ts'
import { child } from '../child.ts'
import { build, listen, until, wsClient } from '../helper.ts'
import { closeFrame, frame, rawUpgrade } from '../raw-ws.ts'
import type { Raw } from '../raw-ws.ts'

interface Place { app: Awaited<ReturnType<typeof build>>, port: number, ends: Disconnect[] }

async function place (t: Test, heartbeat: number): Promise<Place> {
  const app = await build(t, { connections: { heartbeat } })
  const ends: Disconnect[] = []
  app.ws('/x', {
    async onConnect (connection) { await connection.join('room', { presence: { key: connection.id } }) },
    onMessage (connection: Connection, message: unknown) { connection.send(message as string) },
    onDisconnect (_connection, end) { ends.push(end) }
  })
  return { app, port: await listen(app), ends }
}

const pings = (raw: Raw): number => raw.frames.filter(({ opcode }) => opcode === 9).length

t.test('a client that answers pings stays, with and without traffic', async (t) => {
  const { app, port, ends } = await place(t, 40)
  const quiet = await wsClient(port, '/x')
  const busy = await wsClient(port, '/x')
  let seen = 0
  quiet.socket.on('ping', () => { seen++ })
  const traffic = setInterval(() => busy.send('x'), 10)
  t.after(() => clearInterval(traffic))
  await until(() => seen >= 8)
  t.strictSame(ends, [])
  t.equal(app.connections.size, 2)
})

t.test('a client that does not answer is gone after two missed pongs, from its rooms and presence too', async (t) => {
  const { app, port, ends } = await place(t, 40)
  const raw = await rawUpgrade(t, port, '/x')
  await until(() => app.connections.room('room').size === 1)
  await until(() => ends.length === 1)
  t.equal(pings(raw), 2)
  t.match(ends, [{ code: 1006, reason: 'lost', clean: false, rooms: ['room'] }])
  t.strictSame([app.connections.size, app.connections.room('room').size], [0, 0])
  t.strictSame(await app.connections.room('room').presence(), [])
  await until(() => raw.ended)
  t.equal(raw.closeCode, 0, 'nobody is there to be told')
})

t.test('one pong is enough, whatever it carries; so is a message', async (t) => {
  const { port, ends } = await place(t, 40)
  const raw = await rawUpgrade(t, port, '/x')
  for (const sign of [frame(10), frame(10, 'unasked'), frame(1, 'x'), frame(9)]) {
    const before = pings(raw)
    await until(() => pings(raw) > before || raw.ended)
    raw.write(sign)
  }
  t.strictSame(ends, [])
  raw.socket.end(closeFrame(1000))
  await until(() => ends.length === 1)
  t.equal(ends[0]?.code, 1000)
})

t.test('bytes of a large message on a slow line are a sign of life, until they cease', async (t) => {
  const { port, ends } = await place(t, 40)
  const raw = await rawUpgrade(t, port, '/x')
  const bytes = frame(1, 'x'.repeat(1_000))
  let at = 0
  while (pings(raw) < 8 && !raw.ended) {
    raw.write(bytes.subarray(at, at += 10))
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  t.notOk(raw.ended)
  t.strictSame(ends, [])
  await until(() => raw.ended)
  t.match(ends, [{ code: 1006 }])
})

t.test('heartbeat: 0 asks nobody', async (t) => {
  const { port, ends } = await place(t, 0)
  const raw = await rawUpgrade(t, port, '/x')
  await new Promise((resolve) => setTimeout(resolve, 600)) // two steps of the clock
  t.equal(pings(raw), 0)
  t.strictSame(ends, [])
})

t.test('pings are answered', async (t) => {
  const { port } = await place(t, 0)
  const raw = await rawUpgrade(t, port, '/x')
  for (const payload of ['', 'x', '\0\xff', 'y'.repeat(125)]) raw.write(frame(9, payload))
  const pongs = (): string[] => raw.frames.filter(({ opcode }) => opcode === 10).map(({ payload }) => payload.toString())
  await until(() => pongs().length === 4)
  t.strictSame(pongs(), ['', 'x', '\0\xff', 'y'.repeat(125)])
})

t.test('a client whose process stands still is gone; it finds out when it goes on', async (t) => {
  const { app, port, ends } = await place(t, 120)
  const clients = await child(t, 'ws-clients.ts', { waits: false, env: { URL: `ws://127.0.0.1:${port}/x`, COUNT: '5' } })
  await clients.told('open')
  await until(() => app.connections.room('room').size === 5)
  clients.kill('SIGSTOP')
  await until(() => app.connections.size === 0)
  t.strictSame(ends.map(({ code }) => code), [1006, 1006, 1006, 1006, 1006])
  clients.kill('SIGCONT')
  await until(() => clients.lines.filter((line) => line.includes('closed')).length === 5)
  t.match(clients.lines.at(-1), /1006/)
})

t.test('a server that stands still takes nobody for lost', async (t) => {
  const { app, port, ends } = await place(t, 120)
  const clients = await child(t, 'ws-clients.ts', { waits: false, env: { URL: `ws://127.0.0.1:${port}/x`, COUNT: '20' } })
  await clients.told('open')
  await until(() => app.connections.room('room').size === 20)
  for (let round = 0; round < 2; round++) {
    const until = performance.now() + 700
    while (performance.now() < until); // nothing is read, and no timer runs
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
  const wire = ([...app.connections] as unknown as Array<{ wire: { missed: number } }>).map(({ wire }) => wire)
  await until(() => wire.every(({ missed }) => missed === 0))
  t.equal(app.connections.size, 20)
  t.strictSame(ends, [])
  await app.connections.room('room').send('still here')
  await until(() => clients.lines.filter((line) => line.includes('still here')).length === 20)
})

t.test('a wire that cannot count its bytes is looked after too', async (t) => {
  const { app, ends } = await place(t, 40)
  const client = await injectWS(app, '/x')
  await until(() => app.connections.room('room').size === 1)
  let seen = 0
  client.socket.on('ping', () => { seen++ })
  await until(() => seen === 4)
  t.strictSame(ends, [])
  client.socket.pause()
  await until(() => ends.length === 1)
  t.match(ends, [{ code: 1006 }])
})
