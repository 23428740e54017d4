import Fastify from 'fastify'
import type { FastifyInstance } from 'fastify'
import { TypeBoxValidatorCompiler } from '@fastify/type-provider-typebox'
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import AjvCompiler from '@fastify/ajv-compiler'
import fc from 'fast-check'
import t from 'tap'
import type { Test } from 'tap'
import { Type } from 'typebox'
import { wsReal } from '../../lib/index.ts'
import type { Disconnect } from '../../lib/index.ts'
import { build, listen, until, wsClient } from '../helper.ts'
import type { WsClient } from '../helper.ts'
import { logs } from '../logs.ts'

const POINT = { type: 'object', required: ['x'], additionalProperties: false, properties: { x: { type: 'number' }, y: { type: 'number', default: 7 } } }

interface Seen { got: unknown[], errors: Array<Error & { code?: string }>, ends: Disconnect[] }

/** A route with `schema.message`; its handlers note what they are given. */
function route (app: FastifyInstance, message: unknown, path = '/x', options: object = {}): Seen {
  const seen: Seen = { got: [], errors: [], ends: [] }
  app.ws(path, { ...options, schema: { message } } as never, {
    onMessage (_connection: unknown, value: unknown) { seen.got.push(value) },
    onError (_connection, error) { seen.errors.push(error) },
    onDisconnect (_connection, end) { seen.ends.push(end) }
  })
  return seen
}

async function refused (client: WsClient, count = 1): Promise<{ event: string, data: { code: string, message: string } }> {
  const found = await client.wait((message) => client.messages.filter((one) => String(one).startsWith('{"event":"refused"')).length >= count && String(message).startsWith('{"event":"refused"'))
  return JSON.parse(String(found)) as Awaited<ReturnType<typeof refused>>
}

t.test('a message that fits is given parsed, not coerced, stripped or filled in', async (t) => {
  const app = await build(t)
  const seen = route(app, { ...POINT, additionalProperties: true })
  const client = await wsClient(await listen(app), '/x')
  client.send('{"x":1,"more":[1,"2",null]}')
  client.send(' \n{"x":1.5e3}\t')
  client.send('\uFEFF{"x":2}')
  client.send('{"x":"1"}')
  await refused(client)
  t.strictSame(seen.got, [{ x: 1, more: [1, '2', null] }, { x: 1_500 }, { x: 2 }])
})

t.test('any JSON may be a message', async (t) => {
  const app = await build(t)
  const seen = route(app, {})
  const client = await wsClient(await listen(app), '/x')
  const values = [null, true, 0, -1.5, 'text', '', [], [[{}]], {}, { a: { b: 1 } }]
  for (const value of values) client.send(JSON.stringify(value))
  await until(() => seen.got.length === values.length)
  t.strictSame(seen.got, values)
})

t.test('a bad message is answered with refused, goes to onError, and the connection stays', async (t) => {
  const app = await build(t)
  const seen = route(app, POINT)
  const port = await listen(app)
  const bad: Array<[string | Buffer, RegExp]> = [
    ['no json', /not JSON/],
    ['', /not JSON/],
    ['{"x":1', /not JSON/],
    ['{"x":1}{"x":1}', /not JSON/],
    ['{}', /message must have required property 'x'/],
    ['{"x":"1"}', /message\/x must be number/],
    ['{"x":1,"z":1}', /must NOT have additional properties/],
    ['[]', /must be object/],
    ['null', /must be object/],
    [Buffer.from('{"x":1}'), /must be JSON text, not binary/]
  ]
  for (const [message, reason] of bad) {
    const client = await wsClient(port, '/x')
    client.send(message)
    const { data } = await refused(client)
    t.equal(data.code, 'FST_ERR_REAL_MESSAGE')
    t.match(data.message, reason, String(message))
    client.send('{"x":5}')
    await until(() => seen.got.length === 1)
    t.strictSame(seen.got.splice(0), [{ x: 5 }])
    t.equal(client.closed, null)
    t.match(seen.errors.splice(0), [{ code: 'FST_ERR_REAL_MESSAGE', message: data.message }])
  }
})

