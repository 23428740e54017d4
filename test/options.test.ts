import Fastify from 'fastify'
import t from 'tap'
import { checkConnections, checkMemory, checkSse, checkWs, defaults } from '../lib/options.ts'
import type { SseSettings, WsSettings } from '../lib/options.ts'
import { connections, memory, sseReal, wsReal } from '../lib/index.ts'

const MiB = 1_048_576

/** Reads one option as its plugin, its route or its reply would. */
const read = {
  connections: (given: unknown) => checkConnections(given as never),
  memory: (given: unknown) => checkMemory(given as never),
  sse: (given: unknown, over: SseSettings | null = null, path: string = 'sseReal.') => checkSse(given as never, path, over),
  ws: (given: unknown, over: WsSettings | null = null, path: string = 'wsReal.') => checkWs(given as never, path, over)
}

function refusal (call: () => unknown): string {
  try {
    call()
  } catch (err) {
    const { code, message } = err as { code: string, message: string }
    return `${code}: ${message}`
  }
  return 'nothing was refused'
}

t.test('the defaults are those that are documented, in one frozen literal', async (t) => {
  t.strictSame(defaults, {
    history: { events: 100, bytes: MiB, age: 120_000, totalBytes: 64 * MiB, rooms: 100_000 },
    slow: 'close',
    maxBuffered: MiB,
    hold: 1_000,
    heartbeat: 15_000,
    presence: { timeout: 15_000 },
    drain: { within: 5_000, grace: 5_000 },
    maxConnections: 0,
    maxPerUser: 0,
    maxPerAddress: 0,
    maxRooms: 100,
    maxEventBytes: MiB,
    sse: { accept: 'sse', retry: 0, maxAge: 900_000, inactivity: 0, headStart: 20, compression: false },
    ws: { maxPayload: MiB, maxPending: 16, messageRate: 0, compression: false }
  })
  for (const part of [defaults, ...Object.values(defaults)]) t.ok(Object.isFrozen(part))
})

t.test('without options everything is as by default, and frozen', async (t) => {
  const { keep, keeps, identify, memory, ...rest } = read.connections({})
  const { history, sse, ws, ...registry } = defaults
  t.strictSame(rest, registry)
  t.equal(identify, null)
  t.strictSame(memory, { totalBytes: history.totalBytes, rooms: history.rooms })
  t.strictSame(keep({ kind: 'room', name: 'x' }), { events: history.events, bytes: history.bytes, age: history.age })
  t.equal(keeps, keep({ kind: 'room', name: 'x' }))
  t.strictSame([read.connections({ history: false }).keeps, read.connections({ history: () => false }).keeps], [null, 'varies'])
  t.strictSame(read.sse({}), { ...sse, allowedOrigins: undefined, broadcast: undefined })
  t.strictSame(read.ws({}), { ...ws, protocols: undefined, allowedOrigins: undefined, broadcast: true })
  t.strictSame(read.memory({}), memory)
  for (const settings of [read.connections({}), read.connections({}).drain, read.connections({}).presence, memory, keep({ kind: 'all', name: '' }), read.sse({}), read.ws({})]) t.ok(Object.isFrozen(settings))
})

const numbers = ['5', '', true, NaN, Infinity, -1, 1.5, 2 ** 53, null, {}, [], [5], () => 5, Symbol('5'), 5n]

// what each numeric option says when it is wrong, and whether it can be off
const numeric: Array<[where: 'connections' | 'memory' | 'sse' | 'ws', path: string, option: string, rule: string, canBeOff: boolean]> = [
  ['connections', 'history.', 'events', 'must be a positive integer', false],
  ['connections', 'history.', 'bytes', 'must be a positive integer (bytes)', false],
  ['connections', 'history.', 'age', 'must be a positive integer (milliseconds)', false],
  ['connections', 'history.', 'totalBytes', 'must be a positive integer (bytes)', false],
  ['connections', 'history.', 'rooms', 'must be a positive integer', false],
  ['connections', '', 'maxBuffered', 'must be a positive integer (bytes)', false],
  ['connections', '', 'hold', 'must be a non-negative integer (milliseconds; 0 is off)', true],
  ['connections', '', 'heartbeat', 'must be a non-negative integer (milliseconds; 0 is off)', true],
  ['connections', 'presence.', 'timeout', 'must be a positive integer (milliseconds)', false],
  ['connections', 'drain.', 'within', 'must be a non-negative integer (milliseconds; 0 is off)', true],
  ['connections', 'drain.', 'grace', 'must be a non-negative integer (milliseconds; 0 is off)', true],
  ['connections', '', 'maxConnections', 'must be a non-negative integer', true],
  ['connections', '', 'maxPerUser', 'must be a non-negative integer', true],
  ['connections', '', 'maxPerAddress', 'must be a non-negative integer', true],
  ['connections', '', 'maxRooms', 'must be a non-negative integer', true],
  ['connections', '', 'maxEventBytes', 'must be a positive integer (bytes)', false],
  ['memory', '', 'totalBytes', 'must be a positive integer (bytes)', false],
  ['memory', '', 'rooms', 'must be a positive integer', false],
  ['sse', '', 'retry', 'must be a non-negative integer (milliseconds; 0 is off)', true],
  ['sse', '', 'maxAge', 'must be a non-negative integer (milliseconds; 0 is off)', true],
  ['sse', '', 'inactivity', 'must be a non-negative integer (milliseconds; 0 is off)', true],
  ['sse', '', 'headStart', 'must be a non-negative integer (milliseconds; 0 is off)', true],
  ['ws', '', 'maxPayload', 'must be a positive integer (bytes)', false],
  ['ws', '', 'maxPending', 'must be a positive integer', false],
  ['ws', '', 'messageRate', 'must be a non-negative integer', true]
]
const prefixes = { connections: '', memory: 'memory.', sse: 'sseReal.', ws: 'wsReal.' }

