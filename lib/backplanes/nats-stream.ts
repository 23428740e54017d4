import { createHash, randomBytes } from 'node:crypto'
import { headers } from '@nats-io/transport-node'
import type { Msg, MsgHdrs } from '@nats-io/transport-node'
import { BackplaneError } from '../errors.ts'
import type { Link } from './nats-link.ts'
import { isNobody } from './nats-link.ts'
import type { Bounds, NatsSettings } from './nats-options.ts'

/** Header by which the stream knows a publication that is sent again. */
export const ID = 'Nats-Msg-Id'

/** The sequence as the server has it. */
export interface Sequence {
  readonly epoch: string
  /** When the stream was made. */
  readonly created: string
  /** Everything of this epoch comes after it. */
  readonly base: number
  readonly first: number
  readonly last: number
  /** How many events of a subject the stream keeps. */
  readonly perSubject: number
}

/** What one asks the stream for. */
export interface Found { readonly offset: number, /** Under which the stream knows it. */ readonly id: string, readonly data: Uint8Array }

/** An event as the stream keeps it. */
export interface Stored { readonly offset: number, /** Milliseconds since 1970, by the server's clock. */ readonly at: number, readonly msg: Msg }

interface Config {
  subjects?: string[]
  description?: string
  max_msgs_per_subject: number
  [key: string]: unknown
}

interface Answer { error?: { code: number, err_code: number, description: string } }
interface Info extends Answer { config: Config, created: string, state: { first_seq: number, last_seq: number } }
interface Got extends Answer { message: { seq: number, hdrs?: string, data?: string } }
interface Made extends Answer { name: string, created: string, num_pending: number }

const NOT_FOUND = 10059
const NO_MESSAGE = 10037
const OTHER_CONFIG = 10058
const nanoseconds = 1_000_000
const idIn = new RegExp(`^${ID}: ?(.*)\\r$`, 'm')
const MARK_FOR = 30_000
const MARK = 'fastify-real'

/** The stream that keeps the events of all rooms: its sequence is that of the backplane. */
export class EventStream {
  bounds: Bounds = { events: 0, age: 0 }
  readonly #link: Link
  readonly #settings: NatsSettings
  #reads = 0

  constructor (link: Link, settings: NatsSettings) {
    this.#link = link
    this.#settings = settings
  }

  /** The sequence, made where there is none. With `renew`, when that says so, it gets another epoch: what was kept is not of it. */
  async find (renew?: (sequence: Sequence) => boolean | Promise<boolean>): Promise<Sequence> {
    const info = await this.#call<Info>(`STREAM.INFO.${this.#settings.name}`)
    if (info.error?.err_code === NOT_FOUND) return await this.#create()
    const sequence = this.#sequenceOf(check(info))
    return renew !== undefined && await renew(sequence) ? await this.#renew(info, sequence) : sequence
  }

  /** As `find`, with the bounds it is to have. An epoch whose bounds were narrower cannot tell what was dropped by them. */
  async settle (): Promise<Sequence> {
    const info = await this.#call<Info>(`STREAM.INFO.${this.#settings.name}`)
    if (info.error?.err_code === NOT_FOUND) return await this.#create()
    const sequence = this.#sequenceOf(check(info))
    const wanted = this.#config(sequence.epoch, sequence.base)
    if (wanted.max_msgs_per_subject > sequence.perSubject) return await this.#renew(info, sequence)
    const same = Object.entries(wanted).every(([key, value]) => JSON.stringify(info.config[key]) === JSON.stringify(value))
    return same ? sequence : this.#sequenceOf(await this.#update({ ...info.config, ...wanted }))
  }