t.test('__proto__ and constructor.prototype are refused however they are written, and pollute nothing', async (t) => {
  const app = await build(t)
  const seen = route(app, {})
  const port = await listen(app)
  const bad = ['{"__proto__":{"polluted":1}}', '{"a":[{"__proto__":null}]}', '{"__proto__":1,"a":2}', '{"\\u005f_proto__":{"polluted":1}}', '{"_\\u005fproto\\u005f_":{"polluted":1}}', '{"constructor":{"prototype":{"polluted":1}}}', '{"a":{"constructor":{"prototype":{}}}}']
  for (const message of bad) {
    const client = await wsClient(port, '/x')
    client.send(message)
    t.match((await refused(client)).data.message, /forbidden property/, message)
  }
  t.strictSame(seen.got, [])
  t.equal(({} as { polluted?: number }).polluted, undefined)
  const client = await wsClient(port, '/x')
  client.send('{"constructor":1,"toString":2,"hasOwnProperty":3,"text":"__proto__"}')
  await until(() => seen.got.length === 1)
  t.strictSame(Object.keys(seen.got[0] as object), ['constructor', 'toString', 'hasOwnProperty', 'text'])
})

t.test('hostile JSON harms nobody', async (t) => {
  const app = await build(t)
  const seen = route(app, { type: 'object' })
  const port = await listen(app)
  const deep = 100_000
  const hostile = [
    '['.repeat(deep) + ']'.repeat(deep),
    '{"a":'.repeat(deep) + '1' + '}'.repeat(deep),
    `{"a":${'['.repeat(deep)}"__proto__"${']'.repeat(deep)}}`,
    `{${Array.from({ length: 50_000 }, (_, i) => `"k${i}":${i}`).join()}}`,
    '{"a":9007199254740993,"b":1e999,"c":-0}',
    '{"a":1,"a":2}',
    '{"a":"\\ud800"}',
    '{"a\\u0000b":"\\u0000"}'
  ]
  for (const message of hostile) {
    const client = await wsClient(port, '/x')
    client.send(message)
    client.send('{"last":true}')
    await until(() => (seen.got.at(-1) as { last?: boolean } | undefined)?.last)
    t.equal(client.closed, null)
    client.close()
  }
})

t.test('ten bad messages one after another close with 1008', async (t) => {
  const app = await build(t)
  const seen = route(app, POINT)
  const port = await listen(app)
  const client = await wsClient(port, '/x')
  for (let round = 0; round < 3; round++) {
    for (let i = 0; i < 9; i++) client.send('bad')
    client.send('{"x":1}')
  }
  await until(() => seen.got.length === 3)
  t.equal(client.closed, null, 'a good one between them makes a new beginning')
  t.equal(seen.errors.length, 27)
  for (let i = 0; i < 15; i++) client.send('bad')
  await until(() => client.closed)
  t.strictSame(client.closed, { code: 1008, reason: 'too many bad messages' })
  await until(() => seen.ends.length === 1)
  t.match(seen.ends, [{ code: 1008, reason: 'too many bad messages', clean: true }])
  t.equal(seen.errors.length, 37)
  t.equal(client.messages.length, 37, 'each was answered')
})

t.test('an onError that throws over a bad message closes with 1011 and is logged once', async (t) => {
  const { options, errors } = logs()
  const app = await build(t, { fastify: options })
  for (const [path, onError] of [['/sync', () => { throw new Error('in onError') }], ['/async', async () => { throw new Error('in onError') }]] as const) {
    app.ws(path, { schema: { message: POINT } }, { onMessage () {}, onError })
  }
  const port = await listen(app)
  for (const path of ['/sync', '/async']) {
    const client = await wsClient(port, path)
    client.send('bad')
    client.send('bad')
    await until(() => client.closed)
    t.match(client.closed, { code: 1011, reason: 'error' })
    t.match(errors(), [{ msg: 'onError itself failed', err: { message: 'in onError' } }])
    t.equal(errors().length, 1)
    errors().forEach((line) => { line.level = 0 })
  }
})

