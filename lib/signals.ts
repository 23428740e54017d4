import { EventEmitter } from 'node:events'
import type { RegistryEvents } from '../types/api.ts'
import { isThenable, kindOf } from './arguments.ts'
import { ArgumentError } from './errors.ts'

const NAMES: ReadonlyArray<keyof RegistryEvents> = ['connect', 'disconnect', 'join', 'leave', 'room', 'empty', 'slow', 'gap', 'deliver']

function check (name: keyof RegistryEvents, listener: unknown): void {
  if (!NAMES.includes(name)) throw new ArgumentError('event', `must be one of ${NAMES.join(', ')}, got ${typeof name === 'object' ? kindOf(name) : String(name)}`)
  if (typeof listener !== 'function') throw new ArgumentError('listener', `must be a function, got ${kindOf(listener)}`)
}

/** The events of the registry. A listener that throws or rejects harms nobody else. */
export class Signals {
  readonly #emitter = new EventEmitter().setMaxListeners(0)
  readonly #log: { error (fields: object, message: string): void }
  #waiting: Array<{ name: keyof RegistryEvents, args: unknown[] }> = []
  #busy = false

  constructor (log: { error (fields: object, message: string): void }) { this.#log = log }

  on<Name extends keyof RegistryEvents> (name: Name, listener: (...args: RegistryEvents[Name]) => void): void {
    check(name, listener)
    this.#emitter.on(name, listener as never)
  }

  off<Name extends keyof RegistryEvents> (name: Name, listener: (...args: RegistryEvents[Name]) => void): void {
    check(name, listener)
    this.#emitter.off(name, listener as never)
  }

  isHeard (name: keyof RegistryEvents): boolean { return this.#emitter.listenerCount(name) > 0 }

  // what a listener causes is heard after what it was told, so all of them hear one order
  emit<Name extends keyof RegistryEvents> (name: Name, ...args: RegistryEvents[Name]): void {
    if (!this.isHeard(name)) return
    this.#waiting.push({ name, args })
    if (!this.#busy) this.together(() => {})
  }

  /** What happens in it is heard once all of it has happened. */
  together<T> (work: () => T): T {
    if (this.#busy) return work()
    this.#busy = true
    try {
      return work()
    } finally {
      for (let next = this.#waiting.shift(); next !== undefined; next = this.#waiting.shift()) this.#tell(next.name, next.args)
      this.#busy = false
    }
  }

  #tell (name: keyof RegistryEvents, args: unknown[]): void {
    for (const listener of this.#emitter.listeners(name)) {
      try {
        const result: unknown = listener(...args)
        if (isThenable(result)) result.then(undefined, (err: unknown) => this.#log.error({ err, event: name }, 'a listener of the registry rejected'))
      } catch (err) {
        this.#log.error({ err, event: name }, 'a listener of the registry threw')
      }
    }
  }
}
