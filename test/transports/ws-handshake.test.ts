import compress from '@fastify/compress'
import cookie from '@fastify/cookie'
import cors from '@fastify/cors'
import helmet from '@fastify/helmet'
import session from '@fastify/session'
import { request } from 'node:http'
import type { IncomingMessage } from 'node:http'
import t from 'tap'
import type { WsOptions } from '../../lib/index.ts'
import { build, listen, refusalOf, until, wsClient } from '../helper.ts'
import type { Refusal } from '../helper.ts'
import { logs } from '../logs.ts'
import { frame, KEY, Raw, rawUpgrade, upgradeText } from '../raw-ws.ts'

t.test('headers and cookies that hooks set go out with the 101', async (t) => {
  const app = await build(t)
  await app.register(cookie)
  app.addHook('onRequest', async (_request, reply) => {
    reply.header('x-early', 'a').setCookie('first', '1').setCookie('second', '2', { path: '/' })
  })
  app.addHook('onSend', async (_request, reply) => { reply.header('x-late', 'b').header('x-number', 5) })
  app.ws('/x', {
    onSend: async (_request, reply) => {
      reply.header('x-route', ['c', 'd']).headers({ 'content-length': 5, 'content-type': 'text/plain', 'content-security-policy': 'none', 'transfer-encoding': 'chunked', 'sec-websocket-accept': 'mine', upgrade: 'h2c', 'keep-alive': 'timeout=5' })
    }
  }, {})
  const port = await listen(app)
  const client = await wsClient(port, '/x')
  t.match(client.headers, { 'x-early': 'a', 'x-late': 'b', 'x-number': '5', 'x-route': 'c, d', 'set-cookie': ['first=1', 'second=2; Path=/'] })
  const raw = await rawUpgrade(t, port, '/x')
  t.equal(raw.status, 101)
  t.notMatch(raw.headers, /content-|transfer-encoding|keep-alive|h2c|mine/i, 'what belongs to the handshake or to a body does not')
  t.equal(raw.headers.match(/^sec-websocket-accept:/gim)?.length, 1)
})

t.test('the neighbours that set headers work, and one that compresses answers does no harm, in either order', async (t) => {
  for (const compressFirst of [true, false]) {
    const app = await build(t, { fastify: {}, ...(compressFirst ? {} : {}) })
    const late = async (): Promise<void> => {
      await app.register(cors, { origin: true, credentials: true })
      await app.register(helmet)
      await app.register(cookie)
      await app.register(session, { secret: 's'.repeat(40), cookie: { secure: false } })
      await app.register(compress)
    }
    if (!compressFirst) await late()
    await app.register(async (scope) => {
      if (compressFirst) await scope.register(compress)
      scope.ws('/x', { onRequest: async (request) => { if ('session' in request) (request.session as { set (key: string, value: string): void }).set('user', 'ada') } }, { onConnect (connection) { connection.send('hi') } })
    })
    const client = await wsClient(await listen(app), '/x', { headers: { 'accept-encoding': 'gzip, deflate, br' } })
    t.equal(await client.wait(1), 'hi')
    if (compressFirst) continue
    t.match(client.headers, { 'x-frame-options': 'SAMEORIGIN', 'access-control-allow-credentials': 'true', 'set-cookie': [/^sessionId=/] })
  }
})

t.test('an onSend hook that makes an answer of everything does not keep a WebSocket from opening', async (t) => {
  const app = await build(t)
  app.addHook('onSend', async (_request, _reply, payload) => payload ?? '{}')
  app.ws('/x', { onConnect (connection) { connection.send('hi') } })
  t.equal(await (await wsClient(await listen(app), '/x')).wait(1), 'hi')
})

t.test('an answer that comes while the handshake is on its way through the hooks is the one that is sent', async (t) => {
  const app = await build(t)
  const passed: unknown[] = []
  app.addHook('onSend', async (_request, reply, payload) => {
    if (payload !== 'busy') reply.code(503).send('busy')
    await until(() => payload === 'busy' || passed.length === 1)
    passed.push(payload)
  })
  app.ws('/x', {})
  t.match(await refusalOf(wsClient(await listen(app), '/x')), { statusCode: 503, body: 'busy' })
  await until(() => passed.length === 2)
  t.equal(app.connections.size, 0)
})