t.test('a schema without onMessage, and a message without a schema, are left alone', async (t) => {
  const app = await build(t)
  const errors: Error[] = []
  app.ws('/deaf', { schema: { message: POINT } }, { onError (_connection, error) { errors.push(error) } })
  app.ws('/free', { schema: { querystring: { type: 'object' } } } as never, { onMessage (connection, message) { connection.send(message as string) } })
  const port = await listen(app)
  const deaf = await wsClient(port, '/deaf')
  deaf.send('bad')
  const free = await wsClient(port, '/free')
  free.send('not json')
  t.equal(await free.wait(1), 'not json')
  t.strictSame(errors, [])
})

t.test('typebox schemas work, with and without its own compiler', async (t) => {
  const app = await build(t)
  const typed = app.withTypeProvider<TypeBoxTypeProvider>()
  const seen: string[] = []
  const Said = Type.Object({ text: Type.String({ minLength: 1 }), tags: Type.Optional(Type.Array(Type.Union([Type.Literal('a'), Type.Literal('b')]))) })
  typed.ws('/ajv', { schema: { message: Said } }, { onMessage (_connection, { text }) { seen.push(text.toUpperCase()) } })
  typed.ws('/own', { schema: { message: Said }, validatorCompiler: TypeBoxValidatorCompiler }, { onMessage (_connection, { text }) { seen.push(text.toUpperCase()) } })
  const port = await listen(app)
  for (const path of ['/ajv', '/own']) {
    const client = await wsClient(port, path)
    client.send('{"text":"hi","tags":["a"]}')
    await until(() => seen.length === 1)
    t.strictSame(seen.splice(0), ['HI'])
    client.send('{"text":""}')
    t.equal((await refused(client)).data.code, 'FST_ERR_REAL_MESSAGE')
    client.send('{"text":"hi","tags":["c"]}')
    await refused(client, 2)
    t.strictSame(seen, [])
  }
})

t.test('shared schemas of the scope are known, also those that are added after the route', async (t) => {
  const app = await build(t)
  const outer = route(app, { $ref: 'point#' }, '/outer')
  app.addSchema({ $id: 'point', ...POINT })
  let inner: Seen | undefined
  await app.register(async (scope) => {
    scope.addSchema({ $id: 'pair', type: 'array', items: { $ref: 'point#' }, minItems: 2 })
    inner = route(scope, { type: 'object', required: ['pair'], properties: { pair: { $ref: 'pair#' } } }, '/inner')
  })
  const port = await listen(app)
  const first = await wsClient(port, '/outer')
  first.send('{"x":1}')
  first.send('{"y":1}')
  await refused(first)
  t.strictSame(outer.got, [{ x: 1 }])
  const second = await wsClient(port, '/inner')
  second.send('{"pair":[{"x":1},{"x":2}]}')
  second.send('{"pair":[{"x":1}]}')
  await refused(second)
  t.strictSame(inner?.got, [{ pair: [{ x: 1 }, { x: 2 }] }])
})

t.test('formats are known', async (t) => {
  const app = await build(t)
  const seen = route(app, { type: 'string', format: 'email' })
  const client = await wsClient(await listen(app), '/x')
  client.send('"a@b.test"')
  client.send('"nobody"')
  await refused(client)
  t.strictSame(seen.got, ['a@b.test'])
})

