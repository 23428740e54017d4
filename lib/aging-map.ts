interface Entry<V> { readonly key: string, readonly value: V, older: Entry<V> | null, newer: Entry<V> | null }

/** A map that knows its oldest entry. A Map knows it too, but walks over all that was deleted before it (100 us of 100,000). */
export class AgingMap<V> {
  readonly #entries = new Map<string, Entry<V>>()
  #oldest: Entry<V> | null = null
  #newest: Entry<V> | null = null

  get size (): number { return this.#entries.size }
  get oldest (): readonly [key: string, value: V] | null { return this.#oldest === null ? null : [this.#oldest.key, this.#oldest.value] }

  get (key: string): V | undefined { return this.#entries.get(key)?.value }

  /** The newest from now on. */
  set (key: string, value: V): void {
    this.delete(key)
    const entry: Entry<V> = { key, value, older: null, newer: null }
    this.#entries.set(key, entry)
    this.#link(entry)
  }

  /** What is there, the newest from now on. */
  use (key: string): V | undefined {
    const entry = this.#entries.get(key)
    if (entry === undefined) return undefined
    if (entry.newer !== null) {
      this.#unlink(entry)
      this.#link(entry)
    }
    return entry.value
  }

  delete (key: string): void {
    const entry = this.#entries.get(key)
    if (entry === undefined) return
    this.#entries.delete(key)
    this.#unlink(entry)
  }

  #link (entry: Entry<V>): void {
    entry.older = this.#newest
    entry.newer = null
    if (this.#newest === null) this.#oldest = entry
    else this.#newest.newer = entry
    this.#newest = entry
  }

  #unlink (entry: Entry<V>): void {
    if (entry.older === null) this.#oldest = entry.newer
    else entry.older.newer = entry.newer
    if (entry.newer === null) this.#newest = entry.older
    else entry.newer.older = entry.older
  }

  * [Symbol.iterator] (): Iterator<readonly [key: string, value: V]> {
    for (const { key, value } of this.#entries.values()) yield [key, value]
  }
}
