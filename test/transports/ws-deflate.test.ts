// Shared compression of WebSocket: RFC 7692, after the sections 12 and 13 of the Autobahn test suite, with `ws` as the client and with raw sockets.
import { randomBytes } from 'node:crypto'
import { constants, createDeflateRaw, deflateRawSync, inflateRawSync } from 'node:zlib'
import type { DeflateRaw } from 'node:zlib'
import t from 'tap'
import type { Test } from 'tap'
import type { Connection, Disconnect, Message } from '../../lib/index.ts'
import { counting } from '../deflates.ts'
import { build, listen, until, wsClient } from '../helper.ts'
import { logs } from '../logs.ts'
import { closeFrame, frame, Raw, rawUpgrade, upgradeText } from '../raw-ws.ts'
import type { Frame } from '../raw-ws.ts'

const RSV1 = 4
const long = JSON.stringify(Array.from({ length: 400 }, (_, i) => ({ id: i, name: `item ${i}` })))
const noise = randomBytes(3_000)
const offer = (extensions: string): { headers: Record<string, string> } => ({ headers: { 'sec-websocket-extensions': extensions } })

function deflated (data: string | Uint8Array, options: { windowBits?: number } = {}): Buffer {
  return deflateRawSync(data, { ...options, finishFlush: constants.Z_SYNC_FLUSH }).subarray(0, -4)
}

/** What a client reads that keeps nothing from one message to the next. */
function read ({ rsv, opcode, payload }: Frame, windowBits = 15): string | Buffer {
  const data = rsv === RSV1 ? inflateRawSync(Buffer.concat([payload, Buffer.from([0, 0, 255, 255])]), { windowBits, finishFlush: constants.Z_SYNC_FLUSH }) : payload
  return opcode === 1 ? data.toString() : data
}

async function echo (t: Test, maxPayload = 1_000_000): Promise<{ port: number, ends: Disconnect[], errors: () => unknown[] }> {
  const { options, errors } = logs()
  const app = await build(t, { fastify: options, ws: { compression: true, maxPayload } })
  const ends: Disconnect[] = []
  app.ws('/x', {
    onMessage (connection: Connection, message: unknown) { connection.send(message as Message) },
    onDisconnect (_connection: Connection, end: Disconnect) { ends.push(end) }
  })
  return { port: await listen(app), ends, errors }
}

t.test('the first offer that can be kept is taken, others are declined', async (t) => {
  const { port } = await echo(t)
  const ours = 'permessage-deflate; server_no_context_takeover'
  const cases: Array<[offered: string, agreed: string]> = [
    ['permessage-deflate', ours],
    ['permessage-deflate; server_no_context_takeover', ours],
    ['permessage-deflate; client_no_context_takeover', 'permessage-deflate; client_no_context_takeover; server_no_context_takeover'],
    ['permessage-deflate; client_max_window_bits', ours],
    ['permessage-deflate; client_max_window_bits=10', 'permessage-deflate; client_max_window_bits=10; server_no_context_takeover'],
    ['permessage-deflate; client_max_window_bits="8"', 'permessage-deflate; client_max_window_bits=8; server_no_context_takeover'],
    ['permessage-deflate; server_max_window_bits=15', 'permessage-deflate; server_max_window_bits=15; server_no_context_takeover'],
    ['permessage-deflate; server_max_window_bits=9', 'permessage-deflate; server_max_window_bits=9; server_no_context_takeover'],
    ['permessage-deflate; server_max_window_bits=8', ''],
    ['permessage-deflate; server_max_window_bits=8, permessage-deflate; server_max_window_bits=12', 'permessage-deflate; server_max_window_bits=12; server_no_context_takeover'],
    ['permessage-deflate; server_max_window_bits=8, permessage-deflate', ours],
    ['x-own; a=1, permessage-deflate; own=1, permessage-deflate', ours],
    ['permessage-deflate; server_max_window_bits=12, permessage-deflate', 'permessage-deflate; server_max_window_bits=12; server_no_context_takeover'],
    ...['server_max_window_bits', 'server_max_window_bits=16', 'server_max_window_bits=09', 'server_max_window_bits=1e1', 'client_max_window_bits=7', 'client_max_window_bits=99', 'server_no_context_takeover=1',
      'client_no_context_takeover=true', 'client_max_window_bits; client_max_window_bits', 'own'].map((parameter): [string, string] => [`permessage-deflate; ${parameter}`, '']),
    ['x-webkit-deflate-frame', ''],
    ['permessage-bzip2', '']
  ]
  for (const [offered, agreed] of cases) {
    const raw = await rawUpgrade(t, port, '/x', offer(offered))
    t.equal(raw.status, 101, offered)
    t.equal(/sec-websocket-extensions: (.*)\r/i.exec(raw.headers)?.[1] ?? '', agreed, offered)
    raw.write(frame(1, long))
    await until(() => raw.frames.length === 1)
    t.equal(raw.frames[0]?.rsv, agreed === '' ? 0 : RSV1, offered)
    t.equal(read(raw.frames[0] as Frame), long)
  }
  const none = await rawUpgrade(t, port, '/x')
  none.write(frame(1, long))
  await until(() => none.messages.length === 1)
  t.strictSame(none.messages, [long], 'who offers nothing is sent nothing compressed')
})

