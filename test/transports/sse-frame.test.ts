import { createParser } from 'eventsource-parser'
import fc from 'fast-check'
import t from 'tap'
import { EventParser } from '../../lib/event-parser.ts'
import { toEvent } from '../../lib/event.ts'
import { chunk, sse, sseChunked, sseText } from '../../lib/transports/sse-frame.ts'
import type { Event, Sendable } from '../../lib/index.ts'

interface Seen { event: string, data: string }
interface Stream { events: Seen[], ids: string[], retries: number[], comments: string[], fields: Array<[string, string]> }

const limits = { maxBytes: Infinity }

/** The section of the standard, word by word; it also counts the lines it saw. */
function readByHand (bytes: Uint8Array): Stream {
  const stream: Stream = { events: [], ids: [], retries: [], comments: [], fields: [] }
  const lines = new TextDecoder('utf-8', { fatal: true }).decode(bytes).replaceAll('\r\n', '\n').replaceAll('\r', '\n').split('\n')
  lines.pop() // what follows the last line end is no line
  let data = ''
  let type = ''
  for (const line of lines) {
    if (line.length === 0) {
      if (data !== '') stream.events.push({ event: type === '' ? 'message' : type, data: data.slice(0, -1) })
      data = type = ''
    } else if (line.charCodeAt(0) === 0x3a) {
      stream.comments.push(line.startsWith(': ') ? line.substring(2) : line.substring(1))
    } else {
      const parts = line.split(':')
      const field = parts.shift() as string
      let value = parts.join(':')
      if (value.charAt(0) === ' ') value = value.substring(1)
      stream.fields.push([field, value])
      if (field === 'event') type = value
      else if (field === 'data') data += value + '\n'
      else if (field === 'id' && value.indexOf('\0') < 0) stream.ids.push(value)
      else if (field === 'retry' && value.length > 0 && [...value].every((digit) => '0123456789'.includes(digit))) stream.retries.push(Number.parseInt(value, 10))
    }
  }
  return stream
}

/** The same with the parser of the `eventsource` package, fed in pieces that end anywhere, also inside a character. */
function readInPieces (bytes: Uint8Array, sizes: number[]): Stream & { errors: string[] } {
  const stream: Stream & { errors: string[] } = { events: [], ids: [], retries: [], comments: [], fields: [], errors: [] }
  const parser = createParser({
    onEvent ({ id, event = 'message', data }) {
      stream.events.push({ event, data })
      if (id !== undefined) stream.ids.push(id)
    },
    onRetry: (retry) => stream.retries.push(retry),
    onComment: (comment) => stream.comments.push(comment),
    onError: (error) => stream.errors.push(error.message)
  })
  for (const piece of inPieces(bytes, sizes)) parser.feed(piece)
  return stream
}

function readByOurs (bytes: Uint8Array, sizes: number[]): { events: Seen[], comments: string[], retry: number | undefined } {
  const parser = new EventParser()
  const events = inPieces(bytes, sizes).flatMap((piece) => parser.push(piece)).map(({ event, data }) => ({ event, data }))
  return { events, comments: parser.comments, retry: parser.retry }
}

function inPieces (bytes: Uint8Array, sizes: number[]): string[] {
  const decoder = new TextDecoder()
  const pieces: string[] = []
  let start = 0
  for (const size of sizes) pieces.push(decoder.decode(bytes.subarray(start, start += size), { stream: true }))
  return [...pieces, decoder.decode(bytes.subarray(start))]
}

/** What a client is to get of a string: every line end is LF, and what is no character is U+FFFD. */
function received (text: string): string { return text.replace(/\r\n|\r/g, '\n').toWellFormed() }

const before = Buffer.from('data: before\n\n')
const after = Buffer.from('data: after\n\n')
const seenBefore = { event: 'message', data: 'before' }
const seenAfter = { event: 'message', data: 'after' }

/** One frame between two others, so that nothing leaks into the next event unseen. */
function between (frame: Uint8Array): Buffer { return Buffer.concat([before, frame, after]) }

/** The payload of one chunk of HTTP/1.1. */
function unchunk (frame: Uint8Array): Buffer {
  const head = Buffer.from(frame).indexOf('\r\n')
  const size = Number.parseInt(Buffer.from(frame).subarray(0, head).toString('latin1'), 16)
  if (frame.length !== head + 2 + size + 2 || Buffer.from(frame).subarray(-2).toString('latin1') !== '\r\n') throw new Error('it is not one chunk')
  return Buffer.from(frame).subarray(head + 2, head + 2 + size)
}

