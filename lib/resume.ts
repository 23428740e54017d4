import type * as api from '../types/api.ts'
import type { Backplane, Delivery, Place, Range } from '../types/backplane.ts'
import type { Connection } from './connection.ts'
import { dataOf, formatCursor, parseCursor, toEvent } from './event.ts'
import type { CheckedEvent } from './event.ts'
import { Framed } from './frame.ts'
import { find, replay } from './replay.ts'
import type { Reader, ReplayTopic } from './replay.ts'
import type { Returning } from './returning.ts'
import type { Roster } from './roster.ts'

/** What it needs from above. */
export interface ResumeHost {
  readonly counts: { resumed: number }
  /** The greatest offset this node has seen. */
  readonly offset: number
  readonly heartbeat: number
  readonly log: { error (fields: object, message: string): void }
}

/** What a live connection was not given: a topic's events after an offset, up to another that it was given by then. */
interface Missed { readonly roster: Roster<Connection>, readonly after: number, readonly until: number }

/** What a connection was given by a replay: all of these topics after an offset, up to another. */
interface Replayed { readonly rosters: ReadonlySet<Roster<Connection>>, readonly after: number, readonly until: number }

const REPLAYS = 4 // that are remembered of a connection

/** Gives connections what they missed: at a return, after a slow reader has caught up, and when asked for history. */
export class Resume implements Reader {
  readonly #backplane: Backplane
  readonly #host: ResumeHost
  // of this turn: a crowd that is replayed the same shares its frames, and what is joined of them
  readonly #placed = new Map<Delivery, Framed>()
  readonly #placeless = new Map<Delivery, Framed>()
  readonly #ready = new Map<string, Framed>()
  readonly #reads = new Map<string, Promise<Range>>()
  readonly #busy = new WeakSet<Connection>()
  readonly #missed = new WeakMap<Connection, Missed[]>()
  readonly #replayed = new WeakMap<Connection, Replayed[]>() // the rosters know nothing of it
  readonly #healing = new WeakMap<Connection, number>() // what each was given when it was found to have missed something

  constructor (backplane: Backplane, host: ResumeHost) {
    this.#backplane = backplane
    this.#host = host
  }

