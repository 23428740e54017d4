import { once } from 'node:events'
import { constants, deflateRawSync } from 'node:zlib'
import t from 'tap'
import type { Connection, Disconnect } from '../../lib/index.ts'
import { build, listen, until, wsClient } from '../helper.ts'
import { logs } from '../logs.ts'
import { frame, rawUpgrade } from '../raw-ws.ts'

type Message = string | Buffer

/** A promise and its end. */
function gate (): { opened: Promise<void>, open: () => void } {
  let open = (): void => {}
  const opened = new Promise<void>((resolve) => { open = resolve })
  return { opened, open }
}

t.test('text comes as a string and binary as a Buffer, never guessed', async (t) => {
  const app = await build(t)
  const got: Message[] = []
  app.ws('/x', { onMessage (_connection, message) { got.push(message) } })
  const client = await wsClient(await listen(app), '/x')
  const sent: Message[] = ['text', '', '{"a":1}', 'ünïcödé 🎈', '\0', Buffer.from('text'), Buffer.alloc(0), Buffer.from([0xff, 0xfe, 0]), Buffer.from('{"a":1}'), 'x'.repeat(70_000), Buffer.alloc(70_000, 7)]
  for (const message of sent) client.socket.send(message, { binary: Buffer.isBuffer(message) })
  await until(() => got.length === sent.length)
  t.strictSame(got, sent)
})

t.test('what is sent to it arrives as text, binary or JSON', async (t) => {
  const app = await build(t)
  app.ws('/x', {
    onConnect (connection) {
      connection.send('text')
      connection.send(Buffer.from([1, 2]))
      connection.send({ data: { a: 1 } })
      connection.send({ event: 'named', data: 'text' })
      connection.send({ event: 'named', data: Buffer.from([1, 2]) })
      connection.send({ data: '' })
      connection.send({ retry: 5 })
      connection.send({ comment: 'for SSE only' })
      connection.send('last')
    }
  })
  const client = await wsClient(await listen(app), '/x')
  await client.wait((message) => message === 'last')
  t.strictSame(client.messages, ['text', Buffer.from([1, 2]), '{"data":{"a":1}}', '{"event":"named","data":"text"}', '{"event":"named","base64":"AQI="}', '', 'last'])
})

t.test('a client that resumes gets JSON with the place to come back with', async (t) => {
  const app = await build(t)
  app.ws('/x', { async onConnect (connection) { await connection.join('room') } })
  const client = await wsClient(await listen(app), '/x?lastEventId=')
  const ready = JSON.parse(String(await client.wait(1))) as { id: string, event: string }
  t.match(ready, { event: 'ready', id: /-\d+$/, data: { resumed: false } })
  await app.connections.room('room').send('text')
  await app.connections.room('room').send(Buffer.from('bytes'))
  t.match(JSON.parse(String(await client.wait(2))), { id: /-\d+$/, data: 'text' })
  t.match(JSON.parse(String(await client.wait(3))), { id: /-\d+$/, base64: 'Ynl0ZXM=' })
})

t.test('onConnect finishes before the first message, and early frames are kept', async (t) => {
  const app = await build(t)
  const ran: string[] = []
  const { opened, open } = gate()
  app.ws('/x', {
    async onConnect () {
      ran.push('connecting')
      await opened
      ran.push('connected')
    },
    onMessage (_connection, message) { ran.push(String(message)) }
  })
  const port = await listen(app)
  const raw = await rawUpgrade(t, port, '/x', {}, frame(1, 'in the same packet'), frame(1, 'and another'))
  raw.write(frame(1, 'after'))
  raw.write(frame(9, 'ping'))
  await until(() => raw.frames.some(({ opcode, payload }) => opcode === 10 && payload.toString() === 'ping'))
  t.strictSame(ran, ['connecting'], 'the socket was read, and nothing delivered')
  open()
  await until(() => ran.length === 5)
  t.strictSame(ran, ['connecting', 'connected', 'in the same packet', 'and another', 'after'])
})

t.test('frames that come while a hook is at work are kept', async (t) => {
  const app = await build(t)
  const { opened, open } = gate()
  const got: Message[] = []
  app.ws('/x', { preHandler: async () => await opened }, { onMessage (_connection, message) { got.push(message) } })
  const port = await listen(app)
  const answered = rawUpgrade(t, port, '/x', {}, frame(1, 'one'))
  const big = Buffer.alloc(200_000, 'x').toString()
  await new Promise((resolve) => setTimeout(resolve, 10))
  open()
  const raw = await answered
  raw.write(frame(1, big), frame(1, 'three'))
  await until(() => got.length === 3)
  t.strictSame(got, ['one', big, 'three'])
})

