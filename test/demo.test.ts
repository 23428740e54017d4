import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { fileURLToPath } from 'node:url'
import type { FastifyInstance } from 'fastify'
import t from 'tap'
import type { Test } from 'tap'
import { demo } from '../examples/demo/app.ts'
import { uncovered } from './child.ts'
import { listen, sseClient, until, wsClient } from './helper.ts'
import type { WsClient } from './helper.ts'

interface Envelope { id?: string, event: string, data: any }

async function start (t: Test, options: Parameters<typeof demo>[0] = {}): Promise<{ app: FastifyInstance, port: number }> {
  const app = await demo({ tick: 20, pace: 2, ...options })
  t.after(() => app.close())
  return { app, port: await listen(app) }
}

const envelopes = ({ messages }: WsClient): Envelope[] => messages.map((message) => JSON.parse(String(message)) as Envelope)

async function chatter (port: number, name: string, query: Record<string, string> = {}): Promise<WsClient & { last (event: string): any, told (text: string): Promise<string> }> {
  const client = await wsClient(port, `/chat?${new URLSearchParams({ name, lastEventId: '', ...query })}`)
  await client.wait((message) => String(message).includes('"you"'))
  const last = (event: string): any => envelopes(client).findLast((one) => one.event === event)?.data
  return Object.assign(client, {
    last,
    async told (text: string) {
      const before = envelopes(client).filter(({ event }) => event === 'info' || event === 'you').length
      client.send(text)
      await until(() => envelopes(client).filter(({ event }) => event === 'info' || event === 'you').length > before)
      return envelopes(client).findLast(({ event }) => event === 'info')?.data.text as string
    }
  })
}

