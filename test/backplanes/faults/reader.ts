import { request } from 'node:http'
import type { IncomingMessage } from 'node:http'
import { WebSocket } from 'ws'
import { EventParser } from '../../../lib/testing.ts'
import type { Dispatched, Heard } from './verdict.ts'

export interface ReaderOptions {
  name: string
  transport: 'sse' | 'ws'
  rooms: string[]
  query?: Record<string, string>
  /** Where it may go: the next when one is not to be had. */
  ports (): number[]
  /** Where it goes first. */
  at: number
}

interface Wire { entered (): void, answered (): void, over (end: number): void }

const PATIENCE = 3_000 // with a node that takes the connection and says nothing
const PAUSE = 30 // before it comes back

/** A client that comes back by its last id, on whichever node it finds. */
export class Reader implements Heard {
  readonly name: string
  readonly rooms: string[]
  readonly dispatched: Dispatched[] = []
  /** Data of `presence` events, and of everything else that is no event of a writer. */
  readonly presence: Array<Record<string, Array<{ key: string }>>> = []
  /** How often it has been let in, and whether it is now. */
  visits = 0
  isIn = false
  /** The close code of a WebSocket, what a stream ended with: 0 properly, -1 cut. */
  readonly ends: number[] = []
  /** It stays away. */
  isAway = false
  lastEventId = ''
  readonly #options: ReaderOptions
  #at: number
  #end: (() => void) | null = null

  constructor (options: ReaderOptions) {
    this.name = options.name
    this.rooms = options.rooms
    this.#options = options
    this.#at = options.at
    this.#open()
  }

  /** Does not come back when it is ended. */
  stays (): void { this.isAway = true }

  /** Leaves for another node, or for good. */
  leave (to?: number): void {
    this.isAway = to === undefined
    if (to !== undefined) this.#at = to
    this.#end?.()
  }

  back (at: number = this.#at): void {
    this.#at = at
    this.isAway = false
    this.#open()
  }

  get tokens (): string[] { return this.dispatched.flatMap((one) => 'token' in one ? [one.token] : []) }
  get gaps (): string[] { return this.dispatched.flatMap((one) => 'gap' in one ? [one.gap] : []) }

  /** How often presence told a change of a key. */
  changes (kind: string, key: string): number {
    return this.presence.flatMap((change) => change[kind] ?? []).filter((one) => one.key === key).length
  }

  #open (): void {
    if (this.isAway) return
    const ports = this.#options.ports()
    const { query = {}, transport, rooms } = this.#options
    const search = new URLSearchParams({ rooms: rooms.join(','), ...query })
    let isOver = false
    const over = (end: number): void => {
      if (isOver) return
      isOver = true
      clearTimeout(patience)
      if (this.isIn) this.ends.push(end)
      else this.#at++
      this.isIn = false
      this.#end = null
      setTimeout(() => this.#open(), PAUSE)
    }
    const patience = setTimeout(() => { close(); over(-1) }, PATIENCE)
    const entered = (): void => {
      this.visits++
      this.isIn = true
    }
    const port = ports[this.#at % ports.length] as number
    const wire = { entered, over, answered: () => clearTimeout(patience) }
    const close = transport === 'sse' ? this.#sse(port, search, wire) : this.#ws(port, search, wire)
    this.#end = () => { close(); over(-1) }
  }

  #sse (port: number, search: URLSearchParams, { entered, answered, over }: Wire): () => void {
    const outgoing = request({ port, host: '127.0.0.1', path: `/feed?${search}`, agent: false, headers: { accept: 'text/event-stream', ...this.lastEventId === '' ? {} : { 'last-event-id': this.lastEventId } } })
    let isOpen = true
    outgoing.on('error', () => over(-1)).on('response', (response: IncomingMessage) => {
      answered()
      const parser = new EventParser()
      response.setEncoding('utf8').on('error', () => {}).on('close', () => over(response.complete ? 0 : -1))
      response.on('data', (chunk: string) => {
        if (isOpen) for (const { event, id, data } of parser.push(chunk)) this.#take(entered, event, id, data)
      })
    }).end()
    return () => { isOpen = false; outgoing.destroy() }
  }

  #ws (port: number, search: URLSearchParams, { entered, answered, over }: Wire): () => void {
    const socket = new WebSocket(`ws://127.0.0.1:${port}/feed?${search}&lastEventId=${this.lastEventId}`)
    let isOpen = true
    socket.on('open', answered).on('error', () => {}).on('close', (code) => over(code)).on('message', (message: Buffer) => {
      if (!isOpen) return
      const { event = 'message', id = '', data } = JSON.parse(message.toString()) as { event?: string, id?: string, data: unknown }
      this.#take(entered, event, id, typeof data === 'string' ? data : JSON.stringify(data))
    })
    return () => { isOpen = false; socket.terminate() }
  }

  #take (entered: () => void, event: string, id: string, data: string): void {
    const isNew = id !== '' && id !== this.lastEventId // a stream's id stays until there is another
    if (isNew) this.lastEventId = id
    if (event === 'ready') entered()
    else if (event === 'gap') this.dispatched.push({ gap: (JSON.parse(data) as { reason: string }).reason })
    else if (event === 'presence') this.presence.push(JSON.parse(data) as never)
    else if (event === 'n') this.dispatched.push({ token: data.split(' ', 1)[0] as string, id: isNew ? id : undefined })
  }
}