t.test('a schema that does not compile fails ready', async (t) => {
  const bad: Array<[unknown, RegExp]> = [
    [{ type: 'nonsense' }, /\/x does not compile/],
    [{ $ref: 'nowhere#' }, /nowhere/],
    [{ $async: true, type: 'object' }, /\$async/],
    [null, /does not compile/],
    [5, /does not compile/],
    [{ type: 'object', typo: true }, /typo/]
  ]
  for (const [message, reason] of bad) {
    const app = Fastify()
    await app.register(wsReal)
    route(app, message)
    await t.rejects(async () => await app.ready(), { code: 'FST_ERR_REAL_MESSAGE_SCHEMA', message: reason })
    await app.close()
  }
})

t.test('a compiler that throws something odd, or gives nothing to check with, fails ready', async (t) => {
  for (const validatorCompiler of [() => { throw 'a string' }, () => undefined, () => ({})]) { // eslint-disable-line no-throw-literal
    const app = Fastify()
    await app.register(wsReal)
    route(app, POINT, '/x', { validatorCompiler })
    await t.rejects(async () => await app.ready(), { code: 'FST_ERR_REAL_MESSAGE_SCHEMA' })
    await app.close()
  }
})

// what a compiler of an application makes of any schema: it says its name, and refuses what has `bad`
function compiler (name: string) {
  return () => (value: unknown) => (value as { bad?: boolean }).bad === true ? { error: new Error(`${name} says no`) } : { value: { name, value } }
}

async function told (t: Test, app: FastifyInstance, seen: Seen, name: string, path = '/x'): Promise<void> {
  const client = await wsClient(await listen(app), path)
  client.send('{"a":1}')
  client.send('{"bad":true}')
  t.match((await refused(client)).data.message, new RegExp(`${name} says no`))
  t.strictSame(seen.got, [{ name, value: { a: 1 } }])
}

t.test('the compiler of the route comes first', async (t) => {
  const app = await build(t)
  app.setValidatorCompiler(compiler('scope') as never)
  await told(t, app, route(app, POINT, '/x', { validatorCompiler: compiler('route') }), 'route')
})

t.test('the compiler of the scope is used, set before the route', async (t) => {
  const app = await build(t)
  app.setValidatorCompiler(compiler('scope') as never)
  await told(t, app, route(app, POINT), 'scope')
})

t.test('the compiler of the scope is used, set after the route', async (t) => {
  const app = await build(t)
  const seen = route(app, POINT)
  app.get('/other', { schema: { querystring: POINT } }, async () => '')
  await app.register(async () => {})
  app.setValidatorCompiler(compiler('scope') as never)
  await told(t, app, seen, 'scope')
})

t.test('the compiler that was set last is used', async (t) => {
  const app = await build(t)
  app.setValidatorCompiler(compiler('first') as never)
  const seen = route(app, POINT)
  app.setValidatorCompiler(compiler('last') as never)
  await told(t, app, seen, 'last')
})

t.test('the compiler of an outer scope is used in an inner one, that of an inner one only there', async (t) => {
  const app = await build(t)
  let seen: Seen | undefined
  const outer = route(app, POINT, '/outer')
  await app.register(async (scope) => {
    scope.setValidatorCompiler(compiler('inner') as never)
    await scope.register(async (deep) => { seen = route(deep, POINT, '/inner') })
  })
  const port = await listen(app)
  const client = await wsClient(port, '/inner')
  client.send('{"a":1}')
  await until(() => seen?.got.length === 1)
  t.strictSame(seen?.got, [{ name: 'inner', value: { a: 1 } }])
  const plain = await wsClient(port, '/outer')
  plain.send('{"x":1}')
  await until(() => outer.got.length === 1)
  t.strictSame(outer.got, [{ x: 1 }])
})

t.test('Fastify\'s own compiler, which coerces, is not taken for one of the scope', async (t) => {
  const app = await build(t)
  const seen = route(app, POINT, '/x', {})
  app.ws('/both', { schema: { message: POINT, querystring: { type: 'object', properties: { n: { type: 'number' } } } } } as never, {
    onConnect (connection, request) { connection.send(`${typeof (request.query as { n: unknown }).n}`) },
    onMessage (_connection, message) { seen.got.push(message) }
  })
  const port = await listen(app)
  const client = await wsClient(port, '/both?n=5')
  t.equal(await client.wait(1), 'number', 'of the query it is')
  client.send('{"x":"1"}')
  await refused(client)
  t.strictSame(seen.got, [])
})

