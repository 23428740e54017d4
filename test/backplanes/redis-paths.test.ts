// What happens at one instant and no other, each made to happen: between a node and Redis stands a relay that does it.
import { createServer } from 'node:net'
import type { AddressInfo, Socket } from 'node:net'
import { createClient } from '@redis/client'
import { Redis as IoRedis } from 'ioredis'
import { Redis as IoValkey } from 'iovalkey'
import t from 'tap'
import type { Test } from 'tap'
import { clientOf } from '../../lib/backplanes/redis-clients.ts'
import { redis } from '../../lib/backplanes/redis.ts'
import type { RedisOptions } from '../../lib/backplanes/redis.ts'
import { toEvent } from '../../lib/event.ts'
import type { Backplane, Delivery, Kept, Node, Parcel, Publication, Range } from '../../types/index.ts'
import { until } from '../helper.ts'
import { clusterClient, hide, redisCluster, redisServer, withRedis } from '../redis.ts'
import type { RedisServer } from '../redis.ts'
import { relayTo } from '../relay.ts'
import type { Relay } from '../relay.ts'

const kept: Kept = { events: 10_000, bytes: 10_000_000, age: 1_000_000 }
const META = '{fastify-real}:meta'
const OLD = '{fastify-real}:old'
const channelOf = (topic: string): string => `{fastify-real}:c:${topic}`
const streamOf = (topic: string): string => `{fastify-real}:s:${topic}`
const said = (text: string): Parcel => ({ event: toEvent(text, { maxBytes: Infinity }), except: null })

/** A node that writes down what it is given and told, in its order. */
class Ear implements Node {
  readonly id: string
  readonly got: Delivery[] = []
  readonly told: string[] = []
  readonly lines: string[] = []
  readonly log: Node['log'] = { error: (_, message) => this.lines.push(message), warn: (_, message) => this.lines.push(message) }
  constructor (id: string) { this.id = id }

  get texts (): Array<string | undefined> { return this.got.map(({ event }) => event.text) }
  deliver (delivery: Delivery): void {
    this.got.push(delivery)
    this.told.push(delivery.event.text as string)
  }

  missed (topic: string, offset: number): void { this.told.push(`missed ${topic} ${offset}`) }
  reset (): void { this.told.push('reset') }
  told1 (line: string): boolean { return this.lines.includes(line) }
}

/** A node whose Redis is gone; its client tries again after `retry` milliseconds. With `lazyConnect` the node has opened it. */
async function forsaken (t: Test, Library: typeof IoRedis, retry: number, lazyConnect: boolean, options: Omit<RedisOptions, 'client'>): Promise<{ server: RedisServer, client: IoRedis, backplane: Backplane, ear: Ear }> {
  const server = await redisServer(t)
  const client = new Library(server.port, '127.0.0.1', { lazyConnect, retryStrategy: () => retry })
  client.on('error', () => {})
  t.after(() => client.disconnect())
  const backplane = redis({ client, ...options })
  const ear = new Ear('one')
  await backplane.start(ear)
  await server.stop()
  await until(() => client.status === 'reconnecting')
  return { server, client, backplane, ear }
}

/** A backplane behind a relay, one beside it, and Redis itself. */
class Bench {
  readonly t: Test
  readonly server: RedisServer
  readonly relay: Relay
  #count = 0

  constructor (t: Test, server: RedisServer, relay: Relay) {
    this.t = t
    this.server = server
    this.relay = relay
  }

  static async start (t: Test): Promise<Bench> {
    const server = await redisServer(t)
    return new Bench(t, server, await relayTo(t, server.port))
  }

  async join (options: Partial<RedisOptions> = {}, port = this.relay.port, ear = new Ear(`ear ${++this.#count}`)): Promise<[Backplane, Ear]> {
    const client = createClient({ url: `redis://127.0.0.1:${port}` })
    client.on('error', () => {})
    const backplane = redis({ client, audit: 100, ...options })
    await backplane.start(ear)
    this.t.after(() => backplane.close(ear))
    return [backplane, ear]
  }

  cli (...args: string[]): Promise<string> { return this.server.cli(...args) }
}