t.test('a header that HTTP does not allow is refused, and cannot add another', async (t) => {
  const app = await build(t)
  app.ws('/value', { onRequest: async (_request, reply) => { reply.header('x-name', 'a\r\nx-injected: 1') } }, {})
  app.ws('/name', { onRequest: async (_request, reply) => { reply.header('x na:me', 'a') } }, {})
  const port = await listen(app)
  for (const path of ['/value', '/name']) {
    const raw = await rawUpgrade(t, port, path)
    t.equal(raw.status, 500, path)
    t.notMatch(raw.headers, /x-injected|x na/)
  }
  t.equal(app.connections.size, 0)
})

t.test('a request without an Origin is let in, one with another origin is not', async (t) => {
  const app = await build(t)
  app.ws('/x', {})
  const port = await listen(app)
  const host = `localhost:${port}`
  const own = `http://${host}`
  const open = async (origin: string | string[] | undefined, headers: Record<string, string> = {}): Promise<Raw> => await rawUpgrade(t, port, '/x', { headers: { host, origin, ...headers } })
  t.equal((await open(undefined)).status, 101, 'a client that is no browser')
  t.equal((await open(own)).status, 101, 'its own')
  t.equal((await open('http://example.test', { host: 'example.test' })).status, 101, 'the port of the scheme is not written')
  t.equal((await open('http://example.test', { host: 'example.test:80' })).status, 101)
  t.equal((await open('http://[::1]:1', { host: '[::1]:1' })).status, 101)
  t.equal((await open('http://xn--bcher-kva.test', { host: 'xn--bcher-kva.test' })).status, 101)
  const others = [
    'null', '', 'http://evil.test', `https://${host}`, `ws://${host}`, 'http://localhost', `http://localhost:${port + 1}`, `${own}.evil.test`, `http://evil.test/${own}`,
    `http://evil-${host}`, `http://sub.${host}`, `${own}/`, `${own}@evil.test`, `http://localhost@evil.test:${port}`, own.toUpperCase(), `${own},${own}`, `//${host}`, host, 'file://', '*'
  ]
  for (const origin of others) {
    const raw = await open(origin)
    t.equal(raw.status, 403, JSON.stringify(origin))
    t.match(JSON.parse(raw.body), { code: 'FST_ERR_REAL_ORIGIN', message: /allowedOrigins/ })
  }
  t.equal((await open([own, 'http://evil.test'])).status, 403, 'two of them')
  t.equal((await open([own, own])).status, 403, 'twice the same')
  t.equal((await open('http://evil.test', { 'x-forwarded-host': 'evil.test' })).status, 403, 'a forwarded host counts only with trustProxy')
  t.equal((await open(`http://evil.test/${'x'.repeat(5_000)}`)).body.length < 600, true, 'a long one is cut')
})

t.test('behind a trusted proxy the forwarded host and protocol make the own origin', async (t) => {
  const app = await build(t, { fastify: { trustProxy: true } })
  app.ws('/x', {})
  const port = await listen(app)
  const open = async (origin: string, headers: Record<string, string>): Promise<number> => (await rawUpgrade(t, port, '/x', { headers: { host: '10.0.0.1:3000', origin, ...headers } })).status
  t.equal(await open('https://app.test', { 'x-forwarded-host': 'app.test', 'x-forwarded-proto': 'https' }), 101)
  t.equal(await open('http://app.test', { 'x-forwarded-host': 'app.test', 'x-forwarded-proto': 'https' }), 403)
  t.equal(await open('https://app.test', { 'x-forwarded-host': 'app.test' }), 403)
  t.equal(await open('http://10.0.0.1:3000', {}), 101)
  t.equal(await open('http://10.0.0.1:3000', { 'x-forwarded-host': 'app.test' }), 403)
  t.equal(await open('https://app.test', { 'x-forwarded-host': 'no host', 'x-forwarded-proto': 'https' }), 403)
})

