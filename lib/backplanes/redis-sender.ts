import type { Client } from './redis-library.ts'
import { markScript, publishScript, rangeScript, WINDOW } from './redis-script.ts'
import type { Command } from './redis-script.ts'

/** What it needs from above. */
export interface SenderHost {
  readonly log: { error (fields: object, message: string): void, warn (fields: object, message: string): void }
  /** Finds out which server this is, and the identity of its sequence. */
  verify (): Command
  verified (reply: unknown[]): void
  /** Commands are taken again. */
  opened (): void
}

export interface SenderOptions {
  whenAway: 'queue' | 'refuse'
  /** What may wait or be on its way. */
  queue: { events: number, bytes: number }
  /** Milliseconds. */
  timeout: number
}

/** A publication that waits, or is on its way. */
interface Job {
  readonly count: number
  /** Made when it is sent: the identity of the sequence may be another one by then. Null where one in doubt must not be sent again. */
  readonly command: (isInDoubt: boolean) => Command | null
  readonly bytes: number
  readonly due: number
  settled: boolean
  /** It was sent, and may have been carried out. */
  isInDoubt: boolean
  resolve (reply: unknown): void
}

const OVERHEAD = 512 // of one that waits, beside its bytes
const QUESTIONS = 10_000 // that may wait for an answer
const TEMPORARY = /^(LOADING|READONLY|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|BUSY|NOREPLICAS|NOSCRIPT) /
const ANSWERED = /^[A-Z]{2,} / // by Redis; all else is the connection's

/** Sends over the client that was given: in order, bounded, and again when it is not known whether something came through. */
export class Sender {
  readonly #client: Client
  readonly #host: SenderHost
  readonly #options: SenderOptions
  #queue: Job[] = []
  readonly #sent = new Set<Job>()
  #bytes = 0
  #questions = 0
  #waiters: Array<() => void> = [] // until there may be an answer
  #state: 'away' | 'verifying' | 'open' | 'closed' = 'away'
  #due = false
  #logged = false
  #unwatch!: () => void // since its start
  #verification: Promise<void> = Promise.resolve()
  /** Why it is away, as far as it is known. */
  problem: unknown = null

  constructor (client: Client, host: SenderHost, options: SenderOptions) {
    this.#client = client
    this.#host = host
    this.#options = options
  }

