import t from 'tap'
import { clientOf } from '../../lib/backplanes/redis-clients.ts'
import { checkRedis } from '../../lib/backplanes/redis-options.ts'
import type { RedisOptions } from '../../lib/backplanes/redis-options.ts'
import { Keys } from '../../lib/backplanes/redis-script.ts'
import { isNew, readMark, readPlace } from '../../lib/backplanes/redis-wire.ts'
import { redis } from '../../lib/backplanes/redis.ts'

const client = { duplicate () {}, pipeline () {}, status: 'wait' } as unknown as RedisOptions['client']

t.test('the defaults are those that are documented', async (t) => {
  const settings = checkRedis({ client })
  t.strictSame(settings, {
    prefix: 'fastify-real',
    onUnavailable: 'fail',
    whenAway: 'queue',
    queue: { events: 50_000, bytes: 67_108_864 },
    timeout: 10_000,
    audit: 5_000,
    topics: 100_000,
    maxBytes: 16_777_216,
    maxHeld: 16_777_216
  })
  t.ok(Object.isFrozen(settings))
  const chosen = { prefix: 'é/x', onUnavailable: 'degrade', whenAway: 'refuse', queue: { events: 1, bytes: 2 }, timeout: 3, audit: 4, topics: 5, maxBytes: 6, maxHeld: 7 } as const
  t.strictSame(checkRedis({ client, ...chosen }), chosen)
})

t.test('a wrong option is refused with its name and its rule', async (t) => {
  const refused = (options: unknown, message: RegExp): void => { t.throws(() => redis(options as RedisOptions), { code: 'FST_ERR_REAL_OPTION', message }) }
  refused(undefined, /must be an object/)
  refused(null, /must be an object/)
  refused({ client, servers: [] }, /redis\.servers is not known/)
  for (const prefix of ['', '{a}', 'a}', 'a b', 'a\n', 'x'.repeat(65), 5, null]) refused({ client, prefix }, /redis\.prefix must be a string of 1 to 64 characters, without braces and blanks/)
  refused({ client, onUnavailable: 'wait' }, /redis\.onUnavailable must be one of fail, degrade/)
  refused({ client, whenAway: true }, /redis\.whenAway must be one of queue, refuse/)
  refused({ client, queue: 5 }, /redis\.queue must be an object/)
  refused({ client, queue: { size: 5 } }, /redis\.queue\.size is not known/)
  for (const [name, rule] of [['timeout', 'milliseconds'], ['audit', 'milliseconds'], ['topics', 'a positive integer'], ['maxBytes', 'bytes'], ['maxHeld', 'bytes']] as const) {
    for (const value of [0, -1, 1.5, '5', NaN, null]) refused({ client, [name]: value }, new RegExp(`redis\\.${name} must be .*${rule}|redis\\.${name} must be`))
  }
  for (const name of ['events', 'bytes']) for (const value of [0, '5']) refused({ client, queue: { [name]: value } }, new RegExp(`redis\\.queue\\.${name} must be`))
})

t.test('what is no client is refused', async (t) => {
  const rest = { duplicate () {}, on () {} }
  for (const given of [undefined, null, 'redis://localhost', 5, () => {}, {}, rest, { ...rest, sendCommand () {} }, { ...rest, pipeline () {} }, { ...rest, pipeline () {}, status: 1 }, { sendCommand () {}, isReady: true }, { ...rest, pipeline () {}, status: 'wait', isCluster: true }]) {
    t.throws(() => clientOf(given, 'key'), { code: 'FST_ERR_REAL_OPTION', message: /redis\.client must be a client of @redis\/client, ioredis or iovalkey/ })
    t.throws(() => redis({ client: given as never }), { code: 'FST_ERR_REAL_OPTION' })
  }
})

t.test('all names of an app carry one hash tag', async (t) => {
  const keys = new Keys('app')
  const tag = /^\{app\}:/
  for (const name of [keys.meta, keys.old, keys.stream('room/{x}'), keys.ids('room/x'), keys.sent('node'), keys.channel('room/}{'), keys.own('node')]) t.match(name, tag)
  t.equal(keys.channel('all'), `${keys.channels}all`)
})

t.test('a message without a place, or of another version, is none', async (t) => {
  t.match(readPlace(Buffer.from('1 e-p_och 12 5\nbody\n')), { epoch: 'e-p_och', offset: 12, prev: 5, body: Buffer.from('body\n') })
  t.match(readPlace(Buffer.from('1 - 0 0\n')), { epoch: '-', offset: 0, prev: 0, body: Buffer.alloc(0) })
  for (const text of ['', '\n', '1', '1 e 5 4', '2 e 5 4\nx', '1 e 4 5\nx', '1 e 5\nx', '1 e 5 4 3\nx', ' 1 e 5 4\nx', '1 e -5 4\nx', '1 e 5.0 4\nx', '1 é 5 4\nx', '1 e 1e3 4\nx', '1 e 9999999999999999 4\nx', `1 ${'e'.repeat(41)} 5 4\nx`, `1 e 5 4${' '.repeat(200)}\n`, '1  e 5 4\nx', '1 __proto__ 5 x\nx']) {
    t.throws(() => readPlace(Buffer.from(text)), { message: 'a message without a place, or of another version' }, JSON.stringify(text))
  }
})

t.test('a mark tells where the sequence and each topic stand', async (t) => {
  t.strictSame(readMark('abcdefghij_- e 7'), { token: 'abcdefghij_-', epoch: 'e', top: 7, lasts: [] })
  t.strictSame(readMark('abcdefghij_- e 7 0 5 7'), { token: 'abcdefghij_-', epoch: 'e', top: 7, lasts: [0, 5, 7] })
  for (const text of ['', 'abcdefghij_-', 'abcdefghij_- e', 'abcdefghij_- e 7 ', 'abcdefghij_- e 7 x', 'abc e 7', 'abcdefghij_- e -7', 'abcdefghij_- e 7 5 \n', 'abcdefghij_- é 7', 'abcdefghij_- e 9999999999999999']) {
    t.throws(() => readMark(text), { message: 'a mark of another version' }, JSON.stringify(text))
  }
})

t.test('what is sent again is known, of the last 2,048 of each of the last 1,000 nodes', async (t) => {
  const seen = new Map<string, Float64Array>()
  t.equal(isNew(seen, 'a', 1), true)
  t.equal(isNew(seen, 'a', 1), false)
  t.equal(isNew(seen, 'b', 1), true)
  t.equal(isNew(seen, '__proto__', 1), true)
  for (const count of [-3, Number.MAX_SAFE_INTEGER]) t.strictSame([isNew(seen, 'a', count), isNew(seen, 'a', count)], [true, false])
  for (let count = 2; count <= 2_049; count++) isNew(seen, 'a', count)
  t.strictSame([2, 2_049, 1].map((count) => isNew(seen, 'a', count)), [false, false, true])
  for (let node = 0; node < 1_100; node++) isNew(seen, `node ${node}`, 1)
  t.equal(seen.size, 1_000)
  t.strictSame([isNew(seen, 'node 1099', 1), isNew(seen, 'a', 1)], [false, true])
})