t.test('allowedOrigins is a list or a function, of the plugin or of the route', async (t) => {
  const asked: unknown[] = []
  const app = await build(t, { ws: { allowedOrigins: ['https://a.test'] } })
  app.ws('/plugin', {})
  app.ws('/route', { ws: { allowedOrigins: ['https://b.test', 'null'] } }, {})
  app.ws<{ Querystring: { ok: string } }>('/function', { ws: { allowedOrigins: (origin, request) => { asked.push(origin); return (request.query as { ok: string }).ok === '1' } } }, {})
  app.ws('/truthy', { ws: { allowedOrigins: (() => 'yes') as never } }, {})
  app.ws('/async', { ws: { allowedOrigins: (async () => true) as never } }, {})
  app.ws('/throws', { ws: { allowedOrigins: () => { throw new Error('in allowedOrigins') } } }, {})
  const port = await listen(app)
  const open = async (path: string, origin?: string): Promise<number> => (await rawUpgrade(t, port, path, { headers: { origin } })).status
  t.equal(await open('/plugin', 'https://a.test'), 101)
  t.equal(await open('/plugin', 'http://localhost'), 403, 'the own origin has to be in the list')
  t.equal(await open('/plugin'), 101)
  t.equal(await open('/route', 'https://a.test'), 403)
  t.equal(await open('/route', 'https://b.test'), 101)
  t.equal(await open('/route', 'null'), 101)
  t.equal(await open('/function?ok=1', 'https://c.test'), 101)
  t.equal(await open('/function?ok=0', 'https://c.test'), 403)
  t.equal(await open('/function?ok=0'), 101)
  t.strictSame(asked, ['https://c.test', 'https://c.test'])
  t.equal(await open('/truthy', 'https://c.test'), 403, 'nothing but true is yes')
  t.equal(await open('/async', 'https://c.test'), 403)
  t.equal(await open('/throws', 'https://c.test'), 500)
})

t.test('a subprotocol is chosen from a list in the order the client offers, or by a function', async (t) => {
  const functions: Record<string, WsOptions['protocols']> = {
    '/list': ['v1', 'v2'],
    '/last': (offered) => [...offered].at(-1) as string,
    '/none': () => false,
    '/unknown': () => 'v9',
    '/odd': (() => undefined) as never,
    '/by-request': (_offered, request) => (request.query as { v: string }).v,
    '/throws': () => { throw new Error('in protocols') }
  }
  const app = await build(t)
  for (const [path, protocols] of Object.entries(functions)) app.ws(path, { ws: { protocols } }, {})
  app.ws('/nothing', {})
  const port = await listen(app)
  const choice = async (path: string, offer: string | string[] | undefined): Promise<string | number | null> => {
    const raw = await rawUpgrade(t, port, path, { headers: { 'sec-websocket-protocol': offer } })
    return raw.status === 101 ? /^sec-websocket-protocol: (.*)$/im.exec(raw.headers)?.[1] ?? null : raw.status
  }
  t.equal(await choice('/list', 'v2, v1'), 'v2')
  t.equal(await choice('/list', 'v3,v1'), 'v1')
  t.equal(await choice('/list', ['v3', 'v2']), 'v2', 'in two headers')
  t.equal(await choice('/list', 'v3'), null)
  t.equal(await choice('/list', undefined), null)
  t.equal(await choice('/last', 'a, b'), 'b')
  t.equal(await choice('/none', 'v1'), null)
  t.equal(await choice('/unknown', 'v1'), null, 'what was not offered is not chosen')
  t.equal(await choice('/unknown', undefined), null)
  t.equal(await choice('/odd', 'v1'), null)
  t.equal(await choice('/by-request?v=b', 'a, b'), 'b')
  t.equal(await choice('/nothing', 'v1'), null)
  t.equal(await choice('/list', 'v1 v2'), 400)
  t.equal(await choice('/list', 'v1, v1'), 400)
  t.equal(await choice('/throws', 'v1'), 500)
  t.equal((await wsClient(port, '/list', { protocols: ['v2'] })).socket.protocol, 'v2')
})