t.test('an ajv of the application that was set before the route is used as it is', async (t) => {
  const app = await build(t)
  app.setValidatorCompiler(AjvCompiler()({}, { customOptions: { coerceTypes: true } } as never) as never)
  const seen = route(app, POINT)
  const client = await wsClient(await listen(app), '/x')
  client.send('{"x":"1"}')
  await until(() => seen.got.length === 1)
  t.strictSame(seen.got, [{ x: 1, y: 7 }])
})

t.test('validators answer in each of the ways Fastify knows', async (t) => {
  const ways: Array<[string, (value: unknown) => unknown, unknown]> = [
    ['true', () => true, { a: 1 }],
    ['nothing', () => undefined, { a: 1 }],
    ['null', () => null, { a: 1 }],
    ['an object without value', () => ({}), { a: 1 }],
    ['a value', () => ({ value: 5 }), 5],
    ['a null error', () => ({ error: null, value: 6 }), 6],
    ['false', () => false, /does not fit the schema/],
    ['an error', () => ({ error: new Error('no') }), /message no/],
    ['errors', () => ({ error: [{ instancePath: '/a', message: 'is odd' }, { message: 'second' }] }), /message\/a is odd/],
    ['errors that say nothing', () => ({ error: [] }), /does not fit the schema/],
    ['an error without words', () => ({ error: {} }), /message does not fit the schema/],
    ['a very long error', () => ({ error: { message: 'x'.repeat(1_000) } }), /^the message was refused: message x{192}$/]
  ]
  const app = await build(t)
  const seen = ways.map(([, validate], index) => route(app, POINT, `/${index}`, { validatorCompiler: () => validate }))
  const port = await listen(app)
  for (const [index, [name, , expected]] of ways.entries()) {
    const client = await wsClient(port, `/${index}`)
    client.send('{"a":1}')
    if (expected instanceof RegExp) t.match((await refused(client)).data.message, expected, name)
    else await until(() => seen[index]?.got.length === 1)
    t.strictSame(seen[index]?.got, expected instanceof RegExp ? [] : [expected], name)
  }
})

t.test('a validator that throws, or that is async, closes with 1011', async (t) => {
  const { options, errors } = logs()
  const app = await build(t, { fastify: options })
  const throwing = route(app, POINT, '/throws', { validatorCompiler: () => () => { throw new Error('in the validator') } })
  const late = route(app, POINT, '/async', { validatorCompiler: () => async () => true })
  const port = await listen(app)
  for (const [path, seen] of [['/throws', throwing], ['/async', late]] as const) {
    const client = await wsClient(port, path)
    client.send('{"x":1}')
    await until(() => client.closed)
    t.equal(client.closed?.code, 1011)
    t.strictSame(seen.got, [])
    t.equal(seen.errors.length, 1)
  }
  t.match(errors(), [{ err: { message: 'in the validator' } }, { err: { code: 'FST_ERR_REAL_MESSAGE_SCHEMA' } }])
})

t.test('whatever JSON is sent, what comes out is what went in', async (t) => {
  const app = await build(t, { ws: { maxPending: 1_000 } })
  const seen = route(app, {})
  const client = await wsClient(await listen(app), '/x')
  await fc.assert(fc.asyncProperty(fc.jsonValue(), async (value) => {
    const text = JSON.stringify(value)
    if (/__proto__|constructor/.test(text)) return
    client.send(text)
    await until(() => seen.got.length > 0)
    const got = seen.got.shift()
    if (JSON.stringify(got) !== text) throw new Error(`${text} became ${JSON.stringify(got)}`)
  }), { numRuns: 200 })
  t.equal(client.closed, null)
})
