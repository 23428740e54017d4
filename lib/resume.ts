import type * as api from '../types/api.ts'
import type { Backplane, Delivery, Place } from '../types/backplane.ts'
import type { Connection } from './connection.ts'
import { dataOf, parseCursor } from './event.ts'
import * as joins from './joins.ts'
import type { Join } from './joins.ts'
import { Ledger } from './ledger.ts'
import { LogReader } from './log-reader.ts'
import type { LogReaderHost } from './log-reader.ts'
import { find, replay } from './replay.ts'
import type { ReplayTopic } from './replay.ts'
import type { Returning } from './returning.ts'
import type { Reached, Roster } from './roster.ts'

/** What it needs from above. */
export interface ResumeHost extends LogReaderHost {
  readonly counts: { resumed: number }
  readonly log: { error (fields: object, message: string): void }
}

/** One of a connection's topics. */
class Topic implements ReplayTopic {
  readonly roster: Roster<Connection>
  readonly start: number
  gave = 0
  readonly #connection: Connection

  constructor (roster: Roster<Connection>, connection: Connection, start: number = 0) {
    this.roster = roster
    this.start = start
    this.#connection = connection
  }

  get room (): string | undefined { return nameOf(this.roster) }
  get left (): boolean { return !this.roster.members.has(this.#connection) }
}

/** Gives connections what they missed: at a return, after a slow reader has caught up, and when asked for history. */
export class Resume {
  readonly #backplane: Backplane
  readonly #host: ResumeHost
  readonly #reader: LogReader
  readonly #ledgers = new WeakMap<Connection, Ledger>()

  constructor (backplane: Backplane, host: ResumeHost) {
    this.#backplane = backplane
    this.#host = host
    this.#reader = new LogReader(backplane, host)
  }

  /** The turn is over. */
  forgetFrames (): void { this.#reader.forgetFrames() }

  #ledgerOf (connection: Connection): Ledger {
    let ledger = this.#ledgers.get(connection)
    if (ledger === undefined) this.#ledgers.set(connection, ledger = new Ledger())
    return ledger
  }

  /**
   * A returning connection has joined what it joins, a reader that was too far behind has caught up, or more came than could wait:
   * it is given what it has not, and goes live. What it joins meanwhile is made up for before that.
   */
  async resume (connection: Connection): Promise<void> {
    const ledger = this.#ledgerOf(connection)
    if (ledger.busy || (connection.kept > 0 && connection.since === Infinity)) return // it is called again when it is acknowledged
    ledger.busy = true
    this.#note(connection)
    const { returning, hold } = connection
    const isBehind = (): boolean => returning !== null && returning.late.size > 0
    let floor = 0
    let resets: number
    try {
      do {
        resets = this.#reader.resets
        while (ledger.isOpen) await this.#settle(connection, ledger)
        if (returning !== null && hold.idle) await this.#makeUp(connection, returning)
        const after = connection.given
        const topics = topicsOf(connection, ledger)
        ledger.give(topics, after)
        floor = await replay(connection, this.#reader, topics, after, (gaps) => this.#begun(connection, gaps), { stops: () => ledger.isOpen })
        ledger.gave(floor)
      } while (connection.held && (ledger.isOpen || resets !== this.#reader.resets || (isBehind() && hold.idle)))
    } catch (err) {
      this.#host.log.error({ err }, 'the history could not be read')
      floor = this.#giveUp(connection)
      ledger.giveUp(floor)
    }
    ledger.busy = false // no await from here on: who joins now begins anew
    if (!isBehind()) connection.goLive(floor) // else when that is acknowledged
    if (connection.held) return
    ledger.live(connection.position) // of what waits to be written some may be dropped
    if (ledger.isEmpty) this.#ledgers.delete(connection)
  }

  /** What it joined while it was not live, and what this node was not given. */
  async #settle (connection: Connection, ledger: Ledger): Promise<void> {
    const { resets } = this.#reader
    for (const { roster, offset, subscribed, gave } of ledger.takeJoining()) {
      const reached = await subscribed.catch(() => null)
      if (resets !== this.#reader.resets) return
      if (reached === null) continue
      const after = Math.max(offset, reached)
      ledger.begin(roster, after, connection.rosters)
      ledger.lack({ roster, after: Math.max(after, gave), until: connection.given })
    }
    const lack = ledger.takeLack() // one by one: what is found missing meanwhile may be of the same
    if (lack === undefined) return
    const { roster, after, until, isDoubtful } = lack
    if (!isDoubtful) await this.#giveUntil(connection, [new Topic(roster as Roster<Connection>, connection)], after, until)
    else if (!await this.#isNothing(roster.topic, after, until)) connection.tellGap(gapOf('unknown', nameOf(roster)))
  }

  async #giveUntil (connection: Connection, topics: ReplayTopic[], after: number, until: number): Promise<void> {
    this.#ledgerOf(connection).give(topics, after, until)
    await replay(connection, this.#reader, topics, after, (gaps) => tellAll(connection, gaps), { until })
  }

  /** The log had nothing there. */
  async #isNothing (topic: string, after: number, until: number): Promise<boolean> {
    const { deliveries: [first], complete } = await this.#reader.range(topic, after, 1)
    return complete && (first === undefined || first.offset > until)
  }

  /** It joins them at this offset, or at that of their acknowledgement. Gives what `joined` is to be told. */
  joining (connection: Connection, rosters: Array<Roster<Connection>>, offset: number): Join {
    const join = joins.begin(connection, rosters, offset, this.#reader.resets)
    if (this.#ledgers.get(connection)?.busy === true || (!connection.released && connection.since !== Infinity)) this.#note(connection)
    return join
  }

  /** They are acknowledged, or never will be. */
  joined (connection: Connection, join: Join, reached: Reached, isAcknowledged: boolean): void {
    const { topics } = join
    joins.end(connection, join)
    const isSame = join.resets === this.#reader.resets
    const place = isSame ? reached : { earliest: 0, latest: 0 } // it was a place in another sequence; of this one all comes
    const { position, since, returning, wire, rosters } = connection
    const isIn = topics.some(({ roster }) => roster.members.has(connection))
    const isPlaced = connection.isCurrent || (since === Infinity && !wire.bare) // it is given all after the place it is told, or has now
    for (const { roster, offset } of isIn && isSame && !isPlaced && returning === null ? topics : []) {
      const start = Math.max(offset, roster.start)
      if (start > position) this.#ledgerOf(connection).begin(roster, start, rosters)
    }
    connection.joined(isIn, place, (from) => this.#reader.ready(from, false))
    if (isIn && !isAcknowledged) connection.tellGap({ reason: 'unknown' })
  }

  /** What it is joining it is in from its acknowledgement on. */
  #note (connection: Connection): void {
    if (connection.returning !== null) return
    for (const topic of joins.of(connection)) this.#ledgerOf(connection).join(topic, connection.rosters)
  }

  /** It is live no longer. */
  paused (connection: Connection): void {
    joins.gave(connection)
    this.#note(connection)
  }

  /** An event of a topic did not reach this node: its members are given it from the log, with one read for all. */
  missed (roster: Roster<Connection>, after: number): void {
    for (const connection of roster.members) {
      const { given, mode } = connection
      const ledger = this.#ledgerOf(connection)
      connection.holdAgain()
      connection.hold.missed = true
      if (mode !== connection.mode) {
        this.paused(connection)
        queueMicrotask(() => { void this.resume(connection) }) // others may be found to miss something in this turn
      }
      if (ledger.isJoining(roster) || connection.returning?.late.has(roster) === true) continue // it is given all since it joined
      const first = Math.max(after, beginningOf(connection), ledger.startOf(roster))
      ledger.lack({ roster, after: first, until: given })
    }
  }

  /**
   * Finds the place a client left off at. What it joins after that was found is replayed by itself, from that place up to where
   * it is.
   */
  async #makeUp (connection: Connection, returning: Returning<Roster<Connection>>): Promise<void> {
    const topics = returning.take(({ members }) => members.has(connection)).map((roster) => new Topic(roster, connection))
    if (topics.length === 0) return
    let found: number | 'epoch' | 'unknown'
    let resets: number
    do {
      resets = this.#reader.resets
      found = await this.#locate(connection.lastEventId as string, topics)
    } while (resets !== this.#reader.resets) // it was a place in another sequence
    if (!connection.held) return
    const place = typeof found === 'number' ? found : Infinity
    if (returning.place === undefined) {
      returning.place = place
      connection.position = place === Infinity ? connection.since : place
      if (typeof found !== 'number') { // nothing to start from: it is live from where it joined
        connection.tellReady(this.#reader.ready(connection.since, false))
        connection.tellGap({ reason: found })
      }
      return
    }
    const after = Math.min(place, returning.place)
    const until = connection.given
    if (after < until) await this.#giveUntil(connection, topics, after, until)
    else if (after === Infinity) tellAll(connection, topics.map(({ room }) => gapOf(found as 'epoch' | 'unknown', room)))
  }

  #begun (connection: Connection, gaps: api.Gap[]): void {
    if (connection.returning?.place !== undefined && !connection.told) {
      if (gaps.length === 0) this.#host.counts.resumed++
      connection.tellReady(this.#reader.ready(connection.returning.place, gaps.length === 0))
    }
    tellAll(connection, gaps)
  }

  // what cannot be read cannot be proven complete
  #giveUp (connection: Connection): number {
    const { returning, hold, since } = connection
    if (!connection.held) return 0
    if (returning !== null) {
      if (returning.place === undefined) { // this node may be behind what the client has had
        const cursor = parseCursor(connection.lastEventId as string)
        const isOfThis = cursor?.epoch === this.#backplane.epoch
        returning.place = isOfThis ? cursor.offset : Infinity
        connection.position = isOfThis ? cursor.offset : since
      }
      returning.late.clear()
      connection.tellReady(this.#reader.ready(connection.position, false))
    }
    connection.tellGap({ reason: 'unknown' })
    hold.missed = false
    return connection.given
  }

  /** The sequence is another one: places in the old one mean nothing. */
  reset (connection: Connection): void {
    const { returning } = connection
    this.#reader.resets++
    this.#ledgers.get(connection)?.clear()
    joins.forget(connection)
    connection.reset()
    if (returning?.place !== undefined) {
      returning.place = Infinity
      connection.tellReady(this.#reader.ready(0, false))
    }
    if (connection.told) connection.tellGap({ reason: 'epoch' })
  }

  async #locate (id: string, topics: ReplayTopic[]): Promise<number | 'epoch' | 'unknown'> {
    const cursor = parseCursor(id)
    if (cursor?.epoch === this.#backplane.epoch) return await this.#isPast(cursor.offset, topics) ? cursor.offset : 'unknown'
    const found = await find(this.#reader, topics, id)
    return found !== -1 ? found : cursor === null ? 'unknown' : 'epoch'
  }

  async #isPast (offset: number, topics: ReplayTopic[]): Promise<boolean> {
    if (offset <= this.#host.offset) return true
    const { top } = await this.#reader.range((topics[0] as ReplayTopic).roster.topic, offset, 1)
    return offset <= top
  }

  async history (topic: string, after: string | undefined, limit: number, kept: boolean): Promise<api.HistoryPage> {
    const cursor = after === undefined ? null : parseCursor(after)
    const place: Place = after === undefined ? null : cursor?.epoch === this.#backplane.epoch ? cursor.offset : { id: after }
    try {
      const { deliveries, complete, more, from, top } = await this.#reader.range(topic, place, limit)
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
function topicsOf (connection: Connection, ledger: Ledger): ReplayTopic[] {
  const { rosters, returning } = connection
  return [...rosters].filter((roster) => roster.kept && returning?.late.has(roster) !== true).map((roster) => new Topic(roster, connection, ledger.startOf(roster)))
}

function nameOf ({ name, isRoom }: Pick<Roster, 'name' | 'isRoom'>): string | undefined { return isRoom ? name : undefined }

/** An event as `room.history()` and `deliver` show it. */
export function historyEvent (event: Delivery['event'], cursor: string | undefined): api.HistoryEvent {
  const shown: api.HistoryEvent = { id: event.id ?? cursor ?? '', data: dataOf(event) }
  if (event.event !== undefined) shown.event = event.event
  return shown
}
