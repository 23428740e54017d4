import t from 'tap'
import * as joins from '../lib/joins.ts'
import type { Joiner } from '../lib/joins.ts'
import type { Joining } from '../lib/ledger.ts'
import { Roster } from '../lib/roster.ts'

const roster = (name: string, last: number): Roster => Object.assign(new Roster(`room/${name}`, name, true), { last, subscribed: Promise.resolve(0) })
const member: Joiner = { joins: joins.none }
const other: Joiner = { joins: joins.none }
const shown = (topics: Joining[]): unknown[] => topics.map(({ roster, offset, gave }) => [roster.name, offset, gave])

t.test('it knows what is being joined until that is acknowledged, and what was given of it by then', async (t) => {
  const a = roster('a', Infinity)
  const b = roster('b', 5)
  const nothing = joins.begin(member, [], 1, 0)
  const first = joins.begin(member, [a, b], 4, 0)
  const second = joins.begin(member, [roster('c', 9)], 8, 0)
  joins.begin(other, [a], 2, 0)
  t.strictSame(shown(joins.of(member)), [['a', 4, 0], ['b', 4, 0], ['c', 8, 0]])
  t.equal(joins.of(member)[0]?.subscribed, a.subscribed)
  joins.gave(member)
  t.strictSame(shown(joins.of(member)), [['a', 4, 0], ['b', 4, 5], ['c', 8, 9]])
  joins.end(member, nothing)
  joins.end(member, first)
  t.strictSame(shown(joins.of(member)), [['c', 8, 9]])
  joins.end(member, second)
  t.strictSame([joins.of(member), shown(joins.of(other))], [[], [['a', 2, 0]]])
  joins.forget(other)
  t.strictSame(joins.of(other), [])
})
