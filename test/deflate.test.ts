import { constants, inflateRawSync } from 'node:zlib'
import t from 'tap'
import { deflate } from '../lib/deflate.ts'

t.test('pieces can be read from any of them on, each by itself and with the smallest window that was asked for', async (t) => {
  const texts = ['', 'x', 'ü💥'.repeat(200), JSON.stringify(Array.from({ length: 2_000 }, (_, i) => ({ i }))), '\uD800'.repeat(300), 'x'.repeat(1_000_000)]
  for (const windowBits of [9, 12, 15]) {
    const pieces = texts.map((text) => deflate(text, windowBits))
    for (const from of texts.keys()) {
      const read = inflateRawSync(Buffer.concat(pieces.slice(from)), { windowBits, finishFlush: constants.Z_SYNC_FLUSH })
      t.ok(read.equals(Buffer.from(texts.slice(from).join(''))), `${windowBits} bits, from ${from}`)
    }
    for (const piece of pieces) t.equal(piece.subarray(-4).toString('hex'), '0000ffff')
  }
})

t.test('it never grows by much, and shrinks what repeats', async (t) => {
  t.ok(deflate(new Uint8Array(1_000_000), 15).length < 10_000)
  const bytes = Buffer.alloc(10_000)
  for (let i = 0, x = 1; i < bytes.length; i++) bytes[i] = (x = x * 16_807 % 2_147_483_647) >> 8
  t.ok(deflate(bytes, 15).length < 10_100)
})
