// What is sent, and how a reader knows which it was: every event carries `~@` and its number in its stream.
export const MARK = Buffer.from('~@')
export const DIGITS = 9
export const LENGTH = MARK.length + DIGITS

const body = 'abcdefghij'.repeat(15)

/** 200 bytes of JSON. */
export function eventOf (number) {
  return { mark: markOf(number), type: 'price', id: 12_345, body: body.slice(0, 142) }
}

function markOf (number) { return MARK + String(number).padStart(DIGITS, '0') }

/** A token of an answer that a model writes: it comes at a turn of its own, as what is read from a network does. */
export async function * gen (url) {
  const count = Number(new URL(url, 'http://localhost').searchParams.get('n'))
  for (let i = 0; i < count; i++) {
    await turn()
    yield { mark: markOf(i), token: 'token' }
  }
}

let next = null

// one for all who wait: the timer is not what is measured
function turn () {
  return (next ??= new Promise((resolve) => {
    setImmediate(() => {
      next = null
      resolve()
    })
  }))
}
