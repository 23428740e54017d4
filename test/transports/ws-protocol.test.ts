// After the Autobahn test suite (sections 1 to 7, 9 and 10), by hand: an echo through the plugin, a client that writes what it likes.
import t from 'tap'
import type { Test } from 'tap'
import type { Connection } from '../../lib/index.ts'
import { build, listen, until } from '../helper.ts'
import { logs } from '../logs.ts'
import { closeFrame, frame, rawUpgrade } from '../raw-ws.ts'
import type { FrameOptions } from '../raw-ws.ts'

interface Expected {
  /** What is echoed, in order. */
  echo?: Array<string | Buffer>
  /** Payloads of the pongs, in order. */
  pongs?: string[]
  /** The code the server closes with; without one the client closes with 1000 and sees it come back. */
  close?: number
}

type Case = [name: string, chunks: Buffer[], expected: Expected]

const MiB = 1_048_576
const { options, errors } = logs()
let app: Awaited<ReturnType<typeof build>>
let port = 0

t.before(async () => {
  app = await build(t, { fastify: options, connections: { maxEventBytes: 17 * MiB, maxBuffered: 64 * MiB }, ws: { maxPayload: 17 * MiB } })
  app.ws('/echo', { onMessage (connection: Connection, message: unknown) { connection.send(message as string) } })
  port = await listen(app)
  app.server.unref()
})

/** Runs cases, each on a connection of its own. */
function run (section: string, cases: Case[]): void {
  void t.test(section, async (t) => {
    for (let at = 0; at < cases.length; at += 16) {
      await Promise.all(cases.slice(at, at + 16).map(([name, chunks, expected]) => one(t, name, chunks, expected)))
    }
    await until(() => app.connections.size === 0)
    t.strictSame(errors(), [])
  })
}

async function one (t: Test, name: string, chunks: Buffer[], { echo = [], pongs = [], close }: Expected): Promise<void> {
  const raw = await rawUpgrade(t, port, '/echo')
  for (const chunk of chunks) {
    raw.write(chunk)
    if (chunks.length < 50) await new Promise((resolve) => setImmediate(resolve))
  }
  if (close === undefined) raw.write(closeFrame(1000, 'enough'))
  await until(() => raw.closeCode !== 0 || raw.closed || raw.ended)
  const seen = { code: raw.closeCode, pongs: raw.frames.filter(({ opcode }) => opcode === 10).map(({ payload }) => payload.toString('latin1')) }
  t.strictSame(seen, { code: close ?? 1000, pongs }, name)
  const { messages } = raw
  t.ok(messages.length === echo.length && messages.every((message, index) => typeof message === typeof echo[index] && Buffer.from(message as string).equals(Buffer.from(echo[index] as string))), `${name}: echoed`)
  t.ok(raw.frames.every(({ masked, rsv, fin }) => !masked && rsv === 0 && fin))
  raw.socket.end()
  await until(() => raw.ended)
  t.equal(raw.frames.at(-1)?.opcode, 8, 'nothing follows the close frame')
}

const text = (length: number): string => '*'.repeat(length)
const octets = (bytes: Buffer): Buffer[] => [...bytes].map((byte) => Buffer.from([byte]))

function chopped (bytes: Buffer, size: number): Buffer[] {
  const chunks: Buffer[] = []
  for (let at = 0; at < bytes.length; at += size) chunks.push(bytes.subarray(at, at + size))
  return chunks
}

/** A message in frames of `size` bytes. */
function fragments (opcode: number, payload: Buffer, size: number): Buffer[] {
  const parts = payload.length === 0 ? [payload] : chopped(payload, size)
  return parts.map((part, index) => frame(index === 0 ? opcode : 0, part, { fin: index === parts.length - 1 }))
}

