import t from 'tap'
import { child } from './child.ts'
import type { Child } from './child.ts'
import { sseClient, until, wsClient } from './helper.ts'
import type { ParsedEvent } from '../lib/testing.ts'

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

/** A plain script that comes back as often as it is cut: with its last id, after the time it was told. */
class Returner {
  readonly events: ParsedEvent[] = []
  readonly refusals: string[] = []
  /** How often it was let in. */
  visits = 0
  over = false
  readonly #port: number
  readonly #transport: string
  #lastId = ''
  #wait = 50

  constructor (port: number, transport: string) {
    this.#port = port
    this.#transport = transport
  }

  async run (): Promise<void> {
    while (!this.over) {
      try {
        await (this.#transport === 'sse' ? this.#stream() : this.#socket())
      } catch (err) {
        const { code, statusCode, message } = err as { code?: string, statusCode?: number, message?: string }
        this.refusals.push(code ?? String(statusCode ?? message))
      }
      await sleep(this.#wait)
    }
  }

  async #stream (): Promise<void> {
    const client = await sseClient(this.#port, '/live', this.#lastId === '' ? {} : { 'last-event-id': this.#lastId })
    if (client.response.statusCode !== 200) throw Object.assign(new Error(), { statusCode: client.response.statusCode })
    this.visits++
    let taken = 0
    await until(() => {
      for (; taken < client.events.length; taken++) this.#take(client.events[taken] as ParsedEvent)
      this.#wait = client.parser.retry ?? this.#wait
      return client.ended || this.over
    })
    client.close()
  }

  async #socket (): Promise<void> {
    const client = await wsClient(this.#port, `/hall?lastEventId=${this.#lastId}`)
    this.visits++
    let taken = 0
    await until(() => {
      for (; taken < client.messages.length; taken++) {
        const { id, event, data } = JSON.parse(String(client.messages[taken])) as { id?: string, event?: string, data?: unknown }
        this.#take({ id, event: event ?? 'message', data: JSON.stringify(data) } as ParsedEvent)
      }
      return client.closed !== null || this.over
    })
    client.close()
  }

  #take (event: ParsedEvent): void {
    this.events.push(event)
    if (event.id !== undefined && event.id !== '') this.#lastId = event.id
  }
}

async function ask (port: number, path: string): Promise<Record<string, number>> {
  return await (await fetch(`http://127.0.0.1:${port}${path}`, { headers: { connection: 'close' } })).json() as Record<string, number>
}

t.test('a restart on the same port: every client comes back by its last id, is told of the gap, and none is refused', async (t) => {
  const OPTIONS = JSON.stringify({ drain: { grace: 400, within: 300 } })
  const first = await child(t, 'server.ts', { env: { OPTIONS } })
  const { port } = first
  const returners = Array.from({ length: 40 }, (_, i) => new Returner(port, i % 2 === 0 ? 'sse' : 'ws'))
  const runs = returners.map((returner) => returner.run())
  await until(async () => (await ask(port, '/stats')).connections === 40)
  await ask(port, '/pile?bytes=3')
  await until(() => returners.every(({ events }) => events.some(({ event }) => event === 'pile')))
  first.kill('SIGTERM')
  t.same(await first.exited(), { code: 0, signal: null })
  const second = await child(t, 'server.ts', { env: { OPTIONS, PORT: String(port) } })
  await until(() => returners.every(({ visits }) => visits >= 2))
  await until(async () => (await ask(port, '/stats')).connections === 40)
  await ask(port, '/pile?bytes=4')
  await until(() => returners.every(({ events }) => events.filter(({ event }) => event === 'pile').length === 2))
  for (const returner of returners) returner.over = true
  const seen = returners.map(({ events }) => events.map(({ event, data }) => event === 'gap' ? `gap ${data}` : event).join(' '))
  t.same(new Set(seen), new Set(['ready pile ready gap {"reason":"epoch"} pile']))
  t.same(returners.flatMap(({ refusals }) => refusals).filter((refusal) => /^\d+$/.test(refusal)), [], 'nobody was answered with 503')
  await Promise.all(runs)
  second.kill('SIGTERM')
  t.same(await second.exited(), { code: 0, signal: null })
  t.equal(first.errors + second.errors, '')
})

/** So many clients in a process of their own, which is killed: gives what that cost the server. */
async function drop (t: Parameters<typeof child>[0], server: Child, each: number): Promise<{ turns: number, cost: number }> {
  const { port } = server
  const clients = await child(t, 'clients.ts', { env: { PORT: String(port), EACH: String(each) }, waits: false })
  await clients.told('ready')
  await until(async () => (await ask(port, '/stats')).connections === 2 * each)
  const before = await ask(port, '/stats') as { turns: number, cpu: number }
  clients.kill('SIGKILL')
  await until(async () => (await ask(port, '/stats')).connections === 0)
  const after = await ask(port, '/stats') as { turns: number, cpu: number }
  return { turns: after.turns - before.turns, cost: (after.cpu - before.cpu) / (2 * each) }
}

t.test('five thousand clients killed at once cost no more each than a thousand, are all gone, and the loop turns meanwhile', async (t) => {
  const server = await child(t, 'server.ts', { env: { LOG: 'off', HOST: '0.0.0.0' } })
  await drop(t, server, 500) // warm
  const few = await drop(t, server, 500)
  const many = await drop(t, server, 2_500)
  t.ok(many.cost < 5 * few.cost, `microseconds each: ${few.cost}, ${many.cost}`)
  t.ok(many.turns > 1, `${many.turns} turns`)
  const stats = await ask(server.port, '/stats')
  t.match(stats, { connections: 0, rooms: 0, connected: 7_000, disconnected: 7_000 })
  server.kill('SIGTERM')
  t.same(await server.exited(), { code: 0, signal: null })
  t.equal(server.errors, '')
})
