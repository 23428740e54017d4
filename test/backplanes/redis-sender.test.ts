import t from 'tap'
import type { Client } from '../../lib/backplanes/redis-library.ts'
import { Sender } from '../../lib/backplanes/redis-sender.ts'
import type { Command } from '../../lib/backplanes/redis-script.ts'

const TIMEOUT = 60_000

/** A client that answers when it is told to: each moment can be had alone, which no server gives. */
class Held {
  ready = true
  readonly asked: Array<{ commands: Command[], answer (...replies: unknown[]): void }> = []
  #changed: () => void = () => {}
  readonly client: Client = {
    isSharded: false,
    closed: false,
    ready: true,
    async open () {},
    destroy () {},
    hurry () {},
    run: (commands) => new Promise((resolve) => { this.asked.push({ commands, answer: (...replies) => resolve(replies) }) }),
    subscriber () { throw new Error('nobody subscribes here') },
    watch: (changed) => { this.#changed = changed; return () => {} }
  }

  constructor () { Object.defineProperty(this.client, 'ready', { get: () => this.ready }) }

  change (ready: boolean): void {
    this.ready = ready
    this.#changed()
  }

  /** What was asked last is answered. */
  async answer (...replies: unknown[]): Promise<void> {
    this.asked.at(-1)?.answer(...replies)
    await new Promise((resolve) => setImmediate(resolve))
  }

  /** It is asked which server it is, and given the scripts. */
  async verify (): Promise<void> {
    await this.answer([1, 'epoch', 'server', '0'])
    await this.answer('sha', 'sha', 'sha')
  }
}

async function sender (): Promise<{ held: Held, sender: Sender }> {
  const held = new Held()
  const log = { error () {}, warn () {} }
  const sender = new Sender(held.client, { log, verify: () => ['VERIFY'], verified () {}, opened () {} }, { whenAway: 'queue', queue: { events: 10, bytes: 10_000 }, timeout: TIMEOUT })
  sender.start()
  await held.verify()
  return { held, sender }
}

t.test('what is sent and not answered is given up when its time is over, and not before', async (t) => {
  const { held, sender: one } = await sender()
  let settled: unknown
  void one.publish(1, 10, () => ['SEND']).then((reply) => { settled = reply })
  await new Promise((resolve) => setImmediate(resolve))
  t.strictSame(held.asked.at(-1)?.commands, [['SEND']])
  one.tick(performance.now())
  await new Promise((resolve) => setImmediate(resolve))
  t.equal(settled, undefined)
  one.tick(performance.now() + TIMEOUT + 1)
  await new Promise((resolve) => setImmediate(resolve))
  t.equal(settled, null)
  await held.answer('late')
  t.equal(settled, null, 'an answer that comes later is none')
  one.close()
})

t.test('the same of what waits to be sent', async (t) => {
  const { held, sender: one } = await sender()
  held.change(false)
  const first = one.publish(1, 10, () => ['SEND'])
  one.tick(performance.now() + TIMEOUT + 1)
  t.equal(await first, null)
  const second = one.publish(2, 10, () => ['SEND'])
  one.tick(performance.now())
  one.close()
  t.equal(await second, null)
})

t.test('what was on its way when the connection was lost is in doubt: it is asked for with that word, and may be withdrawn', async (t) => {
  const { held, sender: one } = await sender()
  const doubts: boolean[] = []
  const withdrawn = one.publish(1, 10, (isInDoubt) => { doubts.push(isInDoubt); return isInDoubt ? null : ['ONE'] })
  const again = one.publish(2, 10, (isInDoubt) => { doubts.push(isInDoubt); return ['TWO'] })
  await new Promise((resolve) => setImmediate(resolve))
  held.change(false)
  const later = one.publish(3, 10, (isInDoubt) => { doubts.push(isInDoubt); return ['THREE'] })
  await held.answer(new Error('closed'), new Error('closed'))
  held.change(true)
  await held.verify()
  t.strictSame(held.asked.at(-1)?.commands, [['TWO'], ['THREE']])
  await held.answer('two', 'three')
  t.strictSame([await withdrawn, await again, await later], [null, 'two', 'three'])
  t.strictSame(doubts, [false, false, true, true, false])
  one.close()
})