run('1 framing', [1, 2].flatMap((opcode) => [
  ...[0, 125, 126, 127, 128, 65_535, 65_536].map((length): Case => {
    const payload = opcode === 1 ? text(length) : Buffer.alloc(length, 0xfe)
    return [`${opcode}, ${length} bytes`, [frame(opcode, payload)], { echo: [payload] }]
  }),
  [`${opcode}, chopped`, chopped(frame(opcode, text(65_536)), 997), { echo: [opcode === 1 ? text(65_536) : Buffer.from(text(65_536))] }],
  [`${opcode}, a length in more bytes than it needs`, [frame(opcode, 'x', { length: 16 }), frame(opcode, 'x', { length: 64 })], { echo: opcode === 1 ? ['x', 'x'] : [Buffer.from('x'), Buffer.from('x')] }],
  [`${opcode}, masked with zeros`, [frame(opcode, 'x', { mask: Buffer.alloc(4) })], { echo: [opcode === 1 ? 'x' : Buffer.from('x')] }]
] as Case[]))

run('2 pings and pongs', [
  ['2.1 empty', [frame(9)], { pongs: [''] }],
  ['2.2 text', [frame(9, 'Hello, world!')], { pongs: ['Hello, world!'] }],
  ['2.3 binary', [frame(9, Buffer.from([0, 255, 254, 253, 252, 251, 0, 255]))], { pongs: ['\x00\xff\xfe\xfd\xfc\xfb\x00\xff'] }],
  ['2.4 125 bytes', [frame(9, Buffer.alloc(125, 0xfe))], { pongs: ['\xfe'.repeat(125)] }],
  ['2.5 126 bytes', [frame(9, Buffer.alloc(126, 0xfe))], { close: 1002 }],
  ['2.6 125 bytes in octets', octets(frame(9, Buffer.alloc(125, 0xfe))), { pongs: ['\xfe'.repeat(125)] }],
  ['2.7 a pong', [frame(10)], {}],
  ['2.8 a pong with payload', [frame(10, 'unsolicited')], {}],
  ['2.9 a pong, then a ping', [frame(10, 'unsolicited'), frame(9, 'ping')], { pongs: ['ping'] }],
  ['2.10 ten pings', Array.from({ length: 10 }, (_, i) => frame(9, `payload-${i}`)), { pongs: Array.from({ length: 10 }, (_, i) => `payload-${i}`) }],
  ['2.11 ten pings in octets', octets(Buffer.concat(Array.from({ length: 10 }, (_, i) => frame(9, `payload-${i}`)))), { pongs: Array.from({ length: 10 }, (_, i) => `payload-${i}`) }]
])

run('3 reserved bits', [
  ['3.1 RSV3', [frame(1, 'x', { rsv: 1 })], { close: 1002 }],
  ['3.2 RSV2 after a good message', [frame(1, 'good'), frame(1, 'x', { rsv: 2 }), frame(9)], { echo: ['good'], close: 1002 }],
  ['3.3 RSV2 and RSV3, all in one', [Buffer.concat([frame(1, 'good'), frame(1, 'x', { rsv: 3 }), frame(9)])], { echo: ['good'], close: 1002 }],
  ['3.4 RSV1 in octets', octets(Buffer.concat([frame(1, 'good'), frame(1, 'x', { rsv: 4 }), frame(9)])), { echo: ['good'], close: 1002 }],
  ['3.5 RSV1 and RSV3, binary', [frame(2, 'x', { rsv: 5 })], { close: 1002 }],
  ['3.6 RSV1 and RSV2, ping', [frame(9, 'x', { rsv: 6 })], { close: 1002 }],
  ['3.7 all, close', [frame(8, '', { rsv: 7 })], { close: 1002 }]
])

run('4 reserved opcodes', [3, 4, 5, 6, 7, 11, 12, 13, 14, 15].flatMap((opcode): Case[] => [
  [`${opcode}`, [frame(opcode)], { close: 1002 }],
  [`${opcode} with payload`, [frame(opcode, 'reserved')], { close: 1002 }],
  [`${opcode} after a good message`, [frame(1, 'good'), frame(opcode, 'reserved'), frame(9)], { echo: ['good'], close: 1002 }],
  [`${opcode} in octets`, octets(Buffer.concat([frame(1, 'good'), frame(opcode, 'reserved'), frame(9)])), { echo: ['good'], close: 1002 }]
]))

