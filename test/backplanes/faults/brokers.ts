// Real brokers on ports of their own that can be ended, stopped and started again; they do not outlive the test.
import { createClient } from '@redis/client'
import { connect } from '@nats-io/transport-node'
import type { Test } from 'tap'
import { jetstream, NatsServer } from '../../nats.ts'
import { redisServer } from '../../redis.ts'
import type { RedisServer } from '../../redis.ts'
import { quietPort } from './cluster.ts'
import { guard } from './guard.ts'

export interface Broker {
  readonly kind: 'redis' | 'nats'
  readonly port: number
  start (): Promise<void>
  /** Killed: what it did not keep is lost. */
  stop (): Promise<void>
  signal (signal: 'SIGSTOP' | 'SIGCONT'): void
  /** Everything that it keeps is gone, while it runs. */
  empty (): Promise<unknown>
}

export class Redis implements Broker {
  readonly kind = 'redis'
  readonly port: number
  readonly #t: Test
  readonly #args: string[]
  #server: RedisServer | null = null

  constructor (t: Test, port: number, args: string[] = []) {
    this.#t = t
    this.port = port
    this.#args = args
  }

  async start (): Promise<void> {
    this.#server = await redisServer(this.#t, this.port, this.#args)
    guard(this.#server.process)
  }

  async stop (): Promise<void> { await this.#server?.stop() }
  signal (signal: 'SIGSTOP' | 'SIGCONT'): void { this.#server?.process.kill(signal) }
  async empty (): Promise<unknown> { return await this.do('FLUSHALL') }

  /** One command, on a connection of its own. */
  async do (...command: string[]): Promise<unknown> {
    const client = createClient({ url: `redis://127.0.0.1:${this.port}` })
    await client.connect()
    try {
      return await client.sendCommand(command)
    } finally {
      client.destroy()
    }
  }

  /** Deletes the keys that fit; there are some. */
  async evict (pattern: string): Promise<number> {
    const keys = await this.do('KEYS', pattern) as string[]
    if (keys.length === 0) throw new Error(`no key is like ${pattern}`)
    return await this.do('DEL', ...keys) as number
  }
}

export class Nats implements Broker {
  readonly kind = 'nats'
  readonly port: number
  readonly #server: NatsServer

  constructor (t: Test, port: number) {
    this.port = port
    this.#server = new NatsServer(port, [])
    t.after(async () => {
      await this.#server.stop()
      this.#server.forget()
    })
  }

  async start (): Promise<void> {
    await this.#server.start()
    guard(this.#server.process)
  }

  async stop (): Promise<void> { await this.#server.stop() }
  signal (signal: 'SIGSTOP' | 'SIGCONT'): void { this.#server.signal(signal) }
  /** While it is stopped. */
  forget (): void { this.#server.forget() }
  async empty (): Promise<unknown> { return await this.api('STREAM.PURGE.fastify-real') }

  async api (what: string): Promise<unknown> {
    const connection = await connect({ servers: this.#server.url })
    try {
      return await jetstream(connection, what)
    } finally {
      await connection.close()
    }
  }
}

export type Make = (t: Test) => Promise<Broker>

export async function makeRedis (t: Test): Promise<Redis> { return new Redis(t, await quietPort()) }
export async function makeNats (t: Test): Promise<Nats> { return new Nats(t, await quietPort()) }