const hostile = fc.oneof(
  fc.constantFrom('\r', '\n', '\r\n', '\n\r', '\n\n', '\r\r', '\0', '\t', '\v', '\f', '\x1b', '\x85', '\u2028', '\u2029', '\uFEFF', '\uD800', '\uDC00', '\uDBFF\uDFFF', ' ', ':', ''),
  fc.constantFrom('data: ', 'data:', 'data', 'event: x', 'id: 1', 'id', 'retry: 1', ': comment', '\ndata: x', '\n\ndata: x\n\n', '\revent: x', '\r\nid: x', '[object Object]', '0\r\n\r\n', '5\r\ndata:'),
  fc.string({ unit: 'binary', maxLength: 4 }),
  fc.integer({ min: 0, max: 0xffff }).map((unit) => String.fromCharCode(unit))
)
const text = fc.array(hostile, { maxLength: 12 }).map((parts) => parts.join(''))
const line = text.map((value) => value.replace(/[\r\n\0]/g, '').toWellFormed())
const name = line.filter((value) => value !== 'error' && value !== 'open')
const pieces = fc.array(fc.nat({ max: 40 }), { maxLength: 5 })
const optional = { requiredKeys: [] }

t.test('what is put in comes out, as one event and with no field more, whatever it is', async (t) => {
  const fields = fc.record({
    event: name,
    id: fc.oneof(line, fc.integer(), fc.double({ noNaN: true, noDefaultInfinity: true })),
    retry: fc.nat(),
    comment: text,
    data: text
  }, optional)
  let runs = 0
  fc.assert(fc.property(fields, pieces, (given, sizes) => {
    fc.pre(Object.keys(given).length > 0)
    runs++
    const { event, id, retry, comment } = given
    const data = given.data ?? (event === undefined ? undefined : '')
    const checked = toEvent(given as Event, limits)
    const frame = sse.frame(checked)
    const stream = between(frame)
    const events = data === undefined ? [] : [{ event: event === undefined || event === '' ? 'message' : event, data: received(data) }]
    const comments = comment === undefined ? [] : received(comment).split('\n')
    const retries = retry === undefined ? [] : [retry]

    const byHand = readByHand(stream)
    strictSame(byHand.events, [seenBefore, ...events, seenAfter])
    strictSame(byHand.comments, comments)
    strictSame(byHand.retries, retries)
    strictSame(byHand.ids, id === undefined ? [] : [String(id)])
    const expected: Array<[string, string]> = []
    if (event !== undefined) expected.push(['event', event])
    if (id !== undefined) expected.push(['id', String(id)])
    if (retry !== undefined) expected.push(['retry', String(retry)])
    if (data !== undefined) for (const one of received(data).split('\n')) expected.push(['data', one])
    strictSame(byHand.fields, [['data', 'before'], ...expected, ['data', 'after']])

    const inPieces = readInPieces(stream, sizes)
    strictSame(inPieces.events, byHand.events)
    strictSame(inPieces.comments, comments)
    strictSame(inPieces.retries, retries)
    strictSame(inPieces.errors, [])
    if (data !== undefined) strictSame(inPieces.ids, byHand.ids)

    const ours = readByOurs(stream, sizes)
    strictSame(ours.events, byHand.events)
    strictSame(ours.comments, comments)
    strictSame(ours.retry, retry)

    strictSame(unchunk(sseChunked.frame(checked)).toString(), Buffer.from(frame).toString())
  }), { numRuns: 10_000 })
  t.ok(runs >= 10_000)
})

t.test('a field that is anything at all is refused with a code, or is one clean event', async (t) => {
  const anything = fc.oneof(fc.anything({ withBigInt: true, withDate: true, withMap: true, withNullPrototype: true, withTypedArray: true }), text, fc.double())
  const fields = fc.record({ event: anything, id: anything, retry: anything, comment: anything, data: anything }, optional)
  let refused = 0
  let taken = 0
  fc.assert(fc.property(fc.oneof(fields, anything), (given) => {
    let checked
    try {
      checked = toEvent(given as Sendable, limits)
    } catch (err) {
      refused++
      return (err as { code: string }).code.startsWith('FST_ERR_REAL_')
    }
    taken++
    const { events, ids, retries } = readByHand(between(sse.frame(checked)))
    const own = events.slice(1, -1)
    return own.length === (checked.hasData ? 1 : 0) && ids.length <= 1 && retries.length <= 1 &&
      (checked.event ?? '') === (own[0]?.event === 'message' ? '' : own[0]?.event ?? '')
  }), { numRuns: 3_000 })
  t.ok(refused > 100 && taken > 100, `${refused} were refused, ${taken} were taken`)
})

t.test('JSON of any kind comes out equal', async (t) => {
  fc.assert(fc.property(fc.jsonValue({ noUnicodeString: false }), pieces, (data, sizes) => {
    const checked = toEvent({ data }, limits)
    const [, seen] = readByOurs(between(sse.frame(checked)), sizes).events
    if (typeof data === 'string') strictSame(seen?.data, received(data))
    else strictSame(JSON.parse(seen?.data as string), JSON.parse(JSON.stringify(data)))
  }), { numRuns: 1_000 })
  t.pass()
})

