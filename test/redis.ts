// Real servers for tests, each on a port of its own; what Debian may have started is not used.
import { execFile, spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { promisify } from 'node:util'
import { createClient, createCluster } from '@redis/client'
import { Redis as IoRedis } from 'ioredis'
import { Redis as IoValkey } from 'iovalkey'
import type { Test } from 'tap'
import type { RedisOptions } from '../lib/backplanes/redis.ts'

const executable = (process.env.PATH ?? '').split(delimiter).map((folder) => join(folder, 'redis-server')).find((path) => existsSync(path))

/** Runs the tests of a file where there is a server, else says by name that they are skipped. */
export function withRedis (t: Test, tests: () => void): void {
  if (executable !== undefined) tests()
  else if (process.env.REQUIRE_SERVICES === '1') throw new Error('redis-server is not installed')
  else t.plan(0, 'redis-server is not installed')
}

export interface RedisServer { readonly port: number, readonly url: string, readonly process: ChildProcess, cli (...args: string[]): Promise<string>, stop (signal?: NodeJS.Signals): Promise<void> }

export async function freePort (): Promise<number> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  await new Promise((resolve) => server.close(resolve))
  return port
}

/** A server that keeps nothing, ended after the test. */
export async function redisServer (t: Test, port?: number, args: string[] = []): Promise<RedisServer> {
  port ??= await freePort()
  const folder = await mkdtemp(join(tmpdir(), 'redis-')) // a replica writes what it is sent
  const child = spawn(executable as string, ['--port', String(port), '--bind', '127.0.0.1', '--dir', folder, '--save', '', '--appendonly', 'no', '--daemonize', 'no', ...args], { stdio: ['ignore', 'pipe', 'inherit'] })
  const ended = new Promise((resolve) => child.once('exit', resolve))
  const stop = async (signal: NodeJS.Signals = 'SIGKILL'): Promise<void> => { child.kill(signal); await ended }
  t.after(async () => {
    await stop()
    await rm(folder, { recursive: true, force: true })
  })
  await new Promise<void>((resolve, reject) => {
    let said = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => { said += text; if (said.includes('Ready to accept connections')) resolve() })
    void ended.then(() => reject(new Error(said)))
  })
  const cli = async (...args: string[]): Promise<string> => (await promisify(execFile)('redis-cli', ['-p', String(port), ...args])).stdout
  return { port, url: `redis://127.0.0.1:${port}`, process: child, cli, stop }
}

type Given = RedisOptions['client']

/** One client of each library that is supported, ended after the test. */
export const clients: Record<'@redis/client' | 'ioredis' | 'iovalkey', (t: Test, port: number) => Promise<Given>> = {
  async '@redis/client' (t, port) {
    const client = createClient({ url: `redis://127.0.0.1:${port}` })
    client.on('error', () => {})
    await client.connect()
    t.after(() => client.destroy())
    return client
  },
  async ioredis (t, port) {
    const client = new IoRedis(port, '127.0.0.1')
    t.after(() => client.disconnect())
    return client
  },
  async iovalkey (t, port) {
    const client = new IoValkey(port, '127.0.0.1')
    t.after(() => client.disconnect())
    return client
  }
}

/** Does what a publication does, but for the publication: a copy of the last event of a topic with other data. Gives its offset. */
export async function hide (port: number, topic: string, data: string, prefix = 'fastify-real'): Promise<number> {
  const client = createClient({ url: `redis://127.0.0.1:${port}` })
  await client.connect()
  try {
    return Number(await client.sendCommand(['EVAL', `
      local was = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1][2]
      local size = string.byte(was[4], 2) * 16777216 + string.byte(was[4], 3) * 65536 + string.byte(was[4], 4) * 256 + string.byte(was[4], 5)
      local last, floor, events, rest = string.match(redis.call('HGET', KEYS[1], ARGV[1]), '^(%d+) (%d+) (%d+) (.*)$')
      local offset = redis.call('HINCRBY', KEYS[1], '#s', 1)
      redis.call('XADD', KEYS[2], offset .. '-' .. last, was[1], was[2], was[3], string.sub(was[4], 1, 5 + size) .. ARGV[2])
      redis.call('HSET', KEYS[1], ARGV[1], offset .. ' ' .. floor .. ' ' .. (events + 1) .. ' ' .. rest)
      return offset
    `, '2', `{${prefix}}:meta`, `{${prefix}}:s:${topic}`, topic, data]))
  } finally {
    client.destroy()
  }
}

