// Shared compression of event streams: gzip, RFC 1952, decoded by zlib, by curl and (in browser.test.ts) by an EventSource.
import { spawn, spawnSync } from 'node:child_process'
import { connect } from 'node:http2'
import { request } from 'node:http'
import type { IncomingMessage } from 'node:http'
import { constants, createGunzip, gunzipSync } from 'node:zlib'
import t from 'tap'
import { EventParser } from '../../lib/testing.ts'
import type { ParsedEvent } from '../../lib/testing.ts'
import { acceptsGzip } from '../../lib/transports/sse-accept.ts'
import { counting } from '../deflates.ts'
import { build, listen, sseClient, until } from '../helper.ts'
import { get, rawClient } from '../raw.ts'

const on = { sse: { compression: true } }
const gzip = { 'accept-encoding': 'gzip' }
const long = JSON.stringify(Array.from({ length: 400 }, (_, i) => ({ id: i, name: `item ${i}, Größe ${i}` })))
const lenient = { flush: constants.Z_SYNC_FLUSH, finishFlush: constants.Z_SYNC_FLUSH }

interface Reader { response: IncomingMessage, events: ParsedEvent[], bytes: number, ended: boolean, close (): void }

/** A client that decodes what comes as it comes. */
async function reader (port: number, path: string, headers: Record<string, string> = gzip): Promise<Reader> {
  const outgoing = request({ port, host: '127.0.0.1', path, agent: false, headers: { accept: 'text/event-stream', ...headers } }).end()
  const response = await new Promise<IncomingMessage>((resolve) => outgoing.on('response', resolve))
  const parser = new EventParser()
  const client: Reader = { response, events: [], bytes: 0, ended: false, close: () => outgoing.destroy() }
  const gunzip = createGunzip(lenient)
  response.on('error', () => {}).on('data', (chunk: Buffer) => { client.bytes += chunk.length }).pipe(gunzip)
  gunzip.setEncoding('utf8').on('data', (text: string) => { client.events.push(...parser.push(text)) }).on('end', () => { client.ended = true })
  return client
}

t.test('what a client says it accepts decides', async (t) => {
  for (const header of ['gzip', 'GZIP', 'x-gzip', 'br, gzip;q=0.5', '*', 'deflate;q=0, *;q=0.1', 'gzip;q=nonsense', 'gzip, gzip;q=0']) t.ok(acceptsGzip(header), header)
  for (const header of [undefined, '', 'br', 'identity', 'gzip;q=0', '*;q=0', '*, gzip;q=0', 'gzip; q=0.000', 'notgzip']) t.notOk(acceptsGzip(header), String(header))
})

