import type { FastifyRequest } from 'fastify'
import type { Identity } from '../types/api.ts'
import { checkRoomName, isThenable } from './arguments.ts'
import { ArgumentError } from './errors.ts'

/** A user, and milliseconds since 1970 after which its right ends; 0: never. */
export interface Identified { readonly user: string | null, readonly expires: number }

const nobody: Identified = Object.freeze({ user: null, expires: 0 })

/** Asks the application who a request is, once. */
export class Identities {
  readonly #ask: ((request: FastifyRequest) => Identity | Promise<Identity>) | null
  readonly #known = new WeakMap<FastifyRequest, Identified | Promise<Identified>>()

  constructor (ask: ((request: FastifyRequest) => Identity | Promise<Identity>) | null) { this.#ask = ask }

  of (request: FastifyRequest): Identified | Promise<Identified> {
    if (this.#ask === null) return nobody
    const known = this.#known.get(request)
    if (known !== undefined) return known
    const said = this.#ask(request) as Identity | PromiseLike<Identity>
    const identified = isThenable<Identity>(said) ? Promise.resolve(said).then(check) : check(said)
    this.#known.set(request, identified)
    if (identified instanceof Promise) identified.then((late) => this.#known.set(request, late), () => {})
    return identified
  }
}

function check (said: Identity): Identified {
  if (said === null || said === undefined) return nobody
  if (typeof said === 'string') return { user: checkRoomName(said), expires: 0 }
  if (typeof said !== 'object') throw new ArgumentError('identify', 'must give a user id (a string), { id, expires } or nothing')
  const { expires: given = 0 } = said
  const expires = typeof given === 'number' || given instanceof Date ? Number(given) : NaN
  if (Number.isNaN(expires)) throw new ArgumentError('identify', 'must give expires as milliseconds since 1970 or a Date')
  return { user: checkRoomName(said.id), expires }
}
