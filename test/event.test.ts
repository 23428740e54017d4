import t from 'tap'
import { checkLastEventId, dataOf, event, formatCursor, parseCursor, toEvent } from '../lib/event.ts'
import { sse } from '../lib/transports/sse-frame.ts'
import type { Sendable } from '../lib/index.ts'

const limits = { maxBytes: 1_000 }

function check (given: unknown, maxBytes: number = 1_000): ReturnType<typeof toEvent> { return toEvent(given as Sendable, { maxBytes }) }

t.test('a string and bytes are the data of an event', async (t) => {
  t.match(check('hello'), { text: 'hello', json: false, bytes: undefined, event: undefined, id: undefined, size: 5, hasData: true })
  t.match(check(''), { text: '', size: 0, hasData: true })
  t.match(check('ü'), { size: 2 })
  const bytes = check(new Uint8Array([1, 2, 3]).subarray(1))
  t.match(bytes, { text: undefined, size: 2, hasData: true })
  t.strictSame(bytes.bytes, new Uint8Array([2, 3]))
  t.match(check({ data: 'hello' }), { text: 'hello', json: false })
})

t.test('bytes are copied, since the buffer of the caller may be used again', async (t) => {
  const buffer = Buffer.from('abc')
  const checked = check(buffer)
  buffer.fill(0)
  t.equal(Buffer.from(checked.bytes as Uint8Array).toString(), 'abc')
})

t.test('anything else is fixed as JSON, once', async (t) => {
  const data = { n: 1 }
  const checked = check({ data })
  data.n = 2
  t.match(checked, { text: '{"n":1}', json: true, size: 7 })
  for (const value of [0, false, null, [], {}]) t.match(check({ data: value }), { text: JSON.stringify(value), json: true })
  t.match(check({ data: { toJSON: () => 'x' } }), { text: '"x"', json: true })
})

t.test('a serializer makes the text of everything but bytes', async (t) => {
  const serialize = (data: unknown): string => `<${String(data)}>`
  t.match(toEvent({ data: 5 }, { maxBytes: 100, serialize }), { text: '<5>', json: true })
  t.match(toEvent('text', { maxBytes: 100, serialize }), { text: '<text>', json: true })
  t.match(toEvent({ data: Buffer.from('x') }, { maxBytes: 100, serialize }), { text: undefined, size: 1 })
  t.throws(() => toEvent('x', { maxBytes: 100, serialize () { throw new Error('not as declared') } }), { code: 'FST_ERR_REAL_DATA', message: /not as declared/ })
})

