import type { Presence as Present, PresenceChange } from '../types/api.ts'
import type { Entry } from './arguments.ts'
import { ownEntries, PresentRoom, tellChange } from './present-room.ts'
import type { Presentee } from './present-room.ts'

/** What presence needs from above. Topics are `presence/<room>`; `nodes` carries signs of life. */
export interface PresenceHost {
  readonly nodeId: string
  readonly timeout: number
  /** Undefined: it failed. */
  subscribe (topic: string): Promise<unknown>
  unsubscribe (topic: string): void
  /** To every subscribed node; gives how many there are, where the backplane can tell, 0 when none was told. */
  tell (topic: string, message: PresenceMessage): Promise<number | undefined>
  /** One event for many: made and encoded once. */
  announce (watchers: Iterable<Presentee>, change: PresenceChange): void
}

/** What nodes tell each other: each only its own entries. */
export type PresenceMessage =
  /** All that it has to say, or what has changed; who asks says all, and is answered by all. */
  | { op: 'ask' | 'state' | 'change', node: string, entries: Array<[key: string, metas: unknown[]]> }
  | { op: 'beat', node: string }
  /** Somebody knows nothing of a node, or nothing any more. */
  | { op: 'again', node: string, of: string }
  | { op: 'bye', node: string }

const BEATS = 5 // in the time after which a silent node is forgotten

/** Who is in which room on all nodes. It is said, not stored: a node that falls silent is forgotten. */
export class Presence {
  readonly #host: PresenceHost
  /** Milliseconds between two signs of life. */
  readonly #period: number
  readonly #rooms = new Map<string, PresentRoom>()
  readonly #names = new Map<Presentee, Set<string>>() // of the rooms each asked to be present in
  readonly #waiting = new Map<Presentee, Map<string, Entry>>()
  readonly #nodes = new Map<string, number>() // when each was heard last
  readonly #dirty = new Set<PresentRoom>()
  #due = false
  #timer: NodeJS.Timeout | null = null
  #beatAt = 0

  constructor (host: PresenceHost) {
    this.#host = host
    this.#period = Math.max(1, Math.floor(host.timeout / BEATS))
  }

  /** Announced when the connection is. Joining again updates. */
  join (who: Presentee, name: string, entry: Entry): void {
    const names = this.#names.get(who)
    if (names === undefined) this.#names.set(who, new Set([name]))
    else names.add(name)
    if (who.announced) return this.#enter(who, name, entry)
    let waiting = this.#waiting.get(who)
    if (waiting === undefined) this.#waiting.set(who, waiting = new Map())
    waiting.set(name, entry)
  }

  /** It may be announced; if it missed changes, it is given a fresh snapshot of all it watches. */
  live (who: Presentee): void {
    if (who.blind) this.#again(who)
    const waiting = this.#waiting.get(who)
    if (waiting === undefined) return
    this.#waiting.delete(who)
    for (const [name, entry] of waiting) this.#enter(who, name, entry)
  }

