import fc from 'fast-check'
import t from 'tap'
import { EventParser } from '../lib/event-parser.ts'
import type { ParsedEvent } from '../lib/event-parser.ts'
import { toEvent } from '../lib/event.ts'
import { sseText } from '../lib/transports/sse-frame.ts'

function parse (stream: string): ParsedEvent[] { return new EventParser().push(stream) }
function datas (stream: string): string[] { return parse(stream).map(({ data }) => data) }

// streams of the web platform tests, eventsource/format-*, and what a browser dispatches
const long = 'x'.repeat(2_049)
const formats: Array<[string, string, string[]]> = [
  ['bom', '\uFEFFdata:1\n\n\uFEFFdata:2\n\ndata:3\n\n', ['1', '3']],
  ['bom-2', '\uFEFF\uFEFFdata:1\n\ndata:2\n\ndata:3\n\n', ['2', '3']],
  ['comments', `data:1\r:\0\n:\r\ndata:2\n:${long}\rdata:3\n:data:fail\r:${long}\ndata:4\n\n`, ['1\n2\n3\n4']],
  ['data-before-final-empty-line', 'retry:1000\ndata:test1\n\nid:test\ndata:test2', ['test1']],
  ['field-data', 'data:\n\ndata\ndata\n\ndata:test\n\n', ['', '\n', 'test']],
  ['field-parsing', 'data:\0\ndata:  2\rData:1\ndata\0:2\ndata:1\r\0data:4\nda-ta:3\rdata_5\ndata:3\rdata:\r\n data:32\ndata:4\n\n', ['\0\n 2\n1\n3\n\n4']],
  ['field-unknown', 'data:test\n data\ndata\nfoobar:xxx\njustsometext\n:thisisacommentyay\ndata:test\n\n', ['test\n\ntest']],
  ['leading-space', 'data:\ttest\rdata: \ndata:test\n\n', ['\ttest\n\ntest']],
  ['newlines', 'data:test\r\ndata\ndata:test\r\n\r', ['test\n\ntest']],
  ['null-character', 'data:\0\n\n\n\n', ['\0']],
  ['utf-8', 'data:ok…\n\n', ['ok…']],
  ['no end', 'data:never', []],
  ['line ends in every mix', 'data:1\r\rdata:2\r\n\r\ndata:3\n\rdata:4\r\n\ndata:5\n\r\ndata:6\r\r', ['1', '2', '3', '4', '5', '6']]
]

t.test('streams of the web platform tests are read as a browser reads them', async (t) => {
  for (const [name, stream, expected] of formats) t.strictSame(datas(stream), expected, name)
})

t.test('what was read of them is written so that it is read the same', async (t) => {
  for (const [name, stream, expected] of formats) {
    const written = parse(stream).map(({ event, data, id }) => sseText(toEvent({ event, data, id }, { maxBytes: Infinity }))).join('')
    t.strictSame(datas(written), expected, name)
  }
})

t.test('a stream is read the same in pieces of any size', async (t) => {
  for (const [name, stream, expected] of formats) {
    const parser = new EventParser()
    t.strictSame([...stream].flatMap((unit) => parser.push(unit)).map(({ data }) => data), expected, name)
  }
  const stream = fc.array(fc.constantFrom('data:', 'data: x', 'id: 1', 'event: e', ': c', '\r', '\n', '\r\n', '\uFEFF', ''), { maxLength: 20 }).map((parts) => parts.join(''))
  fc.assert(fc.property(stream, fc.array(fc.nat({ max: 8 })), (whole, sizes) => {
    const [one, many] = [new EventParser(), new EventParser()]
    const expected = one.push(whole)
    const events: ParsedEvent[] = []
    let start = 0
    for (const size of [...sizes, whole.length]) events.push(...many.push(whole.slice(start, start += size)))
    return JSON.stringify([events, many.comments, many.retry]) === JSON.stringify([expected, one.comments, one.retry])
  }), { numRuns: 2_000 })
})

t.test('an event whose last line end is CR is there at once', async (t) => {
  const parser = new EventParser()
  t.strictSame(parser.push('data: 1\r\r').map(({ data }) => data), ['1'])
  t.strictSame(parser.push('\ndata: 2\r').map(({ data }) => data), [])
  t.strictSame(parser.push(''), [])
  t.strictSame(parser.push('\n\r').map(({ data }) => data), ['2'])
})

t.test('a name is that of one event, an id stays until another comes', async (t) => {
  t.strictSame(parse('event: a\nid: 1\ndata: x\n\ndata: y\n\nid\ndata: z\n\n'), [
    { event: 'a', data: 'x', id: '1' }, { event: 'message', data: 'y', id: '1' }, { event: 'message', data: 'z', id: '' }
  ])
  t.strictSame(parse('event:\ndata:x\n\n'), [{ event: 'message', data: 'x', id: '' }])
  t.strictSame(parse('event: a\n\ndata: x\n\n'), [{ event: 'message', data: 'x', id: '' }], 'a name without data is lost')
  t.strictSame(parse('id: 1\n\ndata: x\n\n'), [{ event: 'message', data: 'x', id: '1' }], 'an id without data is not')
})

t.test('an id with NUL is ignored', async (t) => {
  t.strictSame(parse('id: 1\ndata: x\n\nid: 2\0\ndata: y\n\n').map(({ id }) => id), ['1', '1'])
})

t.test('retry is taken when it is digits, at once', async (t) => {
  const parser = new EventParser()
  const delays = ['retry: 1000\n', 'retry: 1000x\n', 'retry:\n', 'retry\n', 'retry: -1\n', 'retry: ١\n', 'retry:03000\n', 'retry: 0\n'].map((line) => {
    parser.push(line)
    return parser.retry
  })
  t.strictSame(delays, [1000, 1000, 1000, 1000, 1000, 1000, 3000, 0])
})

t.test('comments are kept without the space they are written with', async (t) => {
  const parser = new EventParser()
  parser.push(':\n: a\n:  b\n:c: d\n')
  t.strictSame(parser.comments, ['', 'a', ' b', 'c: d'])
})
