// Stands between a node and its server, and does to the connections what a network can.
import { createConnection, createServer } from 'node:net'
import type { AddressInfo, Socket } from 'node:net'
import type { Test } from 'tap'

export interface Relay {
  readonly port: number
  /** The port of the server, for connections from now on. */
  to: number
  /** Milliseconds that what is sent to the server waits, on connections that do not subscribe. */
  delay: number
  /** Called with what is about to be passed on to the server, which waits for it. */
  before: ((text: string, subscribes: boolean) => Promise<unknown> | undefined) | null
  /** What subscribers are sent waits as long as this is no longer null; it is its text. */
  stalled: string | null
  release (): void
  /** What everybody else is sent waits for it. */
  answers: Promise<unknown> | null
  /** Connections that want to subscribe are ended as soon as they say so. */
  refusing: boolean
  /** Whoever has subscribed so far hears nothing any more, though the connection stays. */
  mute (): void
  /** Nothing that the server sends to whoever has subscribed is taken from it, as of a reader that is too slow. */
  pauseSubscribers (): void
  /** The connections of whoever has subscribed so far are cut. */
  cutSubscribers (): void
  /** The connections of everybody else are cut. */
  cutPublishers (): void
}

const SUBSCRIBES = /\bS?SUBSCRIBE\r/i

export async function relayTo (t: Test, to: number): Promise<Relay> {
  const subscribers = new Set<Socket>()
  const muted = new Set<Socket>()
  const all = new Set<Socket>() // those of the near side
  const fars = new WeakMap<Socket, Socket>()
  const waiting = new Map<Socket, Buffer[]>()
  const relay: Relay = {
    port: 0,
    to,
    delay: 0,
    before: null,
    stalled: null,
    release () {
      relay.stalled = null
      for (const [near, data] of waiting) if (!near.destroyed) near.write(Buffer.concat(data)) // at once
      waiting.clear()
    },
    answers: null,
    refusing: false,
    pauseSubscribers () { for (const near of subscribers) fars.get(near)?.pause() },
    mute () { for (const near of subscribers) muted.add(near) },
    cutSubscribers () { for (const near of subscribers) near.destroy() },
    cutPublishers () { for (const near of all) if (!subscribers.has(near)) near.destroy() }
  }
  const server = createServer((near) => {
    const far = createConnection(relay.to, '127.0.0.1')
    const forget = (): void => { for (const set of [subscribers, muted, all]) set.delete(near); near.destroy(); far.destroy() }
    all.add(near)
    fars.set(near, far)
    for (const socket of [near, far]) socket.setNoDelay().on('error', () => {}).on('close', forget)
    let last: Promise<unknown> = Promise.resolve()
    near.on('data', (data) => {
      if (SUBSCRIBES.test(data.toString('latin1'))) subscribers.add(near)
      const subscribes = subscribers.has(near)
      if (relay.refusing && subscribes) return near.destroy()
      const due = new Promise<void>((resolve) => { if (subscribes || relay.delay === 0) resolve(); else setTimeout(resolve, relay.delay) })
      last = last.then(() => due).then(() => relay.before?.(data.toString('latin1'), subscribes)).then(() => { if (!far.destroyed) far.write(data) }) // in its order, also where the delay changes
    })
    let answered: Promise<unknown> | null = null
    far.on('data', (data) => {
      if (muted.has(near)) return
      if (!subscribers.has(near) && (relay.answers !== null || answered !== null)) {
        const before = answered
        answered = Promise.all([before, relay.answers]).then(() => { if (!near.destroyed) near.write(data) }) // in its order
        return
      }
      if (relay.stalled === null || !subscribers.has(near)) return near.write(data)
      relay.stalled += data.toString('latin1')
      waiting.set(near, [...waiting.get(near) ?? [], data])
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.after(() => { for (const near of all) near.destroy(); server.close() })
  return Object.assign(relay, { port: (server.address() as AddressInfo).port })
}
