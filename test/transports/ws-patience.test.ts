import t from 'tap'
import type { Connection, Disconnect, WsHandlers } from '../../lib/index.ts'
import { build, listen, until, wsClient } from '../helper.ts'
import { closeFrame, frame, rawUpgrade } from '../raw-ws.ts'

// each of these waits for seconds, so they wait together
t.jobs = 8
const together = { buffered: true }

function noting (handlers: WsHandlers = {}): { ran: string[], handlers: WsHandlers } {
  const ran: string[] = []
  return { ran, handlers: { ...handlers, onDisconnect (_connection: Connection, { code, reason, clean }: Disconnect) { ran.push(`${code} ${reason} ${clean}`) } } }
}

const never = (): Promise<void> => new Promise(() => {})

t.test('a handler that never settles keeps onDisconnect waiting for a while only', together, async (t) => {
  const cases: Array<[string, WsHandlers]> = [['/message', { onMessage: never }], ['/connect', { onConnect: never }]]
  const app = await build(t)
  const noted = cases.map(([path, given]) => {
    const { ran, handlers } = noting(given)
    app.ws(path, handlers as never)
    return ran
  })
  const port = await listen(app)
  for (const [path] of cases) {
    const raw = await rawUpgrade(t, port, path)
    raw.socket.end(Buffer.concat([frame(1, 'one'), frame(1, 'two'), closeFrame(1000)]))
    await until(() => raw.ended)
  }
  await until(() => app.connections.size === 0)
  t.strictSame(noted, [[], []])
  await until(() => noted.every((ran) => ran.length > 0))
  t.strictSame(noted, [['1000 client true'], ['1000 client true']])
})

t.test('a handler that settles after that is followed by no message, nor by a second onDisconnect', together, async (t) => {
  let release = (): void => {}
  const { ran, handlers } = noting({ async onMessage (_connection, message) { ran.push(String(message)); await new Promise<void>((resolve) => { release = resolve }) } })
  const app = await build(t)
  app.ws('/x', handlers as never)
  const raw = await rawUpgrade(t, await listen(app), '/x')
  raw.socket.end(Buffer.concat([frame(1, 'one'), frame(1, 'two'), closeFrame(1000)]))
  await until(() => ran.length === 2)
  release()
  await new Promise((resolve) => setTimeout(resolve, 20))
  t.strictSame(ran, ['one', '1000 client true'])
})

t.test('an onError that never settles does not keep the connection', together, async (t) => {
  const { ran, handlers } = noting({ onMessage () { throw new Error('boom') }, onError: never })
  const app = await build(t)
  app.ws('/x', handlers as never)
  const client = await wsClient(await listen(app), '/x')
  client.send('x')
  await until(() => client.closed)
  t.match(client.closed, { code: 1011, reason: 'error' })
  await until(() => ran.length === 1)
  t.strictSame(ran, ['1011 error true'])
})

t.test('a client that does not answer a close frame is cut', together, async (t) => {
  const { ran, handlers } = noting()
  const app = await build(t)
  app.ws('/x', handlers as never)
  const port = await listen(app)
  const mute = await rawUpgrade(t, port, '/x')
  const breaking = await rawUpgrade(t, port, '/x')
  const asleep = await rawUpgrade(t, port, '/x')
  asleep.socket.pause()
  for (const connection of app.connections) connection.close(4001, 'enough')
  breaking.write(frame(3, 'and it breaks the protocol'))
  await until(() => ran.length === 3)
  t.strictSame(ran, Array.from({ length: 3 }, () => '4001 enough false'))
  await until(() => mute.ended && breaking.ended)
})

t.test('a client that reads slowly still gets what was sent before the close', together, async (t) => {
  const app = await build(t, { connections: { maxBuffered: 50_000_000, maxEventBytes: 50_000_000 } })
  const { ran, handlers } = noting()
  app.ws('/x', handlers as never)
  const raw = await rawUpgrade(t, await listen(app), '/x')
  raw.socket.pause()
  const length = 40_000_000
  for (const connection of app.connections) {
    connection.send(Buffer.alloc(length))
    connection.close(4001, 'the last word')
  }
  while (raw.bytes.length < length && !raw.ended) {
    const before = raw.bytes.length
    raw.socket.resume()
    await until(() => raw.bytes.length > before + 3_000_000 || raw.bytes.length >= length || raw.ended)
    raw.socket.pause()
    await new Promise((resolve) => setTimeout(resolve, 800))
  }
  raw.socket.resume()
  await until(() => raw.closeCode !== 0 || raw.ended)
  t.equal(raw.closeCode, 4001)
  raw.socket.end(closeFrame(4001))
  await until(() => ran.length === 1)
  t.strictSame(ran, ['4001 the last word true'])
})
