import { once } from 'node:events'
import t from 'tap'
import { Signals } from '../lib/signals.ts'

function signalsOf (): { signals: Signals, logged: Array<[object, string]> } {
  const logged: Array<[object, string]> = []
  return { signals: new Signals({ error (fields, message) { logged.push([fields, message]) } }), logged }
}

t.test('listeners hear in the order they came, until they are taken off', async (t) => {
  const { signals } = signalsOf()
  const heard: string[] = []
  const first = (name: string): void => { heard.push(`first ${name}`) }
  t.equal(signals.isHeard('room'), false)
  signals.on('room', first)
  signals.on('room', (name) => { heard.push(`second ${name}`) })
  signals.on('empty', (name) => { heard.push(`empty ${name}`) })
  t.equal(signals.isHeard('room'), true)
  signals.emit('room', 'a')
  signals.off('room', first)
  signals.emit('room', 'b')
  signals.emit('gap', {} as never, { reason: 'slow' })
  t.strictSame(heard, ['first a', 'second a', 'second b'])
})

t.test('a name that is never heard is refused with those that are', async (t) => {
  const { signals } = signalsOf()
  t.throws(() => signals.on('connection' as never, () => {}), { code: 'FST_ERR_REAL_ARGUMENT', message: /^event must be one of connect, disconnect, join, .*, got connection$/ })
})

t.test('a listener that takes itself off keeps no other from hearing', async (t) => {
  const { signals } = signalsOf()
  const heard: string[] = []
  const first = (name: string): void => {
    heard.push(`first ${name}`)
    signals.off('room', first)
  }
  signals.on('room', first)
  signals.on('room', (name) => { heard.push(name) })
  signals.emit('room', 'a')
  signals.emit('room', 'b')
  t.strictSame(heard, ['first a', 'a', 'b'])
})

t.test('a listener that throws or rejects harms nobody else and is logged', async (t) => {
  const { signals, logged } = signalsOf()
  const heard: string[] = []
  const [thrown, rejected, awaited] = [new Error('thrown'), new Error('rejected'), new Error('awaited')]
  signals.on('room', () => { throw thrown })
  signals.on('room', async () => { throw rejected })
  signals.on('room', () => ({ then (_: unknown, reject: (err: Error) => void) { reject(awaited) } }) as never)
  signals.on('room', async () => {})
  signals.on('room', () => ({}) as never)
  signals.on('room', (name) => { heard.push(name) })
  signals.emit('room', 'a')
  t.strictSame(heard, ['a'])
  await new Promise(setImmediate)
  t.strictSame(logged, [
    [{ err: thrown, event: 'room' }, 'a listener of the registry threw'],
    [{ err: awaited, event: 'room' }, 'a listener of the registry rejected'],
    [{ err: rejected, event: 'room' }, 'a listener of the registry rejected']
  ])
})

t.test('a name that is never told, or a listener that is no function, is refused when it is put on and when it is taken off', async (t) => {
  const signals = new Signals({ error () {} })
  for (const put of ['on', 'off'] as const) {
    for (const name of ['connected', 'error', '', undefined, null, 5, Symbol('x'), Object.create(null)]) t.throws(() => signals[put](name as never, () => {}), { code: 'FST_ERR_REAL_ARGUMENT', message: /^event must be one of connect, .*, got / })
    for (const listener of [undefined, null, 5, 'x', {}, Promise.resolve()]) t.throws(() => signals[put]('connect', listener as never), { code: 'FST_ERR_REAL_ARGUMENT', message: /^listener must be a function, got / })
  }
})

t.test('many listeners are no leak, and `error` is a name like any other', async (t) => {
  const warned: Error[] = []
  const warn = (warning: Error): void => { warned.push(warning) }
  process.on('warning', warn)
  t.teardown(() => process.off('warning', warn))
  const { signals } = signalsOf()
  for (let i = 0; i < 100; i++) signals.on('room', () => {})
  signals.emit('error' as 'room', 'is no event of the registry')
  const marker = once(process, 'warning')
  process.emitWarning('marker')
  await marker
  t.strictSame(warned.map(({ message }) => message), ['marker'])
})

t.test('what a listener causes is heard after what it was told, by all in one order', async (t) => {
  const { signals } = signalsOf()
  const heard: string[] = []
  signals.on('join', (_connection, room) => {
    heard.push(`one ${room}`)
    if (room === 'a') signals.emit('leave', {} as never, 'a')
  })
  signals.on('join', (_connection, room) => { heard.push(`two ${room}`) })
  signals.on('leave', (_connection, room) => { heard.push(`left ${room}`) })
  signals.emit('join', {} as never, 'a')
  t.strictSame(heard, ['one a', 'two a', 'left a'])
})

t.test('what happens together is heard once all of it has happened, also when it throws', async (t) => {
  const { signals } = signalsOf()
  const heard: string[] = []
  signals.on('room', (name) => { heard.push(name) })
  const result = signals.together(() => {
    signals.emit('room', 'a')
    signals.together(() => signals.emit('room', 'b'))
    t.strictSame(heard, [])
    return 5
  })
  t.equal(result, 5)
  t.strictSame(heard, ['a', 'b'])
  t.throws(() => signals.together(() => {
    signals.emit('room', 'c')
    throw new Error('mine')
  }), { message: 'mine' })
  signals.emit('room', 'd')
  t.strictSame(heard, ['a', 'b', 'c', 'd'])
})