t.test('a client with a small window reads whatever is sent', async (t) => {
  const { port } = await echo(t)
  const far = `${long}${'-'.repeat(20_000)}${long}`
  for (const bits of [9, 10, 11, 12, 13, 14, 15]) {
    const raw = await rawUpgrade(t, port, '/x', offer(`permessage-deflate; server_max_window_bits=${bits}`))
    raw.write(frame(1, far), frame(2, far))
    await until(() => raw.frames.length === 2)
    t.strictSame(raw.frames.map((one) => String(read(one, bits))), [far, far], `${bits} bits`)
  }
})

t.test('what is small, and what does not shrink, goes as it is', async (t) => {
  const { port } = await echo(t)
  const raw = await rawUpgrade(t, port, '/x', offer('permessage-deflate'))
  const messages = ['', 'x', 'x'.repeat(255), 'x'.repeat(256), 'ü'.repeat(128), long, 'x'.repeat(300_000), noise, Buffer.alloc(70_000), Buffer.alloc(0)]
  for (const message of messages) raw.write(frame(typeof message === 'string' ? 1 : 2, message))
  await until(() => raw.frames.length === messages.length)
  t.strictSame(raw.frames.map((one) => read(one)), messages)
  t.strictSame(raw.frames.map(({ rsv }) => rsv), [0, 0, 0, RSV1, RSV1, RSV1, RSV1, 0, RSV1, 0])
  for (const { rsv, payload } of raw.frames) if (rsv === RSV1) t.not(payload.subarray(-4).toString('hex'), '0000ffff')
})

t.test('an event is compressed once for a thousand connections, and once more for each other window', async (t) => {
  const app = await build(t, { ws: { compression: true } })
  app.ws('/x', { onConnect: async (connection) => { await connection.join('room') } })
  const port = await listen(app)
  const offers = ['permessage-deflate', 'permessage-deflate; client_max_window_bits', 'permessage-deflate; server_max_window_bits=10']
  const all = Array.from({ length: 1_000 }, (_, i) => {
    const raw = new Raw(port)
    t.after(() => raw.socket.destroy())
    return raw.write(upgradeText('/x', offer(offers[i % 500 === 0 ? 2 : i % 2] as string)))
  })
  await until(() => app.connections.room('room').size === all.length)
  const count = await counting(async () => {
    for (const n of [1, 2, 3]) await app.connections.room('room').send(`${n} ${long}`)
    await app.connections.room('room').send('short')
    await until(() => all.every(({ frames }) => frames.length === 4))
  })
  t.equal(count, 3 * 2)
  t.ok(all.every(({ frames }) => frames.every((one, i) => read(one) === (i === 3 ? 'short' : `${i + 1} ${long}`))))
  const shared = await counting(async () => {
    for (const connection of app.connections) connection.send('not worth it')
    await until(() => all.every(({ frames }) => frames.length === 5))
  })
  t.equal(shared, 0)
})

