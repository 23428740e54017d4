import t from 'tap'
import { Drain } from '../lib/drain.ts'
import type { Drained } from '../lib/drain.ts'
import type { CloseReason } from '../types/transport.ts'
import { until } from './helper.ts'

interface Ended { reason: CloseReason, delay: number, at: number }

/** Connections that end as a test says, in a registry that is nothing but a set. */
function crowd (count: number, { within = 0, grace = 0, ends = true }: { within?: number, grace?: number, ends?: boolean }) {
  const connections = new Set<Drained>()
  const said: string[] = []
  const ended: Ended[] = []
  const drain = new Drain({ connections, options: { within, grace } })
  for (let i = 0; i < count; i++) {
    const connection: Drained = {
      wire: { terminate () { said.push('terminate') } },
      end (reason, delay) {
        ended.push({ reason, delay, at: performance.now() })
        connections.delete(connection)
        if (!ends) drain.closing.add(connection)
      },
      closed ({ reason }, clean) {
        said.push(`closed ${reason} ${clean ? 'clean' : 'unclean'}`)
        drain.closing.delete(connection)
      }
    }
    connections.add(connection)
  }
  const sockets = { areOver: true, stop () { said.push('stop') }, cut () { said.push('cut') } }
  return { drain, connections, said, ended, sockets }
}

t.test('no client is told to come back before the grace is over, and none later than within after it', async (t) => {
  const { drain, ended, sockets } = crowd(2_000, { grace: 40, within: 1_000 })
  const began = performance.now()
  await drain.run(sockets)
  t.equal(ended.length, 2_000)
  t.equal(ended.filter(({ delay, at }) => at + delay < began + 40).length, 0)
  t.equal(ended.filter(({ delay }) => delay > 1_040).length, 0)
  const [least, most] = [Math.min(...ended.map(({ delay }) => delay)), Math.max(...ended.map(({ delay }) => delay))]
  t.ok(most - least > 500, 'they are spread')
  t.match(ended[0], { reason: { code: 1001, reason: 'shutdown' } })
})

t.test('it is over as soon as nothing is left, and the server stops listening first', async (t) => {
  const { drain, said, ended, sockets } = crowd(3, { grace: 3_600_000 })
  sockets.stop = () => { said.push(`stop before ${3 - ended.length} of 3`) }
  await drain.run(sockets)
  t.same(said, ['stop before 3 of 3', 'cut'])
})

t.test('what has not ended after the grace is cut, and told so once', async (t) => {
  for (const grace of [0, 20]) {
    const { drain, said, sockets } = crowd(2, { grace, ends: false })
    await drain.run(sockets)
    t.same(said, ['stop', 'terminate', 'closed shutdown unclean', 'terminate', 'closed shutdown unclean', 'cut'])
    t.equal(drain.closing.size, 0)
  }
})

t.test('a connection that came in while it began is cut too', async (t) => {
  const { drain, connections, said, sockets } = crowd(0, { grace: 20 })
  connections.add({ wire: { terminate () { said.push('terminate') } }, end () { said.push('end') }, closed () { said.push('closed') } })
  const [late] = connections
  connections.clear()
  sockets.stop = () => { setImmediate(() => connections.add(late as Drained)) }
  sockets.areOver = false
  await drain.run(sockets)
  t.same(said, ['terminate', 'closed', 'cut'])
})

t.test('it waits for sockets that are no connections of ours, and cuts them after the grace', async (t) => {
  const { drain, said, sockets } = crowd(0, { grace: 3_600_000 })
  const guests = { size: 2, close () { said.push('close') }, terminate () { said.push('terminate') } }
  drain.guests.add({ size: 0, close () {}, terminate () {} })
  drain.guests.add(guests)
  let over = false
  const running = drain.run(sockets).then(() => { over = true })
  await until(() => said.includes('close'))
  guests.size = 1
  await new Promise((resolve) => setTimeout(resolve, 20))
  t.notOk(over)
  guests.size = 0
  await running
  t.same(said, ['stop', 'close', 'terminate', 'cut'])
})

t.test('it waits for what else keeps the server open', async (t) => {
  const { drain, sockets } = crowd(0, { grace: 3_600_000 })
  sockets.areOver = false
  let over = false
  const running = drain.run(sockets).then(() => { over = true })
  await new Promise((resolve) => setTimeout(resolve, 20))
  t.notOk(over)
  sockets.areOver = true
  await running
})

t.test('it waits for those at work, whatever becomes of it, but not beyond the grace', async (t) => {
  const { drain, sockets } = crowd(0, { grace: 3_600_000 })
  let [resolve, reject] = [() => {}, () => {}]
  drain.working(new Promise<void>((_resolve) => { resolve = _resolve }))
  drain.working(new Promise<void>((_resolve, _reject) => { reject = () => _reject(new Error('no')) }))
  let over = false
  const running = drain.run(sockets).then(() => { over = true })
  await new Promise((resolve) => setTimeout(resolve, 20))
  t.notOk(over)
  resolve()
  reject()
  await running

  const other = crowd(0, { grace: 20 })
  other.drain.working(new Promise(() => {}))
  await other.drain.run(other.sockets)
  t.same(other.said, ['stop', 'cut'])
})

t.test('a second time is nothing', async (t) => {
  const { drain, said, sockets } = crowd(1, {})
  await Promise.all([drain.run(sockets), drain.run(sockets)])
  await drain.run(sockets)
  t.same(said, ['stop', 'cut'])
  t.ok(drain.begun)
})