t.test('many events of one stream keep their order and their borders', async (t) => {
  fc.assert(fc.property(fc.array(fc.record({ event: name, data: text, comment: text })), pieces, (given, sizes) => {
    const stream = Buffer.concat(given.map((fields) => sse.frame(toEvent(fields, limits))))
    const expected = given.map(({ event, data }) => ({ event: event === '' ? 'message' : event, data: received(data) }))
    strictSame(readByHand(stream).events, expected)
    strictSame(readInPieces(stream, sizes).events, expected)
  }), { numRuns: 300 })
  t.pass()
})

// --- the catalogues

const ends = ['\n', '\r', '\r\n', '\n\r', '\n\n', '\r\r', '\r\n\r\n', '\r\n\n', '\n\r\n']
const strings = [
  '', ' ', '  ', '   two', ' leading', '\tleading', 'trailing ', ':', '::', ': ', ' :', ...ends,
  ...ends.map((end) => `a${end}b`), ...ends.map((end) => `${end}a`), ...ends.map((end) => `a${end}`),
  'data: x', 'data', 'a\ndata: b', 'a\n\ndata: b\n\n', 'event: x', 'a\nevent: x', 'a\rid: 1', 'a\r\nretry: 1', 'a\n: comment', 'a\n\n\nid: 1\ndata: x\n\n',
  '\uFEFF', '\uFEFFdata: x', 'a\uFEFF', '\0', 'a\0b', '\x85', 'a\x85b', '\u2028', 'a\u2028b', 'a\u2029b', 'a\vb', 'a\fb', '\x1b[31m',
  '\uD800', '\uDC00', 'a\uD83Db', '\uDE00\uD83D', '\u{1F600}', 'e\u0301', '\u202Ertl', '0', 'null', '{"a":1}', 'x'.repeat(65_536), 'ü\n'.repeat(20_000)
]

t.test('each string of the catalogue is one event with the value it had', async (t) => {
  t.ok(strings.length >= 62)
  for (const data of strings) {
    const stream = between(sse.frame(toEvent(data, limits)))
    const expected = [seenBefore, { event: 'message', data: received(data) }, seenAfter]
    const shown = escape(data.slice(0, 30))
    t.strictSame(readByHand(stream).events, expected, shown)
    t.strictSame(readInPieces(stream, [20, 1, 1]).events, expected, shown)
    t.strictSame(readByOurs(stream, [20, 1, 1]).events, expected, shown)
  }
})

t.test('data that is no string is JSON, and bytes are base64', async (t) => {
  const nested = JSON.parse('['.repeat(3_000) + ']'.repeat(3_000)) as unknown
  const values: unknown[] = [0, -0, 1.5, 1e21, NaN, Infinity, true, false, null, [], ['a\nb'], {}, { a: { b: '\r\n' } }, nested, JSON.parse('{"__proto__":{"polluted":true}}'), new Date(0)]
  for (const data of values) {
    const [, seen, next] = readByHand(between(sse.frame(toEvent({ data }, limits)))).events
    t.equal(seen?.data, JSON.stringify(data))
    t.strictSame(next, seenAfter)
  }
  t.notOk('polluted' in {})
  for (const bytes of [new Uint8Array(0), Buffer.from([0, 10, 13, 255]), new Uint8Array([1, 2, 3, 4]).subarray(1, 3)]) {
    const [, seen] = readByHand(between(sse.frame(toEvent(bytes, limits)))).events
    t.strictSame(Buffer.from(seen?.data as string, 'base64'), Buffer.from(bytes))
  }
})

const breaks = ['\n', '\r', '\r\n', '\0', '\uD800', '\uDC00', 'a\nb', 'a\rb', 'a\0b', 'x\n\ndata: y\n\n', 'x\r\rdata: y\r\r', 'a\nid: 1', 'a\uD800b', 'trailing\n', '\nleading']
const wrong: unknown[] = [null, true, {}, [], ['a'], Symbol('a'), () => 'a', new Date(0), NaN, Infinity, -Infinity]
const harmless = ['a', 'A', 'a b', ' a', 'a ', ':', 'a:b', 'data', 'data: x', '\t', '\x85', '\u2028', '\uFEFF', '\u{1F600}', '__proto__', 'constructor', 'x'.repeat(500)]

