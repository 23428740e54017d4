import t from 'tap'
import { boundsOf, checkNats, safe, within } from '../../lib/backplanes/nats-options.ts'
import type { NatsOptions } from '../../lib/backplanes/nats-options.ts'
import { keepOf } from '../../lib/backplanes/nats-outgoing.ts'
import { Subjects, tokenOf } from '../../lib/backplanes/nats-subject.ts'
import { nats } from '../../lib/backplanes/nats.ts'

const connection = { publish () {}, options: {} } as unknown as NatsOptions['connection']

t.test('the defaults are those that are documented', async (t) => {
  const settings = checkNats({ connection })
  t.match(settings, {
    connection,
    name: 'fastify-real',
    history: { events: undefined, age: undefined, totalBytes: 268_435_456 },
    remember: 3_600_000,
    storage: 'file',
    replicas: 1,
    follow: 'auto',
    onUnavailable: 'fail',
    whenAway: 'queue',
    maxPending: 8_388_608,
    timeout: 5_000,
    audit: 15_000,
    probe: 5_000
  })
  t.ok(Object.isFrozen(settings) && Object.isFrozen(safe))
  t.strictSame(boundsOf(settings, undefined), { events: 100, age: 120_000 })
  t.strictSame(boundsOf(settings, null), { events: 100, age: 120_000 })
  t.strictSame(boundsOf(settings, { events: 5, bytes: 1, age: 6 }), { events: 5, age: 6 })
})

t.test('a wrong option is refused with its name', async (t) => {
  const refused = (options: object, name: RegExp): void => {
    t.throws(() => nats({ connection, ...options } as NatsOptions), { code: 'FST_ERR_REAL_OPTION', message: name })
  }
  refused({ connection: undefined }, /nats\.connection must be a connection/)
  refused({ connection: null }, /nats\.connection must be a connection/)
  refused({ connection: 'nats://localhost' }, /nats\.connection must be a connection/)
  refused({ connection: { publish () {}, options: { noEcho: true } } }, /nats\.connection must be made without noEcho/)
  for (const name of ['', 'a.b', '*', '>', 'a b', 'é', 'x'.repeat(65), 5]) refused({ name }, /nats\.name must be 1 to 64/)
  refused({ history: 5 }, /nats\.history must be an object/)
  for (const key of ['events', 'age', 'totalBytes']) refused({ history: { [key]: 0 } }, new RegExp(`nats.history.${key} must be a positive integer`))
  refused({ history: { events: 1.5 } }, /nats\.history\.events must be a positive integer, got 1\.5/)
  refused({ history: { events: '5' } }, /nats\.history\.events must be a positive integer, got "5"$/)
  refused({ history: { age: '5' } }, /nats\.history\.age must be a positive integer \(milliseconds\), got "5"$/)
  refused({ history: { bytes: 5 } }, /nats\.history\.bytes is not known/)
  for (const key of ['remember', 'replicas', 'maxPending', 'timeout', 'audit', 'probe']) refused({ [key]: '5' }, new RegExp(`nats.${key} must be a positive integer`))
  refused({ storage: 'disk' }, /nats\.storage must be one of file, memory/)
  refused({ replicas: 6 }, /nats\.replicas must be at most 5/)
  refused({ follow: 'some' }, /nats\.follow must be one of auto, rooms, all/)
  refused({ onUnavailable: 'wait' }, /nats\.onUnavailable must be one of fail, degrade/)
  refused({ whenAway: 'wait' }, /nats\.whenAway must be one of queue, refuse/)
  refused({ servers: [] }, /nats\.servers is not known/)
})

t.test('a topic is one token, and no other topic', async (t) => {
  const topics = ['room/x', 'room/X', 'room/a.b', 'room/a*b', 'room/>', 'room/*', 'room/a b', 'room/a\tb', 'room/a\nb', 'room/%', 'room/%002a', 'room/é', 'room/e\u0301', 'room/\uD800', 'room/\uD801', 'room/\uFFFD', 'room/💥', 'room/\0', 'room/', 'all', 'nodes', 'presence/x', 'room/' + 'é'.repeat(256)]
  const tokens = topics.map(tokenOf)
  for (const token of tokens) t.match(token, /^[\w/:%-]{1,2000}$/)
  t.equal(new Set(tokens).size, topics.length)
  t.strictSame(tokens.slice(0, 4), ['room/x', 'room/X', 'room/a%002eb', 'room/a%002ab'])
  t.throws(() => tokenOf('é'.repeat(1_000)), RangeError)
  const subjects = new Subjects('app', 'i')
  t.strictSame([subjects.kept('e', 'x'), subjects.unkept('x'), subjects.live('x'), subjects.all], ['app.k.e.x', 'app.d.u.u.x', 'app.d.*.*.x', 'app.d.k.>'])
  t.strictSame(subjects.read('app.d.u.u.room/x'), { epoch: 'u', token: 'room/x' })
  t.strictSame(subjects.read('app.d.k.an-epoch.room/x'), { epoch: 'an-epoch', token: 'room/x' })
  t.strictSame(subjects.read('app.d.k'), { epoch: '', token: '' })
})

t.test('what was kept by wider bounds is kept within those there are', async (t) => {
  const bounds = { events: 10, age: 1_000 }
  t.strictSame(within(bounds, { events: 10, bytes: 5, age: 1_000 }), { events: 10, bytes: 5, age: 1_000 })
  t.strictSame(within(bounds, { events: 11, bytes: 5, age: 500 }), { events: 10, bytes: 5, age: 500 })
  t.strictSame(within(bounds, { events: 5, bytes: 5, age: 2_000 }), { events: 5, bytes: 5, age: 1_000 })
})

t.test('what an event says is kept of its topic is not believed where it is no bounds', async (t) => {
  const fallback = { events: 1, bytes: 2, age: 3 }
  t.strictSame(keepOf('4,5,6', fallback), { events: 4, bytes: 5, age: 6 })
  for (const text of [undefined, '', '4', '4,5', '4,5,6,7', '0,5,6', '4,-5,6', '4,5,x', '4,5,6.5', '4,,6']) t.strictSame(keepOf(text, fallback), fallback, text ?? 'nothing')
})
