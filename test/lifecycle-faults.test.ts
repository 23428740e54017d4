import t from 'tap'
import { asks, bare, bareSocket, bareStream, upgrades } from './bare.ts'
import { child } from './child.ts'
import { until, wsClient } from './helper.ts'

async function ask (port: number, path: string): Promise<Record<string, number>> {
  return await (await fetch(`http://127.0.0.1:${port}${path}`, { headers: { connection: 'close' } })).json() as Record<string, number>
}

t.test('a second SIGTERM is harmless', async (t) => {
  const server = await child(t, 'server.ts', { env: { OPTIONS: JSON.stringify({ drain: { grace: 800, within: 0 } }) } })
  const deaf = await bare(server.port, upgrades('/hall')) // does not answer the close frame, so the close takes its time
  await until(() => deaf.text.includes('101'))
  server.kill('SIGTERM')
  const heard = (key: string): number => server.lines.filter((line) => line.includes(key)).length
  await server.told('closing')
  server.kill('SIGTERM')
  await until(() => heard('closing') === 2)
  t.same(await server.exited(), { code: 0, signal: null })
  t.equal(heard('"done"'), 2, 'each close has ended')
  t.match(await server.told('done'), { connected: 1, disconnected: 1, opened: 1, closed: 1 })
  t.equal(server.errors, '')
})

t.test('a server that stood still takes nobody for lost who lives, but those who do not answer', async (t) => {
  const heartbeat = 300
  const server = await child(t, 'server.ts', { env: { OPTIONS: JSON.stringify({ heartbeat }) } })
  let pings = 0
  const living = await Promise.all(Array.from({ length: 20 }, async () => {
    const client = await wsClient(server.port, '/hall')
    client.socket.on('ping', () => { pings++ })
    return client
  }))
  const streams = await Promise.all(Array.from({ length: 5 }, () => bareStream(server.port, '/live')))
  await until(() => pings >= 20)
  server.kill('SIGSTOP')
  await new Promise((resolve) => setTimeout(resolve, 5 * heartbeat))
  server.kill('SIGCONT')
  const before = pings
  await until(() => pings >= before + 20 * 4)
  t.match(await ask(server.port, '/stats'), { connections: 25, disconnected: 0 })
  t.equal(living.filter(({ closed }) => closed !== null).length, 0)
  t.equal(streams.filter(({ closed }) => closed).length, 0)

  const dead = await bareSocket(server.port, '/hall') // answers no ping
  await until(() => dead.closed)
  t.match(await ask(server.port, '/stats'), { connections: 25, disconnected: 1 })
  server.kill('SIGTERM')
  t.same(await server.exited(), { code: 0, signal: null })
})

t.test('clients that vanish without a word are found: WebSockets by their pongs, streams by their age', async (t) => {
  const env = { OPTIONS: JSON.stringify({ heartbeat: 100 }), SSE: JSON.stringify({ maxAge: 1_500 }), HOST: '0.0.0.0' }
  const server = await child(t, 'server.ts', { env })
  const clients = await child(t, 'clients.ts', { env: { PORT: String(server.port), EACH: '20' }, waits: false })
  await clients.told('ready')
  clients.kill('SIGSTOP') // their sockets stay open, and nobody is there
  await until(async () => (await ask(server.port, '/stats')).connections === 0)
  t.match(await ask(server.port, '/stats'), { connected: 40, disconnected: 40, rooms: 0 })
  clients.kill('SIGKILL')
  server.kill('SIGTERM')
  t.same(await server.exited(), { code: 0, signal: null })
})

t.test('without a file descriptor left those who are here stay, and once there are some again others are let in', async (t) => {
  const server = await child(t, 'server.ts', { prefix: ['prlimit', '--nofile=100:100'], env: { LOG: 'off' } })
  const here = await Promise.all(Array.from({ length: 10 }, (_, i) => i % 2 === 0 ? bareStream(server.port, '/live') : bareSocket(server.port, '/hall')))
  const speaker = await bare(server.port)
  const say = async (mark: string): Promise<void> => {
    speaker.socket.write(asks(`/pile?bytes=0&mark=${mark}`))
    await until(() => here.every(({ text }) => text.includes(mark)) || here.some(({ closed }) => closed))
  }
  await say('before')
  const flood = await Promise.all(Array.from({ length: 200 }, async () => await bare(server.port, asks('/live')).catch(() => null)))
  const isOver = (client: typeof flood[0]): boolean => client === null || client.closed || client.text.includes('200 OK')
  await until(() => flood.filter(isOver).length >= 100)
  const cut = flood.filter((client) => client === null || (client?.closed === true && client.text === '')).length
  t.ok(cut > 0, `${cut} were refused`)
  await say('during')
  t.equal(here.filter(({ closed }) => closed).length, 0)
  for (const client of flood) client?.socket.destroy()
  await until(async () => {
    const next = await bareStream(server.port, '/live').catch(() => null)
    next?.socket.destroy()
    return next?.text.includes('200 OK')
  })
  await until(async () => (await ask(server.port, '/stats')).connections === 10)
  await say('after')
  t.equal(here.filter(({ closed }) => closed).length, 0)
  server.kill('SIGTERM')
  t.same(await server.exited(), { code: 0, signal: null })
  t.equal(server.errors, '')
})

t.test('resets, halves and noise at every moment of opening leave nothing and break nothing', async (t) => {
  const server = await child(t, 'server.ts')
  const { port } = server
  const requests = [asks('/live'), asks('/source'), upgrades('/hall'), upgrades('/nowhere'), 'GET / HTTP/1.1\r\nHost', '\x16\x03\x01\x02\x00\x01\x00', upgrades('/hall') + '\x81\xff\xff\xff', asks('/live') + asks('/live')]
  const leave = (client: Awaited<ReturnType<typeof bare>>, how: number): void => {
    if (how === 0) client.socket.resetAndDestroy()
    else if (how === 1) client.socket.end()
    else client.socket.destroy()
  }
  for (let round = 0; round < 12; round++) {
    const clients = await Promise.all(requests.flatMap((request) => [0, 1, 2, 3].map((i) => bare(port, request.slice(0, round % 3 === 0 && i === 3 ? request.length >> 1 : request.length)))))
    await Promise.all(clients.map(async (client, i) => {
      for (let turn = 0; turn < (i + round) % 7; turn++) await new Promise((resolve) => setTimeout(resolve, 1))
      leave(client, (i + round) % 3)
    }))
  }
  await until(async () => (await ask(port, '/stats')).connections === 0)
  const { connected, disconnected, begun, finished } = await ask(port, '/stats')
  t.equal(disconnected, connected)
  t.equal(finished, begun)
  const [stream, socket] = [await bareStream(port, '/live'), await bareSocket(port, '/hall')]
  t.match(stream.text, /^HTTP\/1\.1 200 OK/)
  t.match(socket.text, /^HTTP\/1\.1 101 /)
  server.kill('SIGTERM')
  const told = await server.told('done')
  t.equal(told.opened, told.closed)
  t.equal(told.opened, told.connected)
  t.same(await server.exited(), { code: 0, signal: null })
  t.equal(server.errors, '')
})