t.test('a stream is compressed for a client that accepts it, where it is wanted', async (t) => {
  const app = await build(t, on)
  app.get('/x', { sse: true }, async function * () { yield { data: 'short' }; yield { data: long } })
  app.get('/not', { sse: { compression: false } }, async function * () { yield { data: long } })
  app.get('/reply', (request, reply) => { reply.sse([long], { compression: true }) })
  app.get('/set', { sse: true }, (request, reply) => { reply.header('content-encoding', 'identity').header('vary', 'Origin').sse([long]) })
  app.get('/fails', { sse: true }, async function * () { throw new Error('too early') })
  app.get('/hook', { sse: true, onSend: async () => { throw new Error('a hook failed') } }, (request, reply) => { reply.sse() })
  const port = await listen(app)

  const compressed = await reader(port, '/x')
  await until(() => compressed.ended)
  t.match(compressed.response.headers, { 'content-encoding': 'gzip', 'content-type': 'text/event-stream', vary: 'Accept-Encoding' })
  t.strictSame(compressed.events.map(({ data }) => data), ['short', long])
  t.ok(compressed.bytes < long.length / 2, `${compressed.bytes} bytes`)
  t.match((await reader(port, '/reply')).response.headers, { 'content-encoding': 'gzip' })

  for (const [path, headers] of [['/x', {}], ['/x', { 'accept-encoding': 'br' }], ['/x', { 'accept-encoding': 'gzip;q=0' }], ['/not', gzip]] as const) {
    const plain = await sseClient(port, path, headers)
    await until(() => plain.ended)
    t.notOk(plain.response.headers['content-encoding'], path)
    t.equal(plain.response.headers.vary, path === '/x' ? 'Accept-Encoding' : undefined)
    t.equal(plain.events.at(-1)?.data, long)
  }
  const set = await sseClient(port, '/set', gzip)
  t.match(set.response.headers, { 'content-encoding': 'identity', vary: 'Origin, Accept-Encoding' })
  for (const [path, message] of [['/fails', /too early/], ['/hook', /a hook failed/]] as const) {
    const failed = await sseClient(port, path, gzip)
    t.equal(failed.response.statusCode, 500)
    t.notOk(failed.response.headers['content-encoding'], 'an ordinary answer is not compressed')
    await until(() => failed.ended)
    t.match(failed.text, message)
  }

  const head = await new Promise<IncomingMessage>((resolve) => request({ port, host: '127.0.0.1', path: '/x', method: 'HEAD', headers: gzip }).on('response', resolve).end())
  t.match(head.headers, { 'content-encoding': 'gzip', vary: 'Accept-Encoding' }, 'HEAD says the same')
  const byDefault = await build(t)
  byDefault.get('/x', { sse: true }, async function * () { yield { data: long } })
  const off = await sseClient(await listen(byDefault), '/x', gzip)
  t.notOk(off.response.headers['content-encoding'] ?? off.response.headers.vary, 'it is off by default')
})

t.test('an event is compressed once, whatever the number of clients, and whoever comes later reads on', async (t) => {
  const app = await build(t, on)
  app.get('/x', { sse: true }, async (request, reply) => { await reply.sse().join('x') })
  const port = await listen(app)
  const readers: Reader[] = []
  const more = async (count: number): Promise<void> => {
    const before = readers.length
    for (let i = 0; i < count; i++) readers.push(await reader(port, '/x'))
    await until(() => app.connections.room('x').size === before + count)
  }
  const room = app.connections.room('x')
  const deflated = await counting(async () => {
    await more(20)
    for (let i = 0; i < 10; i++) await room.send({ event: 'row', data: { i, long } })
    await more(20)
    for (let i = 10; i < 20; i++) void room.send({ event: 'row', data: { i, long } })
    await room.send('short')
    await until(() => readers.every(({ events }) => events.at(-1)?.data === 'short'))
  })
  const rows = (client: Reader): unknown[] => client.events.filter(({ event }) => event === 'row').map(({ data }) => (JSON.parse(data) as { i: number, long: string })).map(({ i, long: text }) => text === long ? i : text)
  t.equal(deflated, 20)
  for (const [index, client] of readers.entries()) t.strictSame(rows(client), Array.from({ length: index < 20 ? 20 : 10 }, (_, i) => i + (index < 20 ? 0 : 10)))

  const plain = await sseClient(port, '/x', { 'last-event-id': readers[0]?.events.find(({ event }) => event === 'ready')?.id as string })
  await plain.wait(({ data }) => data === 'short')
  t.equal(plain.events.filter(({ event }) => event === 'row').length, 20, 'who comes back without it has lost nothing')
})

t.test('a quiet stream shows signs of life, and tells when to come back at the end', async (t) => {
  const app = await build(t, { ...on, connections: { heartbeat: 40, drain: { within: 0, grace: 300 } } })
  app.get('/x', { sse: true }, (request, reply) => { reply.sse() })
  const client = await reader(await listen(app), '/x')
  let text = ''
  const gunzip = createGunzip(lenient).setEncoding('utf8').on('data', (piece: string) => { text += piece })
  client.response.pipe(gunzip)
  await until(() => text.split(':\n').length > 3)
  await app.close()
  await until(() => client.ended)
  t.match(text, /\n\n(?::\n)+retry: \d+\n$/)
})

