import t from 'tap'
import * as args from '../lib/arguments.ts'

const { checkClose, checkId, checkLimit, checkOptions, checkReason, checkRoomName, checkSend, entryOf, isBuiltIn, isThenable, kindOf, sparedOf } = args

t.test('a name is a string of 1 to 256 characters, none of them a control character or half of one', async (t) => {
  for (const name of ['a', 'team:7', 'x'.repeat(256), 'ü', '\u{1F600}', '__proto__', 'constructor', 'toString', '*', '>', '?', 'a.b', 'a/b', '{a}', ' ', '\u202Ertl', '\u0085', '\u2028']) t.equal(checkRoomName(name), name)
  for (const name of ['', 'x'.repeat(257), 'x'.repeat(100_000), '\0', 'a\nb', 'a\rb', '\t', '\x1b[31m', '\x7f', '\uD800', 'a\uDC00']) t.throws(() => checkRoomName(name), { code: 'FST_ERR_REAL_ROOM_NAME', message: /^a name of a room or user must have / })
  for (const name of [undefined, null, 0, 42, true, {}, [], ['a'], () => 'a', Symbol('a')]) t.throws(() => checkRoomName(name), { code: 'FST_ERR_REAL_ROOM_NAME', message: /must be a string, got / })
})

t.test('a limit is a positive integer, or none', async (t) => {
  t.equal(checkLimit(undefined), Infinity)
  t.equal(checkLimit(1), 1)
  for (const limit of [0, -1, 1.5, NaN, Infinity, '5', null, {}]) t.throws(() => checkLimit(limit), { code: 'FST_ERR_REAL_ARGUMENT', message: 'limit must be a positive integer' })
})

t.test('the id of a connection is a string, and options are an object', async (t) => {
  t.equal(checkId('c1'), 'c1')
  for (const id of [undefined, null, 5, {}]) t.throws(() => checkId(id), { code: 'FST_ERR_REAL_ARGUMENT', message: /^id must be .*, got / })
  const options: { after?: string, limit?: number } = { after: 'x' }
  t.equal(checkOptions(options, ['after', 'limit']), options)
  for (const wrong of [null, 5, 'x', true, [], new Map(), new Set(['c1']), new Date(), Promise.resolve(options), new Uint8Array(1)]) t.throws(() => checkOptions(wrong as never, []), { code: 'FST_ERR_REAL_ARGUMENT', message: /^options must be an object, got / })
})

t.test('an option that is not known is refused with those that are', async (t) => {
  t.throws(() => checkOptions({ id: 1 } as object as { except: string, once: boolean }, ['except', 'once']), { code: 'FST_ERR_REAL_ARGUMENT', message: 'options.id is not known; known: except, once' })
  t.throws(() => entryOf('ada', { name: 'ada' } as never), { code: 'FST_ERR_REAL_ARGUMENT', message: 'presence.name is not known; known: key, meta' })
})

t.test('who is spared is said by connections, ids, users or an array of these', async (t) => {
  const connection = { id: 'c1', user: 'ada' } as never
  t.equal(sparedOf(undefined), null)
  t.strictSame(sparedOf('c1'), { ids: ['c1'], users: [] })
  t.strictSame(sparedOf(connection), { ids: ['c1'], users: [] }, 'a connection is spared, not its user')
  t.strictSame(sparedOf({ user: 'ada' }), { ids: [], users: ['ada'] })
  t.strictSame(sparedOf(['c2', connection, { user: 'bob' }]), { ids: ['c2', 'c1'], users: ['bob'] })
  t.strictSame(sparedOf([]), { ids: [], users: [] })
  for (const except of [null, 5, true, {}, { id: 5 }, { user: 5 }, { user: null }, [null], [['c1']], new Set(['c1']), () => true]) {
    t.throws(() => sparedOf(except as never), { code: 'FST_ERR_REAL_ARGUMENT', message: /^except takes / })
  }
})