t.test('every file of the page is served with its type, a policy and a tag, and nothing else is', async (t) => {
  const { port } = await start(t)
  const page = await fetch(`http://127.0.0.1:${port}/`)
  t.match(page.headers.get('content-type'), 'text/html; charset=utf-8')
  t.match(page.headers.get('content-security-policy'), "default-src 'none'")
  const html = await page.text()
  const wanted = new Set([...html.matchAll(/(?:href|src)="(\/[^"#]+)"/g)].map(([, path]) => path as string))
  const seen = new Set<string>()
  for (const path of wanted) {
    const answer = await fetch(`http://127.0.0.1:${port}${path}`)
    const body = await answer.text()
    t.equal(answer.status, 200, path)
    t.equal(answer.headers.get('x-content-type-options'), 'nosniff')
    t.match(answer.headers.get('content-type'), path.endsWith('.js') ? /^text\/javascript/ : path.endsWith('.css') ? /^text\/css/ : /^image\/svg/)
    if (path.endsWith('.js')) for (const [, name] of body.matchAll(/^import .* from '\.(\/[a-z]+\.js)'$/gm)) wanted.add(name as string)
    const again = await fetch(`http://127.0.0.1:${port}${path}`, { headers: { 'if-none-match': answer.headers.get('etag') as string } })
    t.equal(again.status, 304)
    t.equal(await again.text(), '')
    seen.add(path)
  }
  t.ok(seen.has('/uplot.js') && seen.has('/link.js'), 'modules that modules import too')
  for (const path of ['/server.ts', '/../server.ts', '/..%2fserver.ts', '/index.html', '/package.json']) {
    t.equal((await fetch(`http://127.0.0.1:${port}${path}`)).status, 404, path)
  }
})

t.test('a page reads what there is and is then sent what comes after it, without a hole', async (t) => {
  const { app, port } = await start(t)
  const snapshot = async (): Promise<any> => (await fetch(`http://127.0.0.1:${port}/snapshot`)).json()
  await until(async () => (await snapshot()).cursor !== '')
  const { cursor, prices, symbols, orders } = await snapshot()
  t.equal(symbols.length, prices[0].values.length)
  t.strictSame(orders, [])
  const live = await sseClient(port, `/live?${new URLSearchParams({ room: 'lobby', lastEventId: cursor })}`)
  await live.wait(10)
  const at = live.events.filter(({ event }) => event === 'prices').map(({ data }) => JSON.parse(data).at)
  t.ok(at.length > 2)
  const { prices: later } = await snapshot()
  const all = [...prices, ...later].map((price: { at: number }) => price.at)
  t.equal(at[0], all[all.lastIndexOf(prices.at(-1).at) + 1], 'the first event is the one after the snapshot')
  t.ok(JSON.parse(live.events.find(({ event }) => event === 'ready')?.data as string).resumed)
  t.ok(app.connections.get(JSON.parse(live.events[0]?.data as string).id), 'it is told its own id')
})

t.test('an order reaches every event stream, and waits in the snapshot for those who come later', async (t) => {
  const { port } = await start(t)
  const streams = await Promise.all(['lobby', 'dev'].map((room) => sseClient(port, `/live?room=${room}`)))
  await Promise.all(streams.map((stream) => stream.wait(({ event }) => event === 'ready')))
  const order = await fetch(`http://127.0.0.1:${port}/orders`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{"by":"ada"}' })
  t.match(await order.json(), { id: 1, members: 2 })
  for (const stream of streams) {
    const { data } = await stream.wait(({ event }) => event === 'order')
    t.match(JSON.parse(data), { id: 1, by: 'ada', item: String })
  }
  t.match(await (await fetch(`http://127.0.0.1:${port}/snapshot`)).json(), { orders: [{ id: 1, by: 'ada' }] })
  for (const body of ['{}', '{"by":""}', 'by=ada']) {
    const refused = await fetch(`http://127.0.0.1:${port}/orders`, { method: 'POST', headers: { 'content-type': 'application/json' }, body })
    t.equal(refused.status, 400, body)
  }
})

t.test('who missed more prices than are kept is told of a gap, who missed fewer is not', async (t) => {
  const { port } = await start(t, { tick: 60 })
  const first = await sseClient(port, '/live')
  const { id: cursor } = await first.wait(({ event }) => event === 'prices')
  first.close()
  const soon = await sseClient(port, '/live', { 'last-event-id': cursor })
  await soon.wait(({ event }) => event === 'prices')
  t.notOk(soon.events.some(({ event }) => event === 'gap'))
  const seen = soon.events.length
  await soon.wait(seen + 24) // prices and stats: by now more than ten prices have gone by
  const late = await sseClient(port, '/live', { 'last-event-id': cursor })
  const { data } = await late.wait(({ event }) => event === 'gap')
  t.strictSame(JSON.parse(data), { reason: 'trimmed', room: 'prices' })
})

t.test('a connection is dropped by its id, and only by its id', async (t) => {
  const { app, port } = await start(t)
  const drop = async (id: string): Promise<unknown> => (await fetch(`http://127.0.0.1:${port}/connections/${id}/drop`, { method: 'POST' })).json()
  const live = await sseClient(port, '/live')
  const ada = await chatter(port, 'ada')
  t.strictSame(await drop('nobody'), { dropped: false })
  t.equal(app.connections.size, 2)
  const { data } = await live.wait(({ event }) => event === 'hello')
  t.strictSame(await drop(JSON.parse(data).id), { dropped: true })
  await until(() => live.ended)
  t.strictSame(await drop(ada.last('hello').id), { dropped: true })
  await until(() => ada.closed !== null)
  t.match(ada.closed, { reason: 'dropped' })
})

t.test('what is said over WebSocket is read over SSE alone, with who is present', async (t) => {
  const { port } = await start(t)
  const reader = await sseClient(port, '/live?room=lobby')
  await reader.wait(({ event }) => event === 'ready')
  const ada = await chatter(port, 'ada')
  const bob = await chatter(port, 'bob')
  ada.send('  hello, everybody  ')
  const { data } = await reader.wait(({ event }) => event === 'said')
  t.match(JSON.parse(data), { room: 'lobby', name: 'ada', text: 'hello, everybody' })
  await until(() => bob.last('said')?.text === 'hello, everybody')
  await reader.wait(({ event, data }) => event === 'presence' && data.includes('"joined":[{"key":"bob"'))
  bob.close()
  await reader.wait(({ event, data }) => event === 'presence' && data.includes('"left":[{"key":"bob"'))
  t.notOk(reader.events.some(({ event, data }) => event === 'presence' && data.includes('"left":[{"key":"ada"')))
  const history = await fetch(`http://127.0.0.1:${port}/rooms/lobby/history`)
  t.match(await history.json(), [{ name: 'ada', text: 'hello, everybody' }])
})

t.test('the commands of the chat do what they say', async (t) => {
  const { port } = await start(t)
  const ada = await chatter(port, 'ada')
  const bob = await chatter(port, 'bob')
  t.match(ada.last('you'), { name: 'ada', room: 'lobby', rooms: ['lobby'] })
  t.match(await ada.told('/who'), 'in lobby: ada, bob')
  await ada.told('/name lovelace')
  t.match(ada.last('you'), { name: 'lovelace' })
  await until(() => bob.last('presence').left?.[0].key === 'ada')
  t.match(await bob.told('/who'), 'in lobby: bob, lovelace')
  await ada.told('/join dev')
  t.strictSame(ada.last('you'), { name: 'lovelace', room: 'dev', rooms: ['lobby', 'dev'] })
  ada.send('in dev')
  await until(() => ada.last('said')?.text === 'in dev')
  t.notOk(bob.last('said'), 'it is said to the current room alone')
  t.match(await bob.told('/rooms'), /^rooms: (?=.*lobby \(2\))(?=.*dev \(1\))/)
  await ada.told('/leave')
  t.strictSame(ada.last('you'), { name: 'lovelace', room: 'lobby', rooms: ['lobby'] })
  t.match(await ada.told('/leave dev'), 'you are not in dev')
  t.match(await ada.told('/leave'), 'it is your last room')
  t.match(ada.last('you'), { rooms: ['lobby'] })
  t.match(await ada.told('/join not a room!'), /./)
  t.match(ada.last('you'), { room: 'not' }, 'one word is the name')
  for (const wrong of ['/join', '/name <b>', `/join ${'x'.repeat(21)}`]) t.match(await ada.told(wrong), 'needs a name')
  t.match(await ada.told('/dance'), 'there is no /dance')
  t.match(await ada.told('/help'), '/rooms')
  for (let i = 1; i < 9; i++) await ada.told(`/join room${i}`)
  t.match(await ada.told('/join eleventh'), 'ten rooms are enough')
  t.equal(ada.last('you').rooms.length, 10)
})

t.test('a chat comes back to its rooms and is replayed what was said meanwhile', async (t) => {
  const { port } = await start(t)
  const ada = await chatter(port, 'ada', { rooms: 'lobby,dev', room: 'lobby' })
  t.match(ada.last('you'), { room: 'lobby', rooms: ['lobby', 'dev'] })
  const bob = await chatter(port, 'bob')
  bob.send('one')
  await until(() => ada.last('said')?.text === 'one')
  const lastEventId = envelopes(ada).findLast(({ id }) => id !== undefined)?.id as string
  ada.socket.terminate()
  for (const text of ['two', 'three']) bob.send(text)
  await until(() => bob.last('said')?.text === 'three')
  const back = await chatter(port, 'ada', { rooms: 'lobby,dev', room: 'dev', lastEventId })
  await until(() => back.last('said')?.text === 'three')
  t.strictSame(envelopes(back).filter(({ event }) => event === 'said').map(({ data }) => data.text), ['two', 'three'])
  t.match(back.last('you'), { room: 'dev' })
})

t.test('tokens come one by one and end; who stops reading stops the generator', async (t) => {
  const { port } = await start(t)
  const json = { 'content-type': 'application/json' }
  const whole = await sseClient(port, '/ask', json, 'POST', '{"prompt":"SSE or WebSocket?"}')
  const { data } = await whole.wait(({ event }) => event === 'done')
  await until(() => whole.ended)
  t.notOk(whole.cut)
  t.equal(whole.events.filter(({ event }) => event === 'token').length, JSON.parse(data).count)
  t.match(whole.events.filter(({ event }) => event === 'token').map(({ data }) => JSON.parse(data).token).join(''), /^Use a WebSocket when the client has/)

  const { port: slow } = await start(t, { pace: 1_000_000 })
  const stats = await sseClient(slow, '/live')
  const generators = (): unknown => JSON.parse(stats.events.findLast(({ event }) => event === 'stats')?.data ?? '{}').generators
  const stopped = await sseClient(slow, '/ask', json, 'POST', '{"prompt":"stop"}')
  await stopped.wait(({ event }) => event === 'token')
  await until(() => generators() === 1)
  stopped.close()
  await until(() => generators() === 0)
  t.equal((await fetch(`http://127.0.0.1:${slow}/ask`, { method: 'POST', headers: json, body: '{}' })).status, 400)
})

// --- the process that `npm start` runs

const root = fileURLToPath(new URL('..', import.meta.url))

interface Running { child: ChildProcess, out (): string, exited: Promise<unknown[]> }

function run (t: Test, env: Record<string, string>): Running {
  const child = spawn(`${root}node_modules/.bin/tsx`, ['examples/demo/server.ts'], { cwd: root, env: { PATH: process.env.PATH, ...uncovered, ...env }, stdio: ['ignore', 'pipe', 'pipe'] })
  let out = ''
  for (const stream of [child.stdout, child.stderr]) stream?.setEncoding('utf8').on('data', (text: string) => { out += text })
  t.after(() => child.kill('SIGKILL'))
  return { child, out: () => out, exited: once(child, 'exit') }
}

t.test('it listens on the next port when its own is taken, prints the address, and ends when it is told to', async (t) => {
  const squatter = createServer().listen(0, '127.0.0.1')
  t.after(() => squatter.close())
  await once(squatter, 'listening')
  const { port } = squatter.address() as AddressInfo
  const { child, out, exited } = run(t, { PORT: String(port) })
  await until(() => /http:\/\/\S+\d/.test(out()) || child.exitCode !== null)
  const url = /http:\/\/127\.0\.0\.1:(\d+)/.exec(out())
  t.ok(Number(url?.[1]) > port, out())
  const page = await fetch(url?.[0] as string)
  t.match(await page.text(), '<title>fastify-real')
  const live = await sseClient(Number(url?.[1]), '/live')
  await live.wait(({ event }) => event === 'prices')
  child.kill('SIGTERM')
  t.strictSame(await exited, [0, null], 'though a stream was open')
  t.ok(live.ended)
})

t.test('it says what is wrong with PORT', async (t) => {
  const { out, exited } = run(t, { PORT: 'http' })
  t.strictSame(await exited, [1, null])
  t.match(out(), 'PORT must be a number from 0 to 65535, got "http"')
})
