const FEW = 16 // so many are looked through one after another
const LEFT = -1

/** Where a member has its hash; one that has none is given one. */
export const kHash = Symbol('fastify-real.hash')

interface Hashed { [kHash]?: number }

let hashes = 0

/** The hash of a member that is looked for by a text which nobody else chose. FNV-1a of its beginning. */
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
export class Members<T extends object> implements Iterable<T> {
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
      const member = list[i] as T | null
      if (member !== null && (list === this.#list || this.has(member))) yield member
    }
  }

  has (member: T): boolean { return this.#placeOf(member) !== LEFT }

  /** The one of this hash that is meant. */
  find (hash: number, isMeant: (member: T) => boolean): T | undefined {
    const table = this.#table
    if (table === null) return this.#list.find((member) => member !== null && isMeant(member)) as T | undefined
    for (let slot = hash & (table.length - 1); table[slot] !== 0; slot = (slot + 1) & (table.length - 1)) {
      const member = this.#at(table, slot)
      if (member !== null && isMeant(member)) return member
    }
  }

  add (member: T): this {
    if (this.has(member)) return this
    if (this.#list.length === (this.#table === null ? FEW : this.#table.length / 2)) this.#arrange()
    this.#list.push(member)
    this.#size++
    if (this.#table !== null) this.#enter(this.#table, member, this.#list.length)
    return this
  }

  delete (member: T): boolean {
    const place = this.#placeOf(member)
    if (place === LEFT) return false
    this.#list[place] = null // its slot in the table still says that somebody was here
    this.#size--
    if (this.#list.length > 4 * this.#size + FEW) this.#arrange()
    return true
  }

  #placeOf (member: T): number {
    const table = this.#table
    if (table === null) return this.#list.indexOf(member)
    for (let slot = hashOf(member) & (table.length - 1); table[slot] !== 0; slot = (slot + 1) & (table.length - 1)) {
      if (this.#at(table, slot) === member) return table[slot] as number - 1
    }
    return LEFT
  }

  #at (table: Int32Array, slot: number): T | null { return this.#list[table[slot] as number - 1] as T | null }

  #enter (table: Int32Array, member: T, place: number): void {
    let slot = hashOf(member) & (table.length - 1)
    while (table[slot] !== 0) slot = (slot + 1) & (table.length - 1)
    table[slot] = place
  }

  // nobody who left has a place any more. Another list: somebody may be going through this one
  #arrange (): void {
    this.#list = this.#list.filter((member) => member !== null)
    const length = this.#list.length <= FEW / 2 ? 0 : 2 ** Math.ceil(Math.log2(4 * this.#list.length))
    if (length === 0) this.#table = null
    else if (this.#table?.length === length) this.#table.fill(0)
    else this.#table = new Int32Array(length)
    if (this.#table !== null) for (const [i, member] of this.#list.entries()) this.#enter(this.#table, member as T, i + 1)
  }
}

function hashOf (member: Hashed): number { return (member[kHash] ??= Math.imul(++hashes, 0x9e3779b1)) } // neighbours are far from each other
