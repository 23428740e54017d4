import t from 'tap'
import { acceptability } from '../../lib/transports/sse-accept.ts'

// RFC 9110, section 12.5.1
const cases: Array<[header: string | undefined, acceptable: boolean, wanted: boolean, why: string]> = [
  [undefined, true, false, 'no header refuses nothing'],
  ['', true, false, 'nor does an empty one'],
  [' ', true, false, 'nor a blank one'],
  ['*/*', true, false, 'a wildcard takes it, but does not ask for it'],
  ['text/*', true, false, 'so does a wildcard of the type'],
  ['text/event-stream', true, true, 'what an EventSource sends'],
  ['TEXT/Event-Stream', true, true, 'types have no case'],
  ['text/event-stream;charset=utf-8', true, true, 'parameters are not looked at'],
  ['application/json', false, false, 'another type alone'],
  ['text/html', false, false, 'another text'],
  ['text/event-streams', false, false, 'a longer name'],
  ['application/json, text/event-stream', true, true, 'what clients of the Model Context Protocol send: nothing is preferred'],
  ['text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8', true, false, 'what a browser sends for a page'],
  ['text/event-stream;q=0', false, false, 'refused by name'],
  ['text/event-stream;q=0.0', false, false, 'and so with a fraction'],
  ['text/event-stream;q=0.000', false, false, 'of three digits'],
  ['text/event-stream; Q=0', false, false, 'and with space and capital'],
  ['*/*;q=0', false, false, 'everything refused'],
  ['text/*;q=0', false, false, 'every text refused'],
  ['*/*, text/event-stream;q=0', false, false, 'the more specific counts'],
  ['text/event-stream;q=0, */*', false, false, 'in any order'],
  ['text/*;q=0, */*', false, false, 'on every level'],
  ['*/*, text/*;q=0', false, false, 'in any order'],
  ['text/*;q=0, text/event-stream', true, true, 'the more specific counts'],
  ['*/*;q=0, text/event-stream;q=0.1', true, true, 'however small it is'],
  ['*/*;q=0, text/*;q=0.1', true, false, 'a wildcard that takes it'],
  ['text/event-stream;q=0.001', true, true, 'the smallest weight'],
  ['text/event-stream;q=0.5, application/json', true, false, 'another is preferred'],
  ['text/event-stream;q=0.5, application/json;q=0.5', true, true, 'none is preferred'],
  ['application/json;q=0.9, text/event-stream', true, true, 'it is preferred'],
  ['text/event-stream;q=0, text/event-stream', true, true, 'said twice, the better counts'],
  ['text/event-stream, text/event-stream;q=0', true, true, 'in any order'],
  ['*/*;q=0, */*;q=0.5', true, false, 'on every level'],
  ['application/*, text/event-stream;q=0.9', true, false, 'a wildcard of another type is a preference too'],
  [',, text/event-stream;q=0.5 , ,', true, true, 'empty elements are no types'],
  ['text/event-stream;q=', true, true, 'a weight that is none refuses nothing'],
  ['text/event-stream;q=abc', true, true, 'nor does one that is no number'],
  ['text/event-stream;q=-1', true, true, 'nor one below 0'],
  ['text/event-stream;q=1.5, application/json', true, true, 'one above 1 is 1'],
  ['text/event-stream;q=.0', false, false, 'a zero is a zero'],
  ['text/html;a="x, text/event-stream;q=0, y", text/event-stream', true, true, 'a quoted string holds no types'],
  ['text/html;q=0.1;a="\\", text/event-stream", */*;q=0', false, false, 'nor after a quoted quote'],
  ['text/html;a="text/event-stream, ', false, false, 'nor where the quote does not end'],
  ['__proto__', false, false, 'a name of an object is none of a type']
]

t.test('an Accept header is read as the standard says', async (t) => {
  for (const [header, acceptable, wanted, why] of cases) t.strictSame(acceptability(header), { acceptable, wanted }, `${why}: ${header}`)
})

t.test('a wildcard is no preference: who names the stream wants it', async (t) => {
  t.strictSame(acceptability('text/event-stream;q=0.5, */*'), { acceptable: true, wanted: true })
  t.strictSame(acceptability('text/*, text/event-stream;q=0.5'), { acceptable: true, wanted: true })
})

t.test('a hostile header is read in time that grows with its length only', async (t) => {
  for (const part of ['"', '\\"', ',', ';', 'a;q=', '"\\', '*/*,']) {
    t.type(acceptability(part.repeat(200_000)).acceptable, 'boolean')
  }
})