  /** Who asks for the same as long as nothing has come since shares one read. */
  range (topic: string, after: Place, limit: number): Promise<Range> {
    const key = `${this.#host.offset} ${JSON.stringify(after)} ${limit} ${topic}`
    const reading = this.#reads.get(key)
    if (reading !== undefined) return reading
    const read = this.#backplane.range(topic, after, limit)
    this.#reads.set(key, read)
    const forget = (): void => { this.#reads.delete(key) }
    read.then(forget, forget)
    return read
  }

  framed (delivery: Delivery, placed: boolean): Framed {
    const made = placed ? this.#placed : this.#placeless
    let framed = made.get(delivery)
    if (framed === undefined) made.set(delivery, framed = placed ? new Framed(delivery.event, delivery.offset) : (delivery.event as CheckedEvent).placeless().framed)
    return framed
  }

  /** The cursor a client has before its first event. */
  ready (offset: number, resumed: boolean): Framed {
    const id = formatCursor(this.#backplane.epoch, offset)
    const key = `${id} ${resumed}`
    let framed = this.#ready.get(key)
    if (framed === undefined) this.#ready.set(key, framed = toEvent({ event: 'ready', id, data: { resumed, heartbeat: this.#host.heartbeat } }, { maxBytes: Infinity }).framed)
    return framed
  }

  /** The turn is over. */
  forgetFrames (): void { for (const made of [this.#placed, this.#placeless, this.#ready]) if (made.size > 0) made.clear() }

  /**
   * A returning connection has joined what it joins, a reader that was too far behind has caught up, or more came than could wait:
   * it is given what it has not, and goes live. What it joins meanwhile is made up for before that.
   */
  async resume (connection: Connection): Promise<void> {
    if (this.#busy.has(connection) || (connection.kept > 0 && connection.since === Infinity)) return // it is called again when it is acknowledged
    this.#busy.add(connection)
    const { returning, hold } = connection
    const { epoch } = this.#backplane
    const isBehind = (): boolean => returning !== null && returning.late.size > 0
    let floor = 0
    try {
      do {
        for (let missed = this.#takeMissed(connection); missed.length > 0; missed = this.#takeMissed(connection)) {
          for (const { roster, after, until } of missed) await replay(connection, this, [topicOf(roster, connection)], after, (gaps) => tellAll(connection, gaps), until)
        }
        this.#healing.delete(connection) // what comes after this in its topics is given from here on
        if (returning !== null && hold.idle) await this.#makeUp(connection, returning)
        const after = connection.given
        const rosters = new Set(connection.rosters)
        floor = await replay(connection, this, topicsOf(connection), after, (gaps) => this.#begun(connection, gaps))
        if (floor > after) this.#replayed.set(connection, [...this.#replayed.get(connection) ?? [], { rosters, after, until: floor }].slice(-REPLAYS))
      } while (isBehind() && hold.idle && connection.held)
    } catch (err) {
      this.#host.log.error({ err }, 'the history could not be read')
      floor = this.#giveUp(connection)
    }
    this.#busy.delete(connection) // no await from here on: who joins now begins anew
    if (epoch !== this.#backplane.epoch) floor = this.#begin(connection)
    if (!isBehind()) connection.goLive(floor) // else when that is acknowledged
  }

  /** An event of a topic did not reach this node: its members are given it from the log, with one read for all. */
  missed (roster: Roster<Connection>, after: number): void {
    for (const connection of roster.members) {
      const { given, mode } = connection
      const from = Math.max(after, beginningOf(connection))
      connection.holdAgain()
      connection.hold.missed = true
      if (mode !== connection.mode) this.#healing.set(connection, given)
      const until = this.#healing.get(connection)
      if (until !== undefined) {
        const missed = this.#without(connection, { roster, after: from, until })
        if (missed.length > 0) this.#missed.set(connection, [...this.#takeMissed(connection), ...missed])
        if (mode !== connection.mode) queueMicrotask(() => { void this.resume(connection) }) // others may be found to miss something in this turn
      } else if (from < given) {
        connection.tellGap({ reason: 'unknown' }) // it may have been given it by a replay: nobody can tell
      }
    }
  }

  /** What is left of it when what replays have given is not given again. */
  #without (connection: Connection, missed: Missed): Missed[] {
    let left = [missed]
    for (const { rosters, after, until } of this.#replayed.get(connection) ?? []) {
      if (!rosters.has(missed.roster)) continue
      left = left.flatMap((one) => [{ ...one, until: Math.min(one.until, after) }, { ...one, after: Math.max(one.after, until) }])
    }
    return left.filter((one) => one.after < one.until)
  }

  #takeMissed (connection: Connection): Missed[] {
    const missed = this.#missed.get(connection) ?? []
    this.#missed.delete(connection)
    return missed
  }

  /**
   * Finds the place a client left off at. What it joins after that was found is replayed by itself, from that place up to where
   * it is.
   */
  async #makeUp (connection: Connection, returning: Returning<Roster<Connection>>): Promise<void> {
    const topics = returning.take(({ members }) => members.has(connection)).map((roster) => topicOf(roster, connection))
    if (topics.length === 0) return
    const found = await this.#locate(connection.lastEventId as string, topics)
    if (!connection.held) return
    const place = typeof found === 'number' ? found : Infinity
    if (returning.place === undefined) {
      returning.place = place
      connection.position = place === Infinity ? connection.since : place
      if (typeof found !== 'number') { // nothing to start from: it is live from where it joined
        connection.tellReady(this.ready(connection.since, false))
        connection.tellGap({ reason: found })
      }
      return
    }
    const after = Math.min(place, returning.place)
    const until = connection.given
    if (after < until) await replay(connection, this, topics, after, (gaps) => tellAll(connection, gaps), until)
    else if (after === Infinity) tellAll(connection, topics.map(({ room }) => gapOf(found as 'epoch' | 'unknown', room)))
  }

  #begun (connection: Connection, gaps: api.Gap[]): void {
    if (connection.returning?.place !== undefined && !connection.told) {
      if (gaps.length === 0) this.#host.counts.resumed++
      connection.tellReady(this.ready(connection.returning.place, gaps.length === 0))
    }
    tellAll(connection, gaps)
  }

  // what cannot be read cannot be proven complete
  #giveUp (connection: Connection): number {
    const { returning, hold, since, given } = connection
    if (!connection.held) return 0
    if (returning !== null) {
      returning.place ??= Infinity
      returning.late.clear()
      connection.tellReady(this.ready(since, false))
    }
    connection.tellGap({ reason: 'unknown' })
    hold.missed = false
    return given
  }

  /** The sequence is another one: places in the old one mean nothing. */
  reset (connection: Connection): void {
    const { returning, since } = connection
    this.#begin(connection)
    if (since !== Infinity) connection.since = 0
    if (returning?.place !== undefined) {
      returning.place = Infinity
      connection.tellReady(this.ready(0, false))
    }
    if (connection.told) connection.tellGap({ reason: 'epoch' })
  }

  /** It stands at the beginning of the sequence. */
  #begin (connection: Connection): number {
    this.#replayed.delete(connection)
    connection.host.outbox.write(connection)
    connection.floor = connection.position = 0
    return 0
  }

  async #locate (id: string, topics: ReplayTopic[]): Promise<number | 'epoch' | 'unknown'> {
    const cursor = parseCursor(id)
    if (cursor?.epoch === this.#backplane.epoch) return await this.#isPast(cursor.offset, topics) ? cursor.offset : 'unknown'
    const found = await find(this, topics, id)
    return found !== -1 ? found : cursor === null ? 'unknown' : 'epoch'
  }

  async #isPast (offset: number, topics: ReplayTopic[]): Promise<boolean> {
    if (offset <= this.#host.offset) return true
    const { top } = await this.range((topics[0] as ReplayTopic).topic, offset, 1)
    return offset <= top
  }

  async history (topic: string, after: string | undefined, limit: number, kept: boolean): Promise<api.HistoryPage> {
    const cursor = after === undefined ? null : parseCursor(after)
    const place: Place = after === undefined ? null : cursor?.epoch === this.#backplane.epoch ? cursor.offset : { id: after }
    try {
      const { deliveries, complete, more, from, top } = await this.range(topic, place, limit)
      return { events: deliveries.map(({ event }) => historyEvent(event, event.cursor)), complete: kept && complete && !more && from <= top }
    } catch (err) {
      this.#host.log.error({ err, topic }, 'the history could not be read')
      return { events: [], complete: false }
    }
  }
}

function tellAll (connection: Connection, gaps: api.Gap[]): void {
  for (const gap of gaps) connection.tellGap(gap)
}

function gapOf (reason: api.Gap['reason'], room: string | undefined): api.Gap { return room === undefined ? { reason } : { reason, room } }

/** Where the client came in: what was before it is not for it, or it has had it. */
function beginningOf ({ returning, since }: Connection): number {
  const place = returning?.place
  return place === undefined || place === Infinity ? since : place
}

/** What a connection is replayed: all it is in, but what has still to be made up for. */
function topicsOf (connection: Connection): ReplayTopic[] {
  const { rosters, returning } = connection
  return [...rosters].filter((roster) => roster.kept && returning?.late.has(roster) !== true).map((roster) => topicOf(roster, connection))
}

function topicOf ({ topic, name, members }: Roster<Connection>, connection: Connection): ReplayTopic {
  return { topic, room: topic.startsWith('room/') ? name : undefined, get left () { return !members.has(connection) } }
}

/** An event as `room.history()` and `deliver` show it. */
export function historyEvent (event: Delivery['event'], cursor: string | undefined): api.HistoryEvent {
  const shown: api.HistoryEvent = { id: event.id ?? cursor ?? '', data: dataOf(event) }
  if (event.event !== undefined) shown.event = event.event
  return shown
}
