import type { Test } from 'tap'
import type { Connection, ConnectionsOptions, Disconnect, Event, Registry } from '../../types/index.ts'
import { until } from '../helper.ts'

/** An event as the client of a transport has it; `data` is parsed where it was JSON. */
export interface Got { event: string | undefined, data: unknown }

/** The other end of a connection. */
export interface TransportClient {
  /** What came, in its order, but for `ready`. */
  got (): Got[]
  /** Stops reading, and goes on. */
  pause (): void
  resume (): void
  /** Leaves, politely where it can. */
  leave (): void
  /** Is gone without a word. */
  drop (): void
  /** It has seen the end. */
  readonly ended: boolean
  /** Signs of life it has had that are no events; undefined where it cannot tell. */
  readonly beats: number | undefined
}

/** A transport with a server of its own. */
export interface TransportBed {
  readonly registry: Registry
  /** Opens one; `lastEventId` is where it was, empty for the first time. Undefined: it does not resume. */
  open (lastEventId?: string): Promise<{ connection: Connection, client: TransportClient }>
  /** The last id the client has had. */
  idOf (client: TransportClient): string
  close (): Promise<void>
}

/** Sets up a transport behind a registry with these options, closed after the test. */
export type MakeTransport = (t: Test, options: ConnectionsOptions) => Promise<TransportBed>

const data = (client: TransportClient): unknown[] => client.got().filter(({ event }) => event === 'n').map(({ data }) => data)
const n = (data: unknown): Event => ({ event: 'n', data })

/** Sends until neither the connection nor what is below it takes more; gives how many it took. */
async function fill (connection: Connection): Promise<number> {
  const text = 'x'.repeat(100_000)
  let taken = 0
  for (let refused = 0; refused < 10;) {
    if (connection.send(n(`${taken} ${text}`))) {
      taken++
      refused = 0
    } else {
      refused++
    }
    await new Promise((resolve) => setTimeout(resolve, refused))
  }
  return taken
}

