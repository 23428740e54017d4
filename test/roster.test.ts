import t from 'tap'
import { toEvent } from '../lib/event.ts'
import { Framed } from '../lib/frame.ts'
import { Roster } from '../lib/roster.ts'
import type { Member } from '../lib/roster.ts'

class Listed implements Member {
  readonly id: string
  readonly user: string | null
  readonly given: Framed[] = []
  constructor (id: string, user: string | null) {
    this.id = id
    this.user = user
  }

  deliver (framed: Framed): void { this.given.push(framed) }
}

function rosterOf (...members: Listed[]): Roster<Listed> {
  const roster = new Roster<Listed>('room/x', 'x', true)
  for (const member of members) roster.members.add(member)
  return roster
}

const framed = new Framed(toEvent('x', { maxBytes: 10 }), 1)

t.test('a roster knows its topic and what it is of', async (t) => {
  const roster = rosterOf()
  t.match(roster, { topic: 'room/x', name: 'x', kept: true, subscribed: null })
  t.equal(roster.members.size, 0)
})

t.test('every member is given the same, in the order they came', async (t) => {
  const order: string[] = []
  const members = ['a', 'b', 'c'].map((id) => new Listed(id, null))
  for (const member of members) member.deliver = (given) => { order.push(`${member.id}${given === framed}`) }
  rosterOf(...members).deliver(framed)
  t.strictSame(order, ['atrue', 'btrue', 'ctrue'])
})

t.test('who is spared by id or by user is given nothing, and not counted', async (t) => {
  const [ada, adasTab, bob, nobody] = [new Listed('1', 'ada'), new Listed('2', 'ada'), new Listed('3', 'bob'), new Listed('4', null)]
  const everybody = [ada, adasTab, bob, nobody]
  const roster = rosterOf(...everybody)
  const send = (ids: string[], users: string[]): string[] => {
    for (const member of everybody) member.given.length = 0
    roster.deliverExcept(framed, { ids, users })
    const given = everybody.filter((member) => member.given.length === 1).map(({ id }) => id)
    t.equal(roster.count({ ids, users }), given.length)
    return given
  }
  t.strictSame(send([], []), ['1', '2', '3', '4'])
  t.strictSame(send(['1', '4'], []), ['2', '3'])
  t.strictSame(send([], ['ada']), ['3', '4'])
  t.strictSame(send(['3'], ['ada']), ['4'])
  t.strictSame(send(['ada'], ['1']), ['1', '2', '3', '4'], 'ids and users are two namespaces')
  t.strictSame(send(['null'], ['null']), ['1', '2', '3', '4'])
  t.equal(roster.count(null), 4)
})

t.test('members that came from the same rosters share one array', async (t) => {
  const [first, second] = [rosterOf(), rosterOf()]
  const alone = first.after([])
  t.strictSame(alone, [first])
  const none: Array<Roster<Listed>> = []
  const shared = first.after(none)
  t.equal(first.after(none), shared)
  t.strictSame(second.after(shared), [first, second])
  t.equal(second.after(shared), second.after(shared))
  t.strictSame(second.after(none), [second])
  second.forget()
  t.not(second.after(none), second.after([]))
})
