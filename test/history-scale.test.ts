import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import t from 'tap'
import { memory } from '../lib/backplanes/memory.ts'
import { toEvent } from '../lib/event.ts'
import { uncovered } from './child.ts'
import { connect, node, turn } from './fake.ts'
import { offsetOf } from './returner.ts'

const keep = { events: 100, bytes: 1_048_576, age: 120_000 } // the defaults
const parcel = { event: toEvent('x', { maxBytes: Infinity }), except: null }

t.test('a quiet room has no gap after a million events elsewhere', async (t) => {
  const backplane = memory()
  const one = await node(t, {}, backplane)
  const { connection, wire } = connect(one, { bare: false, broadcast: false })
  await connection.join('quiet')
  await one.registry.room('quiet').send({ data: 'seen' })
  await turn()
  const id = wire.events.at(-1)?.id as string
  connection.close()
  await one.registry.room('quiet').send({ data: 'missed' })
  for (let n = 0; n < 1_000_000; n++) void backplane.publish(`room/r${n % 1_000}`, parcel, { keep, once: false }) // it is in order without waiting
  const back = connect(one, { bare: false, broadcast: false, lastEventId: id })
  await back.connection.join(['quiet', 'never sent to'])
  await one.registry.room('quiet').send({ data: 'live' })
  await turn()
  t.strictSame(back.wire.events.map(({ event, data }) => event === 'ready' ? data : [event, data]), [{ resumed: true, heartbeat: 15_000 }, [undefined, 'missed'], [undefined, 'live']])
  t.equal(offsetOf(back.wire.events.at(-1)?.id), 1_000_003)
})

// in a process of its own, where nothing else grows and the collector can be called
t.test('the heap stays flat when a million rooms are sent to once', async (t) => {
  const script = `
    import { memory } from ${JSON.stringify(new URL('../lib/backplanes/memory.ts', import.meta.url).href)}
    import { toEvent } from ${JSON.stringify(new URL('../lib/event.ts', import.meta.url).href)}
    const backplane = memory()
    const heap = []
    for (let n = 1; n <= 1_000_000; n++) {
      void backplane.publish('room/' + n, { event: toEvent({ data: { n } }, { maxBytes: Infinity }), except: null }, ${JSON.stringify({ keep, once: false })})
      if (n % 1_000 === 0) await null
      if (n % 250_000 === 0) { gc(); heap.push(process.memoryUsage().heapUsed) }
    }
    console.log(JSON.stringify(heap))`
  const { stdout } = await promisify(execFile)(process.execPath, ['--expose-gc', '--import', 'tsx', '--input-type=module', '--eval', script], { cwd: fileURLToPath(new URL('..', import.meta.url)), env: { PATH: process.env.PATH, ...uncovered } })
  const [first, ...later] = JSON.parse(stdout) as [number, ...number[]]
  t.comment(`heap after each 250,000 rooms: ${[first, ...later].map((bytes) => `${Math.round(bytes / 1e6)} MB`).join(', ')}`)
  t.ok(first < 200_000_000)
  t.equal(later.length, 3)
  for (const bytes of later) t.ok(bytes < first * 1.1)
})