t.test('messages are handled one at a time and in order, whatever the handler is', async (t) => {
  const app = await build(t)
  const got: number[] = []
  let running = 0
  let most = 0
  app.ws('/x', {
    async onMessage (connection, message) {
      most = Math.max(most, ++running)
      const number = Number(message)
      if (number % 3 === 0) await new Promise((resolve) => setImmediate(resolve))
      if (number % 3 === 1) await new Promise((resolve) => setTimeout(resolve, 1))
      got.push(number)
      running--
    }
  })
  app.ws('/mixed', {
    onMessage (_connection, message) {
      const number = Number(message)
      if (number % 2 === 0) return got.push(number)
      return new Promise<void>((resolve) => setImmediate(() => { got.push(number); resolve() }))
    }
  })
  const port = await listen(app)
  for (const path of ['/x', '/mixed']) {
    const client = await wsClient(port, path)
    for (let i = 0; i < 200; i++) client.send(String(i))
    await until(() => got.length === 200)
    t.strictSame(got.splice(0), Array.from({ length: 200 }, (_, i) => i))
  }
  t.equal(most, 1)
})

t.test('when too many messages wait the socket is paused; none is lost', async (t) => {
  const app = await build(t, { ws: { maxPending: 4 } })
  const { opened, open } = gate()
  const got: Message[] = []
  let bytes = 0
  app.ws('/x', { async onMessage (_connection, message) { got.push(message); await opened } })
  app.server.on('connection', (socket) => socket.on('close', () => { bytes = socket.bytesRead }))
  const client = await wsClient(await listen(app), '/x')
  const [connection] = [...app.connections] as unknown as [{ wire: { paused: boolean } }]
  t.notOk(connection.wire.paused)
  const message = 'x'.repeat(100_000)
  const count = 120
  for (let i = 0; i < count; i++) client.send(`${i} ${message}`)
  await until(() => connection.wire.paused)
  const before = await settled(() => client.socket.bufferedAmount)
  t.ok(before > 0, 'the client feels it')
  t.equal(got.length, 1)
  open()
  await until(() => got.length === count)
  t.strictSame(got, Array.from({ length: count }, (_, i) => `${i} ${message}`))
  t.notOk(connection.wire.paused)
  client.close()
  await until(() => bytes > 0)
})

t.test('65,536 bytes that wait are too many too, before onConnect has finished and after', async (t) => {
  const app = await build(t, { ws: { maxPending: 1_000 } })
  const first = gate()
  const second = gate()
  const got: Message[] = []
  app.ws('/x', { async onConnect () { await first.opened }, async onMessage (_connection, message) { got.push(message); await second.opened } })
  const client = await wsClient(await listen(app), '/x')
  const [connection] = [...app.connections] as unknown as [{ wire: { paused: boolean } }]
  for (let i = 0; i < 64; i++) client.send('x'.repeat(1_024))
  await until(() => connection.wire.paused)
  t.equal(got.length, 0)
  first.open()
  await until(() => got.length === 1 && !connection.wire.paused)
  client.send('y'.repeat(2_000))
  await until(() => connection.wire.paused)
  second.open()
  await until(() => got.length === 65)
  t.notOk(connection.wire.paused)
})

t.test('many small messages in one packet are bounded and none is lost', async (t) => {
  const app = await build(t, { ws: { maxPending: 1 } })
  const got: Message[] = []
  app.ws('/x', { async onMessage (_connection, message) { await null; got.push(message) } })
  app.ws('/sync', { onMessage (_connection, message) { got.push(message) } })
  const port = await listen(app)
  for (const path of ['/x', '/sync']) {
    const raw = await rawUpgrade(t, port, path)
    for (let part = 0; part < 2; part++) raw.write(...Array.from({ length: 5_000 }, (_, i) => frame(1, String(part * 5_000 + i))))
    await until(() => got.length === 10_000)
    t.strictSame(got.splice(0), Array.from({ length: 10_000 }, (_, i) => String(i)))
  }
})

