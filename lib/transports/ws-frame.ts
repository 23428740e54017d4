import type { Encoding, RealEvent } from '../../types/transport.ts'
import { deflate, WORTH } from '../deflate.ts'

const TEXT = 0x81
const BINARY = 0x82
const RSV1 = 0x40 // the payload is deflated
const nothing = new Uint8Array(0)

/** An unmasked frame with FIN set. RFC 6455, section 5.2. */
export function wsFrame (first: number, payload: string | Uint8Array): Buffer {
  const length = typeof payload === 'string' ? Buffer.byteLength(payload) : payload.byteLength
  const header = length < 126 ? 2 : length < 65_536 ? 4 : 10
  const frame = Buffer.allocUnsafe(header + length)
  frame[0] = first
  if (header === 2) {
    frame[1] = length
  } else if (header === 4) {
    frame[1] = 126
    frame.writeUInt16BE(length, 2)
  } else {
    frame[1] = 127
    frame.writeBigUInt64BE(BigInt(length), 2)
  }
  if (typeof payload === 'string') frame.write(payload, header)
  else frame.set(payload, header)
  return frame
}

type Framing = (first: number, payload: string | Uint8Array) => Uint8Array

class WsEncoding implements Encoding {
  readonly name: string
  readonly #resumes: boolean
  readonly #frame: Framing

  constructor (name: string, resumes: boolean, frame: Framing) {
    this.name = name
    this.#resumes = resumes
    this.#frame = frame
  }

  // what has no data has no frame
  frame (event: RealEvent): Uint8Array {
    const { text, bytes } = event
    if (text === undefined && bytes === undefined) return nothing
    if (this.#resumes) return this.#frame(TEXT, envelope(event, event.id ?? event.cursor))
    if (event.event !== undefined || event.id !== undefined || event.json) return this.#frame(TEXT, envelope(event, event.id))
    return bytes === undefined ? this.#frame(TEXT, text as string) : this.#frame(BINARY, bytes)
  }
}

/** Text and bytes as they are; with a name or an id, and for anything else, JSON. */
export const wsBare: Encoding = new WsEncoding('ws', false, wsFrame)

/** For a client that resumes: JSON always, with the place it is to come back with. */
export const wsResume: Encoding = new WsEncoding('ws-resume', true, wsFrame)

const deflated = new Map<string, Encoding>()

/** For clients that agreed to permessage-deflate, with this window and nothing remembered from one message to the next. RFC 7692. */
export function wsDeflated (resumes: boolean, windowBits: number): Encoding {
  const name = `${resumes ? wsResume.name : wsBare.name}-deflate-${windowBits}`
  let encoding = deflated.get(name)
  if (encoding === undefined) deflated.set(name, encoding = new WsEncoding(name, resumes, deflating(windowBits)))
  return encoding
}

function deflating (windowBits: number): Framing {
  return (first, payload) => {
    const length = typeof payload === 'string' ? Buffer.byteLength(payload) : payload.byteLength
    if (length < WORTH) return wsFrame(first, payload)
    const made = deflate(payload, windowBits).subarray(0, -4) // RFC 7692, section 7.2.1: without 00 00 ff ff
    return made.length < length ? wsFrame(first | RSV1, made) : wsFrame(first, payload)
  }
}

function envelope ({ event, text, json, bytes }: RealEvent, id: string | undefined): string {
  let out = '{'
  if (id !== undefined) out += `"id":${JSON.stringify(id)},`
  if (event !== undefined) out += `"event":${JSON.stringify(event)},`
  if (bytes !== undefined) return `${out}"base64":"${Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('base64')}"}`
  return `${out}"data":${json ? text as string : JSON.stringify(text)}}`
}
