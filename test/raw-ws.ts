import { connect } from 'node:net'
import type { Socket } from 'node:net'
import type { Test } from 'tap'
import { until } from './helper.ts'

export const KEY = 'dGhlIHNhbXBsZSBub25jZQ=='

export interface Frame { fin: boolean, rsv: number, opcode: number, masked: boolean, payload: Buffer }

export interface FrameOptions { fin?: boolean, rsv?: number, mask?: Buffer | null, length?: 7 | 16 | 64 }

/** A frame as a client sends it: masked, unless `mask` is null. */
export function frame (opcode: number, payload: string | Uint8Array = '', { fin = true, rsv = 0, mask = Buffer.from([1, 2, 3, 4]), length }: FrameOptions = {}): Buffer {
  const data = Buffer.from(payload as string)
  const size = length ?? (data.length < 126 ? 7 : data.length < 65_536 ? 16 : 64)
  const head = Buffer.alloc(size === 7 ? 2 : size === 16 ? 4 : 10)
  head[0] = (fin ? 0x80 : 0) | (rsv << 4) | opcode
  head[1] = (mask === null ? 0 : 0x80) | (size === 7 ? data.length : size === 16 ? 126 : 127)
  if (size === 16) head.writeUInt16BE(data.length, 2)
  if (size === 64) head.writeBigUInt64BE(BigInt(data.length), 2)
  if (mask === null) return Buffer.concat([head, data])
  return Buffer.concat([head, mask, data.map((byte, index) => byte ^ (mask[index % 4] as number))])
}

export function closeFrame (code?: number, reason: string | Uint8Array = ''): Buffer {
  if (code === undefined) return frame(8)
  const data = Buffer.from(reason as string)
  const payload = Buffer.alloc(2 + data.length)
  payload.writeUInt16BE(code)
  data.copy(payload, 2)
  return frame(8, payload)
}

/** A socket on which a test writes what it likes. */
export class Raw {
  readonly socket: Socket
  #chunks: Buffer[] = []
  ended = false
  closed = false

  constructor (port: number, host: string = '127.0.0.1') {
    this.socket = connect({ port, host, allowHalfOpen: true })
    this.socket.on('data', (chunk: Buffer) => { this.#chunks.push(chunk) })
    this.socket.on('end', () => { this.ended = true })
    this.socket.on('error', () => {})
    this.socket.on('close', () => { this.closed = true })
  }

  write (...chunks: Array<string | Uint8Array>): this {
    this.socket.write(Buffer.concat(chunks.map((chunk) => Buffer.from(chunk as string))))
    return this
  }

  /** All that came. */
  get bytes (): Buffer {
    if (this.#chunks.length !== 1) this.#chunks = [Buffer.concat(this.#chunks)]
    return this.#chunks[0] as Buffer
  }

  get text (): string { return this.bytes.toString('latin1') }
  /** The status of the answer, 0 before there is one. */
  get status (): number { return Number(/^HTTP\/1\.1 (\d{3})/.exec(this.bytes.toString('latin1', 0, 20))?.[1] ?? 0) }
  get headers (): string { return this.text.slice(0, Math.max(0, this.text.indexOf('\r\n\r\n') + 2)) }
  get body (): string { return this.text.slice(this.text.indexOf('\r\n\r\n') + 4) }

  /** What came after the handshake, as far as it is complete. */
  get frames (): Frame[] {
    const start = this.bytes.indexOf('\r\n\r\n')
    const found: Frame[] = []
    if (start === -1 || this.status !== 101) return found
    let rest = this.bytes.subarray(start + 4)
    while (rest.length >= 2) {
      const [first, second] = rest as unknown as [number, number]
      const short = second & 0x7f
      const head = short === 126 ? 4 : short === 127 ? 10 : 2
      if (rest.length < head) break
      const length = short === 126 ? rest.readUInt16BE(2) : short === 127 ? Number(rest.readBigUInt64BE(2)) : short
      if (rest.length < head + length) break
      found.push({ fin: (first & 0x80) !== 0, rsv: (first >> 4) & 7, opcode: first & 15, masked: (second & 0x80) !== 0, payload: rest.subarray(head, head + length) })
      rest = rest.subarray(head + length)
    }
    return found
  }

  /** The messages that came, text as a string. */
  get messages (): Array<string | Buffer> {
    return this.frames.filter(({ opcode }) => opcode < 3).map(({ opcode, payload }) => opcode === 1 ? payload.toString() : payload)
  }

  /** The code of the close frame that came; 1005 when it has none, 0 when none came. */
  get closeCode (): number {
    const found = this.frames.find(({ opcode }) => opcode === 8)
    return found === undefined ? 0 : found.payload.length === 0 ? 1005 : found.payload.readUInt16BE(0)
  }

  async answered (): Promise<this> {
    await until(() => this.text.includes('\r\n\r\n') || this.ended || this.closed)
    return this
  }
}

export interface UpgradeOptions { method?: string, version?: string, headers?: Record<string, string | string[] | undefined> }

/** The text of an upgrade request; a header that is undefined is left out. */
export function upgradeText (path: string, { method = 'GET', version = '1.1', headers = {} }: UpgradeOptions = {}): string {
  const all: Record<string, string | string[] | undefined> = { host: 'localhost', connection: 'Upgrade', upgrade: 'websocket', 'sec-websocket-version': '13', 'sec-websocket-key': KEY, ...headers }
  const lines = Object.entries(all).flatMap(([name, value]) => [value ?? []].flat().map((one) => `${name}: ${one}\r\n`))
  return `${method} ${path} HTTP/${version}\r\n${lines.join('')}\r\n`
}

/** Sends an upgrade request and waits for the answer, whatever it is. What `after` holds goes out in the same packet. */
export async function rawUpgrade (t: Test, port: number, path: string, options: UpgradeOptions = {}, ...after: Array<string | Uint8Array>): Promise<Raw> {
  const raw = new Raw(port)
  t.after(() => raw.socket.destroy())
  raw.write(upgradeText(path, options), ...after)
  return await raw.answered()
}
