// Rooms over WebSocket. What is said goes to the room, whatever its members are connected by.
import { randomUUID } from 'node:crypto'
import type { FastifyInstance } from 'fastify'
import type { Connection } from 'fastify-real'

interface Me { name: string, room: string }

export const named = { type: 'string', pattern: '^[\\p{L}\\p{N}_-]{1,20}$' }
const isName = new RegExp(named.pattern, 'u')
const help = '/name ada · /join dev · /leave · /who · /rooms; anything else is said to the room'

export function topic (room: string): string { return `chat:${room}` }

// an application of one program types `connection.state` by augmenting ConnectionState
const me = (connection: Connection): Me => connection.state as object as Me
const joined = (connection: Connection): string[] => [...connection.rooms].map((name) => name.slice('chat:'.length))

/** The chat rooms that have members, and how many names are present in each. */
export async function chatRooms ({ connections }: FastifyInstance): Promise<Array<{ name: string, present: number }>> {
  const names = [...connections.rooms()].filter((name) => name.startsWith('chat:'))
  return Promise.all(names.map(async (name) => ({ name: name.slice('chat:'.length), present: (await connections.room(name).presence()).length })))
}

export async function chat (app: FastifyInstance): Promise<void> {
  const { connections } = app
  const list = { type: 'string', maxLength: 200 }
  const schema = { querystring: { type: 'object', properties: { name: named, room: named, rooms: list, lastEventId: { type: 'string' } } } }

  app.get('/chat', { schema, ws: true }, {
    async onConnect (connection, request) {
      const query = request.query as { name?: string, room?: string, rooms?: string }
      const rooms = (query.rooms ?? 'lobby').split(',').filter((name) => isName.test(name)).slice(0, 10)
      me(connection).name = query.name ?? `guest-${connection.id.slice(0, 4)}`
      connection.send({ event: 'hello', data: { id: connection.id, at: Date.now() } })
      for (const room of rooms.length === 0 ? ['lobby'] : rooms) await enter(connection, room) // held until we are done: then it is replayed all of them
      if (query.room !== undefined && rooms.includes(query.room)) me(connection).room = query.room
      tellWhere(connection)
    },
    async onMessage (connection, message) {
      const text = String(message).trim().slice(0, 500)
      const [command = '', argument = ''] = text.split(/\s+/)
      if (text.startsWith('/')) await obey(connection, command, argument)
      else if (text !== '') await say(connection, text)
    }
  })

  app.get<{ Params: { room: string } }>('/rooms/:room/history', { schema: { params: { type: 'object', properties: { room: named } } } }, async (request, reply) => {
    reply.header('cache-control', 'no-store')
    return (await connections.room(topic(request.params.room)).history({ limit: 50 })).events.map(({ data }) => data)
  })

  async function obey (connection: Connection, command: string, argument: string): Promise<void> {
    const state = me(connection)
    if ((command === '/name' || command === '/join') && !isName.test(argument)) return tell(connection, `${command} needs a name: letters, digits, _ and -, at most 20`)
    if (command === '/name') {
      state.name = argument
      for (const room of joined(connection)) await attend(connection, room)
      tellWhere(connection)
    } else if (command === '/join') {
      if (!connection.rooms.has(topic(argument)) && connection.rooms.size >= 10) return tell(connection, 'ten rooms are enough: /leave one first')
      await enter(connection, argument)
      tellWhere(connection)
    } else if (command === '/leave') {
      const room = argument === '' ? state.room : argument
      if (!connection.rooms.has(topic(room))) return tell(connection, `you are not in ${room}`)
      if (connection.rooms.size === 1) return tell(connection, 'it is your last room: /join another first')
      await connection.leave(topic(room))
      if (state.room === room) state.room = joined(connection).at(-1) as string
      tellWhere(connection)
    } else if (command === '/who') {
      const present = await connections.room(topic(state.room)).presence()
      tell(connection, `in ${state.room}: ${present.map(({ key, metas }) => metas.length > 1 ? `${key} ×${metas.length}` : key).join(', ')}`)
    } else if (command === '/rooms') {
      tell(connection, `rooms: ${(await chatRooms(app)).map(({ name, present }) => `${name} (${present})`).join(', ')}`)
    } else {
      tell(connection, command === '/help' ? help : `there is no ${command.slice(0, 20)}: ${help}`)
    }
  }

  async function enter (connection: Connection, room: string): Promise<void> {
    me(connection).room = room
    await attend(connection, room)
  }

  async function attend (connection: Connection, room: string): Promise<void> {
    await connection.join(topic(room), { presence: { key: me(connection).name } })
  }

  async function say (connection: Connection, text: string): Promise<void> {
    const { name, room } = me(connection)
    await connections.room(topic(room)).send({ event: 'said', data: { id: randomUUID(), room, name, text, at: Date.now() } })
  }

  function tell (connection: Connection, text: string): void { connection.send({ event: 'info', data: { text } }) }

  function tellWhere (connection: Connection): void {
    const { name, room } = me(connection)
    connection.send({ event: 'you', data: { name, room, rooms: joined(connection) } })
  }
}