t.test('who is present has a key, by default the user, and a meta that is JSON', async (t) => {
  t.strictSame(entryOf('ada', true), { key: null, meta: null })
  t.strictSame(entryOf('ada', {}), { key: 'ada', meta: null })
  t.strictSame(entryOf('ada', { key: 'bob', meta: { at: new Date(0) } }), { key: 'bob', meta: { at: '1970-01-01T00:00:00.000Z' } })
  t.strictSame(entryOf(null, { key: 'ada', meta: 0 }), { key: 'ada', meta: 0 })
})

t.test('what the caller changes later in a meta is not announced', async (t) => {
  const meta = { status: 'here' }
  const entry = entryOf('ada', { meta })
  meta.status = 'away'
  t.strictSame(entry.meta, { status: 'here' })
})

t.test('a wrong presence is refused with the rule', async (t) => {
  for (const presence of [null, false, 'ada', 5]) t.throws(() => entryOf('ada', presence as never), { code: 'FST_ERR_REAL_ARGUMENT', message: 'presence must be true or { key, meta }' })
  t.throws(() => entryOf(null, {}), { code: 'FST_ERR_REAL_ARGUMENT', message: 'presence.key is needed where the connection has no user' })
  for (const key of ['', 5, {}]) t.throws(() => entryOf('ada', { key } as never), { code: 'FST_ERR_REAL_ARGUMENT', message: /^presence\.key must be a string/ })
  const circle: { self?: unknown } = {}
  circle.self = circle
  for (const meta of [circle, 1n, () => 1, Symbol('x'), new Map([['a', 1]]), Promise.resolve({})]) t.throws(() => entryOf('ada', { meta }), { code: 'FST_ERR_REAL_ARGUMENT', message: /^presence\.meta must be JSON/ })
})

t.test('what something is, is said without repeating it', async (t) => {
  t.strictSame([null, [], 5, NaN, 'secret', {}, undefined, true, 1n].map(kindOf), ['null', 'an array', '5', 'NaN', 'string', 'object', 'undefined', 'boolean', 'bigint'])
  t.strictSame([new Map(), new Error('secret'), Promise.resolve(), new ArrayBuffer(1), new class A {}(), Object.create(null)].map(kindOf), ['Map', 'Error', 'Promise', 'ArrayBuffer', 'object', 'object'])
})

t.test('what has its own inside is told from an object of fields', async (t) => {
  for (const value of [[], new Map(), new Date(), Promise.resolve(), new Uint8Array(1), new ArrayBuffer(1), new Error('x'), /x/, new URL('http://x')]) t.equal(isBuiltIn(value), true, String(value))
  for (const value of [null, undefined, 5, 'x', () => {}, {}, Object.create(null), new class A {}(), new Proxy({}, {}), Object.freeze({}), args]) t.equal(isBuiltIn(value), false)
})

t.test('once is true or false', async (t) => {
  for (const options of [{}, { once: undefined }, { once: true }, { once: false, except: 'c1' }]) t.equal(checkSend(options), options)
  for (const once of [null, 0, 1, '', 'false', {}, []]) t.throws(() => checkSend({ once } as never), { code: 'FST_ERR_REAL_ARGUMENT', message: /^once must be true or false, got / })
})

t.test('what can be awaited is known by its then', async (t) => {
  for (const value of [Promise.resolve(), { then () {} }]) t.equal(isThenable(value), true)
  for (const value of [null, undefined, 'then', { then: 1 }, {}, () => {}]) t.equal(isThenable(value), false)
})

t.test('a close code is one an endpoint may send, a reason is a string that is cut to fit', async (t) => {
  t.strictSame(checkClose(4000, 'x'.repeat(200)), { code: 4000, reason: 'x'.repeat(123) })
  for (const code of [1005, 1006, 0, '1000', undefined, Symbol('x'), null, Object.create(null)]) t.throws(() => checkClose(code, 'x'), { code: 'FST_ERR_REAL_ARGUMENT', message: /^code must be a close code .*, got / })
  for (const reason of [undefined, null, 5, {}]) t.throws(() => checkReason(reason), { code: 'FST_ERR_REAL_ARGUMENT', message: 'reason must be a string' })
  t.equal(checkReason('bye'), 'bye')
})
