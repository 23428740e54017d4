import Fastify from 'fastify'
import type { FastifyInstance, FastifyServerOptions } from 'fastify'
import { connections, sseReal, wsReal } from 'fastify-real'
import type { Backplane } from 'fastify-real'
import { ask } from './ask.ts'
import { chat } from './chat.ts'
import { files } from './files.ts'
import { live } from './live.ts'
import { market } from './market.ts'

export interface DemoOptions {
  /** Milliseconds between prices. */
  tick?: number
  /** Milliseconds before an EventSource comes back, about. */
  retry?: number
  /** Milliseconds between tokens. */
  pace?: number
  /** Default: the library's, in memory. */
  backplane?: Backplane
  logger?: FastifyServerOptions['logger']
}

/** What the demo itself knows. The library's history is for those who come back; those who come new read this. */
export interface State {
  readonly tick: number
  readonly pace: number
  /** How many prices the history keeps: who misses more is told of a gap. */
  readonly kept: number
  /** The place in the sequence this state is at. */
  cursor: string
  prices: Array<{ at: number, values: number[] }>
  orders: Array<{ id: number, item: string, by: string, at: number }>
  /** Token generators at work. */
  generators: number
}

export async function demo ({ tick = 1_000, retry = 1_000, pace = 45, backplane, logger = false }: DemoOptions = {}): Promise<FastifyInstance> {
  const state: State = { tick, pace, kept: 10, cursor: '', prices: [], orders: [], generators: 0 }
  const app = Fastify({ logger })
  await app.register(connections, {
    backplane,
    history: ({ name }) => name === 'stats' ? false : { events: name === 'prices' ? state.kept : 100 },
    drain: { within: 500, grace: 500 }
  })
  await app.register(sseReal, { retry })
  await app.register(wsReal)
  await app.register(files)
  await app.register(market, { state })
  await app.register(live)
  await app.register(chat)
  await app.register(ask, { state })
  return app
}