const open: FrameOptions = { fin: false }
run('5 fragmentation', [
  ['5.1 a ping in fragments', [frame(9, 'one', open), frame(0, 'two')], { close: 1002 }],
  ['5.2 a pong in fragments', [frame(10, 'one', open), frame(0, 'two')], { close: 1002 }],
  ['5.3 text in two', [frame(1, 'one', open), frame(0, 'two')], { echo: ['onetwo'] }],
  ['5.4 text in two, in one packet', [Buffer.concat([frame(1, 'one', open), frame(0, 'two')])], { echo: ['onetwo'] }],
  ['5.5 text in two, in octets', octets(Buffer.concat([frame(1, 'one', open), frame(0, 'two')])), { echo: ['onetwo'] }],
  ['5.6 a ping between', [frame(1, 'one', open), frame(9, 'ping'), frame(0, 'two')], { echo: ['onetwo'], pongs: ['ping'] }],
  ['5.7 a ping between, in one packet', [Buffer.concat([frame(1, 'one', open), frame(9, 'ping'), frame(0, 'two')])], { echo: ['onetwo'], pongs: ['ping'] }],
  ['5.8 a ping between, in octets', octets(Buffer.concat([frame(1, 'one', open), frame(9, 'ping'), frame(0, 'two')])), { echo: ['onetwo'], pongs: ['ping'] }],
  ['5.9 a last fragment of nothing', [frame(0, 'stray'), frame(1, 'x')], { close: 1002 }],
  ['5.10 the same in one packet', [Buffer.concat([frame(0, 'stray'), frame(1, 'x')])], { close: 1002 }],
  ['5.11 the same in octets', octets(Buffer.concat([frame(0, 'stray'), frame(1, 'x')])), { close: 1002 }],
  ['5.12 a first fragment of nothing', [frame(0, 'stray', open), frame(1, 'x')], { close: 1002 }],
  ['5.13 the same in one packet', [Buffer.concat([frame(0, 'stray', open), frame(1, 'x')])], { close: 1002 }],
  ['5.14 the same in octets', octets(Buffer.concat([frame(0, 'stray', open), frame(1, 'x')])), { close: 1002 }],
  ['5.15 a fragment after a message', [frame(1, 'one', open), frame(0, 'two'), frame(0, 'stray', open), frame(1, 'x')], { echo: ['onetwo'], close: 1002 }],
  ['5.16 fragments without a first', [frame(0, 'a', open), frame(1, 'b', open), frame(0, 'c')], { close: 1002 }],
  ['5.17 last fragments without a first', [frame(0, 'a'), frame(1, 'b', open), frame(0, 'c')], { close: 1002 }],
  ['5.18 a message within a message', [frame(1, 'one', open), frame(1, 'two')], { close: 1002 }],
  ['5.18 a binary within a text', [frame(1, 'one', open), frame(2, 'two')], { close: 1002 }],
  ['5.19 five fragments and two pings', [frame(1, '1', open), frame(0, '2', open), frame(9, 'a'), frame(0, '3', open), frame(0, '4', open), frame(9, 'b'), frame(0, '5')], { echo: ['12345'], pongs: ['a', 'b'] }],
  ['5.20 the same in octets', octets(Buffer.concat([frame(1, '1', open), frame(0, '2', open), frame(9, 'a'), frame(0, '3', open), frame(0, '4', open), frame(9, 'b'), frame(0, '5')])), { echo: ['12345'], pongs: ['a', 'b'] }],
  ['a close between', [frame(1, 'one', open), closeFrame(1000), frame(0, 'two')], { close: 1000 }]
])

const KAPPA = 'Hello-µ@ßöäüàá-UTF-8!!'
const GREEK = Buffer.from([0xce, 0xba, 0xe1, 0xbd, 0xb9, 0xcf, 0x83, 0xce, 0xbc, 0xce, 0xb5])
const SURROGATE = Buffer.from([0xed, 0xa0, 0x80])
const bytes = (hex: string): Buffer => Buffer.from(hex.replaceAll(' ', ''), 'hex')

