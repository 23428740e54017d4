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