  async #create (): Promise<Sequence> {
    const made = await this.#call<Info>(`STREAM.CREATE.${this.#settings.name}`, this.#config(newEpoch(), 0))
    return made.error?.err_code === OTHER_CONFIG ? await this.find() : this.#sequenceOf(check(made)) // another node was faster
  }

  // all nodes that find the same renew it to the same epoch: to the second of them it is no change
  async #renew ({ config }: Info, { epoch, created, last }: Sequence): Promise<Sequence> {
    const why = [epoch, created, this.#link.server, this.bounds.events].join(' ')
    return this.#sequenceOf(await this.#update({ ...config, ...this.#config(createHash('sha256').update(why).digest('base64url').slice(0, 12), last) }))
  }

  async #update (config: Config): Promise<Info> { return check(await this.#call<Info>(`STREAM.UPDATE.${this.#settings.name}`, config)) }

  #config (epoch: string, base: number): Config {
    const { name, history, remember, storage, replicas } = this.#settings
    const { events, age } = this.bounds
    return {
      name,
      description: `${MARK} ${base}`,
      subjects: [`${name}.k.${epoch}.>`],
      republish: { src: `${name}.k.>`, dest: this.#link.subjects.all },
      retention: 'limits',
      discard: 'old',
      storage,
      num_replicas: replicas,
      max_msgs_per_subject: events + 1, // the one more is a place: whoever saw it has missed none of those that follow
      max_age: Math.max(age, remember) * nanoseconds,
      max_bytes: history.totalBytes,
      duplicate_window: age * nanoseconds,
      allow_direct: true
    }
  }

  #sequenceOf ({ config, created, state }: Info): Sequence {
    const { name } = this.#settings
    const [subject = ''] = config.subjects ?? []
    const [, , epoch = ''] = subject.split('.')
    const base = new RegExp(`^${MARK} (\\d+)$`).exec(config.description ?? '')?.[1]
    if (base === undefined || subject !== `${name}.k.${epoch}.>`) throw new BackplaneError(`there is a stream ${name} that is not of ${MARK}: give another name`)
    return { epoch, created, base: Number(base), first: state.first_seq, last: state.last_seq, perSubject: config.max_msgs_per_subject }
  }

  /** All that the stream has of a subject, oldest first, and what its clock says. */
  async read (subject: string): Promise<{ all: Stored[], now: number }> {
    const { name } = this.#settings
    const inbox = `${this.#link.subjects.probe}.${++this.#reads}`
    const stored: Stored[] = []
    const { come, take, drop } = this.#link.expect('a reading of the log')
    const subscription = this.#link.subscribe(inbox, (msg) => {
      const one = storedOf(msg)
      if (one === null) return
      stored.push(one.stored)
      if (one.isLast) take(msg)
    })
    let consumer: string | null = null
    let now: number
    try {
      const made = check(await this.#call<Made>(`CONSUMER.CREATE.${name}`, {
        stream_name: name,
        config: {
          deliver_subject: inbox,
          deliver_policy: 'all',
          ack_policy: 'none',
          filter_subject: subject,
          replay_policy: 'instant',
          mem_storage: true,
          num_replicas: 1,
          inactive_threshold: this.#settings.timeout * nanoseconds
        }
      }))
      consumer = made.name
      now = Date.parse(made.created)
      if (made.num_pending > 0) await come
    } finally {
      drop()
      subscription?.unsubscribe()
      if (consumer !== null) this.#link.ask(`$JS.API.CONSUMER.DELETE.${name}.${consumer}`, '').catch(() => {})
    }
    return { all: stored, now }
  }

  /** The last event of a subject; null when there is none. */
  async last (subject: string): Promise<Found | null> { return await this.#get({ last_by_subj: subject }) }

  /** The event at an offset; null when it is gone. */
  async at (offset: number): Promise<Found | null> { return await this.#get({ seq: offset }) }

  // of several servers any may answer a direct request, also one that is behind
  async #get (what: object): Promise<Found | null> {
    if (this.#settings.replicas > 1) return await this.#getFromLeader(what)
    const msg = await this.#link.ask(`$JS.API.DIRECT.GET.${this.#settings.name}`, JSON.stringify(what))
    const offset = Number(msg.headers?.get('Nats-Sequence'))
    if (offset > 0) return { offset, id: (msg.headers as MsgHdrs).get(ID), data: msg.data }
    if (msg.headers?.code === 404) return null
    throw new BackplaneError('an event could not be read from the stream')
  }

  async #getFromLeader (what: object): Promise<Found | null> {
    const answer = await this.#call<Got>(`STREAM.MSG.GET.${this.#settings.name}`, what)
    if (answer.error?.err_code === NO_MESSAGE) return null
    const { seq, hdrs = '', data = '' } = check(answer).message
    return { offset: seq, id: idIn.exec(Buffer.from(hdrs, 'base64').toString())?.[1] ?? '', data: Buffer.from(data, 'base64') }
  }

  /** Puts a mark into the stream, one of all nodes for half a minute; gives its offset. */
  async mark (epoch: string): Promise<number> {
    const place = Math.floor(Date.now() / MARK_FOR)
    const given = headers()
    given.set(ID, `mark ${epoch} ${place}`)
    const answer = await this.#link.ask(this.#link.subjects.kept(epoch, `-.${place}`), '', { headers: given })
    return (acknowledgement(answer) as { offset: number }).offset
  }

  /** Resolves when everything has come that was kept before and is sent on: the stream answers what it refuses in the order in which it sends. */
  async fence (epoch: string): Promise<void> {
    const refused = headers()
    refused.set('Nats-Expected-Stream', '-')
    await this.#link.ask(this.#link.subjects.kept(epoch, '-'), '', { headers: refused })
  }

  async #call<T extends Answer> (what: string, body?: object): Promise<T> {
    const msg = await this.#link.ask(`$JS.API.${what}`, body === undefined ? '' : JSON.stringify(body))
    return msg.json<T>()
  }
}

function newEpoch (): string { return randomBytes(9).toString('base64url') }

function check<T extends Answer> (answer: T): T {
  if (answer.error !== undefined) throw new BackplaneError(`JetStream: ${answer.error.description}`)
  return answer
}

// $JS.ACK.<stream>.<consumer>.<delivered>.<offset>.<count>.<nanoseconds>.<pending>, with two more tokens before the stream on some servers
export function storedOf (msg: Msg): { stored: Stored, isLast: boolean } | null {
  const tokens = msg.reply?.split('.') ?? []
  const start = tokens.length >= 11 ? 4 : 2
  const [offset, , at, pending] = tokens.slice(start + 3)
  if (pending === undefined) return null
  return { stored: { offset: Number(offset), at: Number(at) / nanoseconds, msg }, isLast: pending === '0' }
}

/** What became of a publication: `null` when there is nobody to take it, now or in this epoch. */
export function acknowledgement (msg: Msg): { offset: number, duplicate: boolean } | null {
  if (isNobody(msg)) return null
  const { seq, duplicate, error } = msg.json<Answer & { seq?: number, duplicate?: boolean }>()
  if (error !== undefined || !Number.isSafeInteger(seq)) throw new BackplaneError(`JetStream: ${error?.description ?? 'no acknowledgement'}`)
  return { offset: seq as number, duplicate: duplicate === true }
}