for (const [where, path, option, rule, canBeOff] of numeric) {
  t.test(`${prefixes[where]}${path}${option} ${rule}`, async (t) => {
    const group = path.slice(0, -1)
    const given = (value: unknown): object => group === '' ? { [option]: value } : { [group]: { [option]: value } }
    const value = (settings: object): unknown => {
      const from = group === 'history' ? { ...(settings as ReturnType<typeof checkConnections>).keep({ kind: 'room', name: 'x' }), ...(settings as ReturnType<typeof checkConnections>).memory } : group === '' ? settings : (settings as Record<string, object>)[group]
      return (from as Record<string, unknown>)[option]
    }
    for (const wrong of [...numbers, ...canBeOff ? [] : [0, false]]) {
      t.match(refusal(() => read[where](given(wrong))), `FST_ERR_REAL_OPTION: option ${prefixes[where]}${path}${option} ${rule}, got `, String(wrong))
    }
    t.equal(value(read[where](given(7))), 7)
    t.equal(value(read[where](given(undefined))), value(read[where]({})), 'undefined is the default')
    if (canBeOff) for (const off of [0, false]) t.equal(value(read[where](given(off))), 0)
  })
}

t.test('what a timer cannot wait is refused', async (t) => {
  for (const [where, path, option] of numeric.filter(([,,, rule]) => rule.includes('milliseconds'))) {
    if (option === 'age') continue // no timer waits for it
    const group = path.slice(0, -1)
    const given = (value: number): object => group === '' ? { [option]: value } : { [group]: { [option]: value } }
    t.doesNotThrow(() => read[where](given(2_147_483_647)))
    t.equal(refusal(() => read[where](given(2_147_483_648))), `FST_ERR_REAL_OPTION: option ${prefixes[where]}${path}${option} must be at most 2147483647 milliseconds`)
  }
})

const notBoolean = [0, 1, 'true', '', null, {}, []]
const notFunction = [true, 0, 'x', null, {}, []]
const notObject = [true, 0, 5, 'x', null, [], 1n]
const notOrigins = [true, 5, 'https://example.com', null, {}, [5], [null], ['*'], [''], ['example.com'], ['https://example.com/'], ['https://Example.com'], ['https://example.com:443'], ['https://*.example.com'], ['https://a@example.com'], ['https://example.com/path'], ['app://'.concat('a/b')], ['data:x'], ['https://ok.net', 'bad']]
const others: Array<[where: 'connections' | 'sse' | 'ws', option: string, wrong: unknown[], right: unknown[], rule: string]> = [
  ['connections', 'backplane', [...notObject, {}, () => {}, { publish: 1 }], [memory()], 'must be a backplane, like memory()'],
  ['connections', 'identify', notFunction, [() => 'ada', async () => null], 'must be a function, got '],
  ['connections', 'slow', [true, 'Close', '', null, 0, ['close'], {}], ['close', 'drop', 'catch-up'], 'must be one of close, drop, catch-up, got '],
  ['connections', 'presence', [...notObject, false], [{}], 'must be an object'],
  ['connections', 'drain', [...notObject, false], [{}], 'must be an object'],
  ['connections', 'history', notObject, [false, {}, () => false], 'must be an object'],
  ['sse', 'accept', [true, 'SSE', '', null, 'json'], ['sse', 'dual'], 'must be one of sse, dual, got '],
  ['sse', 'allowedOrigins', notOrigins, [[], ['null'], ['https://example.com', 'http://localhost:3000', 'http://[::1]:3000', 'capacitor://localhost', 'chrome-extension://abcdef', 'file://'], () => true], 'must '],
  ['sse', 'broadcast', notBoolean, [true, false], 'must be true or false, got '],
  ['sse', 'compression', notBoolean, [true, false], 'must be true or false, got '],
  ['ws', 'allowedOrigins', notOrigins, [[], ['https://example.com'], () => true], 'must '],
  ['ws', 'broadcast', notBoolean, [true, false], 'must be true or false, got '],
  ['ws', 'compression', notBoolean, [true, false], 'must be true or false, got '],
  ['ws', 'protocols', [true, 5, 'chat', null, {}, [5], [''], ['a b'], ['a,b'], ['ü']], [[], ['chat', 'v1.chat+json'], () => false], 'must be an array of subprotocol names or a function']
]

