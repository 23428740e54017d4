import { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import t from 'tap'
import type { Test } from 'tap'
import type { Connection, Disconnect, Sendable } from '../../lib/index.ts'
import { build, listen, sseClient, until } from '../helper.ts'
import { logs } from '../logs.ts'
import type { Line } from '../logs.ts'

type Handler = (this: FastifyInstance, request: FastifyRequest, reply: FastifyReply, connection: Connection) => unknown

// DESIGN section 5 was tried with these: every way to write a handler, under every kind of onSend hook
const hooks: Record<string, ((app: FastifyInstance) => void)> = {
  'no onSend hook': () => {},
  'an async onSend hook': (app) => {
    app.addHook('onSend', async (_request, reply, payload) => {
      await sleep(3)
      reply.header('x-hook', 'ran')
      return payload
    })
  },
  'onSend hooks of both kinds': (app) => {
    app.addHook('onSend', (_request, reply, payload, done) => {
      reply.header('x-first', 'ran')
      setImmediate(done, null, payload)
    })
    app.addHook('onSend', async (_request, reply) => { reply.header('x-hook', 'ran') })
  }
}

async function * twoEvents (): AsyncGenerator<Sendable> {
  yield 'one'
  await sleep(2)
  yield { event: 'second', data: { two: 2 } }
}

const TWO = 'data: one\n\nevent: second\ndata: {"two":2}\n\n'
const two: Sendable[] = ['one', { event: 'second', data: { two: 2 } }]

interface Form { sse?: false, handler: Handler, text: string }

// each ends by itself, with this text
const finite: Record<string, Form> = {
  'an async generator': { handler: twoEvents, text: TWO },
  'a sync generator': { handler: function * () { yield * two }, text: TWO },
  'a bound generator': { handler: async function * () { yield * two } as Handler, text: TWO },
  'a generator without events': { handler: async function * () {}, text: '' },
  'a generator that sends by itself too': { handler: async function * (_request, _reply, connection) { connection.send('a'); yield 'b'; connection.send('c') }, text: 'data: a\n\ndata: b\n\ndata: c\n\n' },
  'an async function calling reply.sse(source)': { handler: async (_request, reply) => { reply.sse(twoEvents()) }, text: TWO },
  'an async function returning reply.sse(source)': { handler: async (_request, reply) => reply.sse(twoEvents()), text: TWO },
  'an async function returning reply': { handler: async (_request, reply) => { reply.sse(twoEvents()); return await reply }, text: TWO },
  'an async function that waits and then calls reply.sse(source)': { handler: async (_request, reply) => { await sleep(30); reply.sse(twoEvents()) }, text: TWO },
  'a sync function calling reply.sse(source)': { handler: (_request, reply) => { reply.sse(twoEvents()) }, text: TWO },
  'a sync function returning reply.sse(source)': { handler: (_request, reply) => reply.sse(twoEvents()), text: TWO },
  'a sync function returning reply': { handler: (_request, reply) => { reply.sse(twoEvents()); return reply }, text: TWO },
  'a sync function that calls reply.sse(source) later': { handler: (_request, reply) => { setTimeout(() => reply.sse(twoEvents()), 10) }, text: TWO },
  'an async function returning reply that calls reply.sse(source) later': { handler: async (_request, reply) => { setTimeout(() => reply.sse(twoEvents()), 10); return await reply }, text: TWO },
  'a sync function returning reply that calls reply.sse(source) later': { handler: (_request, reply) => { setTimeout(() => reply.sse(twoEvents()), 10); return reply }, text: TWO },
  'returning an async iterable': { handler: async () => twoEvents(), text: TWO },
  'sync returning an async iterable': { handler: () => twoEvents(), text: TWO },
  'returning an iterable': { handler: async () => two, text: TWO },
  'sync returning an iterable': { handler: () => new Set(two), text: TWO },
  'returning an array of promises': { handler: async () => two.map((event) => Promise.resolve(event)), text: TWO },
  'returning a Node Readable': { handler: async () => Readable.from(two), text: TWO },
  'returning a web ReadableStream': { handler: async () => ReadableStream.from(two), text: TWO },
  'returning a callback that gives a promise': { handler: async () => async (connection: Connection) => { for (const event of two) { connection.send(event); await sleep(1) } }, text: TWO },
  'returning a callback that gives a generator': { handler: async () => () => twoEvents(), text: TWO },
  'returning a callback that promises a generator': { handler: async () => async () => twoEvents(), text: TWO },
  'returning one event': { handler: async () => ({ event: 'second', data: { two: 2 } }), text: 'event: second\ndata: {"two":2}\n\n' },
  'returning one string': { handler: async () => 'one', text: 'data: one\n\n' },
  'returning bytes': { handler: async () => Buffer.from('one'), text: 'data: b25l\n\n' },
  'returning a source with a code of its own': { handler: async (_request, reply) => { reply.code(201); return two }, text: TWO },
  'waiting for connection.from()': { handler: async (_request, reply) => { const connection = reply.sse(); await connection.from(twoEvents()); connection.close() }, text: TWO },
  'closing the connection before it has returned': { handler: async (_request, reply) => { const connection = reply.sse(); connection.send('one'); connection.close() }, text: 'data: one\n\n' },
  'closing the connection inside the source': { handler: function * (_request, _reply, connection) { yield 'one'; connection.close(); yield 'never' }, text: 'data: one\n\n' }
}

every('is sent whole and once', hooks, finite, async (t, { app, port, path, kind, form, ends, warnings }, { text }) => {
  const client = await sseClient(port, path)
  await until(() => client.ended)
  t.equal(client.text, text)
  t.equal(client.cut, false)
  t.equal(client.response.statusCode, form.includes('code of its own') ? 201 : 200)
  t.equal(client.response.headers['content-type'], 'text/event-stream')
  t.equal(client.response.headers['x-hook'], kind === 'no onSend hook' ? undefined : 'ran')
  await until(() => ends.length > 0)
  t.equal(app.connections.size, 0)
  t.match(ends, [{ clean: true }])
  t.strictSame(warnings(), [])
})

// each stays open until the client leaves; `data: later` is sent to it then
const open: Record<string, { handler: Handler }> = {
  'an async function returning nothing': { handler: async () => {} },
  'an async function calling reply.sse()': { handler: async (_request, reply) => { reply.sse() } },
  'an async function returning reply.sse()': { handler: async (_request, reply) => reply.sse() },
  'an async function returning reply after reply.sse()': { handler: async (_request, reply) => { reply.sse(); return await reply } },
  'an async function that goes on after reply.sse()': { handler: async (_request, reply) => { const { signal } = reply.sse(); await sleep(600_000, null, { signal }) } },
  'a sync function calling reply.sse()': { handler: (_request, reply) => { reply.sse() } },
  'a sync function returning reply.sse()': { handler: (_request, reply) => reply.sse() },
  'a sync function calling reply.sse() from a timer': { handler: (_request, reply) => { setTimeout(() => reply.sse(), 10) } },
  'a callback that waits for the signal': { handler: async () => async ({ signal }: Connection) => { await sleep(600_000, null, { signal }) } },
  'a generator that waits for the signal': { handler: async function * (_request, _reply, { signal }) { yield await sleep(600_000, 'never', { signal }) } }
}

every('is a stream until its client leaves', hooks, open, async (t, { app, port, path, kind, ends, warnings }) => {
  const client = await sseClient(port, path)
  for (const connection of app.connections) connection.send('later')
  t.match(await client.wait(1), { data: 'later' })
  t.equal(client.response.headers['content-type'], 'text/event-stream')
  t.equal(client.response.headers['x-hook'], kind === 'no onSend hook' ? undefined : 'ran')
  client.close()
  await until(() => ends.length > 0)
  t.equal(app.connections.size, 0)
  t.match(ends, [{ reason: 'client', clean: false }])
  await sleep(20)
  t.equal(ends.length, 1)
  t.strictSame(warnings(), [])
})

const failing: Record<string, { handler: Handler, refused: boolean }> = {
  'an async generator that throws at once': { handler: async function * () { throw teapot() }, refused: true },
  'a sync generator that throws at once': { handler: function * () { throw teapot() }, refused: true },
  'a generator that throws within the head start': { handler: async function * () { await sleep(2); throw teapot() }, refused: true },
  'an async function that throws before reply.sse()': { handler: async () => { throw teapot() }, refused: false },
  'a sync function that throws before reply.sse()': { handler: () => { throw teapot() }, refused: false },
  'an async function that throws after reply.sse()': { handler: async (_request, reply) => { reply.sse().send('never'); throw teapot() }, refused: true },
  'an async function that throws soon after reply.sse()': { handler: async (_request, reply) => { reply.sse(); await sleep(2); throw teapot() }, refused: true },
  'a sync function that throws after reply.sse()': { handler: (_request, reply) => { reply.sse(twoEvents()); throw teapot() }, refused: true },
  'an async function that gives a source which throws at once': { handler: async (_request, reply) => { reply.sse(broken()) }, refused: true },
  'an async function that still waits while its source throws': { handler: async (_request, reply) => { reply.sse(broken()); await sleep(10) }, refused: true },
  'a sync function that gives a source which throws at once, later': { handler: (_request, reply) => { setTimeout(() => reply.sse(broken()), 5) }, refused: true },
  'returning a source that throws at once': { handler: async () => broken(), refused: true },
  'returning a callback that throws': { handler: async () => () => { throw teapot() }, refused: true },
  'returning a callback that rejects': { handler: async () => async () => { throw teapot() }, refused: true },
  'returning a Readable that fails': { handler: async () => new Readable({ read () { this.destroy(teapot()) } }), refused: true },
  'returning a Readable that has failed': { handler: async () => new Readable({ read () {} }).destroy(teapot()), refused: true },
  'returning a ReadableStream that fails': { handler: async () => new ReadableStream({ start () { throw teapot() } }), refused: false },
  'returning an error': { handler: async () => teapot(), refused: false }
}

every('is answered with its error', hooks, failing, async (t, { app, port, path, kind, ends, warnings }, { refused }) => {
  const client = await sseClient(port, path)
  await until(() => client.ended)
  t.equal(client.response.statusCode, 418)
  t.match(JSON.parse(client.text), { statusCode: 418, message: 'no coffee' })
  t.equal(client.response.headers['x-hook'], kind === 'no onSend hook' ? undefined : 'ran')
  t.equal(app.connections.size, 0)
  t.match(ends, refused ? [{ reason: 'refused', clean: false }] : [])
  t.equal(ends.length, refused ? 1 : 0)
  t.strictSame(warnings().filter(({ msg }) => msg !== 'no coffee'), [])
})

const declining: Record<string, { handler: Handler, code: number, text?: string, refused: boolean }> = {
  'a generator that sends 204': { handler: async function * (_request, reply) { reply.code(204).send() }, code: 204, text: '', refused: true },
  'a generator that sets 204 and returns': { handler: async function * (_request, reply) { reply.code(204) }, code: 204, text: '', refused: true },
  'a generator that sends 401': { handler: async function * (_request, reply) { reply.code(401).send({ who: 'you' }) }, code: 401, text: '{"who":"you"}', refused: true },
  'a generator that sends 401 and waits': { handler: async function * (_request, reply, { signal }) { reply.code(401).send({ who: 'you' }); yield await sleep(600_000, 'x', { signal }) }, code: 401, text: '{"who":"you"}', refused: true },
  'an async function that sends 204 after reply.sse()': { handler: async (_request, reply) => { reply.sse(); reply.code(204).send() }, code: 204, text: '', refused: true },
  'an async function that returns a send after reply.sse()': { handler: async (_request, reply) => { reply.sse(twoEvents()); return await reply.code(401).send({ who: 'you' }) }, code: 401, text: '{"who":"you"}', refused: true },
  'an async function that redirects after reply.sse()': { handler: async (_request, reply) => { reply.sse(); return await reply.redirect('/y', 307) }, code: 307, text: '', refused: true },
  'a sync function that sends 401 after reply.sse()': { handler: (_request, reply) => { reply.sse(twoEvents()); reply.code(401).send({ who: 'you' }) }, code: 401, text: '{"who":"you"}', refused: true },
  'an async function that sends 204 instead': { handler: async (_request, reply) => { reply.code(204).send() }, code: 204, text: '', refused: false },
  'an async function that returns a send instead': { handler: async (_request, reply) => await reply.code(401).send({ who: 'you' }), code: 401, text: '{"who":"you"}', refused: false },
  'an async function that returns a body with 401': { handler: async (_request, reply) => { reply.code(401); return { who: 'you' } }, code: 401, text: '{"who":"you"}', refused: false },
  'an async function that sets 204 and returns nothing': { handler: async (_request, reply) => { reply.code(204) }, code: 204, text: '', refused: false },
  'a sync function that sends later': { handler: (_request, reply) => { setTimeout(() => reply.code(401).send({ who: 'you' }), 5) }, code: 401, text: '{"who":"you"}', refused: false },
  'a function that calls the handler of the unknown': { handler: (_request, reply) => { reply.callNotFound() }, code: 404, refused: false }
}

every('answers as on any route', hooks, declining, async (t, { app, port, path, kind, ends, warnings }, { code, text, refused }) => {
  const client = await sseClient(port, path)
  await until(() => client.ended)
  t.equal(client.response.statusCode, code)
  if (text !== undefined) t.equal(client.text, text)
  t.not(client.response.headers['content-type'], 'text/event-stream')
  t.equal(client.response.headers['x-hook'], kind === 'no onSend hook' || code === 404 ? client.response.headers['x-hook'] : 'ran')
  t.equal(app.connections.size, 0)
  t.match(ends, refused ? [{ reason: 'refused' }] : [])
  t.equal(ends.length, refused ? 1 : 0)
  t.strictSame(warnings(), [])
})

const broken500: Record<string, (app: FastifyInstance) => void> = {
  'an onSend hook that throws': (app) => { app.addHook('onSend', (request) => { if (request.headers['x-ok'] === undefined) throw teapot() }) },
  'an onSend hook that rejects': (app) => { app.addHook('onSend', async () => { await sleep(2); throw teapot() }) },
  'an onSend hook that fails late': (app) => { app.addHook('onSend', (_request, _reply, _payload, done) => { setTimeout(() => done(teapot()), 2) }) },
  'an onSend hook that fails for streams only': (app) => {
    app.addHook('onSend', async (_request, _reply, payload) => {
      if (typeof payload === 'object' && payload !== null) throw teapot()
    })
  }
}

every('is answered with an error and rolled back', broken500, { ...finite, ...open }, async (t, { app, port, path, ends }) => {
  const client = await sseClient(port, path)
  await until(() => client.ended)
  t.equal(client.response.statusCode, 418)
  t.match(client.text, 'no coffee')
  t.equal(app.connections.size, 0)
  t.match(ends, [{ clean: false }])
  t.equal(ends.length, 1)
})

function teapot (): Error { return Object.assign(new Error('no coffee'), { statusCode: 418 }) }

async function * broken (): AsyncGenerator<Sendable> { throw teapot() }

interface Site {
  app: FastifyInstance
  port: number
  path: string
  kind: string
  form: string
  /** How its connections ended. */
  ends: Disconnect[]
  /** What was logged since it began. */
  warnings: () => Line[]
}

/** One test for each form under each kind of hook; an application for each kind. */
function every<F extends { handler: Handler }> (fact: string, kinds: Record<string, (app: FastifyInstance) => void>, forms: Record<string, F>, run: (t: Test, site: Site, form: F) => Promise<void>): void {
  for (const [kind, install] of Object.entries(kinds)) {
    t.test(`with ${kind}`, async (t) => {
      const { lines, options: logging } = logs()
      const ends = new Map<string | undefined, Disconnect[]>()
      const app = await build(t, { fastify: logging, sse: { broadcast: false } })
      app.connections.on('disconnect', (connection, end) => { ends.get(connection.request.routeOptions.url)?.push(end) })
      install(app)
      const routes: Array<{ path: string, name: string }> = []
      for (const [index, [name, { handler }]] of Object.entries(forms).entries()) {
        routes.push({ path: `/${index}`, name })
        app.get(`/${index}`, { sse: true }, handler as never)
        if (!String(handler).includes('reply.sse(')) continue
        routes.push({ path: `/plain/${index}`, name: `on a plain route, ${name}` })
        app.get(`/plain/${index}`, handler as never)
      }
      const port = await listen(app)
      for (const { path, name } of routes) {
        ends.set(path, [])
        const before = lines.length
        await t.test(`${name} ${fact}`, async (t) => {
          const form = forms[name.replace('on a plain route, ', '')] as F
          await run(t, { app, port, path, kind, form: name, ends: ends.get(path) as Disconnect[], warnings: () => lines.slice(before).filter(({ level }) => level >= 40) }, form)
        })
      }
    })
  }
}