t.test('a handshake that breaks a rule is refused before the 101', async (t) => {
  const app = await build(t)
  const ran: string[] = []
  app.addHook('onRequest', async (request) => { ran.push(request.url) })
  app.ws('/x', { onConnect () { ran.push('opened') } })
  const port = await listen(app)
  const cases: Array<[string, Parameters<typeof upgradeText>[1], number]> = [
    ['HTTP/1.0', { version: '1.0' }, 400],
    ['no Host', { headers: { host: undefined } }, 400],
    ['two Hosts', { headers: { host: ['localhost', 'evil.test'] } }, 400],
    ['twice the same Host', { headers: { host: ['localhost', 'localhost'] } }, 400],
    ['POST', { method: 'POST' }, 400],
    ['HEAD', { method: 'HEAD' }, 400],
    ['OPTIONS', { method: 'OPTIONS' }, 400],
    ['no key', { headers: { 'sec-websocket-key': undefined } }, 400],
    ['a short key', { headers: { 'sec-websocket-key': 'AAAA' } }, 400],
    ['a long key', { headers: { 'sec-websocket-key': `${KEY}AAAA` } }, 400],
    ['a key that is no base64', { headers: { 'sec-websocket-key': '!'.repeat(22) + '==' } }, 400],
    ['two keys', { headers: { 'sec-websocket-key': [KEY, KEY] } }, 400],
    ['no version', { headers: { 'sec-websocket-version': undefined } }, 426],
    ['version 8, which has no Origin header', { headers: { 'sec-websocket-version': '8' } }, 426],
    ['version 0', { headers: { 'sec-websocket-version': '0' } }, 426],
    ['two versions', { headers: { 'sec-websocket-version': ['13', '13'] } }, 426],
    ['several upgrades', { headers: { upgrade: 'websocket, h2c' } }, 400]
  ]
  for (const [name, options, status] of cases) {
    const raw = await rawUpgrade(t, port, '/x', options)
    t.equal(raw.status, status, name)
    t.match(raw.headers, /^connection: close/im)
    raw.write(frame(1, 'after'), 'GET /x HTTP/1.1\r\nhost: a\r\n\r\n')
    await until(() => raw.ended)
    t.equal(raw.text.match(/^HTTP\/1\.1 /gm)?.length, 1, 'nothing after it is parsed')
    raw.socket.end()
  }
  t.match((await rawUpgrade(t, port, '/x', { headers: { 'sec-websocket-version': '8' } })).headers, /^sec-websocket-version: 13/im)
  t.strictSame(ran, [], 'no hook has run')
  t.equal((await rawUpgrade(t, port, '/x', { headers: { upgrade: 'WebSocket', connection: 'keep-alive, upgrade' } })).status, 101)
})

