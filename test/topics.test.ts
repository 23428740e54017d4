import fc from 'fast-check'
import t from 'tap'
import { Topics } from '../lib/topics.ts'
import type { Topic } from '../lib/topics.ts'
import type { Delivery, Node } from '../types/index.ts'
import { toEvent } from '../lib/event.ts'
import { until } from './helper.ts'

/** A broker that acknowledges when it is told to, and what it was asked for. */
class Broker {
  readonly asked: string[] = []
  readonly subscribed = new Set<string>()
  #waiting: Array<() => void> = []
  /** It acknowledges nothing for now. */
  held = false
  /** It takes nothing. */
  down = false
  /** Two requests for one topic were on their way at the same time. */
  overlapped = false
  readonly #busy = new Set<string>()

  async subscribe ({ name }: Topic): Promise<void> { await this.#ask(`+${name}`, name, () => this.subscribed.add(name)) }
  async unsubscribe ({ name }: Topic): Promise<void> { await this.#ask(`-${name}`, name, () => this.subscribed.delete(name)) }

  async #ask (what: string, name: string, done: () => void): Promise<void> {
    this.asked.push(what)
    if (this.#busy.has(name)) this.overlapped = true
    this.#busy.add(name)
    if (this.held) await new Promise<void>((resolve) => { this.#waiting.push(resolve) })
    this.#busy.delete(name)
    if (this.down) throw new Error('it is down')
    done()
  }

  release (all: boolean = true): void {
    if (all) this.held = false
    for (const go of this.#waiting.splice(0)) go()
  }
}

function node (id = 'node'): Node & { got: Delivery[], errors: object[] } {
  const got: Delivery[] = []
  const errors: object[] = []
  return { id, got, errors, deliver: (delivery) => { got.push(delivery) }, missed () {}, reset () {}, log: { error: (fields) => { errors.push(fields) }, warn () {} } }
}

t.test('a topic is subscribed to once, for all nodes that want it, and dropped when it has lingered', async (t) => {
  const broker = new Broker()
  const topics = new Topics(broker, 5)
  const [a, b] = [node('a'), node('b')]
  const topic = topics.join(a, 'x')
  t.equal(topics.join(b, 'x'), topic)
  await topic.subscribed
  t.strictSame([broker.asked, topics.size, [...topics]], [['+x'], 1, [topic]])
  topics.leave(a, 'x')
  topics.leave(a, 'x')
  topics.leave(a, 'never')
  t.strictSame([...topic.nodes], [b])
  topics.leave(b, 'x')
  t.equal(topics.get('x'), topic, 'it lingers')
  topics.join(a, 'x')
  topics.leave(a, 'x')
  topics.join(a, 'y')
  topics.leaveAll(a)
  await until(() => broker.subscribed.size === 0)
  t.strictSame(broker.asked, ['+x', '+y', '-x', '-y'])
  t.strictSame([topics.size, topics.get('x')], [0, undefined])
})

t.test('each topic lingers for its own time', async (t) => {
  const broker = new Broker()
  const topics = new Topics(broker, 5)
  const a = node('a')
  const { now } = performance
  let time = 1_000
  performance.now = () => time
  t.after(() => { performance.now = now })
  for (const name of ['x', 'y']) await topics.join(a, name).subscribed
  topics.leave(a, 'x')
  time += 100
  topics.leave(a, 'y')
  time -= 95 // the first is due
  await until(() => !broker.subscribed.has('x'))
  t.strictSame([broker.asked, topics.size], [['+x', '+y', '-x'], 1], 'the other is not')
  time += 95 + 5
  await until(() => !broker.subscribed.has('y'))
  t.equal(topics.size, 0)
})

t.test('one who comes back while it is being dropped waits for that', async (t) => {
  const broker = new Broker()
  const topics = new Topics(broker, 1)
  await topics.join(node(), 'x').subscribed
  broker.held = true
  topics.leaveAll([...topics][0]?.nodes.values().next().value as Node)
  await until(() => broker.asked.length === 2)
  const again = topics.join(node(), 'x')
  await new Promise((resolve) => setImmediate(resolve))
  t.strictSame(broker.asked, ['+x', '-x'])
  broker.release()
  await again.subscribed
  t.strictSame([broker.asked, [...broker.subscribed]], [['+x', '-x', '+x'], ['x']])
  topics.clear()
  t.equal(topics.size, 0)
})

t.test('a topic that the broker did not take is tried again by whoever wants it next', async (t) => {
  const broker = new Broker()
  const topics = new Topics(broker, 1)
  broker.down = true
  await t.rejects(topics.join(node(), 'x').subscribed, { message: 'it is down' })
  t.equal(topics.get('x'), undefined)
  broker.down = false
  const one = node()
  await topics.join(one, 'x').subscribed
  broker.down = true
  topics.leave(one, 'x')
  await until(() => topics.size === 0)
  broker.down = false
  await topics.join(one, 'x').subscribed
  t.equal(topics.size, 1)
  broker.held = true
  const late = topics.join(one, 'z')
  topics.leave(one, 'z')
  topics.clear()
  broker.down = true
  broker.release()
  await t.rejects(late.subscribed)
})

t.test('a node that fails harms no other', async (t) => {
  const topics = new Topics(new Broker())
  const [a, b] = [node('a'), node('b')]
  for (const one of [a, b]) topics.join(one, 'x')
  a.deliver = () => { throw new Error('thrown by a node') }
  topics.get('x')?.deliver({ event: toEvent('x', { maxBytes: 1 }), except: null, topic: 'x', offset: 0, prev: 0 })
  t.strictSame([b.got.length, a.errors.length], [1, 1])
  topics.clear()
})

t.test('whatever nodes do and however slow the broker is, at rest it has what they want', async (t) => {
  const step = fc.record({ op: fc.constantFrom('join', 'join', 'leave', 'leave', 'leaveAll', 'hold', 'release', 'wait'), who: fc.nat(1), name: fc.constantFrom('x', 'y') })
  await fc.assert(fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
    const broker = new Broker()
    const topics = new Topics(broker, 1)
    const nodes = [node('a'), node('b')] as const
    const model = new Map(nodes.map((one) => [one as Node, new Set<string>()]))
    for (const { op, who, name } of steps) {
      const one = nodes[who as 0 | 1]
      const wanted = model.get(one) as Set<string>
      if (op === 'join') { topics.join(one, name); wanted.add(name) }
      if (op === 'leave') { topics.leave(one, name); wanted.delete(name) }
      if (op === 'leaveAll') { topics.leaveAll(one); wanted.clear() }
      if (op === 'hold') broker.held = true
      if (op === 'release') broker.release(false)
      if (op === 'wait') await new Promise((resolve) => setTimeout(resolve, 2))
    }
    const wanted = [...new Set([...model.values()].flatMap((names) => [...names]))].sort()
    await until(() => { broker.release(); return JSON.stringify([...broker.subscribed].sort()) === JSON.stringify(wanted) })
    if (broker.overlapped) throw new Error('two requests at once')
    for (const [one, names] of model) for (const name of ['x', 'y']) if ((topics.get(name)?.nodes.has(one) === true) !== names.has(name)) throw new Error(`${one.id} ${name}`)
    topics.clear()
  }), { numRuns: 100 })
  t.pass('as the model says')
})
