import Fastify from 'fastify'
import type { FastifyInstance } from 'fastify'
import { wsReal } from 'fastify-real'
import type { Connection } from 'fastify-real'

// Many rooms, and who is in them. Commands: /name ada, /join dev, /leave dev, /who dev, /rooms, and `<room> <text>`.
export async function build (): Promise<FastifyInstance> {
  const app = Fastify()
  await app.register(wsReal)
  const names = new WeakMap<Connection, string>()
  const nameOf = (connection: Connection): string => names.get(connection) ?? 'guest'

  async function enter (connection: Connection, room: string): Promise<void> {
    await connection.join(room, { presence: { key: connection.id, meta: { name: nameOf(connection) } } })
  }

  async function obey (connection: Connection, command: string, argument: string): Promise<unknown> {
    switch (command) {
      case '/name':
        names.set(connection, argument)
        for (const room of connection.rooms) await enter(connection, room) // joining again updates what others see
        return `you are ${argument}`
      case '/join':
        await enter(connection, argument)
        return `joined ${argument}`
      case '/leave':
        await connection.leave(argument)
        return `left ${argument}`
      case '/who':
        return (await app.connections.room(argument).presence()).flatMap(({ metas }) => metas)
      case '/rooms':
        return [...app.connections.rooms()]
      default:
        if (!connection.rooms.has(command)) return `join ${command} first`
        await app.connections.room(command).send({ event: command, data: { name: nameOf(connection), text: argument } })
    }
  }

  app.get('/chat', { ws: true }, {
    async onConnect (connection) { await enter(connection, 'lobby') },
    async onMessage (connection, message) {
      const [, command = '', argument = ''] = /^(\S+)\s*(.*)$/s.exec(String(message)) ?? []
      const answer = await obey(connection, command, argument)
      if (answer !== undefined) connection.send({ event: 'answer', data: answer })
    }
  })
  return app
}

if (import.meta.filename === process.argv[1]) console.log(await (await build()).listen({ port: Number(process.env.PORT ?? 3000) }))