  get open (): boolean { return this.#state === 'open' }

  start (): void {
    this.#unwatch = this.#client.watch(() => this.#changed(), (err) => this.#failed(err))
    this.#changed()
  }

  /** What waits is answered: it was not taken. */
  close (): void {
    this.#state = 'closed'
    this.#unwatch()
    for (const job of [...this.#sent, ...this.#queue]) this.#settle(job, null)
    this.#queue = []
    this.#wake()
  }

  /** Gives what Redis answered, or null where it was not taken; rejects with what Redis refused it for. */
  publish (count: number, bytes: number, command: Job['command']): Promise<unknown> {
    const { whenAway, queue, timeout } = this.#options
    const isFull = this.#queue.length + this.#sent.size >= queue.events || this.#bytes + bytes + OVERHEAD > queue.bytes
    if (this.#state === 'closed' || isFull || (whenAway === 'refuse' && this.#state !== 'open')) return Promise.resolve(null)
    this.#bytes += bytes + OVERHEAD
    return new Promise((resolve, reject) => {
      const settle = (reply: unknown): void => { if (reply instanceof Error) reject(reply); else resolve(reply) }
      this.#queue.push({ count, command, bytes, due: performance.now() + timeout, settled: false, isInDoubt: false, resolve: settle })
      this.#soon()
    })
  }

  /** The same, but it waits as long as what is sent does where redis is away. */
  async read (command: () => Command): Promise<unknown[]> {
    const { whenAway, timeout } = this.#options
    const due = performance.now() + timeout
    for (;;) {
      try {
        return await this.ask(command)
      } catch (err) {
        if (whenAway === 'refuse' || this.#state === 'closed' || !isUnclear(err) || this.#waiters.length >= QUESTIONS || performance.now() >= due) throw err
      }
      await new Promise<void>((resolve) => { this.#waiters.push(resolve) })
    }
  }

  #wake (): void { for (const resolve of this.#waiters.splice(0)) resolve() }

  /** One answer; rejects when there is none. */
  async ask (command: () => Command, isAgain = false): Promise<unknown[]> {
    if (this.#state === 'verifying') await this.#verification
    if (this.#state !== 'open' || this.#questions >= QUESTIONS) throw new Error('redis is not there')
    const reply = await this.#answer(command())
    const isError = reply instanceof Error
    if (!isFence(reply) && !isError) return reply as unknown[]
    if (isAgain || (isError && !TEMPORARY.test(reply.message))) throw isError ? reply : new Error('redis is another one each time it is asked')
    await this.#verify()
    return await this.ask(command, true)
  }

  async #answer (command: Command): Promise<unknown> {
    this.#questions++
    let timer: NodeJS.Timeout | undefined
    const late = new Promise((resolve) => { timer = setTimeout(() => resolve(new Error('redis does not answer')), this.#options.timeout).unref() })
    const answer = this.#client.run([command]).then(([reply]) => { this.#questions--; return reply })
    const reply = await Promise.race([answer, late])
    clearTimeout(timer)
    return reply
  }

  /** Some time has passed. */
  tick (now: number): void {
    for (const job of this.#sent) if (job.due <= now) this.#settle(job, null)
    if (this.#queue.some(({ due }) => due <= now)) {
      for (const job of this.#queue) if (job.due <= now) this.#settle(job, null)
      this.#queue = this.#queue.filter(({ settled }) => !settled)
    }
    this.#changed()
    this.#wake()
  }

  #changed (): void {
    if (!this.#client.ready) {
      this.#state = 'away'
      for (const job of this.#sent) job.isInDoubt = true // some libraries send it again by themselves
    } else if (this.#state === 'away') void this.#verify()
  }

  #failed (err: unknown): void {
    this.problem = err
    if (!this.#logged) this.#host.log.error({ err }, 'redis is away')
    this.#logged = true
    this.#changed()
  }

  /** Nothing is sent before it is known which server this is: it may be another one, or have lost what it had. */
  #verify (): Promise<void> {
    if (this.#state === 'verifying' || this.#state === 'closed') return this.#verification
    this.#state = 'verifying'
    this.#verification = this.#verifying()
    return this.#verification
  }

  async #verifying (): Promise<void> {
    const reply = await this.#answer(this.#host.verify())
    const isStill = (): boolean => this.#state === 'verifying'
    if (!isStill()) return
    if (!(reply instanceof Error)) this.#host.verified(reply as unknown[])
    const known = reply instanceof Error ? [reply] : await this.#client.run([publishScript, rangeScript, markScript].map(({ text }) => ['SCRIPT', 'LOAD', text]))
    if (!isStill()) return
    const err = known.find((one) => one instanceof Error)
    if (err !== undefined) {
      this.#state = 'away' // the next tick tries again
      return this.#failed(err)
    }
    this.#state = 'open'
    this.#logged = false
    this.#host.opened()
    this.#wake()
    this.#flush()
  }

  // what is sent in one turn is written at once
  #soon (): void {
    if (this.#due) return
    this.#due = true
    queueMicrotask(() => {
      this.#due = false
      this.#flush()
    })
  }

  #flush (): void {
    if (this.#state !== 'open' || this.#queue.length === 0) return
    const jobs: Job[] = []
    const commands: Command[] = []
    let taken = 0
    for (; taken < this.#queue.length && this.#sent.size < WINDOW; taken++) {
      const job = this.#queue[taken] as Job
      const command = job.command(job.isInDoubt)
      if (command === null) {
        this.#settle(job, null)
        continue
      }
      this.#sent.add(job)
      jobs.push(job)
      commands.push(command)
    }
    this.#queue.splice(0, taken)
    if (jobs.length > 0) void this.#client.run(commands).then((replies) => this.#answered(jobs, replies))
  }

  #answered (jobs: Job[], replies: unknown[]): void {
    let again: unknown = null
    const waiting: Job[] = []
    for (const [at, job] of jobs.entries()) {
      const reply = replies[at]
      this.#sent.delete(job)
      if (!isFence(reply) && !isUnclear(reply)) this.#settle(job, reply)
      else if (!job.settled) {
        job.isInDoubt ||= reply instanceof Error && !ANSWERED.test(reply.message)
        waiting.push(job)
      }
      if (isFence(reply) || reply instanceof Error) again = reply
    }
    this.#queue = [...waiting, ...this.#queue].sort((one, other) => one.count - other.count)
    if (again === null || this.#state !== 'open') return this.#flush()
    if (isFence(again) || String((again as Error).message).startsWith('NOSCRIPT')) void this.#verify()
    else if (isUnclear(again)) this.#away(again as Error)
    else this.#flush()
  }

  #away (err: Error): void {
    this.#state = 'away'
    this.#failed(err)
  }

  #settle (job: Job, reply: unknown): void {
    if (job.settled) return
    job.settled = true
    this.#bytes -= job.bytes + OVERHEAD
    job.resolve(reply)
  }
}

function isFence (reply: unknown): boolean { return Array.isArray(reply) && String(reply[0]) === 'fence' }

// it may have been carried out, or can be later
function isUnclear (reply: unknown): boolean { return reply instanceof Error && (TEMPORARY.test(reply.message) || !ANSWERED.test(reply.message)) }