t.test('floods of headers, long paths and smuggled requests get one answer at most', async (t) => {
  const app = await build(t)
  const ran: string[] = []
  app.get('/secret', async () => { ran.push('secret'); return 'secret' })
  app.ws('/x', { onMessage () { ran.push('message') } })
  app.ws('/guarded', { preHandler: async () => { throw Object.assign(new Error('no'), { statusCode: 401 }) } }, {})
  const port = await listen(app)
  const secret = 'GET /secret HTTP/1.1\r\nhost: a\r\n\r\n'
  const floods: Array<[string, string]> = [
    ['many headers', upgradeText('/x', { headers: Object.fromEntries(Array.from({ length: 3_000 }, (_, i) => [`x-${i}`, 'y'])) })],
    ['a large header', upgradeText('/x', { headers: { 'x-large': 'y'.repeat(100_000) } })],
    ['many Connection tokens', upgradeText('/x', { headers: { connection: 'a, '.repeat(10_000) + 'upgrade' } })],
    ['many subprotocols', upgradeText('/x', { headers: { 'sec-websocket-protocol': Array.from({ length: 5_000 }, (_, i) => `p${i}`).join() } })],
    ['a long path', upgradeText(`/${'x'.repeat(50_000)}`)],
    ['no path at all', upgradeText('')],
    ['a path of dots', upgradeText('/a/../x')],
    ['a path with a space', upgradeText('/x y')],
    ['a header with a space before the colon', upgradeText('/x').replace('upgrade:', 'upgrade :')],
    ['folded headers', upgradeText('/x').replace('host: localhost', 'host: localhost\r\n evil')],
    ['bare line feeds', upgradeText('/x').replaceAll('\r\n', '\n')],
    ['NUL in a header', upgradeText('/x', { headers: { 'x-a': 'a\0b' } })],
    ['two lengths', upgradeText('/guarded', { headers: { 'content-length': ['5', '6'] } })],
    ['a length and chunks', upgradeText('/guarded', { headers: { 'content-length': '5', 'transfer-encoding': 'chunked' } })],
    ['a body with a length', upgradeText('/guarded', { headers: { 'content-length': String(secret.length) } })],
    ['a body in chunks', upgradeText('/guarded', { headers: { 'transfer-encoding': 'chunked' } })],
    ['nothing odd, refused', upgradeText('/guarded')],
    ['nothing odd, unknown', upgradeText('/unknown')],
    ['nothing odd, open', upgradeText('/x')]
  ]
  for (const [name, text] of floods) {
    const raw = new Raw(port)
    raw.socket.end(text + secret + secret)
    await until(() => raw.ended || raw.closed)
    t.ok((raw.text.match(/^HTTP\/1\.1 /gm)?.length ?? 0) <= 1, name)
    t.strictSame(ran, [], name)
    raw.socket.destroy()
  }
  await until(() => app.connections.size === 0)
})

t.test('an upgrade behind other requests on its socket waits until these are answered', async (t) => {
  const app = await build(t)
  let answer: (() => void) | null = null
  app.get('/slow', async () => await new Promise<string>((resolve) => { answer = () => resolve('slow') }))
  app.get('/quick', async () => 'quick')
  app.ws('/x', { onMessage (connection, message) { connection.send(message as string) } })
  const port = await listen(app)
  const get = (path: string): string => `GET ${path} HTTP/1.1\r\nhost: a\r\n\r\n`
  const behind = async (...upgrade: Array<string | Uint8Array>): Promise<Raw> => {
    const raw = new Raw(port).write(get('/slow') + get('/quick'), ...upgrade)
    t.teardown(() => raw.socket.destroy())
    await until(() => answer !== null)
    return raw
  }
  const go = (): void => {
    answer?.()
    answer = null
  }
  const open = await behind(upgradeText('/x'), frame(1, 'early'))
  t.equal(open.text, '', 'nothing overtakes')
  go()
  await until(() => open.text.includes('early'))
  t.match(open.text, /^HTTP\/1\.1 200 .*slowHTTP\/1\.1 200 .*quickHTTP\/1\.1 101 .*early$/s)
  const refused = await behind(upgradeText('/unknown'))
  go()
  await until(() => refused.ended)
  t.match(refused.text, /^HTTP\/1\.1 200 .*slowHTTP\/1\.1 200 .*quickHTTP\/1\.1 404 /s)
  const ordinary = await behind(upgradeText('/quick', { headers: { upgrade: 'h2c' } }))
  go()
  await until(() => ordinary.text.match(/quick/g)?.length === 2)
  const left = await behind(upgradeText('/x'))
  left.socket.destroy()
  go()
  for (const { socket } of [open, refused, ordinary]) socket.destroy()
  await until(async () => await new Promise((resolve) => app.server.getConnections((_err, count) => resolve(count === 0))))
  t.equal(app.connections.size, 0)
  const late = await behind(upgradeText('/x'))
  const closing = app.close()
  await until(() => late.ended)
  await closing
})

t.test('a parser of queries that gives nothing does no harm, nor does a schema that takes away what it does not know', async (t) => {
  for (const querystringParser of [() => undefined as never, (text: string) => Object.fromEntries(new URLSearchParams(text))]) {
    const app = await build(t, { fastify: { routerOptions: { querystringParser } } })
    const schema = { querystring: { type: 'object', properties: {}, additionalProperties: false } }
    app.ws('/x', querystringParser('a=1') === undefined ? {} : { schema }, { onConnect (connection) { connection.send('hi') } })
    const port = await listen(app)
    t.equal(await (await wsClient(port, '/x')).wait(1), 'hi')
    const client = await wsClient(port, '/x?lastEventId=')
    await until(() => client.messages.includes('{"data":"hi"}'))
  }
})