for (const [where, option, wrong, right, rule] of others) {
  t.test(`${prefixes[where]}${option} ${rule}`, async (t) => {
    for (const value of wrong) t.match(refusal(() => read[where]({ [option]: value })), `FST_ERR_REAL_OPTION: option ${prefixes[where]}${option} ${rule}`)
    for (const value of right) t.doesNotThrow(() => read[where]({ [option]: value }))
  })
}

t.test('what is wrong is shown, but not all of it', async (t) => {
  t.match(refusal(() => read.connections({ slow: 'x'.repeat(10_000) })), /got "x{50}"$/)
  t.match(refusal(() => read.connections({ heartbeat: { secret: 1 } })), /got object$/)
  t.match(refusal(() => read.connections({ heartbeat: null })), /got null$/)
  t.match(refusal(() => read.connections({ heartbeat: () => 1 })), /got function$/)
})

t.test('options that are not known are refused, in every group', async (t) => {
  t.equal(refusal(() => read.connections({ heartBeat: 5 })), 'FST_ERR_REAL_OPTION: option heartBeat is not known; known: backplane, identify, history, slow, maxBuffered, hold, heartbeat, presence, drain, maxConnections, maxPerUser, maxPerAddress, maxRooms, maxEventBytes')
  t.match(refusal(() => read.connections({ history: { size: 5 } })), 'option history.size is not known')
  t.match(refusal(() => read.connections({ presence: { within: 5 } })), 'option presence.within is not known')
  t.match(refusal(() => read.connections({ drain: { timeout: 5 } })), 'option drain.timeout is not known')
  t.match(refusal(() => read.connections({ drain: { prefix: '/x' } })), 'option drain.prefix is not known')
  t.match(refusal(() => read.memory({ events: 5 })), 'option memory.events is not known')
  t.match(refusal(() => read.sse({ heartbeat: 5 })), 'option sseReal.heartbeat is not known')
  t.match(refusal(() => read.sse({ map () {} })), 'option sseReal.map is not known')
  t.match(refusal(() => read.ws({ accept: 'sse' })), 'option wsReal.accept is not known')
  t.match(refusal(() => read.ws({ onMessage () {} })), 'option wsReal.onMessage is not known')
  t.match(refusal(() => read.connections({ undefinedToo: undefined })), 'option undefinedToo is not known')
})

t.test('what is no object is no options', async (t) => {
  for (const given of [null, 5, 'x', [], new Map(), new Date(), Promise.resolve({})]) {
    t.equal(refusal(() => read.connections(given)), 'FST_ERR_REAL_OPTION: option connections must be an object')
    t.equal(refusal(() => read.memory(given)), 'FST_ERR_REAL_OPTION: option memory must be an object')
    t.equal(refusal(() => read.sse(given)), 'FST_ERR_REAL_OPTION: option sseReal must be an object')
    t.equal(refusal(() => read.ws(given, read.ws({}), 'route /x ws.')), 'FST_ERR_REAL_OPTION: option route /x ws must be an object')
  }
})

t.test('what Fastify puts among the options of a plugin is let be', async (t) => {
  const fastify = { prefix: '/x', logLevel: 'warn', logSerializers: {} }
  for (const call of [read.connections, read.sse, read.ws]) t.doesNotThrow(() => call(fastify))
  t.match(refusal(() => read.sse(fastify, read.sse({}), 'route /x sse.')), 'option route /x sse.prefix is not known')
  t.match(refusal(() => read.ws(fastify, read.ws({}), 'route /x ws.')), 'option route /x ws.prefix is not known')
})