export interface RedisCluster {
  readonly ports: number[]
  /** Runs `redis-cli` against one of its servers; gives what it said. */
  cli (at: number, ...args: string[]): Promise<string>
}

/** The one of its bus is 10,000 above. */
export async function clusterPort (): Promise<number> {
  for (;;) {
    const port = await freePort()
    if (port <= 55_535) return port
  }
}

/** Where a server may leave something, removed after the test. */
export async function temporaryFolder (t: Test): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'fastify-real-'))
  t.after(() => rm(folder, { recursive: true, force: true }))
  return folder
}

/** A server that can be one of a cluster. */
export async function clusterServer (t: Test, port: number, folder: string): Promise<RedisServer> {
  return await redisServer(t, port, ['--cluster-enabled', 'yes', '--cluster-config-file', join(folder, 'nodes.conf'), '--cluster-node-timeout', '2000'])
}

/** Three servers that share the slots, ended after the test. */
export async function redisCluster (t: Test): Promise<RedisCluster> {
  const servers = await Promise.all([1, 2, 3].map(async () => clusterServer(t, await clusterPort(), await temporaryFolder(t))))
  const ports = servers.map(({ port }) => port)
  const cli = (at: number, ...args: string[]): Promise<string> => (servers[at] as RedisServer).cli(...args)
  await cli(0, '--cluster', 'create', ...ports.map((port) => `127.0.0.1:${port}`), '--cluster-yes')
  const isOk = async (_: number, at: number): Promise<boolean> => /cluster_state:ok/.test(await cli(at, 'cluster', 'info'))
  while (!(await Promise.all(ports.map(isOk))).every(Boolean)) await new Promise((resolve) => setTimeout(resolve, 20))
  return { ports, cli }
}

/** A client of a cluster, ended after the test. */
export async function clusterClient (t: Test, { ports }: RedisCluster): Promise<Given> {
  const cluster = createCluster({ rootNodes: ports.map((port) => ({ url: `redis://127.0.0.1:${port}` })) })
  cluster.on('error', () => {}).on('node-error', () => {})
  await cluster.connect()
  t.after(() => cluster.destroy())
  return cluster
}

/** Moves a slot with its keys to another of the servers, as a resharding does. */
export async function moveSlot ({ ports, cli }: RedisCluster, slot: number): Promise<void> {
  const ids = await Promise.all(ports.map(async (_, at) => (await cli(at, 'cluster', 'myid')).trim()))
  const shards = (await cli(0, 'cluster', 'slots')).split('\n')
  const owner = ports.findIndex((port) => shards.some((line, at) => Number(line) === port && Number(shards[at - 3]) <= slot && slot <= Number(shards[at - 2])))
  const to = (owner + 1) % ports.length
  await cli(to, 'cluster', 'setslot', String(slot), 'importing', ids[owner] as string)
  await cli(owner, 'cluster', 'setslot', String(slot), 'migrating', ids[to] as string)
  for (;;) {
    const keys = (await cli(owner, 'cluster', 'getkeysinslot', String(slot), '10')).split('\n').filter((key) => key !== '')
    if (keys.length === 0) break
    await cli(owner, 'migrate', '127.0.0.1', String(ports[to]), '', '0', '5000', 'keys', ...keys)
  }
  for (const at of [to, owner, 3 - to - owner]) await cli(at, 'cluster', 'setslot', String(slot), 'node', ids[to] as string)
}
