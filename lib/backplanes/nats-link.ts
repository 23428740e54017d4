import { randomBytes } from 'node:crypto'
import type { ConnectionOptions, Msg, MsgHdrs, NatsConnection, Subscription } from '@nats-io/transport-node'
import { BackplaneError } from '../errors.ts'
import type { Node } from '../../types/backplane.ts'
import { safe } from './nats-options.ts'
import type { NatsSettings } from './nats-options.ts'
import { Subjects } from './nats-subject.ts'

/** What the link needs from above. */
export interface LinkHost {
  readonly log: Node['log']
  /** There is a connection that has no subscriptions yet. */
  connected (): void
  /** The server answers again, and every subscription is made. */
  returned (): void
  lost (): void
  /** The server has said what became of a publication. */
  answered (number: number, msg: Msg): void
}

interface Asked { resolve (msg: Msg): void, reject (err: Error): void, readonly timer: NodeJS.Timeout }

/** Something that comes while there is this connection, and in time, or not at all. */
export interface Expected { readonly token: string, readonly come: Promise<Msg>, take (msg: Msg): void, drop (): void }

const AGAIN = 1_000 // how long after a connection could not be made it is tried again
const MAX_ASK = 2_000 // a cluster that has lost its leader answers nothing
const MAX_PROBE = 50_000

/** The connection to the server: whether it is there, what is asked of it, and that it is not deaf. */
export class Link {
  readonly instance = randomBytes(9).toString('base64url')
  readonly subjects: Subjects
  up = false
  /** Another connection may still come, or this one come back. */
  closed = false
  /** How often the connection was lost. */
  losses = 0
  /** How often something that was asked for did not come. */
  silences = 0
  readonly #host: LinkHost
  readonly #settings: NatsSettings
  readonly #asked = new Map<string, Asked>()
  #connection: NatsConnection | null = null
  #subscriptions: Subscription[] = []
  #asks = 0
  #flushing: Promise<void> | null = null
  #retry: NodeJS.Timeout | null = null
  #lostAt = -Infinity
  readonly #longing: Array<() => void> = []
  #heardAt = 0
  #probedAt = 0
  #patience: number

  constructor (host: LinkHost, settings: NatsSettings) {
    this.#host = host
    this.#settings = settings
    this.#patience = settings.probe
    this.subjects = new Subjects(settings.name, this.instance)
  }

  /** Rejects when there is no connection now; one that is made later is told of. */
  async open (): Promise<void> {
    this.closed = false
    const { connection } = this.#settings
    try {
      this.#use(typeof connection === 'function' ? await this.#make(connection) : connection)
    } catch (err) {
      this.#again()
      throw err
    }
  }

