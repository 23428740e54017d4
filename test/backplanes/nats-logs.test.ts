import t from 'tap'
import { Logs } from '../../lib/backplanes/nats-logs.ts'
import { NatsTopic } from '../../lib/backplanes/nats-topic.ts'
import { toEvent } from '../../lib/event.ts'
import { History } from '../../lib/history.ts'
import { kept } from '../nats.ts'

t.test('logs that are too large together go, the longest unused first', async (t) => {
  const logs = new Logs(5_000)
  const [a, b, c] = ['a', 'b', 'c'].map((name) => new NatsTopic(name, name)) as [NatsTopic, NatsTopic, NatsTopic]
  const here = (): string[] => [a, b, c].filter(({ log }) => log !== null).map(({ name }) => name)
  const fill = (topic: NatsTopic, offset: number): void => {
    const event = toEvent('x'.repeat(1_000), { maxBytes: Infinity })
    logs.add(topic, { delivery: { event, except: null, topic: topic.name, offset, prev: 0 }, size: 1_000, keep: kept })
  }
  const put = (topic: NatsTopic): void => { logs.put(topic, { history: new History(kept, 0), top: 0 }) }
  for (const topic of [a, b]) {
    put(topic)
    fill(topic, 1)
    fill(topic, 2)
  }
  t.strictSame(here(), ['a', 'b'])
  if (a.log !== null) logs.use(a, a.log)
  put(c)
  t.strictSame(here(), ['a', 'c'], 'b had more than there is room for')
  logs.drop(b)
  fill(b, 3)
  put(a)
  t.strictSame(here(), ['a', 'c'])
})
