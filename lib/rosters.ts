import type * as api from '../types/api.ts'
import type { Kept } from '../types/backplane.ts'
import type { Connection } from './connection.ts'
import { Roster } from './roster.ts'
import type { Reached } from './roster.ts'

/** What the rosters need from above. */
export interface RostersHost {
  keep (topic: string): Kept | null
  subscribe (topic: string): Promise<number>
  unsubscribe (topic: string): void
  emit<Name extends 'join' | 'leave' | 'room' | 'empty'> (name: Name, ...args: api.RegistryEvents[Name]): void
}

/** A roster a connection entered, and whether it was not in it before. */
export interface Entered { readonly roster: Roster<Connection>, readonly isNew: boolean }

/** Who is in which topic on this node. Membership changes in one tick; a topic is here exactly while it has members. */
export class Rosters {
  readonly #rosters = new Map<string, Roster<Connection>>()
  readonly #host: RostersHost
  #rooms = 0

  constructor (host: RostersHost) { this.#host = host }

  get roomCount (): number { return this.#rooms }

  get (topic: string): Roster<Connection> | undefined { return this.#rosters.get(topic) }

  * roomNames (): Iterable<string> {
    for (const { isRoom, name } of this.#rosters.values()) if (isRoom) yield name
  }

  enter (connection: Connection, topic: string, name: string): Entered {
    let roster = this.#rosters.get(topic)
    if (roster === undefined) {
      roster = new Roster(topic, name, this.#host.keep(topic) !== null)
      this.#rosters.set(topic, roster)
      if (roster.isRoom) {
        this.#rooms++
        this.#host.emit('room', name)
      }
    }
    if (roster.subscribed === null) this.#subscribe(roster)
    const isNew = roster.members.add(connection)
    if (isNew) {
      connection.rosters = roster.after(connection.rosters)
      if (roster.kept) connection.kept++
      if (roster.isRoom) {
        connection.roomNames?.add(name)
        this.#host.emit('join', connection, name)
      }
    }
    return { roster, isNew }
  }

  exit (connection: Connection, roster: Roster<Connection>): void {
    if (!roster.members.delete(connection)) return
    connection.rosters = connection.rosters.filter((other) => other !== roster)
    if (roster.kept) connection.kept--
    const { isRoom } = roster
    const isEmpty = roster.members.size === 0
    if (isEmpty) {
      roster.forget()
      this.#rosters.delete(roster.topic)
      this.#host.unsubscribe(roster.topic)
      if (isRoom) this.#rooms--
    }
    if (!isRoom) return
    connection.roomNames?.delete(roster.name)
    this.#host.emit('leave', connection, roster.name)
    if (isEmpty) this.#host.emit('empty', roster.name)
  }

  /** The sequence is another one, and everything of it is delivered where that was acknowledged. */
  reset (): void {
    for (const roster of this.#rosters.values()) {
      if (roster.last === Infinity) continue // it is still to be acknowledged, in this one
      roster.last = roster.start = 0
      if (roster.subscribed !== null) roster.subscribed = Promise.resolve(0)
    }
  }

  // whoever joins is told when it fails; the next to join tries again
  #subscribe (roster: Roster<Connection>): void {
    roster.subscribed = this.#host.subscribe(roster.topic)
    roster.subscribed.then((offset) => {
      roster.start = offset
      if (roster.last === Infinity) roster.last = offset
    }, () => { roster.subscribed = null })
  }
}

/** Those that are kept, and were not entered before. */
export function keptOf (entered: Entered[]): Array<Roster<Connection>> {
  const [first] = entered
  if (first !== undefined && entered.length === 1) return first.isNew && first.roster.kept ? [first.roster] : [] // an array that grows would have room for 17
  return entered.filter(({ roster, isNew }) => roster.kept && isNew).map(({ roster }) => roster)
}

/** Resolves when all of them are acknowledged; what was there before this offset is known. */
export async function acknowledged (entered: Entered[], known: number): Promise<Reached> {
  const [first] = entered as [Entered, ...Entered[]]
  const offsets = entered.length === 1 ? [await first.roster.subscribed as number] : await Promise.all(entered.map(({ roster }) => roster.subscribed as Promise<number>))
  return { earliest: Math.max(known, Math.min(...offsets)), latest: Math.max(known, ...offsets) }
}