t.test('extensions that cannot be parsed are refused, those that are not known are ignored', async (t) => {
  const app = await build(t, { ws: { compression: true } })
  app.ws('/x', {})
  const port = await listen(app)
  const offer = async (extensions: string): Promise<Raw> => await rawUpgrade(t, port, '/x', { headers: { 'sec-websocket-extensions': extensions } })
  t.equal((await offer('permessage-deflate; server_max_window_bits=99')).status, 101, 'an offer that makes no sense is declined. RFC 7692, section 7.1')
  t.equal((await offer(';;')).status, 400)
  t.equal((await offer('x-own; a=1')).status, 101)
  t.match((await offer('permessage-deflate')).headers, /sec-websocket-extensions: permessage-deflate; server_no_context_takeover\r/i)
  t.equal(app.connections.size, 3)
})

t.test('an upgrade to any other route is refused', async (t) => {
  const app = await build(t)
  let ran = 0
  app.get('/plain', async () => { ran++ })
  app.get('/events', { sse: true }, async (_request, reply) => { ran++; reply.sse() })
  app.post('/post', async () => { ran++ })
  app.ws('/x', {})
  const port = await listen(app)
  for (const path of ['/plain', '/events', '/post', '/unknown', '/', '/x/y', '*']) {
    const raw = await rawUpgrade(t, port, path)
    t.equal(raw.status, 404, path)
    t.match(JSON.parse(raw.body), { code: 'FST_ERR_REAL_UPGRADE', message: /no WebSocket at this path/ })
    await until(() => raw.ended)
  }
  t.equal(ran, 0)
  t.equal(app.connections.size, 0)
  t.equal((await rawUpgrade(t, port, 'http://localhost/x')).status, 101, 'a whole URL is one of ours. RFC 9112, section 3.2.2')
})

t.test('an upgrade to something else than WebSocket is answered as ordinary HTTP', async (t) => {
  const app = await build(t)
  app.get('/plain', async (request) => `plain ${request.headers.upgrade} ${request.headers['x-a']}`)
  app.post('/echo', async (request) => request.body)
  app.get('/events', { sse: true }, async function * () { yield 'one' })
  app.ws('/x', {})
  const port = await listen(app)
  const h2c = { connection: 'Upgrade, HTTP2-Settings', upgrade: 'h2c', 'http2-settings': 'AAMAAABkAARAAAAAAAIAAAAA', 'x-a': '1' }
  const plain = await rawUpgrade(t, port, '/plain', { headers: h2c })
  t.match(plain, { status: 200, body: 'plain undefined 1' })
  plain.write('GET /plain HTTP/1.1\r\nhost: a\r\n\r\n')
  await until(() => plain.text.endsWith('plain undefined undefined'))
  t.pass('and the connection is kept')
  t.equal((await rawUpgrade(t, port, '/x', { headers: h2c })).status, 426)
  t.equal((await rawUpgrade(t, port, '/nothing', { headers: { upgrade: 'TLS/1.2' } })).status, 404)
  t.match((await rawUpgrade(t, port, '/events', { headers: h2c })).text, /data: one/)
  const whole = await rawUpgrade(t, port, '/echo', { method: 'POST', headers: { ...h2c, 'content-type': 'application/json', 'content-length': '7' } }, '{"a":1}')
  t.match(whole, { status: 200, body: '{"a":1}' })
  const raw = new Raw(port)
  t.after(() => raw.socket.destroy())
  raw.write(upgradeText('/echo', { method: 'POST', headers: { ...h2c, 'content-type': 'application/json', 'transfer-encoding': 'chunked' } }), '3\r\n{"a\r\n')
  await new Promise((resolve) => setTimeout(resolve, 20))
  raw.write('4\r\n":2}\r\n0\r\n\r\n')
  t.match(await raw.answered(), { status: 200, body: '{"a":2}' }, 'a body that comes later is read')
  const closing = await rawUpgrade(t, port, '/plain', { headers: { ...h2c, connection: 'close, upgrade, HTTP2-Settings' } })
  await until(() => closing.ended)
  t.match(closing.headers, /^connection: close/im)
  const node = request({ port, host: '127.0.0.1', path: '/plain', headers: { connection: 'Upgrade', upgrade: 'h2c' } })
  node.end()
  const response = await new Promise<IncomingMessage>((resolve) => node.on('response', resolve))
  t.equal(response.statusCode, 200)
  response.resume()
})

