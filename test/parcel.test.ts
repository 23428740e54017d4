import fc from 'fast-check'
import t from 'tap'
import { toEvent } from '../lib/event.ts'
import { decodeParcel, encodeParcel } from '../lib/parcel.ts'
import type { RealEvent, Sendable, Spared } from '../types/index.ts'

const sender = { from: 'node', count: 7 }

function encode (event: Sendable, except: Spared | null = null): Buffer { return encodeParcel({ event: toEvent(event, { maxBytes: Infinity }), except }, sender) }

/** Its fields, of whichever kind of bytes. */
function plain (event: RealEvent): object { return { ...event, bytes: event.bytes === undefined ? undefined : Buffer.from(event.bytes) } }

function head (fields: unknown, data = ''): Buffer {
  const text = Buffer.from(JSON.stringify(fields))
  const length = Buffer.alloc(4)
  length.writeUInt32BE(text.length)
  return Buffer.concat([Buffer.from([1]), length, text, Buffer.from(data)])
}

t.test('a parcel comes out as it went in', async (t) => {
  const events: Sendable[] = [
    '', 'text', '💥\r\n\0\u2028', '\uFEFFmark', { data: { a: [1, null, 'é'] } }, { data: '5' }, { data: 5 }, { data: false }, Buffer.from([0, 1, 128, 255]), new Uint8Array(0),
    { event: 'named' }, { event: 'named', data: 'x', id: 'mine', retry: 0, comment: 'said\nmore' }, { comment: 'only' }, { data: 'x'.repeat(200_000) }
  ]
  for (const event of events) {
    for (const except of [null, { ids: ['one', '*'], users: ['__proto__', 'é'] }]) {
      const checked = toEvent(event, { maxBytes: Infinity })
      const received = decodeParcel(encode(event, except), Infinity)
      t.strictSame(plain(received.event), plain(checked))
      t.strictSame([received.from, received.count, received.except], ['node', 7, except])
    }
  }
})

t.test('its data is not a view of what came', async (t) => {
  const encoded = encode(Buffer.from('abc'))
  const { event } = decodeParcel(encoded, Infinity)
  encoded.fill(0)
  t.equal(Buffer.from(event.bytes as Uint8Array).toString(), 'abc')
})

t.test('what is no parcel is refused with a reason', async (t) => {
  const good = encode({ event: 'n', data: { a: 1 } })
  const refused: Array<[Buffer, RegExp]> = [
    [Buffer.alloc(0), /ends early/],
    [good.subarray(0, 4), /ends early/],
    [good.subarray(0, 12), /ends early/],
    [Buffer.concat([Buffer.from([2]), good.subarray(1)]), /version 2; this is 1/],
    [Buffer.from([1, 255, 255, 255, 255, 0]), /ends early/],
    [Buffer.from([1, 0, 0, 0, 1, 0x7b]), /JSON/],
    [head(null), /sender/],
    [head(5), /sender/],
    [head({ f: 1, n: 1, k: 0, c: 'x' }), /sender/],
    [head({ f: 'x', n: 1.5, k: 0, c: 'x' }), /sender/],
    [head({ f: 'x', n: 1, k: 4 }, 'x'), /kind/],
    [head({ f: 'x', n: 1, c: 'x' }), /kind/],
    [head({ f: 'x', n: 1, k: 0, c: 'x' }, 'more'), /kind/],
    [head({ f: 'x', n: 1, k: 0 }), /needs at least one/],
    [head({ f: 'x', n: 1, k: 1, e: 'a\nb' }), /event/],
    [head({ f: 'x', n: 1, k: 1, i: 'a\nb' }), /id/],
    [head({ f: 'x', n: 1, k: 1, i: {} }), /id/],
    [head({ f: 'x', n: 1, k: 1, r: -1 }), /retry/],
    [head({ f: 'x', n: 1, k: 1, c: [] }), /comment/],
    [head({ f: 'x', n: 1, k: 1, x: 5 }), /spares/],
    [head({ f: 'x', n: 1, k: 1, x: [[], [1]] }), /spares/],
    [head({ f: 'x', n: 1, k: 1, x: [['a']] }), /spares/]
  ]
  for (const [bytes, reason] of refused) t.throws(() => decodeParcel(bytes, Infinity), { message: reason }, reason.source)
  t.throws(() => decodeParcel(good, good.length - 1), { message: /more than/ })
  t.ok(decodeParcel(good, good.length))
})

t.test('no bytes do more than be refused', async (t) => {
  const good = [...encode({ event: 'n', data: { a: 1 }, id: 'x' }, { ids: ['a'], users: [] })]
  const changed = fc.array(fc.tuple(fc.nat(good.length - 1), fc.nat(255)), { maxLength: 5 })
    .map((changes) => { const bytes = [...good]; for (const [at, value] of changes) bytes[at] = value; return bytes })
  fc.assert(fc.property(fc.oneof(fc.array(fc.nat(255)), changed), (bytes) => {
    try {
      const { event, except } = decodeParcel(Buffer.from(bytes), 1_000)
      if (event.id?.includes('\n') === true || (except !== null && !Array.isArray(except.ids))) throw new TypeError('let in')
    } catch (err) {
      if (err instanceof TypeError) throw err
    }
  }), { numRuns: 2_000 })
  t.pass('refused')
})
