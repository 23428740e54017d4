import t from 'tap'
import { AgingMap } from '../lib/aging-map.ts'

function filled (text: string): AgingMap<string> {
  const map = new AgingMap<string>()
  for (const key of text) map.set(key, key.toUpperCase())
  return map
}

/** Its keys, by taking out the oldest until none is left. */
function ages (map: AgingMap<string>): string {
  let text = ''
  for (let oldest = map.oldest; oldest !== null; oldest = map.oldest) {
    text += oldest[0]
    map.delete(oldest[0])
  }
  return text
}

t.test('it is a map', async (t) => {
  const map = filled('abc')
  t.equal(map.size, 3)
  t.equal(map.get('b'), 'B')
  t.equal(map.get('z'), undefined)
  t.strictSame([...map], [['a', 'A'], ['b', 'B'], ['c', 'C']])
  map.set('b', 'again')
  t.equal(map.get('b'), 'again')
  t.equal(map.size, 3)
  map.delete('b')
  map.delete('z')
  t.equal(map.get('b'), undefined)
  t.strictSame([...map], [['a', 'A'], ['c', 'C']])
  for (const [key] of map) map.delete(key)
  t.equal(map.size, 0)
})

t.test('it knows its oldest entry, whatever was taken out or set again', async (t) => {
  t.equal(new AgingMap().oldest, null)
  t.equal(ages(filled('abcde')), 'abcde')
  t.equal(ages(filled('abcdeac')), 'bdeac')
  t.equal(ages(filled('aaa')), 'a')
  for (const [gone, left] of [['a', 'bcde'], ['c', 'abde'], ['e', 'abcd'], ['ae', 'bcd'], ['abcde', '']] as const) {
    const map = filled('abcde')
    for (const key of gone) map.delete(key)
    map.set('f', 'F')
    t.equal(ages(map), `${left}f`)
    map.set('g', 'G')
    t.strictSame(map.oldest, ['g', 'G'])
  }
})

t.test('what is used is the newest, and what is not there stays away', async (t) => {
  const map = filled('abcd')
  t.equal(map.use('b'), 'B')
  t.equal(map.use('b'), 'B', 'it is the newest already')
  t.equal(map.use('a'), 'A')
  t.equal(map.use('z'), undefined)
  t.equal(ages(map), 'cdba')
  const one = filled('a')
  t.equal(one.use('a'), 'A')
  t.equal(ages(one), 'a')
})