t.test('a slow onMessage does not block what is sent to its connection, nor other connections', async (t) => {
  const app = await build(t)
  const { opened, open } = gate()
  app.ws('/x', { async onConnect (connection) { await connection.join('room') }, async onMessage () { await opened } })
  const port = await listen(app)
  const [slow, other] = [await wsClient(port, '/x'), await wsClient(port, '/x')]
  await until(() => app.connections.room('room').size === 2)
  for (let i = 0; i < 40; i++) slow.send(String(i))
  await until(() => [...app.connections].some((connection) => (connection as unknown as { wire: { paused: boolean } }).wire.paused))
  await app.connections.room('room').send('to all')
  t.equal(await slow.wait(1), 'to all')
  t.equal(await other.wait(1), 'to all')
  open()
})

t.test('a connection that is paused is not taken for lost, and one that left meanwhile is', async (t) => {
  const app = await build(t, { connections: { heartbeat: 40 } })
  const gates = [gate(), gate()]
  const got: Message[] = []
  const ends: Disconnect[] = []
  app.ws('/x', { async onMessage (_connection, message) { got.push(message); await (gates[0] as ReturnType<typeof gate>).opened }, onDisconnect (_connection, end) { ends.push(end) } })
  const client = await wsClient(await listen(app), '/x')
  let pings = 0
  client.socket.on('ping', () => { pings++ })
  for (let i = 0; i < 40; i++) client.send(String(i))
  const [connection] = [...app.connections] as unknown as [{ wire: { paused: boolean } }]
  await until(() => connection.wire.paused)
  const before = pings
  await until(() => pings > before + 8)
  t.strictSame(ends, [], 'the pings go on, and the answers that nobody reads are not missed')
  gates[0]?.open()
  await until(() => got.length === 40)
  await until(() => pings > before + 16)
  t.strictSame(ends, [])
  gates[0] = gate()
  for (let i = 0; i < 40; i++) client.send(String(i))
  await until(() => connection.wire.paused)
  client.socket.on('error', () => {})
  ;(client.socket as unknown as { _socket: { resetAndDestroy (): void } })._socket.resetAndDestroy()
  await until(() => app.connections.size === 0)
  t.equal(ends.length, 0, 'a handler is still at work')
  gates[0].open()
  await until(() => ends.length === 1)
  t.match(ends, [{ code: 1006, clean: false }])
})

t.test('what a client sent before it left is handled, then comes onDisconnect', async (t) => {
  const app = await build(t)
  const ran: string[] = []
  app.ws('/x', {
    async onConnect () { await new Promise((resolve) => setTimeout(resolve, 5)) },
    async onMessage (connection, message) {
      await new Promise((resolve) => setTimeout(resolve, 2))
      ran.push(String(message))
    },
    onDisconnect (_connection, { code }) { ran.push(String(code)) }
  })
  const port = await listen(app)
  for (const leave of ['close', 'end', 'together'] as const) {
    const raw = await rawUpgrade(t, port, '/x')
    const messages = Array.from({ length: 30 }, (_, i) => frame(1, String(i)))
    raw.write(...messages, ...(leave === 'end' ? [] : [frame(8, Buffer.from([3, 232]))]))
    if (leave === 'close') await until(() => raw.closeCode !== 0)
    raw.socket.end()
    await until(() => ran.length === 31)
    t.strictSame(ran.splice(0), [...Array.from({ length: 30 }, (_, i) => String(i)), leave === 'end' ? '1006' : '1000'])
    raw.socket.destroy()
  }
})

t.test('after the server has closed a connection no message is delivered', async (t) => {
  const app = await build(t)
  const ran: string[] = []
  app.ws('/connect', {
    onConnect (connection) { connection.close(4001, 'no room for you') },
    onMessage () { ran.push('message') },
    onDisconnect (_connection, { code, reason, clean }) { ran.push(`${code} ${reason} ${clean}`) }
  })
  app.ws('/late-connect', {
    async onConnect (connection) { await new Promise((resolve) => setTimeout(resolve, 5)); connection.close(4001, 'no room for you') },
    onMessage () { ran.push('message') },
    onDisconnect (_connection, { code, reason, clean }) { ran.push(`${code} ${reason} ${clean}`) }
  })
  app.ws('/message', {
    async onMessage (connection) { ran.push('message'); connection.close(4001, 'no room for you') },
    onDisconnect (_connection, { code, reason, clean }) { ran.push(`${code} ${reason} ${clean}`) }
  })
  const port = await listen(app)
  for (const path of ['/connect', '/late-connect', '/message']) {
    const client = await wsClient(port, path)
    for (let i = 0; i < 5; i++) if (client.socket.readyState === 1) client.send('x')
    await until(() => client.closed)
    t.strictSame(client.closed, { code: 4001, reason: 'no room for you' })
    await until(() => ran.some((line) => line.startsWith('4001')))
    t.strictSame(ran.splice(0), path === '/message' ? ['message', '4001 no room for you true'] : ['4001 no room for you true'], path)
  }
})

