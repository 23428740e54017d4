import { syncBuiltinESMExports } from 'node:module'
import zlib from 'node:zlib'

/** Counts what is deflated while something is done. */
export async function counting (work: () => Promise<void>): Promise<number> {
  let count = 0
  const original = zlib.deflateRawSync
  zlib.deflateRawSync = (...args) => {
    count++
    return original(...args)
  }
  syncBuiltinESMExports()
  try {
    await work()
  } finally {
    zlib.deflateRawSync = original
    syncBuiltinESMExports()
  }
  return count
}
