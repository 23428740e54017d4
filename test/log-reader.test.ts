import t from 'tap'
import { LogReader } from '../lib/log-reader.ts'
import type { Range } from '../types/backplane.ts'

t.test('who asks for the same shares one read, until something comes or the sequence begins anew', async (t) => {
  const range: Range = { deliveries: [], complete: true, more: false, from: 0, top: 0 }
  const answers: Array<(range: Range) => void> = []
  const host = { offset: 0, heartbeat: 0 }
  const reader = new LogReader({ epoch: 'e', range: () => new Promise<Range>((resolve) => { answers.push(resolve) }) } as never, host)
  const read = (): Promise<Range> => reader.range('room/a', 0, 10)
  t.equal(read(), read())
  host.offset++
  const second = read()
  reader.resets++
  const third = read()
  t.equal(third, read())
  t.equal(answers.length, 3)
  for (const answer of answers) answer(range)
  await Promise.all([second, third])
  void read()
  t.equal(answers.length, 4)
})

t.test('what clients are told when they are ready is shared, and forgotten with the turn where it is much', async (t) => {
  const reader = new LogReader({ epoch: 'e' } as never, { offset: 0, heartbeat: 0 })
  const first = reader.ready(0, true)
  for (let offset = 1; offset < 100; offset++) reader.ready(offset, true)
  reader.forgetFrames()
  t.equal(reader.ready(0, true), first)
  t.not(reader.ready(0, false), first)
  t.equal(reader.ready(0, true), first, 'within a turn there is no end')
  reader.forgetFrames()
  t.not(reader.ready(0, true), first)
})