t.test('what has no JSON is refused with the reason', async (t) => {
  const circle: { self?: unknown } = {}
  circle.self = circle
  for (const data of [circle, 1n, () => 1, Symbol('x'), { toJSON () { throw new Error('no') } }, { toJSON: () => undefined }, Promise.resolve(1), new Map([['a', 1]]), new Set([1]), new ArrayBuffer(1), new Error('x')]) {
    t.throws(() => check({ data }), { code: 'FST_ERR_REAL_DATA', message: /^the data of an event must be a string, bytes or JSON: / })
  }
  t.throws(() => check({ data: Promise.resolve(1) }), { message: /Promise has no JSON$/ })
  t.throws(() => toEvent({ data: new Map() }, { maxBytes: 100, serialize: () => '{}' }), { code: 'FST_ERR_REAL_DATA' })
  for (const data of [{}, Object.create(null), { a: undefined }, new class A { #x = 1; get x () { return this.#x } }()]) t.equal(check({ data }).text, '{}')
  for (const data of [null, 5, 'x', {}]) t.equal(toEvent({ data }, { maxBytes: 100, serialize: () => '{}' }).text, '{}')
  t.match(check({ data: new Date(0) }), { text: '"1970-01-01T00:00:00.000Z"' })
  const thrown = new TypeError('mine')
  // eslint-disable-next-line no-throw-literal
  t.throws(() => check({ data: { toJSON () { throw 'a string' } } }), { code: 'FST_ERR_REAL_DATA', message: /a string/ })
  t.throws(() => check({ data: { toJSON () { throw thrown } } }), { cause: thrown })
})

t.test('any key but the five is refused, and the message proposes data', async (t) => {
  for (const given of [{ type: 'x', data: 1 }, { name: 'ada' }, { Data: 1 }, { event: 'a', payload: 1 }]) {
    t.throws(() => check(given), { code: 'FST_ERR_REAL_EVENT', message: /send \{ data: … \}/ })
  }
  t.throws(() => check({ ['x'.repeat(10_000)]: 1 }), { message: /^.{1,200}$/ })
  t.throws(() => check(JSON.parse('{"__proto__":1,"data":1}')), { code: 'FST_ERR_REAL_EVENT', message: /__proto__/ })
})

t.test('what is no string, bytes or object is no event', async (t) => {
  for (const given of [undefined, null, 0, 42, true, 1n, Symbol('x'), () => 1, [], ['a'], new Uint16Array(1).buffer]) {
    t.throws(() => check(given), { code: 'FST_ERR_REAL_EVENT' }, typeof given)
  }
  t.throws(() => check(42), { message: /got 42/ })
  t.throws(() => check([]), { message: /got an array/ })
  t.throws(() => check(null), { message: /got null/ })
})

t.test('an event without any field is none', async (t) => {
  for (const given of [{}, { data: undefined }, { event: undefined, id: undefined }, Object.create(null)]) {
    t.throws(() => check(given), { code: 'FST_ERR_REAL_EVENT', message: /at least one of/ })
  }
  for (const given of [new Date(), new Map(), new Error('x'), Promise.resolve('x')]) t.throws(() => check(given), { code: 'FST_ERR_REAL_EVENT', message: /; got (?:Date|Map|Error|Promise): send \{ data: … \}$/ })
})

t.test('an id is a string or a finite number, on one line, of at most 512 characters', async (t) => {
  t.equal(check({ id: 0, data: 'x' }).id, '0')
  t.equal(check({ id: 1.5, data: 'x' }).id, '1.5')
  t.equal(check({ id: '', data: 'x' }).id, '')
  t.equal(check({ id: 'x'.repeat(512), data: 'x' }).id?.length, 512)
  t.throws(() => check({ id: 'x'.repeat(513), data: 'x' }), { code: 'FST_ERR_REAL_EVENT', message: /at most 512 characters, got 513/ })
  t.throws(() => check({ id: NaN }), { code: 'FST_ERR_REAL_EVENT', message: /got NaN/ })
  t.throws(() => check({ id: 'a\nb' }), { code: 'FST_ERR_REAL_EVENT', message: 'id must have no CR, LF, NUL or lone surrogate' })
})

t.test('the names of the events of an EventSource itself are refused, with the reason', async (t) => {
  for (const name of ['error', 'open']) t.throws(() => check({ event: name }), { code: 'FST_ERR_REAL_EVENT', message: new RegExp(`must not be "${name}": an EventSource`) })
  t.match(check({ event: 'message' }), { event: 'message' })
  t.match(check({ event: 'Error' }), { event: 'Error' })
})

t.test('retry is a non-negative integer, zero too', async (t) => {
  t.equal(check({ retry: 0 }).retry, 0)
  for (const retry of ['5', -1, 0.5, NaN, Infinity, null, true, 2 ** 53]) t.throws(() => check({ retry }), { code: 'FST_ERR_REAL_EVENT', message: /retry must be a non-negative integer/ })
})

t.test('what no client dispatches has no data', async (t) => {
  for (const given of [{ id: 1 }, { retry: 1 }, { comment: '' }]) t.equal(check(given).hasData, false)
  t.equal(check({ event: 'x' }).hasData, true)
})

t.test('more bytes than the limit are refused, also when they were prepared', async (t) => {
  t.equal(check('12345', 5).size, 5)
  for (const given of ['123456', 'üüü', Buffer.alloc(6), { data: { a: 1 } }, event('123456')]) {
    t.throws(() => check(given, 5), { code: 'FST_ERR_REAL_TOO_LARGE', message: /has [67] bytes, more than maxEventBytes \(5\)/ })
  }
})

t.test('an event that is prepared is checked once and its frames are made once', async (t) => {
  const prepared = event({ event: 'tick', data: { at: 1 } })
  t.equal(prepared.prepared, true)
  const checked = toEvent(prepared, limits)
  t.equal(toEvent(prepared, limits), checked)
  t.equal(toEvent(event(prepared), limits), checked)
  t.equal(checked.framed, checked.framed)
  t.equal(checked.framed.frame(sse), toEvent(prepared, limits).framed.frame(sse))
  t.equal(checked.framed.offset, 0)
  t.throws(() => event({ event: 'open' }), { code: 'FST_ERR_REAL_EVENT' })
  t.throws(() => check({ prepared: true }), { code: 'FST_ERR_REAL_EVENT' }, 'what only looks prepared is not')
})

t.test('an event at a place is the same event with a cursor; without a place it has neither cursor nor id', async (t) => {
  const checked = check({ event: 'a', data: [1], id: 'own', retry: 5, comment: 'c' })
  const same = { event: 'a', text: '[1]', json: true, bytes: undefined, retry: 5, comment: 'c', size: 3 }
  t.match(checked, { ...same, id: 'own', cursor: undefined })
  t.match(checked.at('e', 1), { ...same, id: 'own', cursor: 'e-1' })
  t.match(checked.at('e', 1).placeless(), { ...same, id: undefined, cursor: undefined })
  t.equal(checked.cursor, undefined)
  t.not(checked.at('e', 1).framed, checked.framed, 'its frames are its own')
  const bytes = check(Buffer.from('x'))
  t.equal(bytes.at('e', 1).bytes, bytes.bytes)
})

t.test('an event that was checked before is taken as it is', async (t) => {
  const checked = check('x')
  t.equal(toEvent(checked, limits), checked)
})

t.test('the data comes back as it was given', async (t) => {
  for (const data of ['text', '{"a":1}', { a: [1, null] }, 0, null]) t.strictSame(dataOf(check({ data })), data)
  t.strictSame(dataOf(check(new Uint8Array([1, 2]))), Buffer.from([1, 2]))
  t.equal(dataOf(check({ comment: 'x' })), undefined)
})

t.test('a cursor is an epoch and an offset, split at the last dash', async (t) => {
  t.equal(formatCursor('e', 5), 'e-5')
  t.strictSame(parseCursor('e-5'), { epoch: 'e', offset: 5 })
  t.strictSame(parseCursor('a-b_c--12'), { epoch: 'a-b_c-', offset: 12 })
  t.strictSame(parseCursor('--0'), { epoch: '-', offset: 0 })
  t.strictSame(parseCursor(formatCursor('x'.repeat(48), 999_999_999_999_999)), { epoch: 'x'.repeat(48), offset: 999_999_999_999_999 })
  const malformed = ['', '-', 'e', 'e-', '-5', '5', 'e-x', 'e-5 ', ' e-5', 'e-5\n', 'e--', 'e-+5', 'e--5.0', 'e-1e3', 'e-0x5', 'é-5', 'e.f-5', 'e:1-5', '__proto__', '$-5*', `e-${'9'.repeat(16)}`, `${'x'.repeat(63)}-5`, '%00-5', '٣-٣']
  for (const text of malformed) t.equal(parseCursor(text), null, JSON.stringify(text))
})

t.test('what a client says it saw last is an id that the application could have given, or no place at all', async (t) => {
  for (const id of ['e-5', '0', '', 'ü', '\u{1F600}', 'a b', 'a\tb', '__proto__', '../../etc/passwd', '"\'', '+ - $ ( 0-0 *', 'x'.repeat(512)]) {
    t.equal(checkLastEventId(id), id)
    t.equal(check({ id, data: 'x' }).id, id)
  }
  for (const id of ['a\nb', 'a\rb', 'a\0b', '\uD800', 'x'.repeat(513), 'x'.repeat(12_000)]) {
    t.equal(checkLastEventId(id), '\uFFFD')
    t.throws(() => check({ id, data: 'x' }), { code: 'FST_ERR_REAL_EVENT' })
  }
  for (const value of [null, 5, ['a', 'b'], {}]) t.equal(checkLastEventId(value), '\uFFFD')
  t.equal(checkLastEventId(undefined), undefined)
  t.equal(parseCursor('\uFFFD'), null)
})

t.test('only fields of its own make an event another kind of object', async (t) => {
  const checks = { maxBytes: 100 }
  t.equal(toEvent(Object.assign(Object.create({ kind: 'inherited' }) as object, { data: 'x' }), checks).text, 'x')
  t.throws(() => toEvent(Object.assign(Object.create({ data: 'x' }) as object, { kind: 'own' }) as never, checks), { code: 'FST_ERR_REAL_EVENT' })
})
