import { EventEmitter, on } from 'node:events'
import { createReadStream } from 'node:fs'
import { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import type { Sendable } from '../lib/index.ts'
import type { CheckedEvent } from '../lib/event.ts'
import { checkSource, discard, Feed, isAbort, isIterable, isSendable, pump } from '../lib/source.ts'
import type { Sink } from '../lib/source.ts'
import { wsBare } from '../lib/transports/ws-frame.ts'
import { connect, encodings, node } from './fake.ts'
import { until } from './helper.ts'

interface Warning { fields: { err?: Error, route?: string }, message: string }

/** A connection without a wire: what it is sent is kept, and its reader takes it when it is told to. */
class FakeSink implements Sink {
  open = true
  buffered = 0
  room = Infinity
  hold: Promise<void> | null = null
  sent: unknown[] = []
  writes = 0
  readonly checks = { maxBytes: 1_000 }
  readonly wire = { highWaterMark: 100, encoding: encodings.one }
  readonly #abort = new AbortController()
  readonly warnings: Warning[] = []
  readonly request = { log: { warn: (fields: object, message: string) => { this.warnings.push({ fields, message }) } }, routeOptions: { url: '/route' } }
  readonly work: Array<Promise<unknown>> = []
  readonly drain = { working: (work: Promise<unknown>) => { this.work.push(work) } }
  #waiting: Array<{ mark: number, resolve: () => void }> = []
  get signal (): AbortSignal { return this.#abort.signal }
  hasRoom (bytes: number): boolean { return this.buffered + bytes <= this.room || this.buffered === 0 }
  send (event: Sendable): boolean {
    this.give(event as unknown as CheckedEvent)
    return this.open
  }

  give ({ framed, text, bytes, size }: CheckedEvent): number {
    if (!this.open || this.hold !== null || !this.hasRoom(size)) return -1
    this.buffered += framed.frame(encodings.one).length
    this.sent.push(text ?? bytes)
    return this.buffered
  }

  write (): void { this.writes++ }

  drained (mark: number = this.wire.highWaterMark): Promise<void> {
    return !this.open || this.buffered <= mark ? Promise.resolve() : new Promise((resolve) => { this.#waiting.push({ mark, resolve }) })
  }

  async whenReleased (): Promise<void> {
    await this.hold
    this.hold = null
  }

  get awaited (): boolean { return this.#waiting.length > 0 }
  read (bytes: number = Infinity): void {
    this.buffered = Math.max(0, this.buffered - bytes)
    const waiting = this.#waiting
    this.#waiting = waiting.filter(({ mark }) => this.open && this.buffered > mark)
    for (const { mark, resolve } of waiting) if (!this.open || this.buffered <= mark) resolve()
  }

  close (): void {
    this.open = false
    this.#abort.abort(new DOMException('the connection ended: client', 'AbortError'))
    this.read(0)
  }
}

const run = (sink: FakeSink, source: unknown, options: object = {}): Promise<void> => pump(sink, source, options, sink.drain)

t.test('every kind of source is sent, one item after the other', async (t) => {
  const items = ['a', 'b', 'c']
  const sources: Record<string, () => unknown> = {
    array: () => items,
    set: () => new Set(items),
    generator: () => (function * () { yield * items })(),
    'async generator': () => (async function * () { yield * items })(),
    'array of promises': () => items.map((item) => Promise.resolve(item)),
    Readable: () => Readable.from(items),
    ReadableStream: () => ReadableStream.from(items),
    'stream without an iterator of its own': () => { const stream = ReadableStream.from(items); return { getReader: () => stream.getReader() } },
    'callback giving a generator': () => () => (async function * () { yield * items })(),
    'callback giving a sync generator': () => function * () { yield * items },
    'callback giving an array': () => () => items,
    'callback promising a generator': () => async () => (async function * () { yield * items })(),
    'callback that sends': () => async (sink: FakeSink) => { for (const text of items) sink.send({ text, framed: { frame: () => '' } } as never) },
    'iterator that is no generator': () => ({ [Symbol.asyncIterator]: () => { const rest = [...items]; return { next: () => ({ done: rest.length === 0, value: rest.shift() }) } } })
  }
  for (const [name, source] of Object.entries(sources)) {
    const sink = new FakeSink()
    await run(sink, source())
    t.strictSame(sink.sent, items, name)
    t.equal(sink.open, true)
  }
  const bytes = new FakeSink()
  await run(bytes, new Uint8Array([1, 2]))
  t.strictSame([...bytes.sent[0] as Uint8Array], [1, 2], 'bytes are one event')
  for (const source of ['text', { data: 'text' }]) {
    const sink = new FakeSink()
    await run(sink, source)
    t.strictSame(sink.sent, ['text'])
  }
  for (const source of [[], async () => {}, async () => [true, false], async () => true, async () => 'text']) {
    const sink = new FakeSink()
    await run(sink, source)
    t.strictSame(sink.sent, [], 'what a callback promises is of no interest, but for a stream')
  }
})

t.test('map makes events of items of any kind, a single one too', async (t) => {
  const map = (n: unknown): Sendable => ({ data: `<${String(n)}>` })
  const sink = new FakeSink()
  await run(sink, [1, null, undefined, Promise.resolve(2)], { map })
  await run(sink, { oops: 1 }, { map: () => 'mapped' })
  t.strictSame(sink.sent, ['<1>', '<null>', '<undefined>', '<2>', 'mapped'])
})

t.test('what is no source is refused at once', async (t) => {
  const sink = new FakeSink()
  for (const source of [null, undefined, 5, true, Symbol('x'), 5n, Promise.resolve(), { then () {} }]) {
    t.throws(() => run(sink, source), { code: 'FST_ERR_REAL_SOURCE' })
  }
  t.throws(() => run(sink, { bad: 1 }), { code: 'FST_ERR_REAL_EVENT' })
  t.throws(() => run(sink, {}), { code: 'FST_ERR_REAL_EVENT' })
  t.throws(() => run(sink, 'x'.repeat(1_001)), { code: 'FST_ERR_REAL_TOO_LARGE' })
  t.throws(() => checkSource(5, true, sink.checks), { code: 'FST_ERR_REAL_SOURCE' })
  for (const map of [null, 5, 'x', {}, []]) t.throws(() => run(sink, ['x'], { map }), { code: 'FST_ERR_REAL_ARGUMENT', message: /^map must be a function, got / })
  for (const callback of [() => {}, () => 5, () => 'text', () => ({ data: 1 })]) await t.rejects(run(sink, callback), { code: 'FST_ERR_REAL_SOURCE' })
  t.strictSame(sink.sent, [])
})

t.test('events and bytes are sendable, never iterable', async (t) => {
  for (const value of ['', 'text', Buffer.from('x'), new Uint8Array(), { data: 1 }, {}]) {
    t.equal(isSendable(value), true)
    t.equal(isIterable(value), false)
  }
  for (const value of [[], new Map(), Readable.from([]), new ReadableStream(), (async function * () {})()]) {
    t.equal(isSendable(value), false)
    t.equal(isIterable(value), true)
  }
  for (const value of [null, undefined, 5, () => {}]) {
    t.equal(isSendable(value), false)
    t.equal(isIterable(value), false)
  }
  t.equal(isAbort(new Error('x')), false)
  t.equal(isAbort('AbortError'), false)
})

t.test('a source that never waits lets others in, though what it gives has no bytes', async (t) => {
  const one = await node(t)
  const { connection } = connect(one, { encoding: wsBare })
  const comment = { comment: 'of which a WebSocket has no frame' }
  for (const next of [() => comment, () => Promise.resolve(comment)]) {
    let asked = 0
    let askedInTurn = 0
    setImmediate(() => { askedInTurn = asked })
    await connection.from({ [Symbol.iterator]: () => ({ next: () => ({ done: asked++ === 100_000, value: next() }) }) } as Iterable<typeof comment>)
    t.ok(askedInTurn > 0 && askedInTurn < 100_000)
  }
})

t.test('the next item is asked for when the reader has room, and one is in flight', async (t) => {
  const sink = new FakeSink()
  const asked: number[] = []
  const done = run(sink, (function * () { for (let i = 0; i < 10; i++) { asked.push(sink.buffered); yield 'x'.repeat(60) } })())
  await until(() => sink.awaited)
  t.equal(asked.length, 2)
  sink.read(10)
  await sleep(1)
  t.equal(asked.length, 2, 'still too far behind')
  for (let i = 0; i < 5; i++) {
    await until(() => sink.awaited)
    sink.read()
  }
  await done
  t.equal(sink.sent.length, 10)
  t.ok(Math.max(...asked) < 100)
  t.equal(sink.writes, 5, 'what fills a write is written at once')
})

t.test('a source that never waits, for a reader that takes all at once, keeps nobody else from running', async (t) => {
  const sink = new FakeSink()
  sink.write = () => sink.read()
  let turns = 0
  const done = run(sink, (function * () { while (sink.open) yield 'x'.repeat(60) })())
  while (turns < 5) {
    await new Promise((resolve) => { setImmediate(resolve) })
    turns++
  }
  sink.close()
  await done
  t.ok(sink.sent.length <= 2 * (turns + 1), `${sink.sent.length} items in ${turns} turns`)
})

t.test('an item for which there is no room waits until all before it is taken', async (t) => {
  const sink = new FakeSink()
  sink.room = 120
  const done = run(sink, ['x'.repeat(10), 'y'.repeat(200), 'z'])
  await until(() => sink.awaited)
  t.strictSame(sink.sent.length, 1)
  sink.read(5)
  await sleep(1)
  t.equal(sink.sent.length, 1)
  sink.read()
  await until(() => sink.awaited)
  t.equal(sink.sent.length, 2)
  sink.read()
  await done
  t.equal(sink.sent.length, 3)
})

t.test('nothing is sent before it is released, and the source begins after that', async (t) => {
  const sink = new FakeSink()
  let release: () => void = () => {}
  sink.hold = new Promise((resolve) => { release = resolve })
  let begun = false
  const failing = new Readable({ read () {} })
  const done = run(sink, function * () { begun = true; yield 'x' })
  const failed = run(sink, failing)
  failing.destroy(new Error('broken'))
  await sleep(1)
  t.equal(begun, false)
  release()
  await done
  t.strictSame(sink.sent, ['x'])
  await t.rejects(failed, { message: 'broken' }, 'a stream that fails meanwhile is told when it is asked')
  const closed = new FakeSink()
  closed.hold = new Promise((resolve) => { release = resolve })
  let returned = 0
  const late = run(closed, { [Symbol.iterator]: () => ({ next: () => { begun = false; return { done: true, value: 0 } }, return: () => { returned++; return { done: true, value: 0 } } }) })
  closed.close()
  release()
  await late
  t.strictSame([begun, returned], [true, 1], 'one that comes too late is ended and never asked')
})

t.test('a source that fails rejects with its own error, and is not ended twice', async (t) => {
  const fails = new Error('mine')
  let returned = 0
  const iterator = (next: () => unknown) => ({ [Symbol.asyncIterator]: () => ({ next, async return () { returned++; return { done: true, value: 0 } } }) })
  for (const source of [
    (async function * () { yield 'x'; throw fails })(),
    (function * () { throw fails })(),
    () => { throw fails },
    async () => { throw fails },
    { [Symbol.iterator] () { throw fails } },
    new Readable({ read () { this.destroy(fails) } }),
    new ReadableStream({ pull () { throw fails } }),
    iterator(() => { throw fails }),
    iterator(() => Promise.reject(fails))
  ]) await t.rejects(run(new FakeSink(), source), fails)
  t.equal(returned, 0)
  await t.rejects(run(new FakeSink(), iterator(() => undefined)), TypeError)
  await t.rejects(run(new FakeSink(), createReadStream('/nowhere')), { code: 'ENOENT' })
  const locked = new ReadableStream()
  locked.getReader()
  await t.rejects(run(new FakeSink(), locked), TypeError)
})

t.test('a source whose items cannot be sent is told to end', async (t) => {
  for (const item of [{ bad: 1 }, 5, 'x'.repeat(2_000), Promise.reject(new Error('mine'))]) {
    let finallies = 0
    const sink = new FakeSink()
    await t.rejects(run(sink, (function * () { try { yield 'x'; yield item; yield 'never' } finally { finallies++ } })()))
    t.equal(finallies, 1)
    t.strictSame(sink.sent, ['x'])
    t.strictSame(sink.warnings, [])
  }
  let destroyed = false
  await t.rejects(run(new FakeSink(), new Readable({ objectMode: true, read () { this.push({ bad: 1 }) }, destroy (err, done) { destroyed = true; done(err) } })), { code: 'FST_ERR_REAL_EVENT' })
  t.equal(destroyed, true)
})

t.test('the first event is there before anything is sent, and so is a first failure', async (t) => {
  const sink = new FakeSink()
  const feed = new Feed(sink, ['a', 'b'], {}, sink.drain)
  t.equal((await feed.first)?.text, 'a')
  t.strictSame(sink.sent, [])
  await feed.run()
  t.strictSame(sink.sent, ['a', 'b'])
  for (const source of [[5], [{ bad: 1 }], () => {}, async () => { throw new Error('mine') }]) await t.rejects(new Feed(sink, source, {}, sink.drain).first)
  t.equal(await new Feed(sink, [], {}, sink.drain).first, null)
  t.equal(await new Feed(sink, async () => {}, {}, sink.drain).first, null)
})

t.test('when the connection ends the signal comes first, then return(), and the run is over at once', async (t) => {
  const order: string[] = []
  const sink = new FakeSink()
  const source = {
    [Symbol.asyncIterator]: () => {
      sink.signal.addEventListener('abort', () => order.push('signal'))
      return { next: () => new Promise(() => {}), async return () { order.push('return'); return { done: true as const, value: undefined } } }
    }
  }
  const done = run(sink, source)
  await sleep(1)
  sink.close()
  await done
  await sleep(1)
  t.strictSame(order, ['signal', 'return'])
  t.strictSame(sink.warnings, [])
})

t.test('streams let go of what they hold when the connection ends, though they say nothing', async (t) => {
  const ended: string[] = []
  const emitter = new EventEmitter()
  const sources: Record<string, () => unknown> = {
    Readable: () => new Readable({ read () {}, destroy (err, done) { ended.push('Readable'); done(err) } }),
    ReadableStream: () => new ReadableStream({ cancel () { ended.push('ReadableStream') } }),
    'events.on': () => on(emitter, 'x')
  }
  for (const [name, source] of Object.entries(sources)) {
    const sink = new FakeSink()
    const done = run(sink, source())
    await sleep(1)
    sink.close()
    await done
    await Promise.allSettled(sink.work)
    if (name === 'events.on') t.equal(emitter.listenerCount('x'), 0)
    else t.equal(ended.at(-1), name)
    t.strictSame(sink.warnings, [], name)
  }
})

t.test('a generator that closes its own connection is ended, once', async (t) => {
  for (const kind of ['sync', 'async']) {
    let finallies = 0
    const sink = new FakeSink()
    const body = function * (): Generator<string> { try { yield 'x'; sink.close(); yield 'never' } finally { finallies++ } }
    await run(sink, kind === 'sync' ? body() : (async function * () { yield * body() })())
    await Promise.allSettled(sink.work)
    t.equal(finallies, 1, kind)
    t.strictSame(sink.sent, ['x'])
    t.strictSame(sink.warnings, [])
  }
})

t.test('what a source throws after the end is warned of, but for what says that it has heeded the signal', async (t) => {
  const heeding: Array<(sink: FakeSink) => unknown> = [
    ({ signal }) => async function * () { yield await sleep(600_000, 'x', { signal }) },
    ({ signal }) => async () => { await sleep(600_000, null, { signal }) },
    ({ signal }) => async () => { await new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason))) }
  ]
  for (const source of heeding) {
    const sink = new FakeSink()
    const done = run(sink, source(sink))
    await sleep(1)
    sink.close()
    await done
    await Promise.allSettled(sink.work)
    t.strictSame(sink.warnings, [])
  }
  const failing: Array<(sink: FakeSink) => unknown> = [
    ({ signal }) => async function * () { try { yield await sleep(600_000, 'x', { signal }) } catch { throw new Error('late') } },
    () => ({ [Symbol.asyncIterator]: () => ({ next: () => new Promise(() => {}), return () { throw new Error('late') } }) }),
    () => ({ [Symbol.asyncIterator]: () => ({ next: () => new Promise(() => {}), return: () => Promise.reject(new Error('late')) }) }),
    () => new ReadableStream({ cancel () { throw new Error('late') } }),
    ({ signal }) => async () => { await new Promise((resolve) => signal.addEventListener('abort', resolve)); throw new Error('late') }
  ]
  for (const source of failing) {
    const sink = new FakeSink()
    const done = run(sink, source(sink))
    await sleep(1)
    sink.close()
    await done
    await until(() => sink.warnings.length > 0)
    await sleep(1)
    t.match(sink.warnings, [{ fields: { err: { message: 'late' } }, message: 'a source failed after its connection had ended' }])
    t.equal(sink.warnings.length, 1)
  }
})

t.test('a source that ignores the signal is named after a while, and others are not', async (t) => {
  const { setTimeout: real } = globalThis
  const due: Array<() => void> = []
  globalThis.setTimeout = ((work: () => void, delay: number, ...rest: []) => {
    if (delay === 5_000) due.push(work)
    return real(work, delay, ...rest)
  }) as never
  t.teardown(() => { globalThis.setTimeout = real })
  const deaf = new FakeSink()
  let release: () => void = () => {}
  void run(deaf, async function * () { await new Promise<void>((resolve) => { release = resolve }); yield 'x' })
  await sleep(1)
  deaf.close()
  t.equal(due.length, 1)
  due[0]?.()
  t.match(deaf.warnings, [{ fields: { route: '/route' }, message: /ignores connection\.signal/ }])
  release()
  await Promise.allSettled(deaf.work)
  t.strictSame(deaf.sent, [])
  const over = new FakeSink()
  await run(over, ['x'])
  over.close()
  t.equal(due.length, 1, 'a source that is over is not watched')
})

t.test('a connection may be sent many sources without a trace', async (t) => {
  const sink = new FakeSink()
  const warned: string[] = []
  const warn = (warning: Error): void => { warned.push(warning.name) }
  process.on('warning', warn)
  t.teardown(() => { process.removeListener('warning', warn) })
  for (let i = 0; i < 30; i++) {
    await run(sink, ['x'])
    sink.read()
  }
  await sleep(1)
  t.equal(sink.sent.length, 30)
  t.strictSame(warned, [])
})

t.test('a source that nobody will read lets go of what it holds', async (t) => {
  let [destroyed, cancelled, started] = [false, false, false]
  await discard(new Readable({ read () {}, destroy (err, done) { destroyed = true; done(err) } }))
  await discard(new ReadableStream({ cancel () { cancelled = true } }))
  await discard((async function * () { started = true; yield 'x' })())
  await discard(() => { started = true })
  await discard('text')
  await discard(undefined)
  await discard(new ReadableStream({ cancel () { throw new Error('x') } }))
  await discard({ [Symbol.iterator] () { throw new Error('x') } })
  t.strictSame([destroyed, cancelled, started], [true, true, false])
})

t.test('a source for a connection that has ended is not begun', async () => {
  for (const meanwhile of [false, true]) {
    const sink = new FakeSink()
    let release = (): void => {}
    sink.hold = meanwhile ? new Promise((resolve) => { release = resolve }) : null
    let [called, returned] = [false, false]
    if (!meanwhile) sink.close()
    const runs = [
      run(sink, async () => { called = true; await new Promise((resolve) => sink.signal.addEventListener('abort', resolve)) }),
      run(sink, { [Symbol.asyncIterator]: () => ({ next: async () => { called = true; return { done: false, value: 'x' } }, return: () => { returned = true; return { done: true } } }) })
    ]
    if (meanwhile) sink.close()
    release()
    await Promise.all(runs)
    t.equal(called, false)
    t.equal(returned, true)
    t.strictSame(sink.sent, [])
    t.strictSame(sink.work, [], 'a close of the server waits for none')
  }
})

t.test('a source whose connection has ended before it is run is over at once, whatever it waits for', async (t) => {
  const sink = new FakeSink()
  let returned = false
  const feed = new Feed(sink, { [Symbol.asyncIterator]: () => ({ next: () => new Promise(() => {}), return: () => { returned = true; return { done: true } } }) }, {}, sink.drain)
  sink.close()
  await feed.run()
  await until(() => returned)
  t.strictSame(sink.sent, [])
})

t.test('a source that ends with its connection is not said to go on', async (t) => {
  const { setTimeout } = globalThis
  globalThis.setTimeout = ((work: () => void) => setTimeout(work, 1)) as never
  t.teardown(() => { globalThis.setTimeout = setTimeout })
  const sink = new FakeSink()
  const running = run(sink, async function * () {
    yield 'one'
    await sleep(600_000, null, { signal: sink.signal })
  })
  await until(() => sink.sent.length === 1)
  sink.close()
  await running
  await Promise.all(sink.work)
  await new Promise((resolve) => setTimeout(resolve, 5)) // whatever was to be said after a while has been said by then
  t.strictSame(sink.warnings, [])
})