/** What every transport must do. */
export function transportContract (t: Test, make: MakeTransport, name: string): void {
  /** A bed, with how each of its connections ended, and how often that was said. */
  async function bed (t: Test, options: ConnectionsOptions = {}): Promise<TransportBed & { ends: Map<Connection, Disconnect[]> }> {
    const made = await make(t, options)
    const ends = new Map<Connection, Disconnect[]>()
    made.registry.on('disconnect', (connection, end) => { ends.set(connection, [...ends.get(connection) ?? [], end]) })
    return { ...made, ends }
  }

  t.test('a connection is in the registry while it is open', async (t) => {
    const { registry, open } = await bed(t)
    const { connection } = await open()
    t.match(connection, { transport: name, open: true, buffered: 0 })
    t.equal(registry.get(connection.id), connection)
    t.strictSame(registry.stats().byTransport, { [name]: 1 })
  })

  t.test('what is sent arrives as it was sent, in its order', async (t) => {
    const { registry, open } = await bed(t)
    const { connection, client } = await open()
    await connection.join('room')
    const values = ['text', '', '5', 'é 💥 \u2028', 'two\nlines', { a: [1, null, 'x'] }, [], 0, false, null, 'x'.repeat(70_000), 'after a large one']
    for (const [index, value] of values.entries()) {
      if (index % 3 === 0) connection.send(n(value))
      else if (index % 3 === 1) await registry.room('room').send(n(value))
      else await registry.broadcast(n(value))
    }
    await until(() => data(client).length === values.length)
    // a transport of text alone cannot tell the string 5 from the number
    t.strictSame(data(client).map(String), values.map(String))
    t.equal(client.ended, false)
  })

  t.test('hundreds of events of one turn arrive in their order', async (t) => {
    const { open } = await bed(t)
    const { connection, client } = await open()
    for (let i = 0; i < 500; i++) connection.send(n(i))
    await until(() => data(client).length === 500)
    t.strictSame(data(client), Array.from({ length: 500 }, (_, i) => i))
  })

  t.test('what is sent as soon as the connection is there is not lost', async (t) => {
    const { registry, open } = await bed(t)
    registry.on('connect', (connection) => {
      connection.send(n('first'))
      void connection.join('room').then(async () => await registry.room('room').send(n('second')))
    })
    const { client } = await open()
    await until(() => data(client).length === 2)
    t.strictSame(data(client), ['first', 'second'])
  })

  t.test('a close sends what was sent before it, then the end, and is told once', async (t) => {
    const { registry, open, ends } = await bed(t)
    const { connection, client } = await open()
    connection.send(n('last'))
    connection.close(4000, 'enough')
    connection.close()
    t.equal(registry.size, 0, 'it is out of everything at once')
    t.equal(connection.signal.aborted, true)
    t.equal(connection.send(n('too late')), false)
    await until(() => client.ended && ends.has(connection))
    t.strictSame(data(client), ['last'])
    t.match(ends.get(connection), [{ code: 4000, reason: 'enough', clean: true }])
    connection.close()
    client.drop()
    await new Promise((resolve) => setTimeout(resolve, 20))
    t.equal(ends.get(connection)?.length, 1)
  })

  for (const way of ['leave', 'drop'] as const) {
    t.test(`a client that ${way === 'leave' ? 'leaves' : 'is gone without a word'} is out of everything, and that is told once`, async (t) => {
      const { registry, open, ends } = await bed(t)
      const { connection, client } = await open()
      await connection.join('room', { presence: { key: 'ada' } })
      const { signal } = connection
      client[way]()
      await until(() => ends.has(connection))
      t.match(connection, { open: false })
      t.equal(signal.aborted, true)
      t.strictSame([registry.size, registry.room('room').size, [...registry.rooms()]], [0, 0, []])
      t.strictSame(await registry.room('room').presence(), [])
      t.match(ends.get(connection), [{ rooms: ['room'] }])
      t.type(ends.get(connection)?.[0]?.reason, 'string')
      t.equal(connection.send(n('late')), false)
      connection.close()
      await new Promise((resolve) => setTimeout(resolve, 20))
      t.equal(ends.get(connection)?.length, 1)
    })
  }

  t.test('a reader that stops is felt, and what was taken for it arrives when it goes on', async (t) => {
    const { open } = await bed(t, { maxBuffered: 1_000_000 })
    const { connection, client } = await open()
    client.pause()
    const taken = await fill(connection)
    t.ok(connection.buffered > 0)
    t.ok(connection.buffered <= 1_200_000, 'what waits is bounded')
    let drained = false
    const waiting = connection.drained().then(() => { drained = true })
    await new Promise((resolve) => setImmediate(resolve))
    t.equal(drained, false)
    client.resume()
    await waiting
    await until(() => data(client).length === taken)
    t.strictSame(data(client).map((value) => Number(String(value).split(' ')[0])), Array.from({ length: taken }, (_, i) => i))
    t.equal(connection.send(n('again')), true)
    await until(() => data(client).at(-1) === 'again')
  })

  t.test('waiting for a reader ends when it is gone', async (t) => {
    const { open } = await bed(t, { maxBuffered: 1_000_000 })
    const { connection, client } = await open()
    client.pause()
    await fill(connection)
    const drained = connection.drained()
    client.drop()
    await drained
    await until(() => !connection.open)
    await connection.drained()
  })

  t.test('a room that is sent more than a reader takes closes it and harms no other', async (t) => {
    const { registry, open, ends } = await bed(t, { maxBuffered: 200_000 })
    const [slow, quick] = [await open(), await open()]
    for (const { connection } of [slow, quick]) await connection.join('room')
    slow.client.pause()
    let sent = 0
    while (slow.connection.open) {
      await registry.room('room').send(n(`${sent++} ${'x'.repeat(100_000)}`))
      await until(() => data(quick.client).length === sent)
    }
    slow.client.drop()
    await until(() => ends.has(slow.connection))
    t.match(ends.get(slow.connection), [{ code: 1013, reason: 'slow' }])
    t.equal(quick.connection.open, true)
    await registry.room('room').send(n('end'))
    await until(() => data(quick.client).at(-1) === 'end')
  })

  t.test('a quiet connection gets signs of life, which are no events', async (t) => {
    const { open } = await bed(t, { heartbeat: 40 })
    const { connection, client } = await open()
    await until(() => client.beats === undefined || client.beats > 2)
    t.strictSame(client.got(), [])
    t.equal(connection.open, true)
  })

  t.test('a client that comes back is given what it missed, once', async (t) => {
    const { registry, open, idOf } = await bed(t)
    const first = await open('')
    await first.connection.join('room')
    for (let i = 0; i < 3; i++) await registry.room('room').send(n(i))
    await until(() => data(first.client).length === 3)
    const id = idOf(first.client)
    first.client.drop()
    await until(() => registry.size === 0)
    for (let i = 3; i < 6; i++) await registry.room('room').send(n(i))
    const back = await open(id)
    await back.connection.join('room')
    back.connection.live()
    await registry.room('room').send(n(6))
    await until(() => data(back.client).length === 4)
    t.strictSame(data(back.client), [3, 4, 5, 6])
    t.strictSame(back.client.got().filter(({ event }) => event === 'gap'), [])
    t.match(registry.stats(), { resumed: 1, gaps: 0 })
  })

  t.test('a hundred come and go, each in its way, and leave nothing', async (t) => {
    const { registry, open, ends } = await bed(t)
    const all = await Promise.all(Array.from({ length: 100 }, () => open()))
    for (const { connection } of all) await connection.join(['room', connection.id], { presence: { key: 'k' } })
    for (const [index, { connection, client }] of all.entries()) {
      if (index % 3 === 0) client.leave()
      else if (index % 3 === 1) client.drop()
      else connection.close()
    }
    await until(() => ends.size === 100)
    t.match(registry.stats(), { connections: 0, rooms: 0, users: 0 })
    t.ok([...ends.values()].every(({ length }) => length === 1))
  })

  t.test('a server that stops ends every connection, whether its client reads or not', async (t) => {
    const { open, ends, close } = await bed(t, { drain: { within: 0, grace: 200 } })
    const all = [await open(), await open(), await open()]
    all[1]?.client.pause()
    await close()
    t.equal(ends.size, 3)
    for (const { connection } of all) t.match(ends.get(connection), [{ code: 1001, reason: 'shutdown' }])
    all[1]?.client.resume()
    for (const { client } of all) await until(() => client.ended)
  })
}
