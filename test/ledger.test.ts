import t from 'tap'
import { Ledger } from '../lib/ledger.ts'
import type { Joining } from '../lib/ledger.ts'
import type { ReplayTopic } from '../lib/replay.ts'
import { Roster } from '../lib/roster.ts'

const roster = (name: string, last = 0): Roster => Object.assign(new Roster(`room/${name}`, name, true), { last })
const topicOf = (roster: Roster, gave = 0): ReplayTopic => ({ roster, room: roster.name, start: 0, left: false, gave })
const spans = (ledger: Ledger): unknown[] => {
  const taken: unknown[] = []
  for (let lack = ledger.takeLack(); lack !== undefined; lack = ledger.takeLack()) taken.push([lack.roster.name, lack.after, lack.until, ...lack.isDoubtful ? ['doubtful'] : []])
  return taken
}
const a = roster('a')
const b = roster('b')

t.test('what replays gave of a topic is left out, wherever it lies', async (t) => {
  const ledger = new Ledger()
  ledger.give([topicOf(a)], 10, 20)
  ledger.give([topicOf(a), topicOf(b)], 30, 40)
  ledger.lack({ roster: a, after: 5, until: 50 })
  t.strictSame(spans(ledger), [['a', 5, 10], ['a', 20, 30], ['a', 40, 50]])
  ledger.lack({ roster: b, after: 5, until: 35 })
  t.strictSame(spans(ledger), [['b', 5, 30]])
  for (const [after, until] of [[10, 20], [12, 15], [20, 20], [33, 40]] as const) ledger.lack({ roster: a, after, until })
  t.equal(ledger.isOpen, false)
})

t.test('what is lacking already is not lacking twice', async (t) => {
  const ledger = new Ledger()
  ledger.lack({ roster: a, after: 10, until: 20 })
  ledger.lack({ roster: b, after: 10, until: 20 })
  ledger.lack({ roster: a, after: 5, until: 25 })
  ledger.lack({ roster: a, after: 5, until: 25 })
  t.strictSame(spans(ledger), [['a', 10, 20], ['b', 10, 20], ['a', 5, 10], ['a', 20, 25]])
})

t.test('a replay that goes on gives all that comes; one that gave nothing leaves nothing', async (t) => {
  const ledger = new Ledger()
  ledger.give([topicOf(a)], 10)
  ledger.lack({ roster: a, after: 5, until: 1_000 })
  t.strictSame(spans(ledger), [['a', 5, 10]])
  ledger.gave(30)
  ledger.lack({ roster: a, after: 5, until: 1_000 })
  t.strictSame(spans(ledger), [['a', 5, 10], ['a', 30, 1_000]])
  ledger.give([topicOf(a)], 40)
  ledger.gave(-1)
  ledger.lack({ roster: a, after: 40, until: 50 })
  t.strictSame(spans(ledger), [['a', 40, 50]])
  ledger.gave(100)
  ledger.lack({ roster: a, after: 40, until: 50 })
  t.strictSame(spans(ledger), [['a', 40, 50]], 'none goes on')
})

t.test('what would come after what is later of its topic is doubtful', async (t) => {
  const ledger = new Ledger()
  ledger.give([topicOf(a, 25), topicOf(b)], 20, 30)
  ledger.lack({ roster: a, after: 10, until: 40 })
  t.strictSame(spans(ledger), [['a', 10, 20, 'doubtful'], ['a', 30, 40]])
  ledger.lack({ roster: b, after: 10, until: 40 })
  t.strictSame(spans(ledger), [['b', 10, 20], ['b', 30, 40]])
})

t.test('where replays were forgotten nobody can tell what they gave', async (t) => {
  const ledger = new Ledger()
  for (let n = 0; n < 16; n++) ledger.give([topicOf(a)], n * 10, n * 10 + 5)
  ledger.lack({ roster: a, after: 0, until: 20 })
  t.strictSame(spans(ledger), [['a', 5, 10], ['a', 15, 20]])
  ledger.give([topicOf(a)], 160, 165)
  ledger.lack({ roster: a, after: 0, until: 20 })
  t.strictSame(spans(ledger), [['a', 0, 5, 'doubtful'], ['a', 5, 10], ['a', 15, 20]])
  ledger.lack({ roster: a, after: 5, until: 20 })
  t.strictSame(spans(ledger), [['a', 5, 10], ['a', 15, 20]])
  ledger.lack({ roster: b, after: 2, until: 4 })
  t.strictSame(spans(ledger), [['b', 2, 4, 'doubtful']])
  ledger.clear()
  ledger.lack({ roster: a, after: 0, until: 20 })
  t.strictSame(spans(ledger), [['a', 0, 20]], 'of another sequence nothing was given')
  const known = roster('known', 1_000)
  const other = new Ledger()
  for (let n = 0; n < 40; n++) other.give([topicOf(known)], n * 10, n * 10 + 5)
  other.lack({ roster: a, after: 0, until: 20 })
  t.strictSame(spans(other), [['a', 0, 20]], 'those of which nothing can be found missing are forgotten without a loss')
})

t.test('it knows from where on a topic is for the connection', async (t) => {
  const ledger = new Ledger()
  t.equal(ledger.startOf(a), 0)
  const joiningOf = (roster: Roster, offset: number): Joining => ({ roster, offset, subscribed: Promise.resolve(0), gave: 0 })
  const joining = joiningOf(a, 5)
  ledger.join(joiningOf(b, 3), [b])
  ledger.join(joiningOf(a, 4), [a])
  ledger.join(joining, [a])
  t.strictSame([ledger.isOpen, ledger.isJoining(a), ledger.isJoining(b)], [true, true, false])
  t.strictSame(ledger.takeJoining(), [joining])
  t.strictSame([ledger.isOpen, ledger.isJoining(a)], [false, false])
  ledger.begin(a, 7, [a])
  ledger.begin(a, 9, [a])
  t.strictSame([ledger.startOf(a), ledger.startOf(b)], [9, 0])
  ledger.begin(b, 20, [a, b])
  ledger.live(10)
  t.strictSame([ledger.startOf(a), ledger.startOf(b), ledger.isEmpty], [0, 20, false])
  ledger.begin(a, 30, [a])
  t.equal(ledger.startOf(b), 0, 'what it is in no more is forgotten')
  ledger.live(30)
  t.equal(ledger.isEmpty, true)
})
