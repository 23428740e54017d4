import t from 'tap'
import { Nodes } from '../lib/nodes.ts'
import type { NodeMessage, Order } from '../lib/nodes.ts'
import { obey, portable, split } from '../lib/orders.ts'
import { toEvent } from '../lib/event.ts'
import { memory } from '../lib/backplanes/memory.ts'
import { connect, FakeEncoding, FaultyBackplane, node, turn } from './fake.ts'

const order: Order = { op: 'close', id: 'it', reason: 'why' }

/** One that asks, with what it told the others. */
function asking (count: number | undefined | Promise<number | undefined>, obeys: (order: Order) => boolean = () => false): { nodes: Nodes, told: NodeMessage[] } {
  const told: NodeMessage[] = []
  const nodes = new Nodes({
    nodeId: 'me',
    async tell (message) {
      told.push(message)
      return await count
    },
    obey: obeys
  })
  return { nodes, told }
}

const answer = (told: NodeMessage[], done: boolean): NodeMessage => ({ op: 'answer', node: 'other', ask: (told[0] as { ask: string }).ask, done })

t.test('what can be done here is done here, and nobody is asked', async (t) => {
  const { nodes, told } = asking(3, () => true)
  t.equal(await nodes.ask(order), true)
  t.strictSame(told, [])
})

t.test('the first node that could do it settles it', async (t) => {
  const { nodes, told } = asking(4)
  const asked = nodes.ask(order)
  await turn()
  t.match(told, [{ ...order, node: 'me' }])
  nodes.heard(answer(told, false))
  nodes.heard(answer(told, true))
  t.equal(await asked, true)
  nodes.heard(answer(told, false)) // too late
})

t.test('it could not be done when every other node has said so', async (t) => {
  const { nodes, told } = asking(3)
  const asked = nodes.ask(order)
  await turn()
  nodes.heard(answer(told, false))
  nodes.heard(answer(told, false))
  t.equal(await asked, false)
})

t.test('answers may come before it is known how many there will be', async (t) => {
  let know: (count: number) => void = () => {}
  const { nodes, told } = asking(new Promise<number>((resolve) => { know = resolve }))
  const asked = nodes.ask(order)
  nodes.heard(answer(told, false))
  nodes.heard(answer(told, false))
  know(3)
  t.equal(await asked, false)
})

t.test('an answer may settle it before it is known how many there will be', async (t) => {
  let know: (count: number) => void = () => {}
  const { nodes, told } = asking(new Promise<number>((resolve) => { know = resolve }))
  const asked = nodes.ask(order)
  nodes.heard(answer(told, true))
  t.equal(await asked, true)
  know(3)
  await turn()
})

t.test('where the backplane cannot tell how many there are, silence is waited for', async (t) => {
  const { nodes, told } = asking(undefined)
  const server = setInterval(() => {}, 1_000_000)
  const asked = nodes.ask(order)
  await turn()
  nodes.heard(answer(told, false))
  t.equal(await asked, false)
  clearInterval(server)
})

t.test('when no node could be told, the answer is no, and what is for all is done here', async (t) => {
  const done: Order[] = []
  const { nodes } = asking(0, (order) => { done.push(order); return false })
  t.equal(await nodes.ask(order), false)
  await nodes.order({ op: 'clear', topic: 'room/x' })
  t.strictSame(done, [order, { op: 'clear', topic: 'room/x' }])
})

t.test('what is for all nodes is done when it comes back here, and done once', async (t) => {
  const done: string[] = []
  const come = (message: NodeMessage): void => nodes.heard(message)
  const nodes = new Nodes({
    nodeId: 'me',
    async tell (message) {
      t.strictSame(done, [])
      come(message)
      t.strictSame(done, ['clear'])
      come(message)
      return 2
    },
    obey: ({ op }) => { done.push(op); return true }
  })
  await nodes.order({ op: 'clear', topic: 'room/x' })
  t.strictSame(done, ['clear'])
})

t.test('what is for all nodes and does not come back here is done here, once', async (t) => {
  const done: string[] = []
  const { nodes, told } = asking(2, ({ op }) => { done.push(op); return true })
  await nodes.order({ op: 'clear', topic: 'room/x' })
  t.strictSame(done, ['clear'])
  nodes.heard(told[0] as NodeMessage) // too late
  t.strictSame(done, ['clear'])
  nodes.heard({ ...told[0] as NodeMessage, node: 'other' })
  t.strictSame(done, ['clear', 'clear'])
})