t.test('names, ids, delays and comments of the catalogue are refused, or are one clean event', async (t) => {
  for (const event of [...breaks, ...wrong, 0, 1, 1n, 'error', 'open']) t.throws(() => toEvent({ event, data: 'x' } as never, limits), { code: 'FST_ERR_REAL_EVENT' }, escape(`event ${String(event)}`))
  for (const id of [...breaks, ...wrong, 1n, 'x'.repeat(513)]) t.throws(() => toEvent({ id, data: 'x' } as never, limits), { code: 'FST_ERR_REAL_EVENT' }, escape(`id ${String(id).slice(0, 20)}`))
  for (const retry of [...breaks, ...wrong, '', '5', '0x10', -1, 1.5, 1e21, 2 ** 53, 5n]) t.throws(() => toEvent({ retry, data: 'x' } as never, limits), { code: 'FST_ERR_REAL_EVENT' }, escape(`retry ${String(retry)}`))
  for (const comment of [...wrong, 0, 1n]) t.throws(() => toEvent({ comment, data: 'x' } as never, limits), { code: 'FST_ERR_REAL_EVENT' }, escape(`comment ${String(comment)}`))
  for (const value of harmless) {
    const { events, ids } = readByHand(between(sse.frame(toEvent({ event: value, id: value, data: 'x' }, limits))))
    t.strictSame(events, [seenBefore, { event: value, data: 'x' }, seenAfter], escape(value.slice(0, 20)))
    t.strictSame(ids, [value])
  }
  for (const comment of [...breaks, ...harmless, ...strings]) {
    const { events, comments } = readByHand(between(sse.frame(toEvent({ comment, data: 'x' }, limits))))
    t.strictSame(events, [seenBefore, { event: 'message', data: 'x' }, seenAfter])
    t.strictSame(comments, received(comment).split('\n'))
  }
})

t.test('zero is a value', async (t) => {
  t.equal(sseText(toEvent({ id: 0, retry: 0, data: 0 }, limits)), 'id: 0\nretry: 0\ndata: 0\n\n')
  t.equal(sseText(toEvent({ id: '', data: '' }, limits)), 'id: \ndata: \n\n', 'an empty id takes the place from the client, where it is asked for')
})

t.test('fields stand in one order, each with one space', async (t) => {
  t.equal(sseText(toEvent({ data: ' a\nb', comment: 'c\rd', retry: 5, id: 'i', event: 'e' }, limits)), ': c\n: d\nevent: e\nid: i\nretry: 5\ndata:  a\ndata: b\n\n')
})

t.test('a name alone is sent with an empty line of data, since it would never be dispatched without', async (t) => {
  t.equal(sseText(toEvent({ event: 'e' }, limits)), 'event: e\ndata: \n\n')
})

t.test('comments and delays alone end in no empty line, which some clients take for an event', async (t) => {
  t.equal(sseText(toEvent({ comment: 'a\nb' }, limits)), ': a\n: b\n')
  t.equal(sseText(toEvent({ retry: 1000 }, limits)), 'retry: 1000\n')
  t.equal(sseText(toEvent({ id: 'x', comment: 'a' }, limits)), ': a\nid: x\n\n', 'an id takes effect at the empty line')
})

t.test('an event without an id is sent without one; a kept one has its cursor, the id of the application comes first', async (t) => {
  const given = toEvent({ data: 'x' }, limits)
  t.equal(sseText(given), 'data: x\n\n')
  t.equal(sseText(given.at('e', 1)), 'id: e-1\ndata: x\n\n')
  t.equal(sseText(toEvent({ id: 'own', data: 'x' }, limits).at('e', 1)), 'id: own\ndata: x\n\n')
  t.equal(sseText(given.at('e', 1).placeless()), 'data: x\n\n')
})

t.test('what comes from elsewhere with nothing in it can neither end the body nor name the next event', async (t) => {
  const empty = { event: undefined, text: undefined, json: false, bytes: undefined, id: undefined, retry: undefined, comment: undefined, cursor: undefined }
  t.equal(sseChunked.frame(empty).toString(), '1\r\n\n\r\n')
  t.strictSame(readByHand(between(sse.frame({ ...empty, event: 'leak' }))).events, [seenBefore, seenAfter])
})

t.test('a chunk counts bytes, not characters', async (t) => {
  t.equal(chunk('ü').toString(), '2\r\nü\r\n')
  t.equal(unchunk(chunk('\uD800')).toString(), '\uFFFD')
  t.equal(chunk('x'.repeat(65_536)).subarray(0, 7).toString(), '10000\r\n')
})

t.test('the encodings have names', async (t) => {
  t.equal(sse.name, 'sse')
  t.equal(sseChunked.name, 'sse-chunked')
})

// the names of assertions are lines themselves
function escape (value: string): string {
  return value.replace(/[^ -~]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16)}`)
}

// an assertion of tap for each of so many runs would be slow
function strictSame (actual: unknown, expected: unknown): void {
  const [a, b] = [JSON.stringify(actual), JSON.stringify(expected)]
  if (a !== b) throw new Error(`${a} is not ${b}`)
}
