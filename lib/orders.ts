import type * as api from '../types/api.ts'
import type { Connection } from './connection.ts'
import type { CheckedEvent } from './event.ts'
import type { Order } from './nodes.ts'

/** Where orders are carried out: the connections of this node. */
export interface OrdersHost {
  get (id: string): Connection | undefined
  /** The members of a topic; of a user all its connections, also those that take no broadcasts. */
  membersOf (topic: string): Iterable<Connection>
  part (connection: Connection, room: string): void
}

/** Carries an order out. False: there is nothing here to carry it out on. */
export function obey (order: Order, host: OrdersHost): boolean {
  if (order.op === 'clear' || order.op === 'disconnect') {
    const { kind, name } = split(order.topic)
    for (const connection of [...host.membersOf(order.topic)]) {
      if (order.op === 'disconnect') connection.close(1000, order.reason)
      else if (kind === 'user') connection.identify(null)
      else host.part(connection, name)
    }
    return true
  }
  const connection = host.get(order.id)
  if (connection === undefined) return false
  if (order.op === 'send') return connection.send(revive(order.event as PortableEvent))
  if (order.op === 'close') connection.close(1000, order.reason)
  else host.part(connection, order.room)
  return true
}

/** `room/x` as its kind and its name. */
export function split (topic: string): api.Topic {
  const slash = topic.indexOf('/')
  return slash === -1 ? { kind: topic as 'all', name: '' } : { kind: topic.slice(0, slash) as 'room', name: topic.slice(slash + 1) }
}

/** An event as it travels to another node. */
export interface PortableEvent extends Pick<api.Event, 'event' | 'id' | 'retry' | 'comment'> { text?: string | undefined, json?: boolean | undefined, base64?: string | undefined }

/** Its data stays text: how deep it is nested does not matter on the way. */
export function portable ({ event, text, json, bytes, id, retry, comment }: CheckedEvent): PortableEvent {
  return { event, id, retry, comment, text, json, base64: bytes === undefined ? undefined : Buffer.from(bytes).toString('base64') }
}

function revive ({ text, json, base64, ...fields }: PortableEvent): api.Event {
  if (base64 !== undefined) return { ...fields, data: Buffer.from(base64, 'base64') }
  return text === undefined ? fields : { ...fields, data: json === true ? JSON.parse(text) as unknown : text }
}
