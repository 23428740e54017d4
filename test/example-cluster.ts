import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'
import { uncovered } from './child.ts'
import { freePort } from './redis.ts'

/** Why a test is skipped where nobody insists on it. */
export function missing (program: string): string | false {
  const isThere = (process.env.PATH ?? '').split(delimiter).concat('/usr/sbin').some((folder) => existsSync(join(folder, program)))
  return isThere || process.env.REQUIRE_SERVICES === '1' ? false : `${program} is not installed`
}

/** Both nodes of the example, listening; they are ended after the test. */
export async function cluster (t: Test, broker: string): Promise<{ ports: readonly [number, number], names: string[] }> {
  const ports = [await freePort(), await freePort()] as const
  const names = ports.map((port) => `127.0.0.1:${port}`)
  const file = fileURLToPath(new URL('../examples/cluster.ts', import.meta.url))
  await Promise.all(ports.map(async (port) => {
    const node = spawn(process.execPath, ['--import', 'tsx', file], { env: { ...process.env, ...uncovered, BROKER: broker, NODES: names.join(), PORT: String(port) }, stdio: ['ignore', 'pipe', 'inherit'] })
    t.teardown(() => node.kill('SIGKILL'))
    await once(createInterface(node.stdout), 'line')
  }))
  return { ports, names }
}
