// Stands between a node and its server, and does to the connections what a network can.
import { createConnection, createServer } from 'node:net'
import type { AddressInfo, Socket } from 'node:net'
import type { Test } from 'tap'

export interface Relay {
  readonly port: number
  /** Milliseconds that what is sent to the server waits, on connections that do not subscribe. */
  delay: number
  /** Connections that want to subscribe are ended as soon as they say so. */
  refusing: boolean
  /** Whoever has subscribed so far hears nothing any more, though the connection stays. */
  mute (): void
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
  const relay: Relay = {
    port: 0,
    delay: 0,
    refusing: false,
    mute () { for (const near of subscribers) muted.add(near) },
    cutSubscribers () { for (const near of subscribers) near.destroy() },
    cutPublishers () { for (const near of all) if (!subscribers.has(near)) near.destroy() }
  }
  const server = createServer((near) => {
    const far = createConnection(to, '127.0.0.1')
    const forget = (): void => { for (const set of [subscribers, muted, all]) set.delete(near); near.destroy(); far.destroy() }
    all.add(near)
    for (const socket of [near, far]) socket.setNoDelay().on('error', () => {}).on('close', forget)
    let last = Promise.resolve()
    near.on('data', (data) => {
      if (SUBSCRIBES.test(data.toString('latin1'))) subscribers.add(near)
      if (relay.refusing && subscribers.has(near)) return near.destroy()
      const pass = (): void => { if (!far.destroyed) far.write(data) }
      if (subscribers.has(near)) return pass()
      const due = new Promise<void>((resolve) => setTimeout(resolve, relay.delay))
      last = last.then(() => due).then(pass) // in its order, also where the delay changes
    })
    far.on('data', (data) => { if (!muted.has(near)) near.write(data) })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.after(() => { for (const near of all) near.destroy(); server.close() })
  return Object.assign(relay, { port: (server.address() as AddressInfo).port })
}
