import { spawn } from 'node:child_process'
import { EventEmitter, once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { FastifyInstance } from 'fastify'
import t from 'tap'
import type { Test } from 'tap'
import { uncovered } from './child.ts'
import { cluster, missing } from './example-cluster.ts'
import { listen, refusalOf, sseClient, until, wsClient } from './helper.ts'
import { natsServer } from './nats.ts'
import { redisServer } from './redis.ts'

const folder = join(import.meta.dirname, '..', 'examples')
const names = readdirSync(folder).filter((name) => name.endsWith('.ts')).map((name) => name.slice(0, -3))
const tested = new Set<string>()

/** An example as it stands, listening; it is closed after the test. */
async function start (t: Test, name: string, options: object = {}): Promise<{ app: FastifyInstance, port: number }> {
  tested.add(name)
  const { build } = await import(`../examples/${name}.ts`) as { build (options: object): Promise<FastifyInstance> }
  const app = await build(options)
  t.teardown(() => app.close())
  return { app, port: await listen(app) }
}

function post (port: number, path: string, body: unknown, method: string = 'POST'): Promise<Response> {
  const isText = typeof body === 'string'
  return fetch(`http://127.0.0.1:${port}${path}`, { method, headers: { 'content-type': isText ? 'text/plain' : 'application/json' }, body: isText ? body : JSON.stringify(body) })
}

const json = (message: string | Buffer): { id?: string, event?: string, data: unknown } => JSON.parse(String(message))
const named = (event: string) => (message: string | Buffer): boolean => json(message).event === event

t.test('clock ticks, and stops with its reader', async (t) => {
  const { app, port } = await start(t, 'clock', { every: 5 })
  const reader = await sseClient(port, '/clock')
  const { event, data } = await reader.wait(3)
  t.equal(event, 'time')
  t.notOk(Number.isNaN(Date.parse(data)))
  reader.close()
  await until(() => app.connections.size === 0)
})

t.test('progress counts to a hundred, completes, and is over for who comes back', async (t) => {
  const { port } = await start(t, 'progress', { every: 1 })
  const reader = await sseClient(port, '/progress')
  await until(() => reader.ended)
  t.same(reader.events.map(({ event }) => event), [...new Array(11).fill('progress'), 'complete'])
  t.notOk(reader.cut)
  const again = await fetch(`http://127.0.0.1:${port}/progress`, { headers: { 'last-event-id': '100' } })
  t.equal(again.status, 204)
})

t.test('keep-alive shows comments, and signs of life in the silence', async (t) => {
  const { port } = await start(t, 'keep-alive', { heartbeat: 40, work: 30 })
  const reader = await sseClient(port, '/process')
  await until(() => reader.ended)
  t.same(reader.events.map(({ data }) => JSON.parse(data).step), [1, 2, 3, 4, 5])
  t.ok(reader.parser.comments.includes('five steps, the third is slow'))
  t.ok(reader.parser.comments.includes(''), 'a heartbeat')
})

t.test('ids goes on where the reader was', async (t) => {
  const { port } = await start(t, 'ids', { every: 1 })
  const reader = await sseClient(port, '/updates', { 'last-event-id': '7' })
  await until(() => reader.ended)
  t.same(reader.events.map(({ id }) => id), ['8', '9', '10'])
  t.ok((reader.parser.retry ?? 0) >= 4000)
  const again = await fetch(`http://127.0.0.1:${port}/updates`, { headers: { 'last-event-id': '10' } })
  t.equal(again.status, 204)
})

t.test('prices gives a snapshot, then every update, also those of a break', async (t) => {
  const { app, port } = await start(t, 'prices', { every: 10 })
  const reader = await sseClient(port, '/prices')
  const snapshot = JSON.parse((await reader.wait(({ event }) => event === 'snapshot')).data) as Record<string, number>
  const { id, data } = await reader.wait(({ event }) => event === 'price-update')
  const { symbol, price } = JSON.parse(data) as { symbol: string, price: number }
  t.strictSame([typeof snapshot[symbol], typeof price], ['number', 'number'])
  reader.close()
  const again = await sseClient(port, '/prices', { 'last-event-id': id })
  await again.wait(({ event, data }) => event === 'ready' && data.includes('true'))
  const first = await again.wait(({ event }) => event === 'price-update')
  const { events: [missed] } = await app.connections.room('prices').history({ after: id })
  t.equal(first.id, missed?.id, 'it goes on right after the last it saw')
})

t.test('notifications tells every browser of an order', async (t) => {
  const { port } = await start(t, 'notifications')
  const browsers = [await sseClient(port, '/notifications'), await sseClient(port, '/notifications')]
  for (const browser of browsers) await browser.wait(({ event }) => event === 'ready')
  t.equal((await post(port, '/orders', { item: 'lamp' })).status, 201)
  for (const browser of browsers) t.same(JSON.parse((await browser.wait(({ event }) => event === 'notification')).data), { number: 1, item: 'lamp' })
})

t.test('user-notifications reaches all tabs of one user, and nobody else', async (t) => {
  const { app, port } = await start(t, 'user-notifications')
  t.equal((await fetch(`http://127.0.0.1:${port}/me`)).status, 401)
  const tabs = [await sseClient(port, '/me', { 'x-user': 'ada' }), await sseClient(port, '/me', { 'x-user': 'ada' })]
  const other = await sseClient(port, '/me', { 'x-user': 'grace' })
  await until(() => app.connections.user('ada').size === 2 && app.connections.user('grace').size === 1)
  t.same(await (await post(port, '/users/ada/notify', { text: 'hello' })).json(), { tabs: 2 })
  for (const tab of tabs) t.equal((await tab.wait(({ event }) => event === 'notice')).data, 'hello')
  await fetch(`http://127.0.0.1:${port}/users/ada`, { method: 'DELETE' })
  await until(() => tabs.every(({ ended }) => ended))
  t.notOk(other.ended)
  t.notOk(other.events.some(({ event }) => event === 'notice'))
})

t.test('echo gives back text as text and binary as binary', async (t) => {
  const { port } = await start(t, 'echo')
  const socket = await wsClient(port, '/echo')
  socket.send('hi')
  socket.send(Buffer.from([1, 2, 3]))
  await socket.wait(3)
  t.same(socket.messages, ['welcome', 'you said: hi', Buffer.from([1, 2, 3])])
})

t.test('chat is one room for both transports', async (t) => {
  const { port } = await start(t, 'chat')
  const reader = await sseClient(port, '/read')
  await reader.wait(({ event }) => event === 'ready')
  const ada = await wsClient(port, '/chat')
  ada.send('good morning')
  t.equal(JSON.parse((await reader.wait(({ event }) => event === 'said')).data).text, 'good morning')
  await ada.wait(named('said'))
  ada.close()
  await reader.wait(({ event }) => event === 'left')
})

t.test('rooms takes commands, and shows who is there', async (t) => {
  const { port } = await start(t, 'rooms')
  const [ada, bob] = [await wsClient(port, '/chat'), await wsClient(port, '/chat')]
  for (const command of ['/name ada', '/join dev', '/rooms', 'dev anybody?', 'ops hello', '/who lobby']) ada.send(command)
  const answers = (): unknown[] => ada.messages.map(json).filter(({ event }) => event === 'answer').map(({ data }) => data)
  await until(() => answers().length === 5)
  t.match(answers(), ['you are ada', 'joined dev', ['lobby', 'dev'], 'join ops first'])
  t.same((answers()[4] as Array<{ name: string }>).map(({ name }) => name).sort(), ['ada', 'guest'])
  await ada.wait(named('dev'))
  await bob.wait((message) => json(message).event === 'presence' && String(message).includes('ada'))
  ada.send('/leave dev')
  await until(() => answers().includes('left dev'))
  ada.close()
  await bob.wait((message) => String(message).includes('"left"'))
})

t.test('json-ack answers what fits its schema, and refuses what does not', async (t) => {
  const { port } = await start(t, 'json-ack')
  const socket = await wsClient(port, '/notes')
  socket.send(JSON.stringify({ ref: 1, text: 'hello' }))
  socket.send(JSON.stringify({ ref: 'x', text: 'hello' }))
  socket.send(JSON.stringify({ ref: 2, text: 'still here' }))
  await socket.wait(3)
  t.match(socket.messages.map(json), [{ event: 'ack', data: { ref: 1, length: 5 } }, { event: 'refused', data: { code: 'FST_ERR_REAL_MESSAGE' } }, { event: 'ack', data: { ref: 2 } }])
})

t.test('post-fan-out gives everybody what was posted', async (t) => {
  const { port } = await start(t, 'post-fan-out')
  const reader = await sseClient(port, '/events')
  await reader.wait(({ event }) => event === 'ready')
  t.equal((await post(port, '/broadcast', 'two\nlines')).status, 202)
  t.equal((await reader.wait(({ event }) => event === 'message')).data, 'two\nlines')
  t.equal((await post(port, '/broadcast', { event: 'forged', a: 1 })).status, 202)
  t.equal((await reader.wait(({ event, data }) => event === 'message' && data.startsWith('{'))).data, '{"event":"forged","a":1}', 'it is data, whatever its keys')
})

t.test('post-to-room says how many were given it, and knows a repetition', async (t) => {
  const { app, port } = await start(t, 'post-to-room')
  const reader = await sseClient(port, '/rooms/a')
  const socket = await wsClient(port, '/rooms/a')
  await until(() => app.connections.room('a').size === 2)
  const put = async (): Promise<unknown> => await (await post(port, '/rooms/a', { id: 'k1', text: 'hello' }, 'PUT')).json()
  t.same(await put(), { members: 2, duplicate: false })
  t.same(await put(), { members: 0, duplicate: true })
  t.equal((await reader.wait(({ event }) => event === 'posted')).data, 'hello')
  t.match(json(await socket.wait(named('posted'))), { id: 'k1', data: 'hello' })
  t.same(await (await post(port, '/rooms/empty', { text: 'nobody' }, 'PUT')).json(), { members: 0, duplicate: false })
})

t.test('sender-address tells the others from where', async (t) => {
  const { port } = await start(t, 'sender-address')
  const [ada, bob] = [await wsClient(port, '/shout', { headers: { 'x-forwarded-for': '203.0.113.7' } }), await wsClient(port, '/shout')]
  ada.send('hey')
  t.same(json(await bob.wait(named('shout'))).data, { from: '203.0.113.7', text: 'hey' })
  t.same(ada.messages, [])
})

t.test('bridge feeds another system, and is fed by it', async (t) => {
  const outside = new EventEmitter()
  const { app, port } = await start(t, 'bridge', { outside })
  const sent: Array<{ topic: string, event: string, data: unknown }> = []
  outside.on('sent', (one) => sent.push(one))
  await post(port, '/feed', { before: 'anybody joined' })
  const reader = await sseClient(port, '/feed')
  await until(() => app.connections.room('feed').size === 1)
  await post(port, '/feed', { hello: 1 })
  outside.emit('received', { room: 'feed', data: 'from outside' })
  t.equal((await reader.wait(({ event }) => event === 'outside')).data, 'from outside')
  t.match(sent, [{ topic: 'room/feed', event: 'inside', data: { before: 'anybody joined' } }, { event: 'inside', data: { hello: 1 } }, { event: 'outside' }])
})

t.test('tokens answers a POST word by word, and refuses what is no question', async (t) => {
  const { app, port } = await start(t, 'tokens', { every: 1 })
  t.equal((await post(port, '/ask', {})).status, 400)
  t.equal((await fetch(`http://127.0.0.1:${port}/ask`, { method: 'POST' })).status, 400)
  const ask = (): ReturnType<typeof sseClient> => sseClient(port, '/ask', { 'content-type': 'application/json' }, 'POST', JSON.stringify({ question: 'why?' }))
  const reader = await ask()
  await until(() => reader.ended)
  t.equal(reader.events.slice(0, -1).map(({ data }) => JSON.parse(data).token).join(' '), 'You asked: why? That is a good question.')
  t.equal(reader.events.at(-1)?.event, 'complete')
  const gone = await ask()
  await gone.wait(1)
  gone.close()
  await until(() => app.connections.size === 0)
})

t.test('long-poll is a third transport: rooms, history and the end of those who poll no more', async (t) => {
  const { app, port } = await start(t, 'long-poll', { heartbeat: 100 })
  const open = async (more: string = ''): Promise<string> => (await (await post(port, `/poll?room=a${more}`, {})).json() as { id: string }).id
  const poll = async (id: string): Promise<Array<{ id?: string, event?: string, text: string }>> => {
    const lines = await (await fetch(`http://127.0.0.1:${port}/poll/${id}`)).text()
    return lines.split('\n').filter((line) => line !== '').map((line) => JSON.parse(line))
  }
  const id = await open()
  t.match(await poll(id), [{ event: 'ready' }])
  const waiting = poll(id)
  await app.connections.room('a').send({ data: { n: 1 } })
  const [first] = await waiting
  t.equal(first?.text, '{"n":1}')
  await until(() => app.connections.size === 0) // it polls no more: two heartbeats unanswered
  t.equal((await fetch(`http://127.0.0.1:${port}/poll/${id}`)).status, 404)
  await app.connections.room('a').send({ data: { n: 2 } })
  const again = await open(`&lastEventId=${first?.id}`)
  const missed = await poll(again)
  t.match(missed.map(({ text }) => text), [/true/, '{"n":2}'])
  app.connections.get(again)?.close()
  t.same(await poll(again), [], 'the next poll fetches the end')
  t.equal((await fetch(`http://127.0.0.1:${port}/poll/${again}`)).status, 404)
})

tested.add('cluster')
for (const kind of ['redis', 'nats'] as const) {
  t.test(`cluster is one chat on two nodes of ${kind}, and goes on when one of them is killed`, { skip: missing(`${kind}-server`) }, async (t) => {
    const broker = kind === 'redis' ? (await redisServer(t)).url : `nats://${(await natsServer(t)).url}`
    const { ports, names } = await cluster(t, broker)
    const page = await (await fetch(`http://127.0.0.1:${ports[0]}/`)).text()
    t.ok(page.includes(JSON.stringify(names)))
    t.match(await refusalOf(wsClient(ports[1], '/chat', { origin: 'http://elsewhere.example' })), { statusCode: 403 })

    const here = await wsClient(ports[0], '/chat?lastEventId=')
    const there = await wsClient(ports[1], '/chat?lastEventId=', { origin: `http://127.0.0.1:${ports[0]}` })
    const said = ({ messages }: typeof here): unknown[] => messages.map(json).filter(({ event }) => event === 'said').map(({ data }) => data)
    for (const client of [here, there]) await client.wait(named('ready'))
    here.send('hello')
    for (const client of [here, there]) await client.wait(named('said'))
    t.strictSame(said(there), [{ text: 'hello', node: String(ports[0]) }])
    const { id } = json(await here.wait(named('said')))
    here.send('/kill')
    await until(() => here.closed)
    there.send('still there?')
    await until(() => said(there).length === 2)
    const back = await wsClient(ports[1], `/chat?lastEventId=${id}`)
    await back.wait(named('said'))
    t.strictSame(said(back), [{ text: 'still there?', node: String(ports[1]) }])
    for (const client of [there, back]) client.close()
  })
}

t.test('every example is told of in their README, tested here, short, and starts when it is run', async (t) => {
  const readme = readFileSync(join(folder, 'README.md'), 'utf8')
  for (const name of names) {
    const code = readFileSync(join(folder, `${name}.ts`), 'utf8')
    const lines = code.trimEnd().split('\n').length
    t.ok(readme.includes(`](${name}.ts)`), `${name} is in the table`)
    t.ok(tested.has(name), `${name} is tested`)
    t.ok(lines >= 20 && lines <= 80, `${name} has ${lines} lines`)
    t.match(code, /\nif \(import\.meta\.filename === process\.argv\[1\]\) console\.log\(await \(await build\(\)\)\.listen\(\{ port: Number\(process\.env\.PORT \?\? 3000\) \}\)\)\n$/)
  }
  const child = spawn(process.execPath, ['--import', 'tsx', join(folder, 'clock.ts')], { env: { ...process.env, ...uncovered, PORT: '0' }, stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => child.kill())
  const [address] = await once(createInterface(child.stdout), 'line') as [string]
  const reader = await sseClient(Number(new URL(address).port), '/clock')
  t.equal((await reader.wait(1)).event, 'time')
  reader.close()
})