const skip = spawnSync('curl', ['--version']).status === 0 ? false : 'curl is not installed'
t.test('curl reads it, from its beginning and from the middle', { skip }, async (t) => {
  const app = await build(t, on)
  app.get('/x', { sse: true }, async (request, reply) => { await reply.sse().join('x') })
  const port = await listen(app)
  const curl = (): { out: string, code: number | null } => {
    const child = spawn('curl', ['-sS', '-N', '--compressed', '-H', 'accept: text/event-stream', `http://127.0.0.1:${port}/x`])
    const told = { out: '', code: null as number | null }
    child.stdout.setEncoding('utf8').on('data', (text: string) => { told.out += text })
    child.stderr.setEncoding('utf8').on('data', (text: string) => { told.out += text })
    child.on('close', (code) => { told.code = code })
    t.after(() => child.kill())
    return told
  }
  const room = app.connections.room('x')
  const early = curl()
  await until(() => room.size === 1)
  for (let i = 0; i < 5; i++) await room.send(`first ${i} ${long}`)
  await until(() => early.out.includes('first 4') && early.out.endsWith('\n\n'))
  const late = curl()
  await until(() => room.size === 2)
  for (let i = 0; i < 5; i++) void room.send(`second ${i} ${long}`)
  await room.disconnect()
  await until(() => early.code !== null && late.code !== null)
  t.strictSame([early.code, late.code], [0, 0])
  const datas = ({ out }: { out: string }): string[] => new EventParser().push(out).filter(({ event }) => event === 'message').map(({ data }) => data)
  const second = Array.from({ length: 5 }, (_, i) => `second ${i} ${long}`)
  t.strictSame(datas(late), second)
  t.strictSame(datas(early), [...Array.from({ length: 5 }, (_, i) => `first ${i} ${long}`), ...second])
})

t.test('over HTTP/1.0, HTTP/2 and injected it is the same stream', async (t) => {
  const app = await build(t, on)
  app.get('/x', { sse: true }, async function * () { yield { data: 'short' }; yield { data: long } })
  app.get('/room', { sse: true }, async (request, reply) => { await reply.sse().join('old') })
  const { rawPayload, headers } = await app.inject({ url: '/x', headers: { accept: 'text/event-stream', ...gzip } })
  t.equal(headers['content-encoding'], 'gzip')
  t.strictSame(new EventParser().push(gunzipSync(rawPayload, lenient).toString()).map(({ data }) => data), ['short', long])

  const old = await rawClient(t, await listen(app), get('/room', gzip, '1.0'))
  await until(() => app.connections.room('old').size === 1)
  await app.connections.room('old').send({ event: 'row', data: long })
  await app.connections.room('old').disconnect()
  await until(() => old.ended)
  const [headText, body] = [old.text.slice(0, old.text.indexOf('\r\n\r\n')), old.text.slice(old.text.indexOf('\r\n\r\n') + 4)]
  t.match(headText, /^content-encoding: gzip/im)
  t.strictSame(new EventParser().push(gunzipSync(Buffer.from(body, 'latin1'), lenient).toString()).map(({ event, data }) => event === 'row' ? data : event), ['ready', long])

  const over2 = await build(t, { ...on, fastify: { http2: true } as never })
  over2.get('/x', { sse: true }, async function * () { yield { data: 'short' }; yield { data: long } })
  const session = connect(`http://127.0.0.1:${await listen(over2)}`)
  t.after(() => session.destroy())
  const stream = session.request({ ':path': '/x', accept: 'text/event-stream', ...gzip })
  const chunks: Buffer[] = []
  let encoding: unknown
  stream.on('response', (head) => { encoding = head['content-encoding'] }).on('data', (chunk: Buffer) => chunks.push(chunk))
  await new Promise((resolve) => stream.on('end', resolve))
  t.equal(encoding, 'gzip')
  t.strictSame(new EventParser().push(gunzipSync(Buffer.concat(chunks), lenient).toString()).map(({ data }) => data), ['short', long])
})
