import fc from 'fast-check'
import t from 'tap'
import * as reasons from '../lib/close-reasons.ts'
import type { KnownReason } from '../lib/close-reasons.ts'

const { broken, closeText, isCloseCode, ...known } = reasons
const all = Object.entries(known) as Array<[string, KnownReason]>
const never = [1005, 1006] // what an endpoint reports and never sends. RFC 6455, section 7.4.1

t.test('every reason has a text of its own, is frozen, and says whether the client may come back', async (t) => {
  t.equal(new Set(all.map(([, { reason }]) => reason)).size, all.length)
  for (const [name, reason] of all) {
    t.ok(Object.isFrozen(reason), name)
    t.type(reason.comeBack, 'boolean')
    t.equal(closeText(reason.reason), reason.reason, 'it fits a close frame')
    t.ok(isCloseCode(reason.code) || never.includes(reason.code), `${name} may be sent, or is only reported`)
  }
})

t.test('who was turned away for good may not come back, who was cut off by us may', async (t) => {
  const back = all.filter(([, { comeBack }]) => comeBack).map(([name]) => name)
  t.strictSame(back.sort(), ['age', 'client', 'failed', 'inactive', 'lost', 'shutdown', 'slow'])
})

t.test('the codes are those of the standard, and 4401 for a right that has ended', async (t) => {
  t.match(known, { done: { code: 1000 }, shutdown: { code: 1001 }, flooding: { code: 1008 }, failed: { code: 1011 }, slow: { code: 1013 }, expired: { code: 4401 }, lost: { code: 1006 } })
})

t.test('who broke the protocol is told how, and may not come back', async (t) => {
  for (const code of [1002, 1007, 1008, 1009] as const) t.strictSame(broken(code), { code, reason: 'protocol error', comeBack: false })
})

t.test('codes an endpoint may send are those from 1000 to 1014 but the reserved ones, and from 3000 to 4999', async (t) => {
  for (const code of [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4401, 4999]) t.equal(isCloseCode(code), true, `${code}`)
  for (const code of [-1, 0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535, 70_000, 1000.5, NaN, Infinity, '1000', null, undefined, [1000]]) t.equal(isCloseCode(code), false, String(code))
})

t.test('a reason is cut to 123 bytes, on a character', async (t) => {
  t.equal(closeText(''), '')
  t.equal(closeText('x'.repeat(123)), 'x'.repeat(123))
  t.equal(closeText('x'.repeat(124)), 'x'.repeat(123))
  t.equal(closeText('é'.repeat(62)), 'é'.repeat(61))
  t.equal(closeText('x' + '\u{1F600}'.repeat(31)), 'x' + '\u{1F600}'.repeat(30))
  t.equal(closeText('a\uD800b'), 'a\uFFFDb')
  t.equal(closeText('\uFEFF' + 'x'.repeat(200)), '\uFEFF' + 'x'.repeat(120))
})

t.test('whatever a reason is, what is sent is the longest beginning of it that fits', async (t) => {
  const text = fc.array(fc.oneof(fc.string({ unit: 'binary' }), fc.constantFrom('\uD800', '\uDC00', '\uFEFF', '\u{1F600}', 'é', '€')), { maxLength: 60 }).map((parts) => parts.join(''))
  fc.assert(fc.property(text, (reason) => {
    const whole = reason.toWellFormed()
    const cut = closeText(reason)
    const next = [...whole.slice(cut.length)][0] ?? ''
    return cut.isWellFormed() && whole.startsWith(cut) && Buffer.byteLength(cut) <= 123 && (cut === whole || Buffer.byteLength(cut + next) > 123)
  }), { numRuns: 1_000 })
  t.pass()
})