t.test('rooms, direct sends and broadcasts are compressed, in one order, for clients that resume and for others', async (t) => {
  const app = await build(t, { ws: { compression: true } })
  app.ws('/x', { onConnect: async (connection) => { await connection.join('room') } })
  const port = await listen(app)
  const [bare, resuming, plain] = [await wsClient(port, '/x'), await wsClient(port, '/x?lastEventId='), await wsClient(port, '/x', { perMessageDeflate: false })]
  t.strictSame([bare, resuming, plain].map(({ socket }) => socket.extensions), ['permessage-deflate', 'permessage-deflate', ''])
  await until(() => app.connections.room('room').size === 3)
  const expected: unknown[] = []
  for (let i = 0; i < 30; i++) {
    const data = { i, padding: long.slice(0, i * 100) }
    expected.push(data)
    if (i % 3 === 0) await app.connections.room('room').send({ data })
    else if (i % 3 === 1) for (const connection of app.connections) connection.send({ data })
    else await app.connections.broadcast({ data })
  }
  for (const client of [bare, resuming, plain]) {
    const ready = client === resuming ? 1 : 0
    await client.wait(30 + ready)
    t.strictSame(client.messages.map((message) => (JSON.parse(String(message)) as { data: unknown }).data).slice(ready), expected)
  }
  const { id } = JSON.parse(String(resuming.messages[20])) as { id?: string }
  const known = resuming.messages.map((message) => (JSON.parse(String(message)) as { id?: string }).id).filter((one) => one !== undefined)
  const place = id ?? known[10] as string
  resuming.socket.terminate()
  const back = await wsClient(port, `/x?lastEventId=${place}`)
  const missed = known.slice(known.indexOf(place) + 1)
  await back.wait(missed.length + 1)
  t.strictSame(back.messages.map((message) => (JSON.parse(String(message)) as { id: string, event?: string })).filter(({ event }) => event !== 'ready').map(({ id }) => id), missed)
})

t.test('what waits is counted as it will be sent', async (t) => {
  const app = await build(t, { ws: { compression: true }, connections: { maxEventBytes: 5_000_000 } })
  const ends: Disconnect[] = []
  app.ws('/x', { onDisconnect: (_connection, end) => { ends.push(end) } })
  const port = await listen(app)
  const client = await wsClient(port, '/x')
  const [connection] = [...app.connections]
  connection?.send('x'.repeat(4_000_000))
  const { buffered = 0 } = connection ?? {}
  t.ok(buffered > 1_000 && buffered < 50_000, `${buffered} bytes of 4 million`)
  t.equal(String(await client.wait(1)).length, 4_000_000)
  client.close()
  await until(() => ends.length === 1)
  t.match(ends, [{ events: 1, bytes: buffered }])
})

