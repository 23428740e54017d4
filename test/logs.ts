import type { FastifyServerOptions } from 'fastify'

export interface Line { level: number, msg: string, reqId?: string, err?: { message: string, code?: string }, [field: string]: unknown }

/** Options of a Fastify that logs into an array. */
export function logs (level = 'info'): { lines: Line[], options: FastifyServerOptions, errors: () => Line[] } {
  const lines: Line[] = []
  const stream = { write (line: string) { lines.push(JSON.parse(line) as Line) } }
  return { lines, options: { logger: { level, stream } }, errors: () => lines.filter((line) => line.level >= 50) }
}
