import { headers } from '@nats-io/transport-node'
import type { Msg, MsgHdrs } from '@nats-io/transport-node'
import { createHash } from 'node:crypto'
import type { Kept, Node, Parcel, Publication } from '../../types/backplane.ts'
import { BackplaneError } from '../errors.ts'
import { encodeParcel } from '../parcel.ts'
import type { Link } from './nats-link.ts'
import type { NatsSettings } from './nats-options.ts'
import { acknowledgement, ID } from './nats-stream.ts'

/** What what goes out needs from above. */
export interface OutgoingHost {
  readonly log: Node['log']
  readonly epoch: string
  /** The server is not there, or has not said yet what the sequence is. */
  readonly away: boolean
  /** Nobody takes what is kept in this epoch. */
  unheard (): void
  /** Resolves when what was kept there has been delivered here. */
  delivered (token: string, offset: number): Promise<void>
  /** Resolves when what is not kept and has come back until now has been delivered here. */
  passed (): Promise<void>
  /** Whether a kept event is the one that was sent here with this number. */
  isOwn (offset: number, number: number): Promise<boolean>
}

/** On its way to the server, until that has taken it. */
export interface Outgoing {
  readonly number: number
  readonly topic: string
  readonly token: string
  readonly parcel: Parcel
  readonly payload: Uint8Array
  readonly headers: MsgHdrs
  readonly kept: boolean
  readonly once: boolean
  readonly deadline: number
  tries: number
  sentAt: number
  /** The sequence for which it was sent last; empty before. */
  epoch: string
  /** It was sent and may have been kept, though nobody says so. */
  inDoubt: boolean
  /** It has to be sent, or sent again. */
  due: boolean
  taken: number
  settle (publication: Publication): void
}

const PATIENCE = 750 // with an acknowledgement
const OVERHEAD = 256 // what one weighs beside its payload
export const KEEP = 'Real-Keep'
const refused: Publication = Object.freeze({ accepted: false, offset: 0, duplicate: false })

/** What has been sent and is not acknowledged, bounded in bytes and in time. What is lost on the way is sent again: the server knows it by its id. */
export class Outbound {
  readonly #host: OutgoingHost
  readonly #link: Link
  readonly #settings: NatsSettings
  readonly #waiting = new Map<number, Outgoing>() // oldest first
  #count = 0
  #bytes = 0
  #isFull = false
  #isRetrying = false

  constructor (host: OutgoingHost, link: Link, settings: NatsSettings) {
    this.#host = host
    this.#link = link
    this.#settings = settings
  }

