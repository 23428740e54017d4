const FEW = 16 // so many are looked through one after another
const NOWHERE = -1

/** Where each has its hash; who has none is given one. */
export const kHash = Symbol('fastify-real.hash')

interface Hashed { [kHash]?: number }

let hashes = 0

/** The hash of one that is looked for by a text which nobody else chose. FNV-1a of its beginning. */
export function hashOfText (text: string): number {
  let hash = 0
  for (let i = 0; i < 6; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193)
  return hash
}

/**
 * A set of those who come and go, in the order they came. A Set or a Map keeps alive who has left: each table it grows out of points at the
 * next, and once one of them is old, the garbage collector takes all that follow, and who was in them, for alive until it looks at everything
 * (perf: of short connections, a third of all their objects).
 */
export class Crowd<T extends object> implements Iterable<T> {
  #list: Array<T | null> = []
  #size = 0
  /** Places in the list, counted from 1, where the hashes say; null while there are few. Half of it stays empty. */
  #table: Int32Array | null = null

  get size (): number { return this.#size }

  /** In the order they came; null for who has left. For who lets nobody come or go meanwhile. */
  get list (): ReadonlyArray<T | null> { return this.#list }

  /** Who leaves meanwhile is not among them. */
  * [Symbol.iterator] (): Generator<T, void> {
    const list = this.#list
    for (let i = 0; i < list.length; i++) {
      const one = list[i] as T | null
      if (one !== null && (list === this.#list || this.has(one))) yield one
    }
  }

  has (one: T): boolean { return this.#placeOf(one) !== NOWHERE }

  /** The one of this hash that is meant. */
  find (hash: number, isMeant: (one: T) => boolean): T | undefined {
    const table = this.#table
    if (table === null) return this.#list.find((one) => one !== null && isMeant(one)) as T | undefined
    for (let slot = hash & (table.length - 1); table[slot] !== 0; slot = (slot + 1) & (table.length - 1)) {
      const one = this.#at(table, slot)
      if (one !== null && isMeant(one)) return one
    }
  }

  /** False: it is one of them already. */
  add (one: T): boolean {
    if (this.has(one)) return false
    if (this.#list.length === (this.#table === null ? FEW : this.#table.length / 2)) this.#arrange()
    this.#list.push(one)
    this.#size++
    if (this.#table !== null) this.#enter(this.#table, one, this.#list.length)
    return true
  }

  delete (one: T): boolean {
    const place = this.#placeOf(one)
    if (place === NOWHERE) return false
    this.#list[place] = null // its slot in the table still says that somebody was here
    this.#size--
    if (this.#list.length > 4 * this.#size + FEW) this.#arrange()
    return true
  }

  #placeOf (one: T): number {
    const table = this.#table
    if (table === null) return this.#list.indexOf(one)
    const hash = (one as Hashed | null | undefined)?.[kHash] // an application may look for anything
    if (hash === undefined) return NOWHERE
    for (let slot = hash & (table.length - 1); table[slot] !== 0; slot = (slot + 1) & (table.length - 1)) {
      if (this.#at(table, slot) === one) return table[slot] as number - 1
    }
    return NOWHERE
  }

  #at (table: Int32Array, slot: number): T | null { return this.#list[table[slot] as number - 1] as T | null }

  #enter (table: Int32Array, one: T, place: number): void {
    let slot = hashOf(one) & (table.length - 1)
    while (table[slot] !== 0) slot = (slot + 1) & (table.length - 1)
    table[slot] = place
  }

  // nobody who left has a place any more. Another list: somebody may be going through this one
  #arrange (): void {
    this.#list = this.#list.filter((one) => one !== null)
    const length = this.#list.length <= FEW / 2 ? 0 : 2 ** Math.ceil(Math.log2(4 * this.#list.length))
    if (length === 0) this.#table = null
    else if (this.#table?.length === length) this.#table.fill(0)
    else this.#table = new Int32Array(length)
    if (this.#table !== null) for (const [i, one] of this.#list.entries()) this.#enter(this.#table, one as T, i + 1)
  }
}

function hashOf (one: Hashed): number { return (one[kHash] ??= Math.imul(++hashes, 0x9e3779b1)) } // neighbours are far from each other