t.test('more messages than messageRate close with 1008, with or without onMessage', async (t) => {
  const app = await build(t)
  const got: Message[] = []
  const ends: Disconnect[] = []
  const onDisconnect = (_connection: Connection, end: Disconnect): void => { ends.push(end) }
  app.ws('/x', { ws: { messageRate: 5 } }, { onMessage (_connection, message) { got.push(message as Message) }, onDisconnect })
  app.ws('/deaf', { ws: { messageRate: 5 } }, { onDisconnect })
  app.ws('/free', { onMessage (_connection, message) { got.push(message) } })
  const port = await listen(app)
  for (const path of ['/x', '/deaf']) {
    const raw = await rawUpgrade(t, port, path)
    raw.write(...Array.from({ length: 20 }, (_, i) => frame(1, String(i))))
    await until(() => raw.closeCode !== 0)
    t.equal(raw.closeCode, 1008)
    raw.socket.end(frame(8, Buffer.from([3, 240])))
    await until(() => raw.ended)
  }
  await until(() => ends.length === 2)
  t.match(ends, [{ code: 1008, reason: 'too many messages' }, { code: 1008 }])
  t.strictSame(got, ['0', '1', '2', '3', '4'], 'a burst of as many is let through')
  const free = await wsClient(port, '/free')
  for (let i = 0; i < 1_000; i++) free.send('x')
  await until(() => got.length === 1_005)
})

t.test('the bucket of messageRate fills again', async (t) => {
  const app = await build(t)
  app.ws('/x', { ws: { messageRate: 100 } }, { onMessage (connection, message) { connection.send(message) } })
  const client = await wsClient(await listen(app), '/x')
  for (let i = 0; i < 90; i++) client.send('x')
  await client.wait(90)
  for (let i = 90; i < 110; i++) {
    await new Promise((resolve) => setTimeout(resolve, 15))
    client.send('x')
  }
  t.equal(await client.wait(110), 'x')
})

t.test('maxPayload is that of the route, for one frame, for fragments and after inflation', async (t) => {
  const app = await build(t, { ws: { maxPayload: 1_000, compression: true } })
  const ends: Disconnect[] = []
  const got: number[] = []
  const handlers = { onMessage (_connection: Connection, message: unknown) { got.push((message as Message).length) }, onDisconnect (_connection: Connection, end: Disconnect) { ends.push(end) } }
  app.ws('/x', handlers)
  app.ws('/small', { ws: { maxPayload: 10 } }, handlers)
  app.ws('/large', { ws: { maxPayload: 100_000 } }, handlers)
  const port = await listen(app)
  const close = async (path: string, chunks: Buffer[], headers = {}): Promise<number> => {
    const raw = await rawUpgrade(t, port, path, { headers })
    raw.write(...chunks)
    await until(() => raw.closeCode !== 0 || got.length > 0)
    raw.socket.destroy()
    got.splice(0)
    return raw.closeCode
  }
  t.equal(await close('/small', [frame(1, 'x'.repeat(10))]), 0)
  t.equal(await close('/small', [frame(1, 'x'.repeat(11))]), 1009)
  t.equal(await close('/x', [frame(2, 'x'.repeat(1_000))]), 0)
  t.equal(await close('/x', [frame(2, 'x'.repeat(1_001))]), 1009)
  t.equal(await close('/large', [frame(2, 'x'.repeat(1_001))]), 0)
  t.equal(await close('/small', [frame(1, 'x'.repeat(6), { fin: false }), frame(0, 'x'.repeat(6))]), 1009)
  t.equal(await close('/small', [frame(1, 'x', { length: 64 }).fill(0xff, 2, 10)]), 1009, 'a length beyond all measure')
  t.equal(await close('/small', [frame(1, 'x'.repeat(200)).subarray(0, 4)]), 1009, 'before it has come')
  const deflated = deflateRawSync('x'.repeat(5_000), { finishFlush: constants.Z_SYNC_FLUSH }).subarray(0, -4)
  t.ok(deflated.length < 100)
  const extension = { 'sec-websocket-extensions': 'permessage-deflate' }
  t.equal(await close('/x', [frame(1, deflated, { rsv: 4 })], extension), 1009)
  t.equal(await close('/large', [frame(1, deflated, { rsv: 4 })], extension), 0)
  t.equal(await close('/large', [frame(1, 'no deflate', { rsv: 4 })], extension), 1007)
  await until(() => app.connections.size === 0)
  await until(() => ends.length === 11)
  t.strictSame(ends.filter(({ code }) => code !== 1006).map(({ code, reason }) => `${code} ${reason}`).sort(), ['1007 protocol error', ...Array.from({ length: 6 }, () => '1009 protocol error')])
})

