import type { Msg } from '@nats-io/transport-node'
import type { Delivery, Kept, Node, Parcel, Place, Range } from '../../types/backplane.ts'
import type { CheckedEvent } from '../event.ts'
import { decodeParcel } from '../parcel.ts'
import type { Received } from '../parcel.ts'
import type { Link } from './nats-link.ts'
import { Logs, readLog } from './nats-logs.ts'
import type { Entry, Log } from './nats-logs.ts'
import { within } from './nats-options.ts'
import { KEEP, keepOf } from './nats-outgoing.ts'
import type { EventStream, Stored } from './nats-stream.ts'
import { tokenOf } from './nats-subject.ts'
import type { NatsTopic } from './nats-topic.ts'

/** What reading needs from above. */
export interface ReaderHost {
  readonly log: Node['log']
  readonly epoch: string
  /** The greatest offset that has come. */
  readonly seen: number
  /** Nothing up to what was seen is missing. */
  readonly isWhole: boolean
  topic (token: string): NatsTopic | undefined
  /** Asks the stream what the sequence is. */
  agree (): Promise<void>
}

/** Understands what the stream keeps and sends, and gives what was kept. */
export class StreamReader {
  readonly #host: ReaderHost
  readonly #link: Link
  readonly #stream: EventStream
  readonly #logs = new Logs()

  constructor (host: ReaderHost, link: Link, stream: EventStream) {
    this.#host = host
    this.#link = link
    this.#stream = stream
  }

  /** Throws where it is no parcel. */
  decode (data: Uint8Array): Received { return decodeParcel(Buffer.from(data.buffer, data.byteOffset, data.byteLength), this.#link.maxPayload) }

  delivery (topic: string, event: CheckedEvent, except: Parcel['except'], offset: number, prev: number, epoch: string = this.#host.epoch): Delivery {
    return { event: offset === 0 ? event : event.at(epoch, offset), except, topic, offset, prev }
  }

  /** A kept event has come. */
  add (topic: NatsTopic, delivery: Delivery, size: number, msg: Msg): void {
    if (topic.log === null && topic.recent === null) return
    const entry = { delivery, size, keep: this.#keepOf(msg) }
    topic.recent?.push(entry)
    this.#logs.add(topic, entry)
  }

  /** Something of it is missing. */
  drop (topic: NatsTopic): void {
    this.#logs.drop(topic)
    topic.recent = topic.loading = null // whoever asks from now on does not get what is being read
  }

  #keepOf (msg: Msg): Kept {
    const { bounds } = this.#stream
    return within(bounds, keepOf(msg.headers?.get(KEEP), { ...bounds, bytes: Infinity }))
  }

  async range (name: string, after: Place, limit: number): Promise<Range> {
    const token = tokenOf(name)
    const topic = this.#host.topic(token)
    if (topic?.isLive === true && (this.#host.isWhole || !this.#link.up)) {
      const log = topic.log ?? await (topic.loading ??= this.#load(topic))
      if (topic.log === log) this.#logs.use(topic, log)
      const top = topic.log === log ? Math.max(this.#host.seen, log.top) : log.top
      if (after === null || (typeof after === 'number' ? after <= top : log.history.find(after.id) !== -1)) return log.history.range(after, limit, top)
    }
    const { history, top } = await this.#read(name, token)
    return history.range(after, limit, top)
  }

  async #load (topic: NatsTopic): Promise<Log> {
    const recent: Entry[] = topic.recent = []
    try {
      const log = await this.#read(topic.name, topic.token)
      if (topic.recent !== recent) return log
      this.#logs.put(topic, log)
      for (const entry of recent) this.#logs.add(topic, entry)
      return log
    } finally {
      if (topic.recent === recent) topic.recent = topic.loading = null
    }
  }

  // nothing of another sequence is given before the nodes are told of it
  async #read (name: string, token: string): ReturnType<typeof readLog> {
    for (;;) {
      const log = await this.#link.insist(() => readLog(this.#stream, (epoch) => this.#link.subjects.kept(epoch, token), (stored, epoch) => this.#entryOf(name, stored, epoch), ({ msg }) => this.#keepOf(msg)))
      if (log.epoch === this.#host.epoch) return log
      await this.#host.agree()
    }
  }

  #entryOf (name: string, { msg, offset }: Stored, epoch: string): Entry | null {
    try {
      const { event, except } = this.decode(msg.data)
      return { delivery: this.delivery(name, event, except, offset, 0, epoch), size: event.size, keep: this.#keepOf(msg) }
    } catch (err) {
      this.#host.log.warn({ err, topic: name, offset }, 'what the stream keeps was not understood')
      return null
    }
  }
}
