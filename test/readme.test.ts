import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import type { Test } from 'tap'
import { errors } from '../lib/index.ts'
import { uncovered } from './child.ts'
import { sseClient, until, wsClient } from './helper.ts'
import { redisServer, withRedis } from './redis.ts'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const readme = readFileSync(join(root, 'README.md'), 'utf8')
const blocks = [...readme.matchAll(/^```(\w+)\n([\s\S]*?)^```$/gm)].map(([, language, code]) => ({ language, code: code as string }))
const programs = blocks.filter(({ language }) => language === 'ts').map(({ code }) => code)
const [clock, feed, chat, metrics, nodes, testing] = programs as [string, string, string, string, string, string]
const [client] = blocks.filter(({ language }) => language === 'js').map(({ code }) => code) as [string]

// inside the package, so that it is found by its own name
const folder = mkdtempSync(join(root, 'test', '.readme-'))
t.teardown(() => rmSync(folder, { recursive: true, force: true }))

/** Runs a program as a user would, but on a free port, which it tells us. */
function run (t: Test, name: string, code: string): ChildProcess {
  const file = join(folder, name)
  writeFileSync(file, code.replace('port: 3000', 'port: 0') + '\nif (typeof app !== \'undefined\') process.send?.(app.server.address())\n')
  const child = spawn(process.execPath, ['--import', 'tsx', file], { cwd: root, env: { ...process.env, ...uncovered }, stdio: ['ignore', 'pipe', 'inherit', 'ipc'] })
  t.teardown(() => child.kill())
  return child
}

async function portOf (child: ChildProcess): Promise<number> {
  const [address] = await once(child, 'message') as [{ port: number }]
  return address.port
}

t.test('the README is shorter than 300 lines and every code block is a program, a recipe or a command', async (t) => {
  t.ok(readme.trimEnd().split('\n').length < 300, 'shorter than 300 lines')
  t.same(blocks.map(({ language }) => language), ['sh', 'ts', 'ts', 'ts', 'ts', 'ts', 'js', 'ts'])
})

t.test('its programs are well typed', async (t) => {
  programs.forEach((code, at) => writeFileSync(join(folder, `typed-${at}.ts`), code))
  writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify({ extends: '../../tsconfig.json', compilerOptions: { rootDir: '../..' }, include: ['typed-*.ts'] }))
  const child = spawn(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-p', folder], { stdio: ['ignore', 'pipe', 'inherit'] })
  let said = ''
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => { said += chunk })
  const [code] = await once(child, 'close') as [number]
  t.equal(code, 0, said)
})

t.test('the clock ticks', async (t) => {
  const stream = await sseClient(await portOf(run(t, 'clock.ts', clock)), '/clock')
  const { event, data } = await stream.wait(1)
  t.equal(event, 'tick')
  t.type(JSON.parse(data).at, 'number')
  stream.close()
})

t.test('the feed gets the order', async (t) => {
  const port = await portOf(run(t, 'feed.ts', feed))
  const stream = await sseClient(port, '/feed')
  await stream.wait(({ event }) => event === 'ready')
  const receipt = await (await fetch(`http://127.0.0.1:${port}/orders`, { method: 'POST' })).json() as { accepted: boolean, members: number }
  t.match(receipt, { accepted: true, members: 1 })
  t.same(JSON.parse((await stream.wait(({ event }) => event === 'order')).data), { id: 1234 })
  stream.close()
})

t.test('the chat reaches readers on SSE, and says who is there', async (t) => {
  const port = await portOf(run(t, 'chat.ts', chat))
  const reader = await sseClient(port, '/read')
  await reader.wait(({ event }) => event === 'presence')
  const ada = await wsClient(port, '/chat', { headers: { 'x-user': 'ada' } })
  await reader.wait(({ event, data }) => event === 'presence' && data.includes('"joined"') && data.includes('ada'))
  ada.send('hello')
  t.equal((await reader.wait(({ event }) => event === 'said')).data, 'hello')
  ada.close()
  await reader.wait(({ event, data }) => event === 'presence' && data.includes('"left"'))
  reader.close()
})

t.test('the recipe for metrics and the one for tests run to their end', async (t) => {
  const children = [run(t, 'metrics.ts', metrics + '\nawait app.close()\n'), run(t, 'testing.ts', testing)]
  const codes = await Promise.all(children.map(async (child) => (await once(child, 'exit'))[0] as number))
  t.same(codes, [0, 0])
})

t.test('two of its nodes share a room', async (t) => {
  withRedis(t, () => t.test('over one Redis', async (t) => {
    const { url } = await redisServer(t)
    const routes = `
import { sseReal } from 'fastify-real'
await app.register(sseReal)
app.get('/feed', { sse: true }, async (_request, reply) => { await reply.sse().join('orders') })
app.post('/orders', () => app.connections.room('orders').send({ event: 'order', data: '1234' }))
await app.listen({ port: 3000 })`
    const program = nodes.replace('redis://localhost:6379', url) + routes
    const [here, there] = await Promise.all(['one.ts', 'two.ts'].map((name) => portOf(run(t, name, program)))) as [number, number]
    const stream = await sseClient(there, '/feed')
    await stream.wait(({ event }) => event === 'ready')
    t.match(await (await fetch(`http://127.0.0.1:${here}/orders`, { method: 'POST' })).json(), { accepted: true, members: 0, nodes: 1 })
    t.equal((await stream.wait(({ event }) => event === 'order')).data, '1234')
    stream.close()
  }))
})

t.test('the WebSocket client resumes and loses nothing', async (t) => {
  // routes are declared before listening
  const routes = `
app.get('/drop', async () => { for (const connection of app.connections) connection.close(1012, 'drop'); return 'ok' })
app.get('/say/:text', async (request) => await app.connections.room('lobby').send({ event: 'said', data: (request.params as { text: string }).text }))
await app.listen`
  const port = await portOf(run(t, 'served.ts', chat.replace('\nawait app.listen', routes)))
  const browser = run(t, 'client.mjs', `import { WebSocket } from 'ws'\nglobalThis.WebSocket = WebSocket\n${client.replace('localhost:3000', `127.0.0.1:${port}`)}`)
  let said = ''
  browser.stdout?.setEncoding('utf8').on('data', (chunk: string) => { said += chunk })
  const get = async (path: string): Promise<void> => { await (await fetch(`http://127.0.0.1:${port}${path}`)).text() }
  await until(() => said.includes('ready'))
  await get('/say/one')
  await until(() => said.includes('said one'))
  await get('/drop')
  await get('/say/two')
  await until(() => said.includes('said two'))
  await get('/say/three')
  await until(() => said.includes('said three'))
  t.same(said.match(/said \w+/g), ['said one', 'said two', 'said three'])
  t.match(said, /resumed: true/)
})

t.test('it lists every error code, and no other', async (t) => {
  const cells = [...readme.matchAll(/^\| (`FST_ERR_REAL_[^|]*) \|/gm)].map(([, cell]) => cell as string)
  const listed = cells.flatMap((cell) => cell.split(', ').map((code) => code.slice(1, -1))).sort()
  const made = Object.values(errors).map((Made) => new (Made as new (...args: unknown[]) => Error & { code: string })('a', 'b').code).sort()
  t.same(listed, made)
})
