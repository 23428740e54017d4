import { connect } from 'node:http2'
import type { ClientHttp2Session, ClientHttp2Stream } from 'node:http2'
import { connect as connectSocket } from 'node:net'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { FastifyInstance } from 'fastify'
import t from 'tap'
import type { Test } from 'tap'
import type { Disconnect } from '../lib/index.ts'
import { cert, key } from './fixtures/tls.ts'
import { build, listen, until } from './helper.ts'

const HOUR = 3_600_000
const PILE = 6 * 1_048_576

interface Site { app: FastifyInstance, ends: Disconnect[], sessions (): number, open (): Promise<ClientHttp2Session> }

async function site (t: Test, grace: number, routes: (app: FastifyInstance) => void = () => {}, https?: object): Promise<Site> {
  const app = await build(t, {
    fastify: { pluginTimeout: 0, http2: true, https, http2SessionTimeout: HOUR } as never,
    connections: { drain: { grace, within: 0 }, maxBuffered: 64 * 1_048_576, maxEventBytes: 32 * 1_048_576 }
  })
  const ends: Disconnect[] = []
  let sessions = 0
  app.connections.on('disconnect', (connection, end) => { ends.push(end) })
  app.server.on('session', (session: { on (name: string, listener: () => void): void }) => {
    sessions++
    session.on('close', () => { sessions-- })
  })
  app.get('/live', { sse: true }, async (request, reply) => { await reply.sse().join('hall') })
  routes(app)
  const port = await listen(app)
  return {
    app,
    ends,
    sessions: () => sessions,
    async open () {
      const before = sessions
      const session = connect(`${https === undefined ? 'http' : 'https'}://127.0.0.1:${port}`, { rejectUnauthorized: false })
      session.on('error', () => {})
      t.after(() => session.destroy())
      await until(() => sessions === before + 1)
      return session
    }
  }
}

interface Got { stream: ClientHttp2Stream, text: string, status: number, ended: boolean, closed: boolean, error: string | null }

function get (session: ClientHttp2Session, path: string): Got {
  const stream = session.request({ ':path': path, accept: 'text/event-stream' })
  const got: Got = { stream, text: '', status: 0, ended: false, closed: false, error: null }
  stream.setEncoding('utf8')
  stream.on('response', (headers) => { got.status = headers[':status'] as number })
  stream.on('data', (chunk: string) => { got.text += chunk })
  stream.on('end', () => { got.ended = true })
  stream.on('error', (err: Error & { code?: string }) => { got.error = err.code ?? err.message })
  stream.on('close', () => { got.closed = true })
  return got
}

t.test('idle sessions of HTTP/2 are closed, and streams are told and ended', async (t) => {
  const { app, ends, sessions, open } = await site(t, HOUR)
  const [idle, session] = [await open(), await open()]
  const streams = [get(session, '/live'), get(session, '/live')]
  await until(() => app.connections.room('hall').size === 2)
  await app.connections.room('hall').send('last')
  await app.close()
  await until(() => streams.every(({ closed }) => closed) && idle.closed && session.closed)
  for (const { text, status, ended, error } of streams) {
    t.equal(status, 200)
    t.match(text, /data: last\n[^]*retry: \d+\n/)
    t.ok(ended)
    t.equal(error, null)
  }
  t.equal(sessions(), 0)
  t.match(ends, [{ reason: 'shutdown', clean: true }, { reason: 'shutdown', clean: true }])
})

t.test('so it is over TLS', async (t) => {
  const { app, ends, open } = await site(t, HOUR, () => {}, { key, cert })
  const [idle, session] = [await open(), await open()]
  const stream = get(session, '/live')
  await until(() => app.connections.room('hall').size === 1)
  await app.close()
  await until(() => stream.closed && idle.closed && session.closed)
  t.ok(stream.ended)
  t.equal(stream.error, null)
  t.match(ends, [{ reason: 'shutdown', clean: true }])
})

t.test('an ordinary request in flight over HTTP/2 is answered', async (t) => {
  let asked = 0
  let answer = (): void => {}
  const { app, open } = await site(t, HOUR, (app) => {
    app.get('/slow', async () => {
      asked++
      await new Promise<void>((resolve) => { answer = resolve })
      return 'slow'
    })
  })
  const slow = get(await open(), '/slow')
  await until(() => asked === 1)
  let closed = false
  const closing = app.close().then(() => { closed = true })
  await until(() => !app.server.listening)
  await sleep(50)
  t.notOk(closed)
  answer()
  await closing
  await until(() => slow.closed)
  t.match(slow, { status: 200, text: 'slow', error: null })
})

/** What a client of HTTP/2 says that asks for one path and gives all the room there is. RFC 9113, section 3.4; RFC 7541, section 6.2.2 */
function said (path: string): Buffer {
  const frame = (type: number, flags: number, stream: number, payload: number[]): number[] => [0, 0, payload.length, type, flags, 0, 0, 0, stream, ...payload]
  const literal = (index: number, text: string): number[] => [index, text.length, ...Buffer.from(text)]
  return Buffer.concat([
    Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'),
    Buffer.from([
      ...frame(4, 0, 0, [0, 4, 0x7f, 0xff, 0xff, 0xff]),
      ...frame(8, 0, 0, [0x7f, 0xff, 0, 0]),
      ...frame(1, 5, 1, [0x82, 0x86, ...literal(4, path), ...literal(1, 'localhost')])
    ])
  ])
}

t.test('a session whose client does not read is cut after the grace, and the stream on it', async (t) => {
  const { app, ends, sessions, open } = await site(t, 200)
  const stuck = get(await open(), '/live')
  const { port } = app.server.address() as AddressInfo
  const deaf = connectSocket(port, '127.0.0.1').on('error', () => {})
  deaf.write(said('/live'))
  deaf.pause()
  await until(() => app.connections.room('hall').size === 2)
  stuck.stream.pause()
  await app.connections.room('hall').send('x'.repeat(PILE))
  await until(() => [...app.connections].every(({ buffered }) => buffered > 0))
  await app.close()
  await until(() => sessions() === 0)
  t.match(ends, [{ reason: 'shutdown', clean: false }, { reason: 'shutdown', clean: false }])
  deaf.destroy()
})
