// All the clients of a run, in a process of their own: bare sockets that look for the mark of an event and check its number.
import { connect } from 'node:net'
import { createInterface } from 'node:readline'
import { eventOf, LENGTH, MARK } from './events.mjs'

const { contender, kind, crowd, rooms, port, control } = JSON.parse(process.argv[2])
const OPENING = 64 // at once
const LINGER = 100 // for what should not come any more
const isSocketIo = contender === 'socket.io'
const path = kind === 'sse' ? '/sse' : isSocketIo ? '/socket.io/?EIO=4&transport=websocket' : '/ws'
const shared = { buffer: Buffer.allocUnsafe(262_144) }

let delivered = 0
let expected = 0
let waiting = 0
let echoing = false
let silent = 0
const errors = []

const server = connect(control, '127.0.0.1').setNoDelay(true)
const say = (line) => server.write(`${line}\n`)

function fail (error) {
  if (errors.length < 10) errors.push(error)
}

/** A text frame as a client sends it, under a mask of zeros. RFC 6455, section 5.2. */
function frame (text) {
  const payload = Buffer.from(text)
  const header = payload.length < 126 ? Buffer.from([0x81, 0x80 | payload.length, 0, 0, 0, 0]) : Buffer.from([0x81, 0xfe, payload.length >> 8, payload.length & 255, 0, 0, 0, 0])
  return Buffer.concat([header, payload])
}

class Reader {
  next = 0
  #head = ''
  #steps = isSocketIo ? 2 : 0 // its own handshake follows
  #isOpen = false
  #rest = null
  #socket
  #onOpen
  #onEvent

  constructor (target, onOpen, onEvent) {
    this.#onOpen = onOpen
    this.#onEvent = onEvent
    this.#socket = connect({ port, host: '127.0.0.1', onread: { ...shared, callback: (length, buffer) => this.#read(buffer.subarray(0, length)) } })
    this.#socket.setNoDelay(true).on('error', (err) => fail(String(err))).on('close', () => this.closed())
    const more = kind === 'ws' ? 'Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n' : 'Accept: text/event-stream\r\n'
    this.#socket.write(`GET ${target} HTTP/1.1\r\nHost: 127.0.0.1\r\n${more}\r\n`)
  }

  write (bytes) { this.#socket.write(bytes) }
  closed () { fail('a connection was closed') }

  leave () {
    this.closed = () => {}
    this.#socket.destroy()
  }

  #read (bytes) {
    if (this.#isOpen) return this.#scan(bytes)
    this.#head += bytes.toString('latin1')
    const end = this.#head.indexOf('\r\n\r\n')
    if (end === -1) return
    const status = this.#head.slice(9, 12)
    if (status !== (kind === 'ws' ? '101' : '200')) return fail(`a connection was answered ${this.#head.slice(0, 200)}`)
    const rest = this.#head.slice(end + 4)
    if (this.#steps === 2 && rest.includes('"sid"')) {
      this.#steps = 1
      this.#head = this.#head.slice(0, end + 4)
      return this.write(frame('40'))
    }
    if (this.#steps === 2 || (this.#steps === 1 && !rest.includes('"sid"'))) return
    this.#isOpen = true
    this.#head = ''
    this.#onOpen(this)
    this.#scan(Buffer.from(rest, 'latin1'))
  }

  #scan (bytes) {
    if (this.#rest !== null) {
      bytes = Buffer.concat([this.#rest, bytes])
      this.#rest = null
    }
    for (let at = bytes.indexOf(MARK[0]); at !== -1; at = bytes.indexOf(MARK[0], at)) {
      if (at + 1 < bytes.length && bytes[at + 1] !== MARK[1]) {
        at++
        continue
      }
      if (at + LENGTH > bytes.length) {
        this.#rest = Buffer.from(bytes.subarray(at))
        return
      }
      let number = 0
      for (let i = at + MARK.length; i < at + LENGTH; i++) number = number * 10 + bytes[i] - 48
      at += LENGTH
      if (number !== this.next) fail(`an event ${number < this.next ? 'came again' : 'is missing'}: number ${number} instead of ${this.next}`)
      this.next = number + 1
      delivered++
      this.#onEvent(this)
    }
  }
}

/** Opens so many, a few at a time. */
function open (count, target, onEvent, from = 0) {
  return new Promise((resolve) => {
    const readers = []
    let opened = 0
    const more = () => readers.push(new Reader(target(from + readers.length), done, onEvent))
    const done = () => {
      if (readers.length < count) more()
      if (++opened === count) resolve(readers)
    }
    if (count === 0) resolve(readers)
    for (let i = 0; i < Math.min(count, OPENING); i++) more()
  })
}

function arrived (reader) {
  if (echoing) return reader.write(frame(JSON.stringify(eventOf(reader.next))))
  if (silent > 0 && --silent === 0) return say('stopped')
  if (++waiting !== expected) return
  waiting = 0
  say('all')
}

const target = (i) => rooms === 0 ? path : `${path}${path.includes('?') ? '&' : '?'}room=r${i % rooms}`
const everybody = []

async function streams (count, tokens) {
  let left = count
  const ended = (reader) => { if (reader.next === tokens && --left === 0) setTimeout(done, LINGER) }
  const readers = open(count, () => `/stream?n=${tokens}`, ended)
  async function done () {
    for (const reader of await readers) {
      reader.leave()
      if (reader.next !== tokens) fail(`a stream had ${reader.next} events instead of ${tokens}`)
    }
    say('streamed')
  }
}

async function join (count) {
  everybody.push(...await open(count, target, arrived, everybody.length))
  say('ready')
}

const commands = {
  more () { void join(crowd - everybody.length) },
  expect (count) {
    expected = count
    say('ok')
  },
  streams,
  echo () {
    echoing = true
    for (const reader of everybody) arrived(reader)
    say('ok')
  },
  count () { say(delivered) },
  stop () {
    echoing = false
    silent = everybody.length
  },
  end () {
    setTimeout(() => {
      process.send({ delivered, errors })
      process.exit()
    }, LINGER)
  }
}

createInterface({ input: server }).on('line', (line) => {
  const [command, ...numbers] = line.split(' ')
  commands[command](...numbers.map(Number))
})
server.on('close', () => process.exit(1))
void join(crowd / 4)