  get (number: number): Outgoing | undefined { return this.#waiting.get(number) }

  send (topic: string, token: string, parcel: Parcel, keep: Kept | null, once: boolean): Promise<Publication> {
    const { away, log } = this.#host
    if (away && this.#settings.whenAway === 'refuse') return Promise.resolve(refused)
    const number = ++this.#count
    const payload = encodeParcel(parcel, { from: this.#link.instance, count: number })
    if (payload.length + OVERHEAD > this.#link.maxPayload) throw new BackplaneError(`an event has ${payload.length} bytes on its way, more than the max_payload of the server (${this.#link.maxPayload})`)
    if (this.#waiting.size > 0 && this.#bytes + payload.length + OVERHEAD > this.#settings.maxPending) {
      if (!this.#isFull) log.warn({ bytes: this.#bytes }, 'too much waits for NATS already, so events are refused')
      this.#isFull = true
      return Promise.resolve(refused)
    }
    return new Promise((resolve) => {
      const deadline = performance.now() + this.#settings.timeout
      const one: Outgoing = {
        number,
        topic,
        token,
        parcel,
        payload,
        headers: headers(),
        kept: keep !== null,
        once,
        deadline,
        tries: 0,
        sentAt: 0,
        epoch: '',
        inDoubt: false,
        due: true,
        taken: 0,
        settle: (publication) => { if (this.#forget(one)) resolve(publication) }
      }
      if (keep !== null) {
        one.headers.set(ID, once ? keyOf(topic, parcel.event.id as string) : `${this.#link.instance}.${number}`)
        one.headers.set(KEEP, `${keep.events},${keep.bytes},${keep.age}`)
      }
      this.#waiting.set(number, one)
      this.#bytes += payload.length + OVERHEAD
      if (!away) this.#go(one)
    })
  }

  #forget ({ number, payload }: Outgoing): boolean {
    if (!this.#waiting.delete(number)) return false
    this.#bytes -= payload.length + OVERHEAD
    if (this.#bytes < this.#settings.maxPending / 2) this.#isFull = false
    return true
  }

  #go (one: Outgoing): void {
    const { subjects } = this.#link
    const { epoch } = this.#host
    if (one.inDoubt && one.epoch !== epoch) { // it may have been delivered before the sequence began anew
      this.#host.log.warn({ topic: one.topic }, 'what became of an event is not known, so it is refused')
      return one.settle(refused)
    }
    one.epoch = epoch
    one.due = false
    one.tries++
    one.sentAt = performance.now()
    try {
      if (one.kept) this.#link.send(subjects.kept(epoch, one.token), one.payload, one.headers, one.number)
      else this.#link.send(subjects.unkept(one.token), one.payload, one.headers)
    } catch (err) {
      this.#host.log.error({ err, topic: one.topic }, 'NATS did not take an event')
      return one.settle(refused)
    }
    // what is not kept is never sent twice; it has come back here before the server answers the flush
    if (!one.kept) this.#link.flush().then(() => this.#host.passed()).then(() => one.settle({ accepted: true, offset: 0, duplicate: false }), () => one.settle(refused))
  }

  /** The connection is lost: nobody knows which of them arrived. */
  lost (): void {
    for (const one of this.#waiting.values()) {
      if (!one.kept || one.taken > 0) continue
      one.inDoubt ||= !one.due
      one.due = true
    }
  }

  /** The server is back: what has to be sent goes out, in its order. */
  resend (): void { for (const one of [...this.#waiting.values()]) if (one.due) this.#go(one) }

  answered (number: number, msg: Msg): void {
    const one = this.#waiting.get(number)
    if (one === undefined || one.taken > 0) return
    try {
      const taken = acknowledgement(msg)
      if (taken !== null) {
        if (taken.offset > 0) void this.#taken(one, taken.offset, taken.duplicate) // else it was sent twice and is being kept
      } else {
        one.due = true
        this.#host.unheard()
      }
    } catch (err) {
      this.#host.log.error({ err, topic: one.topic }, 'an event was not kept')
      one.settle(refused)
    }
  }

  /** A kept event has come back before the server acknowledged it, or though its acknowledgement was lost. */
  seen (number: number, offset: number): void {
    const one = this.#waiting.get(number)
    if (one !== undefined && one.kept && one.taken === 0) void this.#taken(one, offset, false)
  }

  async #taken (one: Outgoing, offset: number, duplicate: boolean): Promise<void> {
    one.taken = offset
    one.due = false
    if (duplicate && one.once) {
      const isOwn = one.tries > 1 && await this.#host.isOwn(offset, one.number).catch(() => false)
      if (!isOwn) return one.settle({ accepted: true, offset: this.#placeOf(one), duplicate: true })
    }
    if (this.#placeOf(one) > 0) await this.#host.delivered(one.token, offset)
    one.settle({ accepted: true, offset: this.#placeOf(one), duplicate: false })
  }

  // it has none in another sequence than that for which it was sent
  #placeOf ({ epoch, taken }: Outgoing): number { return epoch === this.#host.epoch ? taken : 0 }

  /** What has waited too long is refused: it may still arrive, once. */
  expire (now: number): void {
    let late = 0
    for (const one of this.#waiting.values()) {
      if (one.deadline > now) break
      if (one.taken === 0) late++
      one.settle({ accepted: one.taken > 0, offset: this.#placeOf(one), duplicate: false })
    }
    if (late > 0) this.#host.log.warn({ events: late }, 'NATS did not acknowledge events in time')
  }

  /** What a server that is there has not acknowledged may have come to nobody, as when a cluster has lost its leader: it is sent again. */
  retry (now: number): void {
    const isStalled = ({ kept, taken, due, sentAt }: Outgoing): boolean => kept && taken === 0 && !due && now - sentAt >= PATIENCE
    if (this.#isRetrying || ![...this.#waiting.values()].some(isStalled)) return
    this.#isRetrying = true
    const done = (): void => { this.#isRetrying = false }
    this.#link.flush().then(() => {
      for (const one of [...this.#waiting.values()].filter(isStalled)) {
        one.inDoubt = true
        this.#go(one)
      }
    }).then(done, done)
  }

  close (): void { for (const one of this.#waiting.values()) one.settle(refused) }
}

// the topic's name cannot run into the id: its length is told
function keyOf (topic: string, id: string): string {
  return createHash('sha256').update(`${topic.length} ${topic}${id}`).digest('base64url')
}

/** What is kept of a topic, as its last event says. */
export function keepOf (header: string | undefined, fallback: Kept): Kept {
  const [events, bytes, age, more] = (header ?? '').split(',').map(Number)
  const all = [events, bytes, age]
  return more === undefined && all.every((bound) => Number.isSafeInteger(bound) && bound as number > 0) ? { events: events as number, bytes: bytes as number, age: age as number } : fallback
}
