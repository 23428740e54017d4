import type { Encoding, RealEvent } from '../types/transport.ts'

/** What connections are given: an event at its place, and its frames, one for each encoding, made at first use. */
export class Framed {
  readonly event: RealEvent
  /** 0: not kept. */
  readonly offset: number
  #encoding: Encoding | null = null
  #frame: Uint8Array = nothing
  #others: Map<Encoding, Uint8Array> | null = null // mostly there are none

  constructor (event: RealEvent, offset: number) {
    this.event = event
    this.offset = offset
  }

  frame (encoding: Encoding): Uint8Array {
    if (encoding === this.#encoding) return this.#frame
    if (this.#encoding !== null) return this.#other(encoding)
    this.#encoding = encoding
    return (this.#frame = encoding.frame(this.event))
  }

  #other (encoding: Encoding): Uint8Array {
    const others = (this.#others ??= new Map())
    let frame = others.get(encoding)
    if (frame === undefined) others.set(encoding, frame = encoding.frame(this.event))
    return frame
  }
}

const nothing = new Uint8Array(0)