t.test('a client that compresses, with its context or without, in one frame or many, is understood', async (t) => {
  const { port, errors } = await echo(t)
  const hello = deflated('Hello')
  t.equal(hello.toString('hex'), 'f248cdc9c90700') // RFC 7692, section 7.2.3.1
  const once = await rawUpgrade(t, port, '/x', offer('permessage-deflate; client_no_context_takeover'))
  once.write(
    frame(1, hello, { rsv: RSV1 }), frame(1, hello.subarray(0, 3), { rsv: RSV1, fin: false }), frame(9, 'between'), frame(0, hello.subarray(3)),
    frame(1, Buffer.from('f348cdc9c90700', 'hex'), { rsv: RSV1 }), // with BFINAL, section 7.2.3.4
    frame(1, Buffer.from('000500faff48656c6c6f00', 'hex'), { rsv: RSV1 }), // not compressed, section 7.2.3.3
    frame(1, Buffer.from([0]), { rsv: RSV1 }), frame(1, '', { rsv: RSV1 }), frame(2, '', { rsv: RSV1, fin: false }), frame(0), frame(1, 'plain'), frame(1),
    frame(2, deflated(noise), { rsv: RSV1 })
  )
  await until(() => once.frames.length === 11)
  t.strictSame(once.frames.filter(({ opcode }) => opcode < 3).map((one) => read(one)), ['Hello', 'Hello', 'Hello', 'Hello', '', '', Buffer.alloc(0), 'plain', '', noise])
  t.strictSame(once.frames.filter(({ opcode }) => opcode === 10).map(({ payload }) => payload.toString()), ['between'])
  for (const bits of [9, 15]) {
    const kept = await rawUpgrade(t, port, '/x', offer(`permessage-deflate; client_max_window_bits=${bits}`))
    const stream = createDeflateRaw({ windowBits: bits })
    const sent: number[] = []
    for (let i = 0; i < 20; i++) {
      const payload = await taken(stream, `${i} ${long}`)
      sent.push(payload.length)
      kept.write(frame(1, payload.subarray(0, 5), { rsv: RSV1, fin: false }), frame(0, payload.subarray(5)))
    }
    await until(() => kept.frames.length === 20)
    t.strictSame(kept.frames.map((one) => read(one)), Array.from({ length: 20 }, (_, i) => `${i} ${long}`))
    if (bits === 15) t.ok((sent[1] as number) < (sent[0] as number) / 4, 'it made use of what it had sent')
  }
  t.strictSame(errors(), [])
})

/** The next message of a client that keeps its context. */
async function taken (stream: DeflateRaw, data: string): Promise<Buffer> {
  const chunks: Buffer[] = []
  const collect = (chunk: Buffer): void => { chunks.push(chunk) }
  stream.on('data', collect)
  stream.write(data)
  await new Promise<void>((resolve) => stream.flush(constants.Z_SYNC_FLUSH, () => resolve()))
  stream.removeListener('data', collect)
  return Buffer.concat(chunks).subarray(0, -4)
}

t.test('what breaks the rules of the extension ends the connection, and only that', async (t) => {
  const { port, ends, errors } = await echo(t, 100_000)
  const hello = deflated('Hello')
  const bomb = deflated(Buffer.alloc(5_000_000))
  const cases: Array<[name: string, chunks: Buffer[], code: number]> = [
    ['RSV2', [frame(1, hello, { rsv: 2 })], 1002],
    ['RSV1 and RSV3', [frame(1, hello, { rsv: 5 })], 1002],
    ['RSV1 on a ping', [frame(9, hello, { rsv: RSV1 })], 1002],
    ['RSV1 on a pong', [frame(10, '', { rsv: RSV1 })], 1002],
    ['RSV1 on a close', [frame(8, '', { rsv: RSV1 })], 1002],
    ['RSV1 on a continuation', [frame(1, hello.subarray(0, 3), { rsv: RSV1, fin: false }), frame(0, hello.subarray(3), { rsv: RSV1 })], 1002],
    ['what is not deflated', [frame(1, Buffer.from('ffffffffff', 'hex'), { rsv: RSV1 })], 1007],
    ['what is not deflated, in fragments', [frame(1, hello.subarray(0, 3), { rsv: RSV1, fin: false }), frame(0, Buffer.alloc(10, 255))], 1007],
    ['a distance too far back', [frame(1, Buffer.from('030280ffff', 'hex'), { rsv: RSV1 })], 1007],
    ['text that is not UTF-8', [frame(1, deflated(Buffer.from([0xff, 0xfe])), { rsv: RSV1 })], 1007],
    ['a bomb', [frame(2, bomb, { rsv: RSV1 })], 1009],
    ['a bomb in fragments', [frame(2, bomb.subarray(0, 100), { rsv: RSV1, fin: false }), frame(0, bomb.subarray(100))], 1009],
    ['many small ones in one message', [frame(2, deflated(Buffer.alloc(60_000)), { rsv: RSV1, fin: false }), frame(0, Buffer.from([0, 0, 255, 255]), { fin: false }), frame(0, deflated(Buffer.alloc(60_000)))], 1009]
  ]
  for (const [name, chunks, code] of cases) {
    const raw = await rawUpgrade(t, port, '/x', offer('permessage-deflate'), ...chunks)
    await until(() => raw.closeCode !== 0)
    t.equal(raw.closeCode, code, name)
    raw.socket.end()
    await until(() => raw.ended)
  }
  await until(() => ends.length === cases.length)
  t.strictSame([...new Set(ends.map(({ reason }) => reason))], ['protocol error'])
  const without = await rawUpgrade(t, port, '/x', {}, frame(1, hello, { rsv: RSV1 }))
  await until(() => without.closeCode !== 0)
  t.equal(without.closeCode, 1002, 'who did not agree to it must not compress')
  t.strictSame(errors(), [])
  const next = await wsClient(port, '/x')
  next.send(long)
  t.equal(await next.wait(1), long)
})