t.test('a route takes what it does not say from its plugin, a reply from its route', async (t) => {
  const plugin = read.sse({ accept: 'dual', retry: 5, maxAge: 6, inactivity: 7, headStart: 8, allowedOrigins: ['https://a.net'], broadcast: false })
  t.strictSame(read.sse({}, plugin, 'route /x sse.'), plugin)
  t.strictSame(read.sse({ retry: 0, maxAge: false, broadcast: true, accept: 'sse', allowedOrigins: [] }, plugin, 'route /x sse.'), { ...plugin, retry: 0, maxAge: 0, broadcast: true, accept: 'sse', allowedOrigins: [] })
  t.strictSame(read.sse({ headStart: 1, map () {} }, plugin, 'reply.sse.'), { ...plugin, headStart: 1 })
  const ws = read.ws({ maxPayload: 1, maxPending: 2, messageRate: 3, protocols: ['a'], allowedOrigins: ['null'], broadcast: false, compression: true })
  t.strictSame(read.ws({ onConnect () {}, onMessage () {}, onDisconnect () {}, onError () {} }, ws, 'route /x ws.'), ws)
  t.strictSame(read.ws({ protocols: [], compression: false }, ws, 'route /x ws.'), { ...ws, protocols: [], compression: false })
})

t.test('a reply decides about its own stream only', async (t) => {
  const route = read.sse({})
  for (const option of ['accept', 'allowedOrigins', 'prefix']) t.match(refusal(() => read.sse({ [option]: [] }, route, 'reply.sse.')), `FST_ERR_REAL_OPTION: option reply.sse.${option} is not known`)
  t.match(refusal(() => read.sse({ map: 5 }, route, 'reply.sse.')), 'FST_ERR_REAL_OPTION: option reply.sse.map must be a function, got 5')
  t.match(refusal(() => read.sse({ retry: '5' }, route, 'reply.sse.')), 'FST_ERR_REAL_OPTION: option reply.sse.retry must be')
  t.match(refusal(() => read.sse(null, route, 'reply.sse.')), 'FST_ERR_REAL_OPTION: option reply.sse must be an object')
})

t.test('a handler of a route is a function', async (t) => {
  for (const name of ['onConnect', 'onMessage', 'onDisconnect', 'onError']) t.equal(refusal(() => read.ws({ [name]: 'x' }, read.ws({}), 'route /x ws.')), `FST_ERR_REAL_OPTION: option route /x ws.${name} must be a function, got "x"`)
  t.match(refusal(() => read.ws({ onmessage () {} }, read.ws({}), 'route /x ws.')), 'option route /x ws.onmessage is not known')
})

t.test('history can be off, or be chosen for each topic', async (t) => {
  const { keep, memory } = read.connections({ history: false })
  t.equal(keep({ kind: 'room', name: 'x' }), null)
  t.strictSame(memory, { totalBytes: 64 * MiB, rooms: 100_000 })
  const asked: unknown[] = []
  const chosen = read.connections({
    history (topic: { kind: string }) {
      asked.push(topic)
      return topic.kind === 'user' ? false : topic.kind === 'all' ? { evnts: 5 } : { events: 5 }
    }
  })
  t.strictSame(asked, [], 'nobody is asked at registration')
  t.strictSame(chosen.keep({ kind: 'room', name: 'a' }), { events: 5, bytes: MiB, age: 120_000 })
  t.equal(chosen.keep({ kind: 'user', name: 'ada' }), null)
  t.match(refusal(() => chosen.keep({ kind: 'all', name: '' })), 'FST_ERR_REAL_OPTION: option history().evnts is not known')
  t.strictSame(asked, [{ kind: 'room', name: 'a' }, { kind: 'user', name: 'ada' }, { kind: 'all', name: '' }])
  t.match(refusal(() => read.connections({ history: () => undefined }).keep({ kind: 'room', name: 'a' })), 'FST_ERR_REAL_OPTION: option history() must be an object')
  t.match(read.connections({ history: { events: 1, totalBytes: 2, rooms: 3 } }), { memory: { totalBytes: 2, rooms: 3 } })
})

t.test('a wrong option fails the registration', async (t) => {
  const app = (): ReturnType<typeof Fastify> => {
    const made = Fastify()
    t.teardown(() => made.close())
    return made
  }
  await t.rejects(async () => await app().register(connections, { heartbeat: '15s' } as never), { code: 'FST_ERR_REAL_OPTION', message: /^option heartbeat must be/ })
  await t.rejects(async () => await app().register(sseReal, { maxage: 5 } as never), { code: 'FST_ERR_REAL_OPTION', message: 'option sseReal.maxage is not known' })
  await t.rejects(async () => await app().register(wsReal, { allowedOrigins: ['*'] }), { code: 'FST_ERR_REAL_OPTION', message: /^option wsReal\.allowedOrigins must hold origins/ })
  await t.resolves(async () => await app().register(sseReal, { prefix: '/x', maxAge: 0 } as never))
})
