// The verdict on a run: what was accepted against what each client dispatched.

/** What became of one send, as the node that made it says; `began` and `ended` are places in all that this node did. */
export interface Sent { token: string, room: string, began: number, ended: number, answer: 'accepted' | 'refused' | 'doubt' | 'duplicate', id?: string | undefined }

/** What a client dispatched: an event of a room, or a gap that was announced. */
export type Dispatched = { token: string, id: string | undefined } | { gap: string }

export interface Heard { name: string, rooms: readonly string[], dispatched: readonly Dispatched[] }

export interface Verdict {
  accepted: number
  refused: number
  doubt: number
  dispatched: number
  /** Accepted, dispatched by nobody, and no gap was announced where they would have been. */
  lost: string[]
  /** Accepted, and a gap was announced in their place. */
  missed: number
  doubled: string[]
  /** Before one that came earlier in the sequence, or was answered before it was begun. */
  disordered: string[]
  /** Dispatched by a client of another room, or made by nobody. */
  foreign: string[]
  gaps: Record<string, number>
}

/** `writer:n`; the number grows with each send of a writer. */
function split (token: string): { writer: string, n: number } {
  const at = token.lastIndexOf(':')
  return { writer: token.slice(0, at), n: Number(token.slice(at + 1)) }
}

/** `asked` names who was told to send: one that was killed may not have said what became of any of it. */
export function verdict (sent: Iterable<Sent>, clients: readonly Heard[], asked: Iterable<string> = []): Verdict {
  const all = [...sent]
  const byToken = new Map(all.map((one) => [one.token, one]))
  const writers = new Set([...asked, ...all.map(({ token }) => split(token).writer)])
  const count = (answer: Sent['answer']): number => all.filter((one) => one.answer === answer).length
  const found: Verdict = { accepted: count('accepted'), refused: count('refused'), doubt: count('doubt'), dispatched: 0, lost: [], missed: 0, doubled: [], disordered: [], foreign: [], gaps: {} }
  const accepted = new Map<string, Sent[]>() // of each writer and room, in the order they were begun
  for (const one of all) {
    if (one.answer !== 'accepted') continue
    const key = `${split(one.token).writer} ${one.room}`
    accepted.set(key, [...accepted.get(key) ?? [], one])
  }
  for (const list of accepted.values()) list.sort((one, other) => one.began - other.began) // answers come in any order
  for (const client of clients) judge(client)
  return found

  function judge ({ name, rooms, dispatched }: Heard): void {
    const places = new Map<string, number>()
    const latest = new Map<string, Sent>() // of each writer and room: the one begun last
    const offsets = new Map<string, number>() // of each epoch
    const gaps: number[] = []
    dispatched.forEach((one, place) => {
      if ('gap' in one) {
        gaps.push(place)
        found.gaps[one.gap] = (found.gaps[one.gap] ?? 0) + 1
        return
      }
      const { token, id } = one
      found.dispatched++
      const made = byToken.get(token)
      if (places.has(token) || made?.answer === 'duplicate') found.doubled.push(`${name} ${token}`)
      else places.set(token, place)
      if (made === undefined ? !writers.has(split(token).writer) : !rooms.includes(made.room)) found.foreign.push(`${name} ${token}`)
      if (made !== undefined) {
        const key = `${split(token).writer} ${made.room}`
        const before = latest.get(key)
        if (before !== undefined && made.ended < before.began) found.disordered.push(`${name} ${token} after ${before.token}`)
        if (before === undefined || made.began > before.began) latest.set(key, made)
      }
      const at = id?.lastIndexOf('-') ?? -1
      if (id === undefined || at === -1) return
      const [epoch, offset] = [id.slice(0, at), Number(id.slice(at + 1))]
      if (offset <= (offsets.get(epoch) ?? 0)) found.disordered.push(`${name} ${token} ${id} after ${epoch}-${offsets.get(epoch)}`)
      offsets.set(epoch, Math.max(offset, offsets.get(epoch) ?? 0))
    })
    for (const [, list] of accepted) {
      if (!rooms.includes((list[0] as Sent).room)) continue
      list.forEach(({ token }, at) => {
        if (places.has(token)) return
        const near = (step: number): number | undefined => {
          for (let i = at + step; i >= 0 && i < list.length; i += step) {
            const place = places.get((list[i] as Sent).token)
            if (place !== undefined) return place
          }
        }
        const [after, before] = [near(-1) ?? -1, near(1) ?? Infinity]
        if (gaps.some((place) => place > after && place < before)) found.missed++
        else found.lost.push(`${name} ${token}`)
      })
    }
  }
}