t.test('control frames stand between compressed ones, and nothing follows the close frame', async (t) => {
  const app = await build(t, { ws: { compression: true }, connections: { heartbeat: 40 } })
  app.ws('/x', { onMessage (connection, message) { connection.send(message) } })
  const port = await listen(app)
  const raw = await rawUpgrade(t, port, '/x', offer('permessage-deflate'))
  let rounds = 0
  const expected: string[] = []
  const answer = (): void => { // as a client does, or it is taken for lost
    const pings = raw.frames.filter(({ opcode }) => opcode === 9)
    if (pings.length > 0) raw.write(frame(10, pings.at(-1)?.payload))
  }
  const pings = (): number => raw.frames.filter(({ opcode }) => opcode === 9).length
  while (rounds < 60 || pings() < 3) {
    const i = rounds++
    raw.write(frame(9, String(i)), frame(1, deflated(`echo ${i} ${long}`), { rsv: RSV1 }))
    for (const size of [0, 200, 4_000, 70_000]) {
      expected.push(`cast ${i} ${long}`.padEnd(size, 'y').slice(0, Math.max(size, 20)))
      void app.connections.broadcast(expected.at(-1) as string)
    }
    if (i % 5 === 0) await new Promise((resolve) => setTimeout(resolve, 2))
    answer()
  }
  const of = (kind: string): string[] => raw.frames.filter(({ opcode }) => opcode === 1).map((one) => String(read(one))).filter((text) => text.startsWith(kind))
  await until(() => of('echo').length === rounds && of('cast').length === expected.length)
  t.equal(of('cast').join() === expected.join(), true)
  t.strictSame(of('echo'), Array.from({ length: rounds }, (_, i) => `echo ${i} ${long}`))
  t.strictSame(raw.frames.filter(({ opcode }) => opcode === 10).map(({ payload }) => payload.toString()), Array.from({ length: rounds }, (_, i) => String(i)))
  t.ok(raw.frames.every(({ opcode, rsv }) => opcode === 1 || rsv === 0), 'no control frame is compressed')
  for (const connection of app.connections) {
    for (let i = 0; i < 10; i++) connection.send(`last ${i} ${long}`)
    connection.close(4000, 'enough')
    connection.send(long)
  }
  await until(() => raw.closeCode !== 0)
  t.equal(of('last').length, 10)
  t.equal(raw.frames.at(-1)?.opcode, 8)
  raw.write(closeFrame(4000))
})
