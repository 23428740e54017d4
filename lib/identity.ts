import type { FastifyRequest } from 'fastify'
import type { Identity } from '../types/api.ts'
import { checkRoomName, isThenable } from './arguments.ts'
import { ArgumentError } from './errors.ts'

/** A user, and milliseconds since 1970 after which its right ends; 0: never. */
export interface Identified { readonly user: string | null, readonly expires: number }

const kKnown = Symbol('fastify-real.identity') // not a WeakMap: the garbage collector looks at each entry of one each time it runs

interface Known extends FastifyRequest { [kKnown]?: Identified | Promise<Identified> }

const nobody: Identified = Object.freeze({ user: null, expires: 0 })

/** Asks the application who a request is, once. Once the server stops it is nobody, as there is no room for anybody: an answer that does not come would keep it open. */
export class Identities {
  readonly #ask: ((request: FastifyRequest) => Identity | Promise<Identity>) | null
  readonly #waiting = new Set<(identified: Identified) => void>()
  #stopped = false

  constructor (ask: ((request: FastifyRequest) => Identity | Promise<Identity>) | null) { this.#ask = ask }

  of (request: Known): Identified | Promise<Identified> {
    if (this.#ask === null) return nobody
    const known = request[kKnown]
    if (known !== undefined) return known
    if (this.#stopped) return nobody
    const said = this.#ask(request) as Identity | PromiseLike<Identity>
    const identified = isThenable<Identity>(said) ? this.#wait(said) : check(said)
    request[kKnown] = identified
    if (identified instanceof Promise) identified.then((late) => { request[kKnown] = late }, () => {})
    return identified
  }

  #wait (said: PromiseLike<Identity>): Promise<Identified> {
    return new Promise((resolve, reject) => {
      this.#waiting.add(resolve)
      const forget = (): boolean => this.#waiting.delete(resolve)
      Promise.resolve(said).then(check).then(resolve, reject).then(forget, forget)
    })
  }

  stop (): void {
    this.#stopped = true
    for (const resolve of this.#waiting) resolve(nobody)
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
