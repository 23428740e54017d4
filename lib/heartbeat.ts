import type { CloseReason } from '../types/transport.ts'
import * as reasons from './close-reasons.ts'

const MAX_STEP = 250

/** Who is looked at. What happens is dated in steps, at the cost of one store. */
export interface Beating {
  wroteAt: number
  pingedAt: number
  /** 0: never. */
  readonly endsAt: number
  /** In steps; 0 is off. */
  readonly inactivity: number
  /** Milliseconds since 1970; 0: never. */
  readonly expires: number
  readonly wire: { readonly pingWhenSilent: boolean, readonly missed: number, ping (): void, terminate (): void }
  end (reason: CloseReason): void
  closed (reason: CloseReason, clean: boolean): void
}

/** One timer for all connections: signs of life, ages, silences, ends of rights. It runs while there are any. */
export class Heartbeat {
  /** How many steps were made. */
  tick = 0
  /** Milliseconds of one step. */
  readonly step: number
  readonly #interval: number
  readonly #members: () => Iterable<Beating>
  #timer: NodeJS.Timeout | null = null

  constructor (interval: number, members: () => Iterable<Beating>) {
    this.step = interval === 0 ? MAX_STEP : Math.max(5, Math.min(MAX_STEP, Math.floor(interval / 8)))
    this.#interval = interval === 0 ? 0 : Math.max(1, Math.floor(interval / this.step))
    this.#members = members
  }

  /** After how many steps so many milliseconds are over for certain; 0 for off. */
  steps (milliseconds: number): number {
    return milliseconds === 0 ? 0 : Math.ceil(milliseconds / this.step) + 1 // the step that is under way may end at once
  }

  start (): void {
    this.#timer ??= setInterval(() => this.#beat(), this.step).unref()
  }

  stop (): void {
    if (this.#timer !== null) clearInterval(this.#timer)
    this.#timer = null
  }

  #beat (): void {
    const tick = ++this.tick
    const soon = Date.now() + this.step // a right that would end before the next step ends now
    for (const member of this.#members()) {
      if (member.endsAt !== 0 && tick >= member.endsAt) member.end(reasons.age)
      else if (member.inactivity !== 0 && tick - member.wroteAt >= member.inactivity) member.end(reasons.inactive)
      else if (member.expires !== 0 && member.expires <= soon) member.end(reasons.expired)
      else if (this.#interval !== 0) this.#sign(member, tick)
    }
  }

  #sign (member: Beating, tick: number): void {
    const { wire } = member
    // counted in steps, never by time: a loop that stood still makes one step, and must not take the living for lost
    if (wire.missed >= 2 && (tick - member.pingedAt) * 2 >= this.#interval) {
      wire.terminate()
      return member.closed(reasons.lost, false)
    }
    const last = wire.pingWhenSilent ? Math.max(member.wroteAt, member.pingedAt) : member.pingedAt
    if (tick - last < this.#interval) return
    member.pingedAt = tick
    wire.ping()
  }
}