t.test('fragments are one message, with control frames between them', async (t) => {
  const app = await build(t)
  const got: Message[] = []
  app.ws('/x', { onMessage (_connection, message) { got.push(message) } })
  const raw = await rawUpgrade(t, await listen(app), '/x')
  raw.write(frame(1, 'one ', { fin: false }), frame(9, 'between'), frame(0, 'two ', { fin: false }), frame(10), frame(0, '', { fin: false }), frame(0, 'three'))
  raw.write(frame(2, Buffer.from([1]), { fin: false }))
  raw.write(frame(0, Buffer.from([2])))
  const euro = Buffer.from('€')
  raw.write(frame(1, euro.subarray(0, 1), { fin: false }))
  raw.write(frame(0, euro.subarray(1)))
  for (const byte of frame(1, 'byte by byte')) raw.write([byte] as never)
  await until(() => got.length === 4)
  t.strictSame(got, ['one two three', Buffer.from([1, 2]), '€', 'byte by byte'])
  t.match(raw.frames, [{ opcode: 10, payload: Buffer.from('between') }])
})

t.test('a message in very many fragments is refused', async (t) => {
  const app = await build(t)
  const ends: Disconnect[] = []
  app.ws('/x', { onDisconnect (_connection, end) { ends.push(end) } })
  const raw = await rawUpgrade(t, await listen(app), '/x')
  raw.write(frame(1, 'x', { fin: false }), ...Array.from({ length: 20_000 }, () => frame(0, 'x', { fin: false })))
  await until(() => raw.closeCode !== 0)
  t.equal(raw.closeCode, 1008)
  raw.socket.destroy()
  await until(() => ends.length === 1)
  t.match(ends, [{ code: 1008, reason: 'protocol error' }])
})

t.test('a client may compress where the route allows it, and is sent what is small as it is', async (t) => {
  const app = await build(t)
  const echo = { onMessage (connection: Connection, message: unknown) { connection.send(message as Message) } }
  app.ws('/on', { ws: { compression: true } }, echo)
  app.ws('/off', echo)
  const port = await listen(app)
  const long = JSON.stringify(Array.from({ length: 500 }, (_, i) => `message ${i}`))
  for (const path of ['/on', '/off']) {
    const client = await wsClient(port, path, { perMessageDeflate: { threshold: 0 } })
    t.equal(client.socket.extensions, path === '/on' ? 'permessage-deflate' : '')
    for (let i = 0; i < 5; i++) client.send(`${i} ${long}`)
    await client.wait(5)
    t.strictSame(client.messages, Array.from({ length: 5 }, (_, i) => `${i} ${long}`))
  }
  const raw = await rawUpgrade(t, port, '/on', { headers: { 'sec-websocket-extensions': 'permessage-deflate' } })
  const deflated = deflateRawSync(long, { finishFlush: constants.Z_SYNC_FLUSH }).subarray(0, -4)
  raw.write(frame(1, deflated.subarray(0, 10), { rsv: 4, fin: false }), frame(0, deflated.subarray(10)), frame(1, 'plain'))
  await until(() => raw.messages.length === 2)
  t.equal(raw.messages[1], 'plain')
  t.strictSame(raw.frames.map(({ rsv }) => rsv), [4, 0])
})