function send (backplane: Backplane, topic: string, text: string, keep: Kept | null = kept): Promise<Publication> { return backplane.publish(topic, said(text), { keep, once: false }) }
const once = (fits: (text: string, subscribes: boolean) => boolean, then: () => unknown): Relay['before'] => {
  let isDone = false
  return (text, subscribes) => {
    if (isDone || !fits(text, subscribes)) return undefined
    isDone = true
    return then() as Promise<unknown> | undefined
  }
}
const isMark = (text: string): boolean => /\{fastify-real\}:n:[\w-]+\r\n\$\d+\r\nPUBLISH/.test(text)

withRedis(t, () => {
  const made: Record<string, (port: number) => { client: RedisOptions['client'], isClosed (): boolean }> = {
    '@redis/client' (port) {
      const client = createClient({ url: `redis://127.0.0.1:${port}` })
      return { client, isClosed: () => !client.isOpen }
    },
    ioredis (port) {
      const client = new IoRedis(port, '127.0.0.1', { lazyConnect: true })
      return { client, isClosed: () => client.status === 'end' }
    },
    iovalkey (port) {
      const client = new IoValkey(port, '127.0.0.1', { lazyConnect: true })
      return { client, isClosed: () => client.status === 'end' }
    }
  }
  for (const [name, make] of Object.entries(made)) {
    t.test(`a node that starts while the last one of a client of ${name} ends, or as soon as it has, is one like any other`, async (t) => {
      const { client, isClosed } = make((await redisServer(t)).port)
      const backplane = redis({ client, audit: 100 })
      let last = new Ear('first')
      await backplane.start(last)
      for (const waits of [false, true]) {
        const ending = backplane.close(last)
        if (waits) await ending
        last = new Ear(waits ? 'third' : 'second')
        await backplane.start(last)
        await ending
        await backplane.subscribe(last, 'room/x')
        t.match(await send(backplane, 'room/x', 'said'), { accepted: true })
        t.strictSame(last.texts, ['said'])
      }
      await backplane.close(last)
      await until(isClosed)
    })

    t.test(`a client of ${name} that was not open is opened and closed, and what nobody wants is not subscribed to`, async (t) => {
      const { port, cli } = await redisServer(t)
      const { client, isClosed } = make(port)
      const backplane = redis({ client })
      const ear = new Ear('one')
      t.equal(isClosed() || name !== '@redis/client', true)
      await backplane.start(ear)
      await isDropped(t, backplane, ear, () => cli('pubsub', 'channels', '*c:*'))
      await backplane.close(ear)
      await until(isClosed)
      await backplane.start(ear)
      t.match(await send(backplane, 'room/x', 'again'), { accepted: true })
      await backplane.close(ear)
    })
  }

  for (const [name, make] of Object.entries(made)) {
    t.test(`with a client of ${name} that was not open, a node ends and a start fails while Redis stands still`, { timeout: 60_000 }, async (t) => {
      const server = await redisServer(t)
      const ear = new Ear('one')
      for (const isLost of [false, true]) {
        const backplane = redis({ client: make(server.port).client })
        await backplane.start(ear)
        server.process.kill('SIGSTOP')
        backplane.range('room/x', 0, 10).catch(() => {})
        const closing = backplane.close(ear)
        if (isLost) await server.stop()
        await closing
        if (isLost) break
        await t.rejects(redis({ client: make(server.port).client, timeout: 50 }).start(ear), { message: 'redis does not answer' })
        server.process.kill('SIGCONT')
      }
    })
  }

  t.test('a client of @redis/client that nobody else hears of is heard of again, and not by who has ended', async (t) => {
    const { port } = await redisServer(t)
    const client = createClient({ url: `redis://127.0.0.1:${port}` })
    const given = clientOf(client, META)
    const heard: string[] = []
    given.watch(() => heard.push('one'), () => heard.push('one'))()
    const unwatch = given.watch(() => heard.push('other'), () => heard.push('other'))
    await client.connect()
    t.strictSame(heard, ['other'])
    unwatch()
    client.destroy()
    t.strictSame(heard, ['other'])
  })

  async function isDropped (t: Test, backplane: Backplane, ear: Ear, channels: () => Promise<string>): Promise<void> {
    await backplane.subscribe(ear, 'room/x')
    t.match(await channels(), /c:room\/x/)
    await backplane.unsubscribe(ear, 'room/x')
    await until(async () => (await channels()).trim() === '')
    await backplane.subscribe(ear, 'room/x')
    await send(backplane, 'room/x', 'x')
    t.strictSame(ear.texts, ['x'])
  }

  t.test('the same of a cluster; a node that ends before it is connected leaves nothing', async (t) => {
    const cluster = await redisCluster(t)
    const channels = async (): Promise<string> => (await Promise.all([0, 1, 2].map((at) => cluster.cli(at, 'pubsub', 'shardchannels')))).join('')
    const backplane = redis({ client: await clusterClient(t, cluster) })
    const ear = new Ear('one')
    await backplane.start(ear)
    await isDropped(t, backplane, ear, async () => (await channels()).split('\n').filter((name) => name.includes(':c:')).join('\n'))
    await backplane.close(ear)
    const clients = async (): Promise<string> => (await Promise.all([0, 1, 2].map((at) => cluster.cli(at, 'client', 'list')))).join('').replace(/^.*cmd=client\|list.*$/gm, '')
    const given = await clusterClient(t, cluster)
    const before = (await clients()).split('id=').length
    const subscriber = clientOf(given, META).subscriber({ message () {}, ended () {} })
    const connecting = subscriber.connect()
    subscriber.destroy()
    await connecting.catch(() => {})
    await until(async () => (await clients()).split('id=').length <= before)
    t.equal((await clients()).split('id=').length, before)
  })

  t.test('a connection that is not wanted any more while it comes to be is ended', async (t) => {
    const { port, cli } = await redisServer(t)
    const given = createClient({ url: `redis://127.0.0.1:${port}` })
    await given.connect()
    t.after(() => given.destroy())
    const clients = async (): Promise<number> => (await cli('client', 'list')).split('id=').length
    const before = await clients()
    const subscriber = clientOf(given, META).subscriber({ message () {}, ended () {} })
    const connecting = subscriber.connect()
    subscriber.destroy()
    await connecting.catch(() => {})
    await until(async () => await clients() === before)
    t.pass()
  })

  t.test('a start without an answer says so', async (t) => {
    const sockets: Socket[] = []
    const silent = createServer((socket) => { sockets.push(socket.on('error', () => {})) })
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve))
    const client = createClient({ url: `redis://127.0.0.1:${(silent.address() as AddressInfo).port}` })
    client.on('error', () => {})
    t.after(() => {
      client.destroy()
      silent.close()
      for (const socket of sockets) socket.destroy()
    })
    client.connect().catch(() => {})
    await t.rejects(redis({ client, timeout: 50 }).start(new Ear('one')), { message: 'redis does not answer' })
    t.pass()
  })

  t.test('a topic that is joined while another connection subscribes to all is subscribed to', async (t) => {
    const bench = await Bench.start(t)
    const [backplane, ear] = await bench.join()
    let joined: Promise<number> | null = null
    bench.relay.before = once((_, subscribes) => subscribes, () => { joined = backplane.subscribe(ear, 'room/x') })
    bench.relay.cutSubscribers()
    await until(() => joined !== null)
    t.type(await joined, 'number')
    await send(backplane, 'room/x', 'x')
    t.strictSame(ear.texts, ['x'])
  })

  t.test('a connection that does not come to be is given up, and one that is lost takes its unsubscriptions along', async (t) => {
    const bench = await Bench.start(t)
    const [backplane, ear] = await bench.join({ timeout: 300, audit: 60_000 })
    await backplane.subscribe(ear, 'room/x')
    bench.relay.mute()
    await backplane.unsubscribe(ear, 'room/x')
    let isUnsubscribing = false
    bench.relay.before = once((text) => /UNSUBSCRIBE/i.test(text), () => { isUnsubscribing = true })
    await until(() => isUnsubscribing)
    bench.relay.before = once((_, subscribes) => subscribes, () => new Promise(() => {})) // the next is never answered
    bench.relay.cutSubscribers()
    t.type(await backplane.subscribe(ear, 'room/x'), 'number')
    t.ok(ear.told1('the subscriptions to redis are lost'))
  })

  t.test('a node that ends at the instant its subscriptions are there has none', async (t) => {
    const bench = await Bench.start(t)
    const { relay } = bench
    const ending = new Ear('ending')
    const [backplane] = await bench.join({ audit: 60_000 }, relay.port, ending)
    const [other] = await bench.join({ audit: 60_000 }, bench.server.port)
    await backplane.subscribe(ending, 'nodes')
    let closed: Promise<void> | null = null
    ending.deliver = () => { closed = backplane.close(ending) }
    relay.before = once((_, subscribes) => subscribes, () => { relay.stalled = '' })
    relay.cutSubscribers()
    await until(() => relay.stalled?.includes('c:nodes'))
    await send(other, 'nodes', 'end', null)
    await until(() => relay.stalled?.includes('end'))
    relay.release() // what acknowledges them, and what comes over them, at once
    await until(() => closed !== null)
    await closed
    await until(async () => !(await bench.cli('pubsub', 'channels')).includes('c:nodes'))
    t.match(await send(backplane, 'room/x', 'x'), { accepted: false })
  })

  t.test('what nodes say of presence is asked for again where what was said was not taken', async (t) => {
    const bench = await Bench.start(t)
    const [backplane, ear] = await bench.join({ queue: { events: 1 } })
    for (const topic of ['presence/a', 'room/a']) await backplane.subscribe(ear, topic)
    const [first, second] = await Promise.all([send(backplane, 'presence/a', '1', null), send(backplane, 'presence/a', '2', null)])
    t.match([first, second], [{ accepted: true }, { accepted: false }])
    ear.told.length = 0
    bench.relay.cutPublishers()
    await until(() => ear.told.length > 0)
    t.equal(ear.told[0], 'missed presence/a 0')
  })

  t.test('what Redis refuses is refused, and what it cannot do now is done later', async (t) => {
    const bench = await Bench.start(t)
    const [backplane] = await bench.join({}, bench.server.port)
    await bench.cli('set', streamOf('room/x'), 'no stream')
    await t.rejects(send(backplane, 'room/x', 'x'), /WRONGTYPE/)
    await t.rejects(backplane.range('room/x', 0, 10), /WRONGTYPE/)
    await bench.cli('replicaof', '127.0.0.1', '1')
    const waiting = send(backplane, 'room/y', 'y')
    const { epoch } = backplane
    await new Promise((resolve) => setTimeout(resolve, 100))
    await bench.cli('replicaof', 'no', 'one')
    t.match(await waiting, { accepted: true })
    t.equal(backplane.epoch, epoch)
    await bench.cli('del', META)
    await bench.cli('set', META, 'no hash')
    await bench.cli('script', 'flush')
    const later = send(backplane, 'room/y', 'z')
    await new Promise((resolve) => setTimeout(resolve, 100))
    await bench.cli('del', META)
    t.match(await later, { accepted: true })
    t.not(backplane.epoch, epoch)
  })

  t.test('scripts that Redis forgot are sent again', async (t) => {
    const bench = await Bench.start(t)
    const [backplane, ear] = await bench.join({ audit: 60_000, whenAway: 'refuse' })
    await backplane.subscribe(ear, 'room/x')
    await bench.cli('script', 'flush')
    t.match(await send(backplane, 'room/x', 'x'), { accepted: true })
    await bench.cli('script', 'flush')
    const ranges = await Promise.all([1, 2].map(() => backplane.range('room/x', 0, 10)))
    t.match(ranges, [{ complete: true }, { complete: true }])
    await bench.cli('script', 'flush')
    let asked: Promise<Range> | null = null
    bench.relay.before = once((text) => /LOAD/.test(text), () => { asked = backplane.range('room/x', 0, 10) }) // it waits for the verification
    await backplane.range('room/x', 0, 10)
    t.match(await asked, { complete: true })
    bench.relay.before = (text) => /EVALSHA/.test(text) ? bench.cli('script', 'flush') : undefined
    await t.rejects(backplane.range('room/x', 0, 10), /NOSCRIPT/)
    bench.relay.before = (text) => /EVALSHA/.test(text) ? bench.cli('del', OLD) : undefined
    await t.rejects(backplane.range('room/never', 0, 10), /redis is another one each time it is asked/)
  })

  t.test('a client that would wait long before it tries again tries when there is a server', async (t) => {
    const { server, backplane, ear } = await forsaken(t, IoRedis, 15_000, false, { timeout: 5_000 })
    t.after(() => backplane.close(ear))
    const waiting = send(backplane, 'room/x', 'x')
    await redisServer(t, server.port)
    t.match(await waiting, { accepted: true })
  })

  t.test('a client that was opened here and hurried is not there again when it was closed', async (t) => {
    const { server, client, backplane, ear } = await forsaken(t, IoRedis, 1_000, true, { timeout: 5_000 })
    const waiting = send(backplane, 'room/x', 'x')
    await redisServer(t, server.port)
    await waiting
    await backplane.close(ear)
    let isBack = false
    client.on('connecting', () => { isBack = true })
    await new Promise((resolve) => setTimeout(resolve, 1_500)) // longer than it would wait
    t.strictSame([client.status, isBack], ['end', false])
  })

  for (const [name, Library] of Object.entries({ ioredis: IoRedis, iovalkey: IoValkey as unknown as typeof IoRedis })) {
    t.test(`a client of ${name} that was let go while there was no Redis is opened anew, tries again when it is lost, and is closed`, async (t) => {
      const { server, client, backplane, ear } = await forsaken(t, Library, 15_000, true, { audit: 100 })
      await backplane.close(ear)
      const next = await redisServer(t, server.port)
      await backplane.start(ear)
      await next.stop()
      await until(() => client.status !== 'ready')
      await redisServer(t, server.port)
      t.match(await send(backplane, 'room/x', 'x'), { accepted: true })
      await backplane.close(ear)
      await until(() => client.status === 'end')
    })
  }

  t.test('what is read while there is no connection waits for one, but not for ever', async (t) => {
    const bench = await Bench.start(t)
    const [backplane] = await bench.join({ audit: 100, timeout: 1_000 })
    await send(backplane, 'room/x', 'x')
    bench.relay.before = once((text) => /\r\nEVALSHA\r\n/.test(text), () => bench.relay.cutPublishers())
    t.match(await backplane.range('room/x', 0, 10), { complete: true, deliveries: [{ topic: 'room/x' }] })
    await bench.server.stop()
    await t.rejects(backplane.range('room/x', 0, 10), /redis is not there/)
  })

  for (const [what, sign] of [['it asks which server this is', /\r\nEVAL\r\n/], ['it sends its scripts', /\r\nLOAD\r\n/], ['it asks what is there', /\r\nEVALSHA\r\n/]] as const) {
    t.test(`a node that ends while ${what} does not begin again`, async (t) => {
      const bench = await Bench.start(t)
      const given = createClient({ url: `redis://127.0.0.1:${bench.relay.port}` })
      await given.connect()
      t.after(() => given.destroy())
      const [backplane, ear] = await bench.join({ client: given, audit: 60_000 })
      await bench.cli('script', 'flush')
      bench.relay.before = once((text, subscribes) => !subscribes && sign.test(text), () => backplane.close(ear))
      await t.rejects(backplane.range('room/x', 0, 10), /redis is not there/)
      t.match(await send(backplane, 'room/x', 'x'), { accepted: false })
    })
  }

  t.test('what is sent in the turn in which its node ends is refused', async (t) => {
    const bench = await Bench.start(t)
    const [backplane, ear] = await bench.join({}, bench.server.port)
    await backplane.subscribe(ear, 'room/x')
    const sending = send(backplane, 'room/x', 'x')
    await backplane.close(ear)
    t.match(await sending, { accepted: false })
    t.strictSame(ear.texts, [])
  })

  t.test('no more than 1,024 are on their way', async (t) => {
    const bench = await Bench.start(t)
    const [backplane, ear] = await bench.join({}, bench.server.port)
    await backplane.subscribe(ear, 'room/x')
    const sending = Array.from({ length: 1_024 }, (_, i) => send(backplane, 'room/x', String(i)))
    await Promise.resolve() // they are written at the end of the turn
    await Promise.resolve()
    sending.push(send(backplane, 'room/x', '1024'))
    await Promise.all(sending)
    t.strictSame(ear.texts, Array.from({ length: 1_025 }, (_, i) => String(i)))
  })

  t.test('what comes twice, is of a past sequence, or is of none, is not given', async (t) => {
    const bench = await Bench.start(t)
    const [backplane, ear] = await bench.join({}, bench.server.port)
    await backplane.subscribe(ear, 'room/x')
    const copies: Buffer[] = []
    const tap = createClient({ url: bench.server.url })
    await tap.connect()
    t.after(() => tap.destroy())
    await tap.subscribe(channelOf('room/x'), (message) => copies.push(message), true)
    const again = createClient({ url: bench.server.url })
    await again.connect()
    t.after(() => again.destroy())
    await send(backplane, 'room/x', 'kept')
    await send(backplane, 'room/x', 'not kept', null)
    await until(() => copies.length === 2)
    const { epoch } = backplane
    for (const copy of copies.slice()) await again.publish(channelOf('room/x'), copy)
    const body = (copies[0] as Buffer).subarray((copies[0] as Buffer).indexOf(10) + 1)
    await again.publish(channelOf('room/x'), Buffer.concat([Buffer.from('1 of-nobody 5 4\n'), body])) // Redis is asked, and knows nothing of it
    await send(backplane, 'room/x', 'next')
    await again.flushAll()
    await send(backplane, 'room/x', 'anew')
    await again.publish(channelOf('room/x'), Buffer.concat([Buffer.from(`1 ${epoch} 9 4\n`), body]))
    const own = (await again.sendCommand(['PUBSUB', 'CHANNELS', '*:n:*'])) as unknown as string[]
    for (const mark of ['abcdefghij_- e 7', '', 'no mark', '__proto__']) await again.publish(own[0] as string, mark)
    await send(backplane, 'room/x', 'last')
    t.strictSame(ear.told, ['kept', 'not kept', 'next', 'reset', 'anew', 'last'])
    t.strictSame(ear.lines, ['what came from redis was not understood'])
  })

  t.test('a sequence that was there before is the one again, and no end of others is remembered', async (t) => {
    const bench = await Bench.start(t)
    const [backplane, ear] = await bench.join({ audit: 60_000 }, bench.server.port)
    await backplane.subscribe(ear, 'room/x')
    await send(backplane, 'room/x', '1')
    const { epoch } = backplane
    await bench.cli('copy', META, 'meta')
    await bench.cli('copy', OLD, 'old')
    await bench.cli('del', META, OLD)
    await send(backplane, 'room/x', '2')
    t.not(backplane.epoch, epoch)
    await bench.cli('copy', 'meta', META, 'replace')
    await bench.cli('copy', 'old', OLD, 'replace')
    await send(backplane, 'room/x', '3')
    t.equal(backplane.epoch, epoch)
    for (let i = 0; i < 18; i++) {
      await bench.cli('del', META)
      await send(backplane, 'room/x', 'another')
    }
    t.equal(ear.told.filter((one) => one === 'reset').length, 20)
  })

  t.test('the log may have been lost when it is read, or hold what is no event', async (t) => {
    const bench = await Bench.start(t)
    const [backplane, ear] = await bench.join({ audit: 60_000 }, bench.server.port)
    const { offset } = await send(backplane, 'room/x', '1')
    await bench.cli('eval', `
      local entry = redis.call('XRANGE', KEYS[1], '-', '+')[1]
      redis.call('DEL', KEYS[1])
      redis.call('XADD', KEYS[1], entry[1], entry[2][1], entry[2][2], entry[2][3], 'garbage')
    `, '1', streamOf('room/x'))
    t.match(await backplane.range('room/x', 0, 10), { complete: false, deliveries: [], more: false })
    t.ok(ear.told1('what came from redis was not understood'))
    await bench.cli('flushall')
    t.match(await backplane.range('room/x', offset, 10), { complete: false, deliveries: [], from: -1 })
  })

  t.test('more topics than one mark tells of; a node that fails when it is told harms no other', async (t) => {
    const bench = await Bench.start(t)
    const [backplane, ear] = await bench.join({ audit: 60_000 })
    const failing = new Ear('failing')
    failing.missed = () => { throw new Error('thrown by a node') }
    await backplane.start(failing)
    t.after(() => backplane.close(failing))
    const topics = Array.from({ length: 1_100 }, (_, i) => `room/${i}`)
    await Promise.all(topics.flatMap((topic) => [failing, ear].map((node) => backplane.subscribe(node, topic))))
    const first = await Promise.all([3, 1_099].map((i) => send(backplane, `room/${i}`, 'seen')))
    bench.relay.cutSubscribers()
    const lost = [await hide(bench.server.port, 'room/1099', 'hidden'), await hide(bench.server.port, 'room/3', 'hidden')]
    await until(() => ear.told.includes(`missed room/3 ${lost[1]}`))
    t.strictSame(ear.told.filter((one) => !/ 0$/.test(one)), ['seen', 'seen', `missed room/3 ${lost[1]}`, `missed room/1099 ${lost[0]}`])
    t.ok(first.every(({ accepted }) => accepted))
    t.equal(failing.lines[0], 'a node could not be told what it missed')
    // the sequence changes between the parts of one mark
    const { epoch } = backplane
    ear.told.length = 0
    let parts = 0
    bench.relay.before = (text) => isMark(text) && ++parts === 2 ? bench.cli('flushall') : undefined
    bench.relay.cutSubscribers()
    await until(() => parts > 3)
    await until(() => ear.told.filter((one) => one === 'missed room/5 0').length === 1)
    t.equal(ear.told[0], 'reset')
    t.not(backplane.epoch, epoch)
  })

  t.test('a mark of a sequence that is past, or from before a hole was seen, is not enough', async (t) => {
    const bench = await Bench.start(t)
    const [backplane, ear] = await bench.join({ audit: 60_000 })
    const [other] = await bench.join({ audit: 60_000 }, bench.server.port)
    await backplane.subscribe(ear, 'room/a')
    await send(backplane, 'room/a', 'a1')
    const { relay } = bench
    // a hole, and behind it a mark that was sent before it was seen
    relay.stalled = ''
    const hidden = await hide(bench.server.port, 'room/a', 'a2')
    await send(other, 'room/a', 'a3')
    const joined = backplane.subscribe(ear, 'room/b')
    await until(() => relay.stalled?.includes('c:room/b'))
    relay.release()
    relay.stalled = ''
    let isOver = false
    void joined.then(() => { isOver = true })
    await until(() => /:n:/.test(relay.stalled ?? ''))
    t.strictSame([ear.texts, isOver], [['a1'], false])
    relay.release()
    await joined
    t.strictSame(ear.told, ['a1', `missed room/a ${hidden}`, 'a3'])
    // a mark that comes after its sequence
    relay.stalled = ''
    const late = backplane.subscribe(ear, 'room/c')
    await until(() => relay.stalled?.includes('c:room/c'))
    relay.release()
    relay.stalled = ''
    await until(() => /:n:/.test(relay.stalled ?? ''))
    await bench.cli('flushall')
    await backplane.range('room/a', 0, 10)
    relay.release()
    t.type(await late, 'number')
    t.ok(ear.told.includes('reset'))
  })

  t.test('a mark that is lost with both connections is sent again', async (t) => {
    const bench = await Bench.start(t)
    const [backplane, ear] = await bench.join()
    const { relay } = bench
    let isOn = false
    relay.before = once((text) => isMark(text), () => { isOn = true; return new Promise(() => {}) })
    const joined = backplane.subscribe(ear, 'room/x')
    await until(() => isOn)
    relay.cutSubscribers()
    await until(() => ear.told1('the subscriptions to redis are lost'))
    relay.cutPublishers()
    t.type(await joined, 'number')
  })

  t.test('while it is found out what was lost: what is not kept waits too, as far as there is room; what nodes say does not', async (t) => {
    const bench = await Bench.start(t)
    const [backplane, ear] = await bench.join({ audit: 60_000, maxHeld: 10_000 })
    const [other] = await bench.join({ audit: 60_000 }, bench.server.port)
    for (const topic of ['room/a', 'room/b', 'presence/a', 'nodes']) await backplane.subscribe(ear, topic)
    await send(other, 'room/a', 'a1')
    await until(() => ear.texts.includes('a1'))
    let go: (() => void) | null = null
    bench.relay.before = once((text) => isMark(text), () => new Promise<void>((resolve) => { go = resolve }))
    const hidden = await hide(bench.server.port, 'room/a', 'a2')
    await send(other, 'room/a', 'a3') // a hole
    await send(other, 'room/b', 'not kept', null)
    await send(other, 'presence/a', 'presence', null)
    await send(other, 'nodes', 'nodes', null)
    await until(() => ear.texts.includes('nodes'))
    t.strictSame(ear.texts, ['a1', 'presence', 'nodes'])
    const tap = createClient({ url: bench.server.url })
    await tap.connect()
    t.after(() => tap.destroy())
    const copies: Buffer[] = []
    await tap.subscribe(channelOf('room/a'), (message) => copies.push(message), true)
    const a4 = await send(other, 'room/a', 'a4')
    await until(() => copies.length === 1)
    const again = createClient({ url: bench.server.url })
    await again.connect()
    t.after(() => again.destroy())
    await again.publish(channelOf('room/a'), copies[0] as Buffer) // twice, while it waits
    const body = (copies[0] as Buffer).subarray((copies[0] as Buffer).indexOf(10) + 1)
    await again.publish(channelOf('room/a'), Buffer.concat([Buffer.from(`1 ${backplane.epoch} 999999 ${a4.offset}\n`), body])) // Redis knows of no such place
    await again.publish(channelOf('room/a'), Buffer.concat([Buffer.from('1 of-nobody 5 4\n'), body]))
    await send(other, 'nodes', 'end', null)
    await until(() => go !== null && ear.texts.includes('end'))
    ;(go as unknown as () => void)()
    await until(() => ear.texts.includes('a4'))
    t.strictSame(ear.told, ['a1', 'presence', 'nodes', 'end', `missed room/a ${hidden}`, 'a3', 'not kept', 'a4'])
  })

  t.test('more than may wait: what is kept is told as missed, what is not is dropped where there is no room', async (t) => {
    const bench = await Bench.start(t)
    const [backplane, ear] = await bench.join({ audit: 60_000, maxHeld: 2_500 })
    const [other] = await bench.join({ audit: 60_000 }, bench.server.port)
    for (const topic of ['room/a', 'room/b', 'nodes']) await backplane.subscribe(ear, topic)
    await send(other, 'room/a', 'a1')
    await until(() => ear.texts.includes('a1'))
    let go: (() => void) | null = null
    bench.relay.before = once((text) => isMark(text), () => new Promise<void>((resolve) => { go = resolve }))
    await hide(bench.server.port, 'room/a', 'a2')
    await send(other, 'room/a', 'a3')
    await send(other, 'room/b', 'unkept 1', null)
    let last = 0
    for (let i = 4; i < 10; i++) last = (await send(other, 'room/a', `a${i}`)).offset
    for (let i = 2; i < 10; i++) await send(other, 'room/b', `unkept ${i}`, null)
    const large = await send(other, 'room/a', 'x'.repeat(3_000))
    await send(other, 'nodes', 'end', null)
    await until(() => go !== null && ear.texts.includes('end'))
    ;(go as unknown as () => void)()
    await until(() => ear.told.some((one) => one.startsWith('missed')))
    t.strictSame(ear.told.slice(0, 5), ['a1', 'end', `missed room/a ${large.offset}`, 'unkept 1', 'unkept 2'])
    t.ok(large.offset > last)
    t.notOk(ear.texts.includes('unkept 9'))
    t.equal(ear.lines.filter((line) => line === 'more came from redis than may wait, and is read from the log').length, 1)
  })

  t.test('a topic that goes while something of it waits', async (t) => {
    const bench = await Bench.start(t)
    const [backplane, ear] = await bench.join({ audit: 60_000 })
    const [other] = await bench.join({ audit: 60_000 }, bench.server.port)
    for (const topic of ['room/a', 'room/b']) await backplane.subscribe(ear, topic)
    await send(other, 'room/a', 'a1')
    let go: (() => void) | null = null
    bench.relay.before = once((text) => isMark(text), () => new Promise<void>((resolve) => { go = resolve }))
    await hide(bench.server.port, 'room/a', 'a2')
    await send(other, 'room/a', 'a3')
    await until(() => go !== null)
    await backplane.unsubscribe(ear, 'room/a')
    bench.relay.before = once((text) => /UNSUBSCRIBE/i.test(text), () => send(other, 'room/a', 'late'))
    await until(async () => !(await bench.cli('pubsub', 'channels')).includes('c:room/a'))
    ;(go as unknown as () => void)()
    await send(other, 'room/b', 'b1')
    await until(() => ear.texts.includes('b1'))
    t.strictSame(ear.told, ['a1', 'b1'])
  })

  t.test('an answer of a sequence that is past when it has come has no place', async (t) => {
    const bench = await Bench.start(t)
    const [backplane, ear] = await bench.join({ audit: 100 })
    await backplane.subscribe(ear, 'room/x')
    bench.relay.refusing = true
    bench.relay.cutSubscribers()
    await until(() => ear.told1('the subscriptions to redis are lost'))
    const waiting = send(backplane, 'room/x', 'x') // accepted, and does not come
    await until(async () => (await bench.cli('exists', streamOf('room/x'))).trim() === '1')
    await bench.cli('flushall')
    t.match(await backplane.range('room/x', 0, 10), { complete: false })
    bench.relay.refusing = false
    t.match(await waiting, { accepted: true, offset: 0 })
  })
})
