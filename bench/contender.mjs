// fastify-real as its users run it, for a harness that starts one server for each run: history, heartbeat, limits and resume are on.
// Self-contained, so that another harness can import it, or have a copy beside a `fastify-real` of its own.

const fastify = await load(['fastify'])
const real = await load(['../dist/lib/index.js', 'fastify-real'])

export const kinds = ['sse', 'ws']

/**
 * @param {{
 *   kind: 'sse' | 'ws',
 *   heartbeatMs: number,
 *   deflate: boolean,
 *   gen: (url: string) => AsyncGenerator<object>,
 *   first: null | (() => object)
 * }} options 0 is no heartbeat; `gen` has the events of /stream; every new connection is sent `first()`
 * @returns {Promise<{ port: number, size: () => number, broadcast: (event: object, room?: string) => void }>}
 */
export async function create ({ kind, heartbeatMs, deflate, gen, first }) {
  const app = fastify.default()
  // far above what any run opens or sends, so that every limit is counted and none is met
  await app.register(real.connections, { heartbeat: heartbeatMs, maxConnections: 200_000, maxPerAddress: 200_000, maxPerUser: 200_000 })
  // as its peers, it loads what the run needs
  if (kind === 'sse') await app.register(real.sseReal)
  else await app.register(real.wsReal, { compression: deflate, messageRate: 10_000_000 })
  const { connections } = app
  const direct = new Map()

  // SSE carries an object as JSON. A WebSocket is given text, for the same bytes that the peers send: `{ data: event }` would
  // arrive as `{"data":…}`.
  const eventOf = kind === 'ws' ? (event) => JSON.stringify(event) : (event) => ({ data: event })

  async function opened (connection, url) {
    if (first !== null) connection.send(eventOf(first()))
    const { rooms, own } = placesOf(url)
    if (own !== '') direct.set(own, connection.id)
    if (rooms.length > 0) await connection.join(rooms)
  }

  if (kind === 'sse') {
    const toData = { map: (data) => ({ data }) }
    app.get('/sse', { sse: true }, (request, reply) => opened(reply.sse(), request.url))
    app.get('/stream', { sse: true }, (request, reply) => { reply.sse(gen(request.url), toData) })
  } else {
    app.get('/ws', { ws: true }, {
      onConnect: (connection, request) => opened(connection, request.url),
      onMessage (connection, message) { connection.send(message) }
    })
  }
  await app.listen({ port: 0, host: '127.0.0.1', backlog: 4096 })

  return {
    port: app.server.address().port,
    size: () => connections.size,
    broadcast (event, room = '') {
      if (room === '') void connections.broadcast(eventOf(event))
      // to one connection by its id, not to a room of one: it is what a user would write, and is neither kept nor resumed.
      // The memory backplane delivers before `send` returns, so it stands behind what was sent to rooms before it.
      else if (room[0] === 'd') void connections.send(direct.get(room), eventOf(event))
      else void connections.room(room).send(eventOf(event))
    }
  }
}

/**
 * `?room=r7` is that room. `?room=x123` is connection 123 of a crowd that overlaps: one room of each quarter of 200, and `d123`,
 * which reaches it alone.
 */
function placesOf (url) {
  const room = /[?&]room=([^&]*)/.exec(url)?.[1] ?? ''
  if (room[0] !== 'x') return { rooms: room === '' ? [] : [room], own: '' }
  const i = Number(room.slice(1))
  const hundred = Math.floor(i / 100)
  const rooms = [i % 50, 50 + hundred, 100 + (i + hundred) % 50, 150 + (i * 7 + hundred * 3) % 50].map((number) => `r${number}`)
  return { rooms, own: `d${i}` }
}

/** The first of these modules that is there. */
async function load ([name, ...others]) {
  try {
    return await import(name)
  } catch (err) {
    if (err.code !== 'ERR_MODULE_NOT_FOUND' || others.length === 0) throw err
    return load(others)
  }
}
