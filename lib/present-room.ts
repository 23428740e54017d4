import type { Presence as Present, PresenceChange } from '../types/api.ts'
import type { Entry } from './arguments.ts'

/** Who can be present: a connection. */
export interface Presentee {
  /** Its wire is open and nothing holds it: it may be announced. */
  readonly announced: boolean
  /** Changes did not reach it: it is given no more of them before a fresh snapshot. */
  blind: boolean
}

const ANSWER = 500 // how long a first look waits for other nodes
const LOOK = 5_000 // and for the backplane, which may be away

/** Who is in one room: here, and on other nodes as they say. */
export class PresentRoom {
  readonly name: string
  readonly topic: string
  readonly own = new Map<string, Map<Presentee, unknown>>()
  readonly entries = new Map<Presentee, Entry>()
  readonly others = new Map<string, Map<string, unknown[]>>()
  /** What the watchers have been told, as JSON by key. */
  readonly told = new Map<string, string>()
  readonly changed = new Set<string>()
  /** Of these the other nodes have to be told. */
  readonly changedHere = new Set<string>()
  readonly watchers = new Set<Presentee>()
  readonly newcomers = new Set<Presentee>()
  /** Nodes that may have said something that did not come, and when they are to have said all again. */
  readonly doubted = new Set<string>()
  doubtedUntil = 0
  /** How many messages there were, and how many are on their way: it is followed until they are taken. */
  said = 0
  saying = 0
  /** The last message that the backplane did not take; 0: all that this node has to say is said. */
  unsaid = 0
  /** What other nodes say comes here. */
  isFollowed = true
  /** What other nodes have to say of it is known. */
  isReady = false
  readonly #lookers = new Set<() => void>()
  readonly #answers = new Set<string>()
  #expected = Infinity
  #answered: (() => void) | null = null

  constructor (name: string) {
    this.name = name
    this.topic = `presence/${name}`
  }

  get idle (): boolean { return this.entries.size === 0 && this.#lookers.size === 0 && this.changed.size === 0 && this.saying === 0 && this.unsaid === 0 }

  metas (key: string): unknown[] {
    const metas = [...this.own.get(key)?.values() ?? []]
    for (const other of this.others.values()) metas.push(...other.get(key) ?? [])
    return metas
  }

  list (): Present[] {
    const keys = new Set(this.own.keys())
    for (const other of this.others.values()) for (const key of other.keys()) keys.add(key)
    return [...keys].sort().map((key) => ({ key, metas: this.metas(key) }))
  }

  /** Waits until what other nodes have to say is known, but not for ever. */
  async look (): Promise<void> {
    if (this.isReady) return
    await new Promise<void>((resolve) => {
      const done = (): void => {
        clearTimeout(timer)
        this.#lookers.delete(done)
        resolve()
      }
      const timer = setTimeout(done, LOOK).unref()
      this.#lookers.add(done)
    })
  }

  known (): void {
    this.isReady = true
    for (const done of this.#lookers) done()
  }

  /** Waits until so many other nodes have answered. */
  async expect (count: number): Promise<void> {
    this.#expected = count
    if (this.#answers.size >= count) return
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, ANSWER).unref()
      this.#answered = () => { clearTimeout(timer); resolve() }
    })
  }

  /** A node has said all that it has to say. */
  heard (node: string): void {
    this.doubted.delete(node)
    if (this.isReady) return
    this.#answers.add(node)
    if (this.#answers.size >= this.#expected) this.#answered?.()
  }

  /** All other nodes are to say again what they have to say. */
  doubt (until: number): void {
    for (const node of this.others.keys()) this.doubted.add(node)
    this.doubtedUntil = until
  }

  /** Nothing is known of a node any more. False: nothing was. */
  forget (node: string): boolean {
    this.doubted.delete(node)
    const other = this.others.get(node)
    for (const key of other?.keys() ?? []) this.changed.add(key)
    return this.others.delete(node)
  }
}

/** What this node has to say of it. */
export function ownEntries (room: PresentRoom): Array<[string, unknown[]]> {
  return [...room.own].map(([key, metas]) => [key, [...metas.values()]])
}

/** How a key has changed since its watchers were told. */
export function tellChange (room: PresentRoom, key: string, { joined, left, updated }: Required<Pick<PresenceChange, 'joined' | 'left' | 'updated'>>): void {
  const metas = room.metas(key)
  const before = room.told.get(key)
  if (metas.length === 0) {
    room.told.delete(key)
    if (before !== undefined) left.push({ key, metas: JSON.parse(before) as unknown[] })
    return
  }
  const now = JSON.stringify(metas)
  room.told.set(key, now)
  if (before === undefined) joined.push({ key, metas })
  else if (before !== now) updated.push({ key, metas })
}