  async #make (make: (options: ConnectionOptions) => NatsConnection | Promise<NatsConnection>): Promise<NatsConnection> {
    const made = Promise.resolve(make({ ...safe }))
    return await new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        made.then((connection) => connection.close(), () => {}) // it comes too late
        reject(new BackplaneError('no connection was made in time'))
      }, this.#settings.timeout)
      made.then(resolve, reject).finally(() => clearTimeout(timer))
    })
  }

  #use (connection: NatsConnection): void {
    if (this.closed) { // it was made too late
      void connection.close()
      return
    }
    if (connection.isClosed()) throw new BackplaneError('the connection is closed')
    this.#connection = connection
    this.up = true
    this.#heardAt = performance.now()
    this.#probedAt = 0
    this.#subscriptions = [
      this.subscribe(`${this.subjects.replies}*`, (msg) => this.#answered(msg)),
      this.subscribe(this.subjects.probe, () => {})
    ] as Subscription[]
    this.#host.connected()
    void this.#watch(connection)
  }

  async #watch (connection: NatsConnection): Promise<void> {
    for await (const { type } of connection.status()) {
      if (this.#connection !== connection) return
      if (type === 'disconnect') this.#lost()
      else if (type === 'reconnect') {
        this.up = true
        this.#heardAt = performance.now()
        this.#probedAt = 0
        this.#returned()
      }
    }
    this.#lost()
    this.#connection = null
    if (typeof this.#settings.connection === 'function') this.#again()
    else this.#host.log.error({ stream: this.#settings.name }, 'the connection to NATS has closed for good; make it with maxReconnectAttempts -1, or give a function that makes it')
  }

  #lost (): void {
    this.up = false
    this.losses++
    this.#lostAt = performance.now()
    this.#rejectAll(new BackplaneError('the connection was lost'))
    this.#host.lost()
  }

  #rejectAll (err: Error): void {
    for (const { reject, timer } of this.#asked.values()) {
      clearTimeout(timer)
      reject(err)
    }
    this.#asked.clear()
  }

  #again (): void {
    if (this.closed || typeof this.#settings.connection !== 'function') return
    this.#retry = setTimeout(() => { if (!this.closed) this.open().then(() => { if (!this.closed) this.#returned() }, () => {}) }, AGAIN).unref()
  }

  subscribe (subject: string, callback: (msg: Msg) => void): Subscription | null {
    return this.#connection?.subscribe(subject, {
      callback: (err, msg) => {
        this.heard()
        if (err === null) callback(msg)
        else this.#host.log.error({ err, subject }, 'a subscription was refused')
      }
    }) ?? null
  }

  /** The answer goes to `answered`. Throws what the client throws: an event that is too large, a connection that has closed. */
  send (subject: string, payload: Uint8Array, headers: MsgHdrs, number?: number): void {
    this.#there.publish(subject, payload, number === undefined ? { headers } : { headers, reply: `${this.subjects.replies}p${number}` })
  }

  /** Rejects when it does not come in time, or the connection is lost before. */
  expect (what: string, timeout: number = this.#settings.timeout): Expected {
    const token = `a${++this.#asks}`
    const come = new Promise<Msg>((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#forget(token)
        this.silences++
        reject(new BackplaneError(`the server did not answer ${what}`))
      }, timeout).unref()
      this.#asked.set(token, { resolve, reject, timer })
    })
    come.catch(() => {}) // whoever gives up before it comes
    return { token, come, take: (msg) => this.#take(token, msg), drop: () => { this.#forget(token) } }
  }

  #forget (token: string): Asked | undefined {
    const asked = this.#asked.get(token)
    if (asked !== undefined) clearTimeout(asked.timer)
    this.#asked.delete(token)
    return asked
  }

  #take (token: string, msg: Msg): void {
    const asked = this.#forget(token)
    if (asked === undefined) return
    if (isNobody(msg)) asked.reject(new BackplaneError('JetStream is not there'))
    else asked.resolve(msg)
  }

  /** Rejects when no answer comes in time, or nobody is there to answer. */
  async ask (subject: string, payload: string, more: { headers?: MsgHdrs } = {}): Promise<Msg> {
    const connection = this.#there
    const { token, come } = this.expect(subject, Math.min(MAX_ASK, this.#settings.timeout))
    connection.publish(subject, payload, { reply: this.subjects.replies + token, ...more })
    return await come
  }

  /** Tries again what a connection that was lost has undone, as soon as there is another one, and what was not answered; not where it stays so. */
  async insist<T> (work: () => Promise<T>): Promise<T> {
    const until = performance.now() + this.#settings.timeout
    for (;;) {
      const { losses, silences } = this
      try {
        return await work()
      } catch (err) {
        const isSilent = silences !== this.silences && performance.now() < until
        if (this.up && losses === this.losses ? !isSilent : !await this.#back()) throw err
      }
    }
  }

  // false when it has been away too long
  #back (): Promise<boolean> {
    const left = this.#lostAt + this.#settings.timeout - performance.now()
    if (this.up || left <= 0) return Promise.resolve(this.up)
    return new Promise((resolve) => {
      const timer = setTimeout(() => resolve(false), left).unref()
      this.#longing.push(() => {
        clearTimeout(timer)
        resolve(this.up)
      })
    })
  }

  #returned (): void {
    this.#host.returned()
    for (const back of this.#longing.splice(0)) back()
  }

  /** The server has taken all that was sent before, and what it sent before has come. */
  flush (): Promise<void> {
    this.#flushing ??= Promise.resolve().then(() => {
      this.#flushing = null
      return this.#there.flush()
    })
    return this.#flushing
  }

  get #there (): NatsConnection {
    if (!this.up) throw new BackplaneError('there is no connection')
    return this.#connection as NatsConnection
  }

  get maxPayload (): number { return this.#connection?.info?.max_payload ?? Infinity }
  /** What of the kept events this node is sent. */
  get follows (): 'rooms' | 'all' { return followOf(this.#settings.follow, this.#there.info?.version) }

  get server (): string | undefined { return this.#connection?.info?.server_id }

  heard (): void {
    this.#heardAt = performance.now()
    this.#probedAt = 0
    this.#patience = this.#settings.probe
  }

  #answered (msg: Msg): void {
    const token = msg.subject.slice(this.subjects.replies.length)
    if (token.startsWith('p')) return this.#host.answered(Number(token.slice(1)), msg)
    this.#take(token, msg)
  }

  /** A connection on which nothing comes any more is made anew, though it answers pings. */
  probe (now: number): void {
    if (!this.up || this.#connection === null) return
    if (this.#probedAt === 0) {
      if (now - this.#heardAt < this.#settings.probe) return
      this.#probedAt = now
      this.#connection.publish(this.subjects.probe)
    } else if (now - this.#probedAt >= this.#patience) {
      this.#probedAt = 0
      this.#heardAt = now
      this.#patience = Math.min(this.#patience * 2, MAX_PROBE)
      this.#host.log.warn({ stream: this.#settings.name }, 'nothing comes from NATS any more, so the connection is made anew')
      void this.#connection.reconnect().catch(() => {})
    }
  }

  async close (): Promise<void> {
    this.closed = true
    if (this.#retry !== null) clearTimeout(this.#retry)
    this.#rejectAll(new BackplaneError('it was closed'))
    const connection = this.#connection
    this.#connection = null
    this.up = false
    for (const back of this.#longing.splice(0)) back()
    if (connection === null || connection.isClosed()) return
    for (const subscription of this.#subscriptions) subscription.unsubscribe()
    if (typeof this.#settings.connection === 'function') await connection.close()
  }
}

/** Nobody is subscribed to what was asked: no stream has the subject, or JetStream is not there. */
export function isNobody (msg: Msg): boolean { return msg.data.length === 0 && msg.headers?.code === 503 }

/** A server before 2.10 hands on what several clients send at the same time in another order than that of the stream. */
export function followOf (follow: NatsSettings['follow'], version: string = ''): 'rooms' | 'all' {
  if (follow !== 'auto') return follow
  const [major = 0, minor = 0] = version.split('.').map(Number)
  return major * 1_000 + minor >= 2_010 ? 'rooms' : 'all'
}
