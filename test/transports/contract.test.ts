import Fastify from 'fastify'
import t from 'tap'
import { connections, sseReal, wsReal } from '../../lib/index.ts'
import type { Connection } from '../../lib/index.ts'
import { transportContract } from '../contract/transport.ts'
import type { Got, MakeTransport, TransportClient } from '../contract/transport.ts'
import { listen, sseClient, wsClient } from '../helper.ts'

interface Ends { client: TransportClient, id (): string }

/** The real plugins, with a client of their own for each transport. */
function make (connect: (port: number, n: string, lastEventId: string | undefined) => Promise<Ends>): MakeTransport {
  return async (t, options) => {
    const app = Fastify({ forceCloseConnections: false })
    await app.register(connections, { drain: { within: 0, grace: 500 }, ...options })
    await app.register(sseReal)
    await app.register(wsReal)
    t.after(() => app.close())
    const waiting = new Map<string, (connection: Connection) => void>()
    const ids = new Map<TransportClient, () => string>()
    let last = 0
    const arrived = (connection: Connection): void => waiting.get((connection.request.query as { n: string }).n)?.(connection)
    app.get('/live', { sse: true, ws: { onConnect: (connection: Connection) => { arrived(connection) } } }, async (_request, reply) => { arrived(reply.sse()) })
    const port = await listen(app)
    return {
      registry: app.connections,
      async open (lastEventId) {
        const n = String(++last)
        const seen = new Promise<Connection>((resolve) => waiting.set(n, resolve))
        const { client, id } = await connect(port, n, lastEventId)
        ids.set(client, id)
        return { connection: await seen, client }
      },
      idOf: (client) => ids.get(client)?.() ?? '',
      close: () => app.close()
    }
  }
}

function parse (text: string): unknown {
  try {
    return JSON.parse(text) as unknown
  } catch {
    return text
  }
}

const noReady = ({ event }: Got): boolean => event !== 'ready'

t.test('sse', async (t) => {
  transportContract(t, make(async (port, n, lastEventId) => {
    const headers: Record<string, string> = lastEventId === undefined || lastEventId === '' ? {} : { 'last-event-id': lastEventId }
    const sse = await sseClient(port, `/live?n=${n}`, headers)
    return {
      id: () => sse.events.at(-1)?.id ?? '',
      client: {
        got: () => sse.events.map(({ event, data }) => ({ event: event === 'message' ? undefined : event, data: parse(data) })).filter(noReady),
        pause: () => { sse.response.pause() },
        resume: () => { sse.response.resume() },
        leave: () => { sse.response.socket.end() },
        drop: () => { sse.response.socket.resetAndDestroy() },
        get ended () { return sse.ended },
        get beats () { return sse.parser.comments.length }
      }
    }
  }), 'sse')
})

t.test('ws', async (t) => {
  transportContract(t, make(async (port, n, lastEventId) => {
    const ws = await wsClient(port, `/live?n=${n}${lastEventId === undefined ? '' : `&lastEventId=${lastEventId}`}`)
    let pings = 0
    ws.socket.on('error', () => {}).on('ping', () => { pings++ })
    const envelopes = (): Array<Got & { id?: string }> => ws.messages.map((message) => parse(String(message)) as Got & { id?: string })
    return {
      id: () => envelopes().findLast(({ id }) => id !== undefined)?.id ?? '',
      client: {
        got: () => envelopes().map(({ event, data }) => ({ event, data })).filter(noReady),
        pause: () => { ws.socket.pause() },
        resume: () => { ws.socket.resume() },
        leave: () => { ws.socket.close() },
        drop: () => { ws.socket.terminate() },
        get ended () { return ws.closed !== null },
        get beats () { return pings }
      }
    }
  }), 'ws')
})
