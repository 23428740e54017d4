import t from 'tap'
import { verdict } from './verdict.ts'
import type { Dispatched, Sent } from './verdict.ts'

/** Sends of one writer that were begun one after another; `;` waits for the answers. */
function made (text: string, answer: Sent['answer'] = 'accepted', room = 'a'): Sent[] {
  let place = 0
  return text.split(';').flatMap((group) => {
    const sends = [...group].map((n) => ({ token: `w:${n}`, room, began: ++place, ended: 0, answer }))
    for (const one of sends) one.ended = ++place
    return sends
  })
}

/** What a client dispatched: `_` is a gap. */
function client (text: string, ids: boolean = false): { name: string, rooms: string[], dispatched: Dispatched[] } {
  return { name: 'c', rooms: ['a'], dispatched: [...text].map((n) => n === '_' ? { gap: 'trimmed' } : { token: `w:${n}`, id: ids ? `e-x-${n}` : undefined }) }
}

const blank = { lost: [], doubled: [], disordered: [], foreign: [] }

t.test('all of them once and in order is what is wanted', async (t) => {
  t.match(verdict(made('1;2;3'), [client('123', true)]), { ...blank, accepted: 3, dispatched: 3, missed: 0, gaps: {} })
})

t.test('one that nobody was told of is lost, wherever it is', async (t) => {
  for (const [got, lost] of [['23', '1'], ['13', '2'], ['12', '3']] as const) t.match(verdict(made('1;2;3'), [client(got)]), { ...blank, lost: [`c w:${lost}`] })
  t.match(verdict(made('1'), [client('')]).lost, ['c w:1'])
})

t.test('a gap excuses what is missing where it stands, and nothing else', async (t) => {
  t.match(verdict(made('1;2;3'), [client('1_3')]), { ...blank, missed: 1, gaps: { trimmed: 1 } })
  t.match(verdict(made('1;2;3'), [client('_3')]), { ...blank, missed: 2 })
  t.match(verdict(made('1;2;3'), [client('1_')]), { ...blank, missed: 2 })
  t.match(verdict(made('1;2;3;4'), [client('_24')]), { lost: ['c w:3'], missed: 1 })
  t.match(verdict(made('1;2;3;4'), [client('134_')]), { lost: ['c w:2'], missed: 0 })
  t.match(verdict(made('1;2;3;4').reverse(), [client('1_4')]), { lost: [], missed: 2 }, 'in whichever order their answers came')
})

t.test('what was refused, or has no answer, may come once or not', async (t) => {
  for (const answer of ['refused', 'doubt'] as const) {
    for (const got of ['', '1']) t.match(verdict(made('1', answer), [client(got)]), blank)
    t.match(verdict(made('1', answer), [client('11')]), { ...blank, doubled: ['c w:1'] })
  }
})

t.test('what was called a duplicate comes to nobody', async (t) => {
  t.match(verdict(made('1', 'duplicate'), [client('')]), { ...blank, accepted: 0 })
  t.match(verdict(made('1', 'duplicate'), [client('1')]), { ...blank, doubled: ['c w:1'] })
})

t.test('what comes twice is doubled, with and without ids, also after a gap', async (t) => {
  t.match(verdict(made('1;2'), [client('112')]).doubled, ['c w:1'])
  t.match(verdict(made('1;2'), [client('1_12')]).doubled, ['c w:1'])
  const again = client('12', true)
  again.dispatched.push({ token: 'w:1', id: 'other-3' })
  t.match(verdict(made('1;2'), [again]), { doubled: ['c w:1'] })
})

t.test('the order is that of the ids, and of whoever waits for the answer', async (t) => {
  t.match(verdict(made('1;2'), [client('21')]).disordered, ['c w:1 after w:2'])
  t.match(verdict(made('12'), [client('21')]).disordered, [], 'they were sent together')
  t.match(verdict(made('12'), [client('21', true)]).disordered, ['c w:1 e-x-1 after e-x-2'])
  const twoEpochs = client('2', true)
  twoEpochs.dispatched.push({ token: 'w:1', id: 'f-1' })
  t.match(verdict(made('12'), [twoEpochs]).disordered, [], 'another epoch counts anew')
})

t.test('what is of another room, or of nobody, is foreign', async (t) => {
  t.match(verdict(made('1', 'accepted', 'b'), [client('1')]), { lost: [], foreign: ['c w:1'] })
  t.match(verdict([], [client('1')]).foreign, ['c w:1'])
  t.match(verdict(made('1'), [client('12')]).foreign, [], 'its writer may have been killed before it could say')
  t.match(verdict([], [client('1')], ['w']).foreign, [], 'anything of what it was told to send')
  t.match(verdict([], [client('1')], ['v']).foreign, ['c w:1'])
})
