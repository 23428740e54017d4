import { deflate, WORTH } from '../deflate.ts'
import { chunk, sseEncoding } from './sse-frame.ts'

const WINDOW = 15
const HEADER = 5 // of a stored block

// no name, no time, made by an unknown system. RFC 1952, section 2.3
const head = Buffer.from([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff])

/**
 * A piece of a gzip stream that refers to nothing before it, so that one serves all, whenever they came. The stream is never ended: the
 * check at its end would be another for each client, and what reads streams does without it.
 */
function pack (text: string): Buffer {
  const bytes = Buffer.from(text)
  return bytes.length < WORTH ? stored(bytes) : deflate(bytes, WINDOW)
}

// RFC 1951, section 3.2.4
function stored (bytes: Buffer): Buffer {
  const block = Buffer.allocUnsafe(HEADER + bytes.length)
  block[0] = 0
  block.writeUInt16LE(bytes.length, 1)
  block.writeUInt16LE(bytes.length ^ 0xffff, 3)
  block.set(bytes, HEADER)
  return block
}

/** Compressed once for all, for a response that frames its own body. */
export const sseGzip = sseEncoding('sse-gzip', pack, head)

/** The same in HTTP/1.1 chunks. */
export const sseGzipChunked = sseEncoding('sse-gzip-chunked', (text) => chunk(pack(text)), chunk(head))
