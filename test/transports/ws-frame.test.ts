import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Duplex } from 'node:stream'
import fc from 'fast-check'
import t from 'tap'
import type { Test } from 'tap'
import { event as prepare, toEvent } from '../../lib/event.ts'
import type { CheckedEvent } from '../../lib/event.ts'
import { wsBare, wsFrame, wsResume } from '../../lib/transports/ws-frame.ts'
import type { Event, Sendable } from '../../lib/index.ts'
import { until, wsClient } from '../helper.ts'
import type { WsClient } from '../helper.ts'

const limits = { maxBytes: Infinity }

/** A server that makes the handshake by hand and writes what it is given: only the client parses frames. */
async function pair (t: Test): Promise<{ socket: Duplex, client: WsClient }> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const upgraded = once(server, 'upgrade') as Promise<[{ headers: Record<string, string> }, Duplex]>
  const connected = wsClient((server.address() as AddressInfo).port, '/')
  const [{ headers }, socket] = await upgraded
  const accept = createHash('sha1').update(`${headers['sec-websocket-key']}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64')
  socket.write(`HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: ${accept}\r\n\r\n`)
  const client = await connected
  t.after(() => {
    client.socket.terminate()
    server.close()
  })
  return { socket, client }
}

/** What a client of this encoding makes of it; undefined where there is no frame. */
function payload (frame: Uint8Array): string | Buffer | undefined {
  if (frame.length === 0) return undefined
  const bytes = Buffer.from(frame)
  const long = bytes.readUInt8(1)
  const start = long < 126 ? 2 : long === 126 ? 4 : 10
  return bytes.readUInt8(0) === 0x81 ? bytes.subarray(start).toString() : bytes.subarray(start)
}

function bare (given: Sendable): string | Buffer | undefined { return payload(wsBare.frame(toEvent(given, limits))) }
function resume (given: CheckedEvent): unknown { return JSON.parse(payload(wsResume.frame(given)) as string) }

t.test('lengths are written in the fewest bytes, unmasked, with FIN', async (t) => {
  const headers: Array<[number, string]> = [
    [0, '8100'], [1, '8101'], [125, '817d'], [126, '817e007e'], [127, '817e007f'], [255, '817e00ff'], [256, '817e0100'],
    [65_535, '817effff'], [65_536, '817f0000000000010000'], [65_537, '817f0000000000010001'], [1_048_576, '817f0000000000100000']
  ]
  for (const [length, header] of headers) {
    const frame = wsFrame(0x81, 'x'.repeat(length))
    t.equal(frame.length, header.length / 2 + length, `${length}`)
    t.equal(frame.subarray(0, header.length / 2).toString('hex'), header)
  }
  t.equal(wsFrame(0x82, new Uint8Array(3)).toString('hex'), '8203000000')
})

t.test('a client reads every length, as text and as bytes', async (t) => {
  const { socket, client } = await pair(t)
  const expected: Array<string | Buffer> = []
  for (const length of [0, 1, 124, 125, 126, 127, 128, 65_534, 65_535, 65_536, 65_537, 300_000]) {
    const bytes = Buffer.alloc(length, 7)
    for (const data of ['x'.repeat(length), 'ü'.repeat(length / 2) + 'x'.repeat(length % 2), bytes]) {
      expected.push(data)
      socket.write(wsBare.frame(toEvent(data, limits)))
    }
  }
  await until(() => client.messages.length >= expected.length || client.closed !== null)
  t.equal(client.closed, null)
  for (const [at, message] of client.messages.entries()) {
    const data = expected[at] as string | Buffer
    t.ok(typeof message === typeof data && Buffer.from(data as string).equals(Buffer.from(message as string)), `${typeof data} of ${data.length}`)
  }
})

t.test('a client reads whatever was sent, in both encodings', async (t) => {
  const { socket, client } = await pair(t)
  const unit = fc.oneof(fc.string({ unit: 'binary', maxLength: 150 }), fc.integer({ min: 0, max: 0xffff }).map((code) => String.fromCharCode(code)))
  const text = fc.array(unit, { maxLength: 4 }).map((parts) => parts.join(''))
  const line = text.map((value) => value.replace(/[\r\n\0]/g, '').toWellFormed()).filter((value) => value !== 'error' && value !== 'open')
  const data = fc.oneof(text, fc.uint8Array(), fc.jsonValue())
  const events = fc.sample(fc.record({ event: line, id: line, data }, { requiredKeys: ['data'] }), 1_000)
  for (const event of events) {
    const checked = toEvent(event, limits)
    socket.write(Buffer.concat([wsBare.frame(checked), wsResume.frame(checked.at('e', 1))]))
  }
  await until(() => client.messages.length >= events.length * 2 || client.closed !== null)
  t.equal(client.closed, null)
  for (const [at, { event, id, data }] of events.entries()) {
    const [first, second] = client.messages.slice(at * 2) as [string | Buffer, string]
    const own = data instanceof Uint8Array ? { base64: Buffer.from(data).toString('base64') } : { data }
    const whole = JSON.stringify({ ...event === undefined ? {} : { event }, ...own })
    if (event === undefined && id === undefined && typeof data === 'string') t.equal(first, data.toWellFormed())
    else if (event === undefined && id === undefined && data instanceof Uint8Array) t.strictSame(first, Buffer.from(data))
    else t.strictSame(JSON.parse(first as string), { ...id === undefined ? {} : { id }, ...JSON.parse(whole) as object })
    t.strictSame(JSON.parse(second), { id: id ?? 'e-1', ...JSON.parse(whole) as object })
  }
})

t.test('bare: text and bytes are as they are, without anything around', async (t) => {
  t.equal(bare('hello'), 'hello')
  t.equal(bare(''), '')
  t.equal(bare({ data: 'hello' }), 'hello')
  t.strictSame(bare(Buffer.from([1, 2])), Buffer.from([1, 2]))
  t.strictSame(bare(new Uint8Array(0)), Buffer.alloc(0))
  t.equal(bare('lone \uD800'), 'lone \uFFFD')
})

t.test('bare: a name, an id or an object makes JSON of it, with only an id of the application', async (t) => {
  t.equal(bare({ data: { a: 1 } }), '{"data":{"a":1}}')
  t.equal(bare({ data: null }), '{"data":null}')
  t.equal(bare({ event: 'said', data: 'hi' }), '{"event":"said","data":"hi"}')
  t.equal(bare({ event: 'said' }), '{"event":"said","data":""}')
  t.equal(bare({ id: 7, data: 'hi' }), '{"id":"7","data":"hi"}')
  t.equal(bare({ event: 'blob', data: Buffer.from('ab') }), '{"event":"blob","base64":"YWI="}')
  t.equal(payload(wsBare.frame(toEvent({ data: 'hi' }, limits).at('e', 1))), 'hi', 'a cursor is for those who resume')
  t.equal(payload(wsBare.frame(toEvent({ data: [1] }, limits).at('e', 1))), '{"data":[1]}')
})

t.test('resume: every event is JSON with the place to come back with', async (t) => {
  t.strictSame(resume(toEvent('hello', limits).at('e', 1)), { id: 'e-1', data: 'hello' })
  t.strictSame(resume(toEvent({ event: 'said', data: { a: 1 } }, limits).at('e', 2)), { id: 'e-2', event: 'said', data: { a: 1 } })
  t.strictSame(resume(toEvent({ id: 'own', data: 'x' }, limits).at('e', 3)), { id: 'own', data: 'x' })
  t.strictSame(resume(toEvent(new Uint8Array([1, 2, 3]).subarray(1), limits).at('e', 4)), { id: 'e-4', base64: 'AgM=' })
  t.strictSame(resume(toEvent('not kept', limits)), { data: 'not kept' })
  t.strictSame(resume(toEvent('"\\\n\u2028\uD800', limits)), { data: '"\\\n\u2028\uD800' }, 'text is whole, also what is no character')
})

t.test('what has no data has no frame', async (t) => {
  const none: Event[] = [{ id: 1 }, { retry: 5 }, { comment: 'x' }, { id: 'a', retry: 1, comment: 'b' }]
  for (const given of none) {
    t.equal(wsBare.frame(toEvent(given, limits)).length, 0)
    t.equal(wsResume.frame(toEvent(given, limits)).length, 0)
  }
})

t.test('delays and comments beside data are left out', async (t) => {
  t.equal(bare({ data: 'x', retry: 5, comment: 'c' }), 'x')
  t.strictSame(resume(toEvent({ data: 'x', retry: 5, comment: 'c' }, limits)), { data: 'x' })
})

t.test('a prepared event has the frames of its fields', async (t) => {
  const prepared = toEvent(prepare({ event: 'a', data: 1 }), limits)
  t.equal(payload(prepared.framed.frame(wsBare)), '{"event":"a","data":1}')
  t.equal(prepared.framed.frame(wsBare), prepared.framed.frame(wsBare), 'made once')
})

t.test('the encodings have names', async (t) => {
  t.equal(wsBare.name, 'ws')
  t.equal(wsResume.name, 'ws-resume')
})