t.test('clients that reset during the handshake harm nobody', async (t) => {
  const { options, errors } = logs()
  const app = await build(t, { fastify: options })
  let opened = 0
  let closed = 0
  app.ws('/x', { preHandler: async () => { await new Promise((resolve) => setTimeout(resolve, 3)) } }, { onConnect () { opened++ }, onDisconnect () { closed++ } })
  app.ws('/refused', { preHandler: async () => { await new Promise((resolve) => setTimeout(resolve, 3)); throw Object.assign(new Error('no'), { statusCode: 401 }) } }, {})
  const port = await listen(app)
  const clients = Array.from({ length: 100 }, (_, index) => {
    const raw = new Raw(port)
    raw.socket.on('connect', () => {
      raw.write(upgradeText(index % 4 === 3 ? '/refused' : '/x'))
      setTimeout(() => { if (index % 2 === 0) raw.socket.resetAndDestroy(); else raw.socket.destroy() }, index % 7)
    })
    return raw
  })
  await until(() => clients.every((raw) => raw.closed))
  await until(() => app.connections.size === 0 && opened === closed)
  t.strictSame(errors(), [])
  const client = await wsClient(port, '/x')
  t.equal(client.socket.readyState, 1, 'the server serves on')
})

t.test('a client that leaves while hooks are at work is not let in, or at once out', async (t) => {
  const app = await build(t)
  let release = (): void => {}
  const ran: string[] = []
  app.ws('/x', { preHandler: async () => { ran.push('hook'); await new Promise<void>((resolve) => { release = resolve }) } }, {
    onConnect () { ran.push('opened') },
    onDisconnect (_connection, end) { ran.push(`closed ${end.code}`) }
  })
  const port = await listen(app)
  const sockets = (): Promise<number> => new Promise((resolve) => app.server.getConnections((_err, count) => resolve(count)))
  for (const leave of ['end', 'destroy', 'resetAndDestroy'] as const) {
    const raw = new Raw(port)
    raw.write(upgradeText('/x'))
    await until(() => ran.length === 1)
    raw.socket[leave]()
    if (leave === 'resetAndDestroy') await until(async () => await sockets() === 0)
    release()
    await until(async () => await sockets() === 0 && app.connections.size === 0)
    await until(() => ran.length % 2 === 1)
    const seen = ran.splice(0).join()
    if (leave === 'resetAndDestroy') t.equal(seen, 'hook')
    else t.ok(seen === 'hook' || seen === 'hook,opened,closed 1006', `${leave}: ${seen}`) // as the news comes before the hooks are done, or after
  }
})

t.test('a handshake may take as long as headersTimeout, also where no timer can wait so long', async (t) => {
  const app = await build(t, { fastify: { http: { headersTimeout: 2 ** 31, requestTimeout: 0 } } as never })
  app.ws('/x', { preHandler: async () => { await new Promise((resolve) => setTimeout(resolve, 5)) } }, {})
  const client = await wsClient(await listen(app), '/x')
  t.equal(app.connections.size, 1)
  client.socket.close()
})

