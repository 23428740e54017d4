import websocket from '@fastify/websocket'
import Fastify from 'fastify'
import type { FastifyInstance } from 'fastify'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { ServerResponse } from 'node:http'
import type { IncomingMessage } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { Server as SocketServer } from 'socket.io'
import { io } from 'socket.io-client'
import t from 'tap'
import { WebSocket } from 'ws'
import { wsReal } from '../../lib/index.ts'
import type { Connection } from '../../lib/index.ts'
import { cert, key } from '../fixtures/tls.ts'
import { build, listen, sseClient, until, wsClient } from '../helper.ts'
import type { Refusal } from '../helper.ts'
import { logs } from '../logs.ts'
import { frame, Raw, rawUpgrade, upgradeText } from '../raw-ws.ts'

const echo = { onMessage (connection: Connection, message: unknown) { connection.send(message as string) } }

async function echoes (port: number, path: string): Promise<string | Buffer> {
  const client = await wsClient(port, path)
  client.send('one')
  return await client.wait(1)
}

/** Takes the upgrades of a path and says its name. */
function byHand (app: FastifyInstance, path: string, others: 'ignore' | 'end' = 'ignore'): void {
  app.server.on('upgrade', (request: IncomingMessage, socket: Socket) => {
    if (request.url !== path) {
      if (others === 'end') setTimeout(() => { if (socket.writable && socket.bytesWritten <= 0) socket.end() }, 30)
      return
    }
    const accept = createHash('sha1').update(`${request.headers['sec-websocket-key']}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64')
    socket.end(`HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: ${accept}\r\nx-by: hand\r\n\r\n`)
  })
}

t.test('socket.io keeps its upgrades, whichever comes first', async (t) => {
  for (const first of [true, false]) {
    const app = Fastify()
    const attach = (): SocketServer => new SocketServer(app.server, { destroyUpgradeTimeout: 50 })
    let sockets = first ? attach() : null
    await app.register(wsReal)
    app.ws('/x', echo)
    sockets ??= attach()
    sockets.on('connection', (socket) => { socket.on('say', (text: string) => socket.emit('said', text)) })
    const port = await listen(app)
    const client = io(`http://127.0.0.1:${port}`, { transports: ['websocket'] })
    const said = new Promise((resolve) => client.on('said', resolve))
    client.emit('say', 'over socket.io')
    t.equal(await said, 'over socket.io')
    t.equal(await echoes(port, '/x'), 'one')
    const stranger = new Raw(port).write(upgradeText('/nowhere'))
    await until(() => stranger.ended)
    t.equal(stranger.status, 0, 'what is nobody\'s is left to it')
    const h2c = await rawUpgrade(t, port, '/x', { headers: { upgrade: 'h2c', connection: 'Upgrade, HTTP2-Settings' } })
    t.equal(h2c.status, 426, 'h2c is answered as HTTP here too')
    client.disconnect()
    for (const raw of [stranger, h2c]) raw.socket.destroy()
    sockets.disconnectSockets(true)
    await app.close()
  }
})

t.test('another upgrade listener keeps its own, and what is nobody\'s is not answered for it', async (t) => {
  for (const first of [true, false]) {
    const app = Fastify()
    t.after(() => app.close())
    if (first) byHand(app, '/hand')
    await app.register(wsReal)
    if (!first) byHand(app, '/hand')
    app.ws('/x', echo)
    app.ws('/slow', { preHandler: async () => { await new Promise((resolve) => setTimeout(resolve, 60)) } }, echo)
    byHand(app, '/other', 'end')
    const port = await listen(app)
    t.match(await rawUpgrade(t, port, '/hand'), { status: 101, headers: /x-by: hand/ })
    t.match(await rawUpgrade(t, port, '/other'), { status: 101, headers: /x-by: hand/ })
    t.equal(await echoes(port, '/x'), 'one')
    const nobody = new Raw(port).write(upgradeText('/nobody'))
    const foreign = new Raw(port).write(upgradeText('/x', { headers: { upgrade: 'own-protocol' } }))
    await until(() => nobody.ended && foreign.ended)
    t.equal(nobody.bytes.length + foreign.bytes.length, 0)
    nobody.socket.destroy()
    foreign.socket.destroy()
  }
})

t.test('Vite\'s hot reload keeps its upgrades', async (t) => {
  const app = await build(t)
  app.server.on('upgrade', (request: IncomingMessage, socket: Socket) => {
    if (request.headers['sec-websocket-protocol'] === 'vite-hmr') socket.end('HTTP/1.1 101 Vite\r\n\r\n')
  })
  app.ws('/x', echo)
  const port = await listen(app)
  t.match((await rawUpgrade(t, port, '/', { headers: { 'sec-websocket-protocol': 'vite-hmr' } })).text, /101 Vite/)
  t.equal(await echoes(port, '/x'), 'one')
})

t.test('a listener that answered before us keeps the socket, and nothing breaks', async (t) => {
  const { options, lines } = logs()
  const app = await build(t, { fastify: options })
  app.ws('/x', echo)
  app.server.prependListener('upgrade', (request: IncomingMessage, socket: Socket) => {
    const response = new ServerResponse(request)
    response.assignSocket(socket)
    response.on('finish', () => socket.destroySoon())
    response.end('taken')
  })
  const port = await listen(app)
  t.match(await rawUpgrade(t, port, '/x'), { status: 200, body: /taken/ })
  t.ok(lines.some(({ msg, level }) => level === 40 && msg.includes('another listener')))
  t.equal((await app.inject('/x')).statusCode, 426)
})

t.test('routes of @fastify/websocket work beside ours', async (t) => {
  const app = await build(t, { ws: { maxPayload: 100 } })
  app.get('/stock', { websocket: true }, (socket, request) => {
    socket.on('message', (data: Buffer) => socket.send(`${request.url} ${data.toString()}`))
  })
  app.route({
    method: 'GET',
    url: '/both',
    handler: async () => 'over http',
    wsHandler: (socket) => { socket.send('over ws') }
  })
  app.route({ method: ['GET', 'HEAD'], url: '/list', websocket: true, handler: (socket: unknown) => { (socket as WebSocket).send('list') } } as never)
  app.get('/throws', { websocket: true }, () => { throw new Error('in a stock handler') })
  app.get('/guarded', { websocket: true, preHandler: async () => { throw Object.assign(new Error('no'), { statusCode: 401 }) } }, () => {})
  await app.register(async (scope) => { scope.get('/stock', { websocket: true }, (socket) => { socket.send('scoped') }) }, { prefix: '/v1' })
  app.ws('/ours', echo)
  app.get('/events', { sse: true }, async function * () { yield 'one' })
  app.get('/plain', async (request) => String(request.ws))
  t.throws(() => app.post('/post', { websocket: true } as never, () => {}), /GET method/)
  const port = await listen(app)
  t.equal(await echoes(port, '/stock'), '/stock one')
  t.equal(await (await wsClient(port, '/both')).wait(1), 'over ws')
  t.equal(await (await wsClient(port, '/list')).wait(1), 'list')
  t.equal(await (await wsClient(port, '/v1/stock')).wait(1), 'scoped')
  t.equal(await echoes(port, '/ours'), 'one')
  t.equal((await app.inject('/both')).body, 'over http')
  t.equal((await app.inject('/stock')).statusCode, 404)
  t.equal((await app.inject('/plain')).body, 'false')
  t.equal((await (await sseClient(port, '/events')).wait(1)).data, 'one')
  t.equal((await wsClient(port, '/guarded').catch((err: Refusal) => err) as Refusal).statusCode, 401)
  const throwing = await wsClient(port, '/throws')
  await until(() => throwing.closed)
  const large = await wsClient(port, '/stock')
  large.send('x'.repeat(101))
  await until(() => large.closed)
  t.equal(large.closed?.code, 1009, 'maxPayload of the plugin holds for them')
  for (const path of ['/plain', '/events']) t.equal((await rawUpgrade(t, port, path)).status, 404, path)
  t.equal((await rawUpgrade(t, port, '/stock', { version: '1.0' })).status, 400, 'the rules of a handshake hold for them')
  t.equal((await rawUpgrade(t, port, '/stock', { headers: { host: ['a', 'b'] } })).status, 400)
  const injected = await (app as unknown as { injectWS (path: string): Promise<WebSocket> }).injectWS('/stock')
  injected.send('injected')
  const [data] = await once(injected, 'message') as [Buffer]
  t.equal(data.toString(), '/stock injected', 'its own injectWS works')
  injected.terminate()
})

t.test('clients of its routes reset during the handshake and harm nobody', async (t) => {
  const app = await build(t)
  app.get('/stock', { websocket: true, preHandler: async () => { await new Promise((resolve) => setTimeout(resolve, 3)) } }, () => {})
  const port = await listen(app)
  const clients = Array.from({ length: 50 }, (_, index) => {
    const raw = new Raw(port)
    raw.socket.on('connect', () => {
      raw.write(upgradeText('/stock'))
      setTimeout(() => raw.socket.resetAndDestroy(), index % 7)
    })
    return raw
  })
  await until(() => clients.every((raw) => raw.closed))
  t.equal((await wsClient(port, '/stock')).socket.readyState, 1)
})

t.test('at a shutdown clients of its routes are told 1001, and those that do not answer are cut at the end of the grace', async (t) => {
  const app = await build(t, { connections: { drain: { within: 0, grace: 100 } } })
  app.get('/stock', { websocket: true }, () => {})
  const port = await listen(app)
  const polite = await wsClient(port, '/stock')
  const mute = await rawUpgrade(t, port, '/stock')
  await app.close()
  await until(() => polite.closed)
  t.match(polite.closed, { code: 1001, reason: 'shutdown' })
  await until(() => mute.ended)
  t.equal(mute.closeCode, 1001)
})

t.test('@fastify/websocket in a scope beside ours serves its own routes, and ours are ours', async (t) => {
  for (const first of [true, false]) {
    const app = Fastify()
    t.after(() => app.close())
    const stock = async (): Promise<void> => {
      await app.register(async (scope) => {
        await scope.register(websocket)
        scope.get('/stock', { websocket: true }, (socket) => { socket.send('stock') })
      })
    }
    if (first) await stock()
    await app.register(async (scope) => {
      await scope.register(wsReal)
      scope.ws('/ours', echo)
    })
    if (!first) await stock()
    const port = await listen(app)
    t.equal(await (await wsClient(port, '/stock')).wait(1), 'stock')
    t.equal(await echoes(port, '/ours'), 'one')
  }
})

t.test('wss works, the own origin is https', async (t) => {
  const app = await build(t, { fastify: { https: { key, cert } } as never })
  app.ws('/x', echo)
  app.post('/plain', async (request) => request.body)
  const port = await listen(app)
  const open = async (origin: string): Promise<number> => await new Promise((resolve, reject) => {
    const socket = new WebSocket(`wss://localhost:${port}/x`, { rejectUnauthorized: false, origin })
    socket.on('open', () => { socket.close(); resolve(101) })
    socket.on('unexpected-response', (_request, response) => { response.resume(); resolve(response.statusCode ?? 0) })
    socket.on('error', reject)
  })
  t.equal(await open(`https://localhost:${port}`), 101)
  t.equal(await open(`http://localhost:${port}`), 403)
  const { request } = await import('node:https')
  const outgoing = request({ host: '127.0.0.1', port, path: '/plain', method: 'POST', rejectUnauthorized: false, headers: { connection: 'Upgrade', upgrade: 'h2c', 'content-type': 'text/plain', 'content-length': 4 } })
  outgoing.end('body')
  const [response] = await once(outgoing, 'response') as [IncomingMessage]
  response.setEncoding('utf8')
  const [body] = await once(response, 'data') as [string]
  t.equal(body, 'body', 'Upgrade: h2c over TLS is answered as HTTP')
})

t.test('a server of HTTP/2 that allows HTTP/1.1 takes WebSockets over it', async (t) => {
  const app = await build(t, { fastify: { http2: true, https: { key, cert, allowHTTP1: true } } as never })
  app.ws('/x', echo)
  const port = await listen(app)
  const socket = new WebSocket(`wss://localhost:${port}/x`, { rejectUnauthorized: false })
  await once(socket, 'open')
  socket.send('one')
  const [data] = await once(socket, 'message') as [Buffer]
  t.equal(data.toString(), 'one')
  socket.close()
})

t.test('a server that listens on several addresses takes upgrades on each', async (t) => {
  const app = await build(t)
  app.ws('/x', echo)
  await app.listen({ port: 0, host: 'localhost' })
  for (const { address, port } of app.addresses() as AddressInfo[]) {
    const raw = new Raw(port, address)
    t.after(() => raw.socket.destroy())
    raw.write(upgradeText('/x'), frame(1, 'one'))
    await until(() => raw.messages.length === 1)
    t.strictSame(raw.messages, ['one'], address)
  }
})
