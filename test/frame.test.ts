import t from 'tap'
import { toEvent } from '../lib/event.ts'
import { Framed } from '../lib/frame.ts'
import type { Encoding, RealEvent } from '../types/transport.ts'

t.test('a frame is made once for an encoding, at first use', async (t) => {
  const made: string[] = []
  const encoding = (name: string): Encoding => ({
    name,
    frame ({ text }: RealEvent) {
      made.push(name)
      return Buffer.from(`${name} ${text}`)
    }
  })
  const [one, two] = [encoding('one'), encoding('two')]
  const event = toEvent('x', { maxBytes: 10 })
  const framed = new Framed(event, 7)
  t.equal(framed.event, event)
  t.equal(framed.offset, 7)
  t.strictSame(made, [])
  const first = framed.frame(one)
  t.equal(Buffer.from(first).toString(), 'one x')
  t.equal(framed.frame(one), first)
  t.equal(Buffer.from(framed.frame(two)).toString(), 'two x')
  t.equal(framed.frame(two), framed.frame(two))
  t.equal(framed.frame(one), first)
  t.strictSame(made, ['one', 'two'])
})

t.test('encodings of one name are told apart', async (t) => {
  const encoding = (): Encoding => ({ name: 'same', frame: () => Buffer.from('x') })
  const framed = new Framed(toEvent('x', { maxBytes: 10 }), 0)
  t.not(framed.frame(encoding()), framed.frame(encoding()))
})