t.test('a handshake that takes too long is cut, one that was refused too', async (t) => {
  const app = await build(t, { fastify: { http: { headersTimeout: 500 } } as never })
  app.ws('/hangs', { preHandler: async () => { await new Promise(() => {}) } }, {})
  app.ws('/refused', { preHandler: async () => { throw new Error('no') } }, {})
  app.ws('/open', {})
  const port = await listen(app)
  app.server.headersTimeout = 0
  t.equal((await rawUpgrade(t, port, '/open')).status, 101, 'a server without that time limit has one all the same')
  app.server.headersTimeout = 500
  const open = await rawUpgrade(t, port, '/open')
  const hangs = new Raw(port).write(upgradeText('/hangs'))
  const trickles = new Raw(port).write(upgradeText('/hangs'))
  const trickle = setInterval(() => trickles.write('x'), 10)
  t.after(() => clearInterval(trickle))
  const refused = await rawUpgrade(t, port, '/refused')
  const unknown = await rawUpgrade(t, port, '/unknown')
  await until(() => hangs.ended && (trickles.ended || trickles.closed)) // bytes that nobody has read make a reset of it
  t.equal(hangs.status, 0)
  t.match([refused.status, unknown.status], [500, 404])
  const sockets = (): Promise<number> => new Promise((resolve) => app.server.getConnections((_err, count) => resolve(count)))
  await until(async () => await sockets() === 2)
  t.notOk(open.ended, 'what is open stays')
})

t.test('what is on its way when the server stops is refused, and cut at the end of the grace', async (t) => {
  const app = await build(t, { connections: { drain: { within: 0, grace: 100 } } })
  let release = (): void => {}
  const ran: string[] = []
  app.ws('/slow', { preHandler: async () => { await new Promise<void>((resolve) => { release = resolve }); ran.push('hook') } }, { onConnect () { ran.push('opened') } })
  app.ws('/hangs', { preHandler: async () => { ran.push('hangs'); await new Promise(() => {}) } }, {})
  const port = await listen(app)
  const text = upgradeText('/slow')
  const late = new Raw(port).write(text.slice(0, 50))
  const slow = new Raw(port).write(upgradeText('/slow'))
  const hangs = new Raw(port).write(upgradeText('/hangs'))
  await until(() => ran.length === 1)
  const closing = app.close()
  await until(() => !app.server.listening)
  release()
  await slow.answered()
  t.equal(slow.status, 503)
  t.match(slow.headers, /^retry-after: \d+/im)
  slow.socket.end()
  late.write(text.slice(50))
  await late.answered()
  t.match(late, { status: 503, headers: /^retry-after: 1\r\n/im, body: /FST_ERR_REAL_SHUTTING_DOWN/ })
  late.socket.end()
  await closing
  await until(() => hangs.ended)
  t.strictSame(ran, ['hangs', 'hook'])
})

t.test('a limit that others have reached while hooks were at work is kept', async (t) => {
  const app = await build(t, { connections: { maxConnections: 2 } })
  app.ws('/x', { onSend: async () => { await new Promise((resolve) => setTimeout(resolve, 10)) } }, {})
  const port = await listen(app)
  const all = await Promise.all(Array.from({ length: 8 }, () => rawUpgrade(t, port, '/x')))
  t.equal(all.filter(({ status }) => status === 101).length, 2)
  for (const raw of all.filter(({ status }) => status !== 101)) {
    t.equal(raw.status, 503)
    t.match(raw.headers, /^retry-after: \d+/im)
    t.match(raw.body, /FST_ERR_REAL_TOO_MANY_CONNECTIONS/)
  }
  const refused = await wsClient(port, '/x').then(() => null, (err: Refusal) => err)
  t.equal(refused?.statusCode, 503, 'one that comes later is not asked further')
  t.equal(app.connections.size, 2)
})

t.test('identify decides after the hooks and before the 101', async (t) => {
  const app = await build(t, {
    connections: {
      async identify (request) {
        if (request.headers.authorization === undefined) throw Object.assign(new Error('who are you'), { statusCode: 401 })
        return { id: request.headers.authorization }
      }
    }
  })
  app.ws('/x', { onConnect (connection) { connection.send(`hi ${connection.user}`) } })
  const port = await listen(app)
  t.match(await rawUpgrade(t, port, '/x'), { status: 401, body: /who are you/ })
  t.equal(await (await wsClient(port, '/x', { headers: { authorization: 'ada' } })).wait(1), 'hi ada')
})