for (const compression of [false, true]) {
  t.test(`data frames and control frames do not break each other${compression ? ', also with compression' : ''}`, async (t) => {
    const { options, errors } = logs()
    const app = await build(t, { fastify: options, connections: { heartbeat: 40 }, ws: { compression } })
    app.ws('/x', { onMessage (connection, message) { connection.send(message) } })
    const port = await listen(app)
    const client = await wsClient(port, '/x', { perMessageDeflate: compression ? { threshold: 0 } : false })
    const pongs: string[] = []
    let pings = 0
    client.socket.on('pong', (data) => pongs.push(data.toString()))
    client.socket.on('ping', () => { pings++ })
    let rounds = 0
    const expected: string[] = []
    const isEnough = (): boolean => rounds >= 60 && pings >= 3
    while (!isEnough()) {
      const i = rounds++
      client.socket.ping(String(i))
      client.send(`echo ${i} ${'x'.repeat(i % 60 * 37)}`)
      for (const size of [0, 125, 126, 4_000, 70_000]) {
        const text = `cast ${i} ${size} `.padEnd(size, 'y')
        expected.push(text)
        void app.connections.broadcast(text)
      }
      // `ws` inflates message by message: unpaced, its pongs would come too late
      if (i % 5 === 0) await until(() => client.messages.length === rounds * 6 || client.closed)
    }
    await until(() => (pongs.length === rounds && client.messages.length === rounds * 6) || client.closed)
    t.equal(client.closed, null)
    t.equal(client.messages.filter((message) => String(message).startsWith('cast')).join() === expected.join(), true)
    t.equal(client.messages.filter((message) => String(message).startsWith('echo')).length, rounds)
    t.strictSame(pongs, Array.from({ length: rounds }, (_, i) => String(i)))
    client.close(1000)
    await once(client.socket, 'close')
    t.strictSame(client.closed, { code: 1000, reason: '' })
    t.strictSame(errors(), [])
  })
}

t.test('a client that floods pings and does not read is cut', async (t) => {
  const app = await build(t)
  const ends: Disconnect[] = []
  app.ws('/x', { onDisconnect (_connection, end) { ends.push(end) } })
  const raw = await rawUpgrade(t, await listen(app), '/x')
  raw.socket.pause()
  const flood = Buffer.concat(Array.from({ length: 2_000 }, () => frame(9, 'x'.repeat(125))))
  while (ends.length === 0) {
    raw.socket.write(flood)
    await new Promise((resolve) => setImmediate(resolve))
  }
  t.match(ends, [{ code: 1006, clean: false }])
})

t.test('drained() settles when the reader has taken what was sent, and when it is gone', async (t) => {
  const app = await build(t, { connections: { maxBuffered: 50_000_000, maxEventBytes: 50_000_000 } })
  app.ws('/x', {})
  const port = await listen(app)
  const large = Buffer.alloc(20_000_000)
  for (const leave of [false, true]) {
    const raw = await rawUpgrade(t, port, '/x')
    const [connection] = [...app.connections] as [Connection]
    await connection.drained()
    raw.socket.pause()
    t.ok(connection.send(large))
    let settled = 0
    const waiting = [connection.drained(), connection.drained()].map(async (drained) => { await drained; settled++ })
    await new Promise((resolve) => setTimeout(resolve, 20))
    t.equal(settled, 0)
    t.ok(connection.buffered > 0)
    if (leave) raw.socket.destroy()
    else raw.socket.resume()
    await Promise.all(waiting)
    if (!leave) connection.close()
    raw.socket.end(frame(8))
    await until(() => app.connections.size === 0)
  }
})

t.test('a write to a socket that is gone is no error', async (t) => {
  const { options, errors } = logs()
  const app = await build(t, { fastify: options, connections: { heartbeat: 20 } })
  app.ws('/x', {})
  const port = await listen(app)
  const raw = await rawUpgrade(t, port, '/x')
  const [connection] = [...app.connections] as unknown as [Connection & { wire: { write (frame: Uint8Array): void, whenFlushed (): void, ping (): void } }]
  raw.socket.resetAndDestroy()
  for (let i = 0; i < 50 && connection.open; i++) {
    connection.send('x')
    await new Promise((resolve) => setImmediate(resolve))
  }
  await until(() => !connection.open)
  connection.wire.write(Buffer.from('x'))
  connection.wire.whenFlushed()
  connection.wire.ping()
  t.notOk(connection.send('x'))
  t.strictSame(errors(), [])
})

/** What a value is once it no longer changes. */
async function settled (read: () => number): Promise<number> {
  for (let before = -1; ;) {
    const now = read()
    if (now === before) return now
    before = now
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}