const VALID: string[] = [
  'ce ba e1 bd b9 cf 83 ce bc ce b5', '00', 'c2 80', 'e0 a0 80', 'f0 90 80 80', '7f', 'df bf', 'ef bf bf', 'f4 8f bf bf', 'ed 9f bf', 'ee 80 80', 'ef bf bd',
  'ef bf be', 'f0 9f bf be', 'f0 9f bf bf', 'f0 af bf be', 'f3 bf bf bf', 'f4 8f bf be', 'ef b7 90', 'f0 9f 98 80', 'ef bb bf 61', 'e2 80 a8', '61 cc 88'
]
const INVALID: string[] = [
  'ce ba e1 bd b9 cf 83 ce bc ce b5 ed a0 80 65 64 69 74 65 64', 'f8 88 80 80 80', 'fc 84 80 80 80 80', 'f7 bf bf bf', 'fb bf bf bf bf', 'fd bf bf bf bf bf', 'f4 90 80 80',
  '80', 'bf', '80 bf', '80 bf 80', '80 bf 80 bf', '80 bf 80 bf 80 bf 80', 'c0 20 c1 20 c2 20', 'e0 20 e1 20', 'f0 20 f1 20', 'f8 20', 'fc 20', 'c0', 'e0 80', 'f0 80 80',
  'f8 80 80 80', 'fc 80 80 80 80', 'df', 'ef bf', 'f7 bf bf', 'c0 e0 80 f0 80 80', 'fe', 'ff', 'fe fe ff ff', 'c0 af', 'e0 80 af', 'f0 80 80 af', 'f8 80 80 80 af', 'fc 80 80 80 80 af',
  'c1 bf', 'e0 9f bf', 'f0 8f bf bf', 'f8 87 bf bf bf', 'fc 83 bf bf bf bf', 'c0 80', 'e0 80 80', 'f0 80 80 80', 'f8 80 80 80 80', 'fc 80 80 80 80 80',
  'ed a0 80', 'ed ad bf', 'ed ae 80', 'ed af bf', 'ed b0 80', 'ed be 80', 'ed bf bf', 'ed a0 80 ed b0 80', 'ed ad bf ed bf bf', 'ed af bf ed b0 80', 'c3 28'
]

run('6 UTF-8', [
  ['6.1.1 empty', [frame(1)], { echo: [''] }],
  ['6.1.2 three empty fragments', [frame(1, '', open), frame(0, '', open), frame(0)], { echo: [''] }],
  ['6.1.3 one between that is not empty', [frame(1, '', open), frame(0, 'middle', open), frame(0)], { echo: ['middle'] }],
  ['6.2.1 one frame', [frame(1, KAPPA)], { echo: [KAPPA] }],
  ['6.2.2 cut on a character', [frame(1, KAPPA.slice(0, 7), open), frame(0, KAPPA.slice(7))], { echo: [KAPPA] }],
  ['6.2.3 a fragment for each byte', fragments(1, Buffer.from(KAPPA), 1), { echo: [KAPPA] }],
  ['6.2.4 a fragment for each byte', fragments(1, GREEK, 1), { echo: [GREEK.toString()] }],
  ['6.3.1 invalid', [frame(1, Buffer.concat([GREEK, SURROGATE, Buffer.from('edited')]))], { close: 1007 }],
  ['6.3.2 invalid, a fragment for each byte', fragments(1, Buffer.concat([GREEK, SURROGATE, Buffer.from('edited')]), 1), { close: 1007 }],
  ['6.4.1 invalid in the second of three', [frame(1, GREEK, open), frame(0, bytes('f4 90 80 80'), open), frame(0, 'edited')], { close: 1007 }],
  ['6.4.3 the same, chopped within the frame', chopped(frame(1, Buffer.concat([GREEK, bytes('f4 90 80 80'), Buffer.from('edited')])), 5), { close: 1007 }],
  ['binary is not looked at', [frame(2, SURROGATE)], { echo: [SURROGATE] }],
  ...VALID.map((hex): Case => [`valid ${hex}`, [frame(1, bytes(hex))], { echo: [bytes(hex).toString()] }]),
  ...VALID.map((hex): Case => [`valid ${hex}, byte by byte`, fragments(1, bytes(hex), 1), { echo: [bytes(hex).toString()] }]),
  ...INVALID.map((hex): Case => [`invalid ${hex}`, [frame(1, bytes(hex))], { close: 1007 }]),
  ...INVALID.map((hex): Case => [`invalid ${hex}, byte by byte`, fragments(1, bytes(hex), 1), { close: 1007 }])
])