t.test('a user is disconnected here though this node hears nothing', async (t) => {
  const faults = new FaultyBackplane(memory())
  const one = await node(t, {}, faults)
  const [ada, bob] = [connect(one, { user: 'ada' }), connect(one, { user: 'bob' })]
  faults.silent = true
  await one.registry.user('ada').disconnect()
  t.strictSame([ada.connection.open, bob.connection.open], [false, true])
})

t.test('a node answers others and not itself', async (t) => {
  const { nodes, told } = asking(2, () => true)
  nodes.heard({ ...order, node: 'me', ask: 'a' })
  nodes.heard({ ...order, node: 'other', ask: 'b' })
  t.strictSame(told, [{ op: 'answer', node: 'me', ask: 'b', done: true }])
})

t.test('a mistake is told to whoever made it', async (t) => {
  const { nodes, told } = asking(2, () => { throw Object.assign(new Error('not so'), { code: 'FST_ERR_REAL_X' }) })
  nodes.heard({ ...order, node: 'other', ask: 'b' })
  t.strictSame(told, [{ op: 'answer', node: 'me', ask: 'b', done: false, mistake: { code: 'FST_ERR_REAL_X', message: 'not so' } }])
  const { nodes: others, told: asked } = asking(3)
  const answered = others.ask(order)
  others.heard({ op: 'answer', node: 'me', ask: (asked[0] as { ask: string }).ask, done: false, mistake: { code: 'FST_ERR_REAL_X', message: 'not so' } })
  await t.rejects(answered, { code: 'FST_ERR_REAL_X', message: 'not so' })
})

t.test('whoever waits is answered when the node stops', async (t) => {
  const { nodes } = asking(3)
  const asked = [nodes.ask(order), nodes.ask(order)]
  nodes.stop()
  t.strictSame(await Promise.all(asked), [false, false])
  await turn()
})

t.test('a topic has a kind and a name, whatever is in the name', async (t) => {
  for (const [topic, kind, name] of [['room/x', 'room', 'x'], ['room/a/b/', 'room', 'a/b/'], ['user/room/x', 'user', 'room/x'], ['all', 'all', ''], ['room//', 'room', '/']]) t.strictSame(split(topic as string), { kind, name })
})

t.test('an event is the same after it has travelled', async (t) => {
  const one = await node(t)
  const encoding = new FakeEncoding('own')
  for (const event of ['text', '', '{"a":1}', Buffer.from([0, 1, 255]), { event: 'n' }, { event: 'n', data: null }, { data: { a: ['é', 1.5, null] } }, { data: '5' }, { data: 5 }, { retry: 0 }, { comment: 'c' }, { id: 0, data: true }, { id: 'x' }]) {
    const { connection, wire } = connect(one, { encoding })
    connection.send(event as never)
    const travelled = JSON.parse(JSON.stringify(portable(toEvent(event as never, { maxBytes: 100 })))) as unknown
    t.equal(obey({ op: 'send', id: connection.id, event: travelled }, one.registry), true)
    connection.close()
    const [sent, got, ...more] = wire.events
    t.strictSame(got, sent)
    t.strictSame(more, [])
  }
})

t.test('an order nobody is there for is refused, one for all is always carried out', async (t) => {
  const { registry } = await node(t)
  t.equal(obey({ op: 'send', id: 'nobody', event: 'x' }, registry), false)
  t.equal(obey({ op: 'close', id: 'nobody', reason: 'x' }, registry), false)
  t.equal(obey({ op: 'leave', id: 'nobody', room: 'x' }, registry), false)
  t.equal(obey({ op: 'clear', topic: 'room/x' }, registry), true)
  t.equal(obey({ op: 'disconnect', topic: 'user/x', reason: 'x' }, registry), true)
})

t.test('ten nodes find a connection on any of them, and none of them twice', async (t) => {
  const backplane = memory()
  const all = []
  for (let i = 0; i < 10; i++) all.push(await node(t, {}, backplane))
  const fakes = all.map((one) => connect(one))
  for (const { registry } of all) for (const { connection } of fakes) t.equal(await registry.send(connection.id, { data: 1 }), true)
  await turn()
  for (const { wire } of fakes) t.equal(wire.events.length, 10)
})
