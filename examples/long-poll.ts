import Fastify from 'fastify'
import type { FastifyInstance } from 'fastify'
import { EventEmitter, once } from 'node:events'
import { connections, openConnection } from 'fastify-real'
import type { CloseReason, Encoding, Link, Wire } from 'fastify-real'

const lines: Encoding = {
  name: 'long-poll',
  frame: ({ event, id, cursor, text }) => Buffer.from(text === undefined ? '' : `${JSON.stringify({ id: id ?? cursor, event, text })}\n`)
}

// A third transport in one file. What is sent waits in the wire until the next poll takes it; who polls no more is lost.
class PollWire implements Wire {
  readonly transport = 'long-poll'
  readonly encoding = lines
  readonly highWaterMark = 65_536
  readonly bare = false
  readonly pingWhenSilent = false
  missed = 0
  link: Link | null = null
  #waiting = ''
  #closed: CloseReason | null = null
  readonly #bell = new EventEmitter()
  get buffered (): number { return this.#waiting.length }

  /** The next poll: answered at once when something waits, else when something comes or the heartbeat is due. */
  async take (): Promise<string> {
    this.missed = 0
    if (this.#waiting === '' && this.#closed === null) await once(this.#bell, 'ring')
    const body = this.#waiting
    this.#waiting = ''
    this.link?.flushed()
    if (this.#closed !== null) this.link?.closed(this.#closed, true)
    return body
  }

  write (frame: Uint8Array): void {
    this.#waiting += Buffer.from(frame)
    this.#bell.emit('ring')
  }

  ping (): void {
    this.missed++
    this.#bell.emit('ring')
  }

  close (reason: CloseReason): void {
    this.#closed = reason
    this.#bell.emit('ring')
    setTimeout(() => this.terminate(), 30_000).unref() // nobody may come for it
  }

  whenFlushed (): void {}
  terminate (): void { this.link?.closed(this.#closed ?? { code: 1006, reason: 'lost' }, false) }
  drain (): void { this.close({ code: 1001, reason: 'shutdown' }) }
}

export async function build ({ heartbeat = 15_000 } = {}): Promise<FastifyInstance> {
  const app = Fastify()
  await app.register(connections, { heartbeat })
  const wires = new Map<string, PollWire>()

  app.post<{ Querystring: { room: string, lastEventId?: string } }>('/poll', async (request) => {
    const wire = new PollWire()
    const { room, lastEventId } = request.query
    const link = wire.link = await openConnection(app, { request, wire, lastEventId, broadcast: true, onDisconnect: () => wires.delete(link.id) })
    wires.set(link.id, wire)
    link.opened()
    await link.join(room)
    link.settled()
    return { id: link.id }
  })
  app.get<{ Params: { id: string } }>('/poll/:id', async (request, reply) => {
    const body = await wires.get(request.params.id)?.take()
    return body === undefined ? await reply.code(404).send() : await reply.type('application/x-ndjson').send(body)
  })
  return app
}

if (import.meta.filename === process.argv[1]) console.log(await (await build()).listen({ port: Number(process.env.PORT ?? 3000) }))
