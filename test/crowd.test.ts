import { getHeapStatistics, setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import t from 'tap'
import { Crowd, hashOfText, kHash } from '../lib/crowd.ts'
import { random } from './returner.ts'

setFlagsFromString('--expose-gc')
const gc = runInNewContext('gc') as (options: { type: 'minor' }) => void

interface One { name: string, [kHash]?: number }
const one = (name: string): One => ({ name })

t.test('of a crowd that has left, few places are left', async (t) => {
  const crowd = new Crowd<One>()
  const all = Array.from({ length: 1_000 }, (_, i) => one(String(i)))
  for (const member of all) crowd.add(member)
  for (const member of all.slice(1)) crowd.delete(member)
  t.ok(crowd.list.length <= 20, 'whoever goes through them goes through these')
  t.strictSame([...crowd], all.slice(0, 1))
})

t.test('it is a set in the order they came', async (t) => {
  const crowd = new Crowd<One>()
  const all = Array.from({ length: 100 }, (_, i) => one(String(i)))
  for (const member of all) t.strictSame([crowd.add(member), crowd.add(member)], [true, false])
  t.equal(crowd.size, 100)
  t.strictSame([...crowd], all)
  for (const member of all.slice(10, 90)) t.equal(crowd.delete(member), true)
  t.equal(crowd.delete(all[10] as One), false)
  t.equal(crowd.delete(one('stranger')), false)
  t.strictSame([...crowd].map(({ name }) => name), [...all.slice(0, 10), ...all.slice(90)].map(({ name }) => name))
  t.strictSame(crowd.list.filter((member) => member !== null), [...crowd])
  crowd.add(all[50] as One)
  t.equal([...crowd].at(-1)?.name, '50')
  for (const member of all) crowd.delete(member)
  t.equal(crowd.size, 0)
  t.strictSame(crowd.list.filter((member) => member !== null), [])
})

t.test('what is no member is looked for without a trace, whatever it is', async (t) => {
  for (const size of [1, 16, 17, 100]) {
    const crowd = new Crowd<One>()
    for (let i = 0; i < size; i++) crowd.add(one(String(i)))
    const stranger = one('stranger')
    for (const what of [undefined, null, 'name', 5, Object.freeze({}), stranger]) t.equal(crowd.has(what as One), false, `${size} ${String(what)}`)
    t.equal(crowd.delete(stranger), false)
    t.strictSame(Reflect.ownKeys(stranger), ['name'])
  }
})

t.test('it does what a Set does, whatever the hashes', async (t) => {
  const seen = { most: 0, found: 0, left: 0, came: 0 }
  for (let seed = 1; seed <= 12; seed++) {
    const chance = random(seed)
    const next = (limit: number): number => Math.floor(chance() * limit)
    const crowd = new Crowd<One>()
    const model = new Set<One>()
    const all = Array.from({ length: 2 + next(300) }, (_, i): One => seed % 4 === 0 ? one(String(i)) : { name: String(i), [kHash]: seed % 4 === 1 ? 7 : hashOfText(`x${i}`) * (seed % 4 - 1) })
    const pick = (): One => all[next(all.length)] as One
    for (let step = 0; step < 600; step++) {
      const member = pick()
      const kind = next(100)
      if (kind < 45) {
        crowd.add(member)
        model.add(member)
      } else if (kind < 85) {
        t.equal(crowd.delete(member), model.delete(member))
      } else if (kind < 95) {
        t.equal(crowd.has(member), model.has(member))
        const found = crowd.find(member[kHash] ?? 0, ({ name }) => name === member.name)
        if (member[kHash] !== undefined) t.equal(found, model.has(member) ? member : undefined)
        if (found !== undefined) seen.found++
      } else if (kind < 98) {
        t.strictSame([...crowd], [...model])
      } else { // some come and go meanwhile
        const before = new Set(model)
        const [met, gone] = [new Set<One>(), new Set<One>()]
        for (const one of crowd) {
          t.equal(model.has(one) && !met.has(one), true)
          met.add(one)
          for (const other of Array.from({ length: 1 + next(20) }, pick)) {
            if (next(3) === 0) {
              crowd.add(other)
              model.add(other)
              seen.came++
            } else if (model.delete(other)) {
              crowd.delete(other)
              gone.add(other)
              met.delete(other) // if it comes back it may be met again, as in a Set
              seen.left++
            }
          }
        }
        t.strictSame([...before].filter((one) => !met.has(one) && !gone.has(one)), [], 'who stayed was met')
      }
      t.equal(crowd.size, model.size)
      seen.most = Math.max(seen.most, model.size)
    }
    t.strictSame([...crowd], [...model])
  }
  t.ok(Object.values(seen).every((count) => count > 100), JSON.stringify(seen))
})

t.test('who has left is not kept alive until the garbage collector looks at everything', async (t) => {
  interface Large extends One { payload: number[] }
  const crowd = new Crowd<Large>()
  const live: Large[] = []
  const used = (): number => getHeapStatistics().used_heap_size
  gc({ type: 'minor' })
  gc({ type: 'minor' })
  const before = used()
  for (let i = 0; i < 10_000; i++) {
    const member = { name: String(i), payload: new Array<number>(1_000).fill(i) }
    crowd.add(member)
    live.push(member)
    if (live.length > 64) crowd.delete(live.shift() as Large)
    if (i % 500 === 0) gc({ type: 'minor' })
  }
  gc({ type: 'minor' })
  gc({ type: 'minor' })
  const grown = (used() - before) / 1_048_576
  t.ok(grown < 10, `${grown.toFixed(1)} MB of the 80 that were made`) // in a Set nearly all of them
})
