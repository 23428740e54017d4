import type { Disconnect } from '../types/api.ts'
import type { CloseReason } from '../types/transport.ts'

const none: string[] = []

/** The end of a connection: why, told once, and the signal that says so to whoever works for it. */
export class Ending {
  #reason: CloseReason | null = null
  #rooms: string[] = none
  #told = false
  #abort: AbortController | null = null // made when somebody asks: most never do
  #waiting: Set<() => void> | null = null
  readonly #since: number

  /** `since`: when it began, as performance.now() has it. */
  constructor (since: number) { this.#since = since }

  get signal (): AbortSignal {
    if (this.#abort === null) {
      this.#abort = new AbortController()
      if (this.#reason !== null) this.#abort.abort(abortReason(this.#reason))
    }
    return this.#abort.signal
  }

  /** It is out of everything; its wire is still to close. */
  begin (reason: CloseReason, rooms: string[]): void {
    this.#reason = reason
    this.#rooms = rooms
    this.#abort?.abort(abortReason(reason))
    for (const over of this.#waiting ?? []) over()
    this.#waiting = null
  }

  /** What a work gives, or something else where it has not before the end. */
  before<T> (work: Promise<T>, otherwise: T): Promise<T> {
    return new Promise((resolve) => {
      const waiting = (this.#waiting ??= new Set())
      const over = (): void => resolve(otherwise)
      waiting.add(over)
      void work.then((value) => {
        waiting.delete(over)
        resolve(value)
      })
    })
  }

  /** Nobody is to be told. */
  hush (): void { this.#told = true }

  /** Its wire is closed. Null from the second time on. */
  finish (clean: boolean, { events, bytes }: { events: number, bytes: number }): Disconnect | null {
    if (this.#told || this.#reason === null) return null
    this.#told = true
    const { code, reason } = this.#reason
    return { code, reason, clean, rooms: this.#rooms, duration: performance.now() - this.#since, events, bytes }
  }
}

function abortReason ({ reason }: CloseReason): DOMException {
  return new DOMException(`the connection ended: ${reason}`, 'AbortError')
}