run('7 closing', [
  ['7.1.1 after a message', [frame(1, 'Hello World!'), closeFrame(1000)], { echo: ['Hello World!'] }],
  ['7.1.2 twice', [Buffer.concat([closeFrame(1000), closeFrame(1000)])], { close: 1000 }],
  ['7.1.3 then a ping', [Buffer.concat([closeFrame(1000), frame(9)])], { close: 1000 }],
  ['7.1.4 then a message', [Buffer.concat([closeFrame(1000), frame(1, 'x')])], { close: 1000 }],
  ['7.1.5 within a message', [Buffer.concat([frame(1, 'one', open), closeFrame(1000), frame(0, 'two')])], { close: 1000 }],
  ['7.1.6 after a large message, then a ping', [frame(1, text(262_144)), closeFrame(1000), frame(9)], { echo: [text(262_144)], close: 1000 }],
  ['7.3.1 no payload', [frame(8)], { close: 1005 }],
  ['7.3.2 one byte', [frame(8, 'a')], { close: 1002 }],
  ['7.3.3 a code', [closeFrame(1000)], { close: 1000 }],
  ['7.3.4 a code and a reason', [closeFrame(1000, 'Hello World!')], { close: 1000 }],
  ['7.3.5 the longest reason', [closeFrame(1000, text(123))], { close: 1000 }],
  ['7.3.6 a longer one', [closeFrame(1000, text(124))], { close: 1002 }],
  ['7.5.1 a reason that is no UTF-8', [closeFrame(1000, Buffer.concat([GREEK, SURROGATE, Buffer.from('edited')]))], { close: 1007 }],
  ['in fragments', [frame(8, '', open), frame(0)], { close: 1002 }],
  ...[1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999].map((code): Case => [`7.7 ${code}`, [closeFrame(code)], { close: code }]),
  ...[0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65_535].map((code): Case => [`7.9 ${code}`, [closeFrame(code)], { close: 1002 }])
])

run('9 limits', [
  ...[1, 2].flatMap((opcode) => [65_536, 262_144, MiB, 4 * MiB, 16 * MiB].map((size): Case => {
    const payload = opcode === 1 ? text(size) : Buffer.alloc(size, 0xfe)
    return [`9.${opcode} ${size} bytes of ${opcode}`, [frame(opcode, payload)], { echo: [payload] }]
  })),
  ...[1, 2].flatMap((opcode) => [64, 1_024, 65_536, MiB].map((size): Case => {
    const payload = Buffer.alloc(size === 64 ? MiB : 4 * MiB, 0x2a)
    return [`9.${opcode + 2} frames of ${size}`, [Buffer.concat(fragments(opcode, payload, size))], { echo: [opcode === 1 ? payload.toString() : payload] }]
  })),
  ...[1, 2].flatMap((opcode) => [64, 512, 2_048].map((size): Case => {
    const payload = opcode === 1 ? text(MiB / 4) : Buffer.alloc(MiB / 4, 0xfe)
    return [`9.${opcode + 4} in packets of ${size}`, chopped(frame(opcode, payload), size), { echo: [payload] }]
  })),
  ...[1, 2].flatMap((opcode) => [0, 16, 1_024, 8_192].map((size): Case => {
    const payload = opcode === 1 ? text(size) : Buffer.alloc(size, 0xfe)
    return [`9.${opcode + 6} a thousand messages of ${size}`, [Buffer.concat(Array.from({ length: 1_000 }, () => frame(opcode, payload)))], { echo: Array.from({ length: 1_000 }, () => payload) }]
  }))
])

run('10 fragments made on the way', [['10.1.1', fragments(1, Buffer.from(text(65_536)), 1_300), { echo: [text(65_536)] }]])

t.test('whatever is sent instead of frames, the server serves on', async (t) => {
  await Promise.all(Array.from({ length: 300 }, async (_, seed) => {
    const raw = await rawUpgrade(t, port, '/echo')
    let state = seed + 1
    const noise = Buffer.from(Array.from({ length: 1 + seed % 200 }, () => (state = state * 1_103_515_245 + 12_345 & 0x7fffffff) >> 16 & 255))
    raw.socket.end(noise)
    await until(() => raw.ended)
    raw.socket.destroy()
  }))
  await until(() => app.connections.size === 0)
  t.strictSame(errors(), [])
  await one(t, 'a good client', [frame(1, 'still here')], { echo: ['still here'] })
})