  #again (who: Presentee): void {
    who.blind = false
    for (const name of this.#names.get(who) ?? []) {
      const room = this.#rooms.get(name)
      if (room?.watchers.delete(who) === true) this.#welcome(room, who)
    }
  }

  leave (who: Presentee, name: string): void {
    if (this.#names.get(who)?.delete(name) !== true) return
    this.#waiting.get(who)?.delete(name)
    const room = this.#rooms.get(name)
    const entry = room?.entries.get(who)
    if (room === undefined || entry === undefined) return // it was not announced yet
    room.entries.delete(who)
    room.watchers.delete(who)
    room.newcomers.delete(who)
    if (entry.key !== null) this.#drop(room, who, entry.key)
    this.#schedule(room)
  }

  gone (who: Presentee): void {
    for (const name of this.#names.get(who) ?? []) this.leave(who, name)
    this.#names.delete(who)
    this.#waiting.delete(who)
  }

  async list (name: string): Promise<Present[]> {
    const room = this.#track(name)
    await room.look()
    this.#schedule(room)
    return room.list()
  }

  /** From another node, or our own. */
  heard (topic: string, message: PresenceMessage): void {
    const { node } = message
    const { nodeId } = this.#host
    if (node === nodeId || this.#rooms.size === 0) return
    if (message.op === 'bye') return this.#forget(node)
    if (!this.#nodes.has(node)) void this.#host.tell('nodes', { op: 'again', node: nodeId, of: node })
    this.#nodes.set(node, performance.now())
    if (message.op === 'again' && message.of === nodeId) for (const room of this.#rooms.values()) void this.#say(room, 'state')
    if (message.op === 'beat' || message.op === 'again') return
    const room = this.#rooms.get(topic.slice('presence/'.length))
    if (room === undefined) return
    const isAll = message.op === 'state' || message.op === 'ask'
    if (message.op === 'ask') void this.#say(room, 'state')
    let other = room.others.get(node)
    if (other === undefined || isAll) {
      for (const key of other?.keys() ?? []) room.changed.add(key)
      room.others.set(node, other = new Map())
    }
    for (const [key, metas] of message.entries) {
      if (metas.length === 0) other.delete(key)
      else other.set(key, metas)
      room.changed.add(key)
    }
    if (isAll) room.heard(node)
    this.#schedule(room)
  }

  /** Something that was said of a room may not have come, here or elsewhere: everybody says it again. */
  unsure (topic: string): void {
    const room = this.#rooms.get(topic.slice('presence/'.length))
    if (room === undefined) return
    room.doubt(performance.now() + this.#host.timeout)
    void this.#say(room, 'ask')
  }

  // what was not taken is said again with the next sign of life: nobody else knows that who was here has left
  async #say (room: PresentRoom, op: 'ask' | 'state' | 'change', entries: Array<[string, unknown[]]> = ownEntries(room)): Promise<number | undefined> {
    const count = ++room.said
    room.saying++
    const nodes = await this.#host.tell(room.topic, { op, node: this.#host.nodeId, entries })
    room.saying--
    if (nodes === 0) room.unsaid = count
    else if (op !== 'change' && count > room.unsaid) room.unsaid = 0
    if (room.entries.size === 0) this.#schedule(room)
    return nodes
  }

  stop (): void {
    this.#rest()
    if (this.#rooms.size > 0) void this.#host.tell('nodes', { op: 'bye', node: this.#host.nodeId })
  }

  #enter (who: Presentee, name: string, entry: Entry): void {
    const room = this.#track(name)
    const before = room.entries.get(who)
    if (before !== undefined && before.key !== null && before.key !== entry.key) this.#drop(room, who, before.key)
    room.entries.set(who, entry)
    if (before === undefined) this.#welcome(room, who)
    if (entry.key !== null) {
      let own = room.own.get(entry.key)
      if (own === undefined) room.own.set(entry.key, own = new Map())
      own.set(who, entry.meta)
      room.changed.add(entry.key)
      room.changedHere.add(entry.key)
    }
    this.#schedule(room)
  }

  #drop (room: PresentRoom, who: Presentee, key: string): void {
    const own = room.own.get(key)
    own?.delete(who)
    if (own?.size === 0) room.own.delete(key)
    room.changed.add(key)
    room.changedHere.add(key)
  }

  #welcome (room: PresentRoom, who: Presentee): void {
    room.newcomers.add(who)
    this.#schedule(room)
  }

  #track (name: string): PresentRoom {
    let room = this.#rooms.get(name)
    if (room !== undefined) return room
    const tracked = room = new PresentRoom(name)
    this.#rooms.set(name, tracked)
    this.#beating()
    void this.#follow(tracked).then(() => {
      tracked.known()
      this.#schedule(tracked)
    })
    return room
  }

  // where it fails it is tried again with the next sign of life
  async #follow (room: PresentRoom): Promise<void> {
    room.isFollowed = true
    room.isFollowed = await this.#host.subscribe(room.topic) !== undefined
    if (!room.isFollowed || this.#rooms.get(room.name) !== room) return // nobody is in it any more: there may be another of that name
    const nodes = await this.#say(room, 'ask')
    await room.expect((nodes ?? 2) - 1)
  }

  // a burst of changes is one event
  #schedule (room: PresentRoom): void {
    this.#dirty.add(room)
    if (this.#due) return
    this.#due = true
    setImmediate(() => {
      this.#due = false
      const dirty = [...this.#dirty]
      this.#dirty.clear()
      for (const room of dirty) this.#flush(room)
    })
  }

  #flush (room: PresentRoom): void {
    if (room.changed.size > 0) {
      const change: Required<Pick<PresenceChange, 'joined' | 'left' | 'updated'>> = { joined: [], left: [], updated: [] }
      for (const key of room.changed) tellChange(room, key, change)
      room.changed.clear()
      const lists = Object.entries(change).filter(([, list]) => list.length > 0)
      if (room.watchers.size > 0 && lists.length > 0) this.#host.announce(room.watchers, { room: room.name, ...Object.fromEntries(lists) })
    }
    if (room.changedHere.size > 0) {
      const entries = [...room.changedHere].map((key): [string, unknown[]] => [key, [...room.own.get(key)?.values() ?? []]])
      room.changedHere.clear()
      void this.#say(room, 'change', entries)
    }
    if (room.isReady && room.newcomers.size > 0) {
      this.#host.announce(room.newcomers, { room: room.name, snapshot: room.list() })
      for (const who of room.newcomers) room.watchers.add(who)
      room.newcomers.clear()
    }
    if (!room.idle || this.#rooms.get(room.name) !== room) return
    this.#rooms.delete(room.name)
    this.#host.unsubscribe(room.topic)
    if (this.#rooms.size === 0) this.#rest()
  }

  #rest (): void {
    if (this.#timer !== null) clearInterval(this.#timer)
    this.#timer = null
    this.#nodes.clear()
  }

  #beating (): void {
    if (this.#timer !== null) return
    this.#beatAt = performance.now()
    this.#timer = setInterval(() => this.#beat(), this.#period).unref()
  }

  #beat (): void {
    const now = performance.now()
    const stoodStill = now - this.#beatAt > this.#period * 2 // then what the others said waits to be heard: they are not to be forgotten
    this.#beatAt = now
    void this.#host.tell('nodes', { op: 'beat', node: this.#host.nodeId })
    for (const room of this.#rooms.values()) {
      if (!room.isFollowed) void this.#follow(room)
      if (room.unsaid > 0) void this.#say(room, 'state')
    }
    if (stoodStill) return
    for (const room of this.#rooms.values()) if (now >= room.doubtedUntil) for (const node of room.doubted) this.#forgetIn(room, node) // it follows the room no more
    for (const [node, heardAt] of this.#nodes) if (now - heardAt > this.#host.timeout - this.#period) this.#forget(node) // at the next beat it would be over the time
  }

  #forget (node: string): void {
    this.#nodes.delete(node)
    for (const room of this.#rooms.values()) this.#forgetIn(room, node)
  }

  #forgetIn (room: PresentRoom, node: string): void { if (room.forget(node)) this.#schedule(room) }
}
