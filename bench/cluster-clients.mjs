// All the clients of a cluster, in a process of its own: each looks at every event it is given, whose number and whose sender it knows.
import { WebSocket } from 'ws'
import { DIGITS, MARK } from './events.mjs'

const { contender, kept, ports, rooms, members } = JSON.parse(process.argv[2])
const OPENING = 50 // at once
const isSocketIo = contender === 'socket.io'
const mark = MARK.toString()
let delivered = 0
let isDirty = false
const faults = { missing: 0, again: 0 }

/** Events of a room come from one node, in its order: their numbers follow one another. */
class Client {
  #next = 0
  constructor (port, room, opened) {
    const path = isSocketIo ? `/socket.io/?EIO=4&transport=websocket&room=${room}` : `/?room=${room}${kept ? '&lastEventId=' : ''}`
    const socket = new WebSocket(`ws://127.0.0.1:${port}${path}`, { perMessageDeflate: false, skipUTF8Validation: true })
    socket.on('error', (err) => { throw err })
    socket.on('close', () => { throw new Error('a connection was closed') })
    if (!isSocketIo) socket.on('open', opened)
    socket.on('message', (data) => {
      const text = data.toString('latin1')
      const at = text.indexOf(mark)
      if (at !== -1) return this.#take(Number(text.slice(at + mark.length, at + mark.length + DIGITS)))
      if (!isSocketIo) return
      if (text[0] === '0') socket.send('40')
      else if (text === '2') socket.send('3')
      else if (text.startsWith('40')) opened()
    })
  }

  #take (number) {
    delivered++
    isDirty = true
    if (number < this.#next) faults.again++
    else faults.missing += number - this.#next
    this.#next = Math.max(this.#next, number + 1)
  }
}

// the members of a room are spread over all nodes
const all = []
for (let i = 0; i < rooms * members; i++) all.push([ports[Math.floor(i / rooms) % ports.length], `r${i % rooms}`])
while (all.length > 0) {
  await Promise.all(all.splice(0, OPENING).map(([port, room]) => new Promise((resolve) => { void new Client(port, room, resolve) })))
}

setInterval(() => {
  if (isDirty) process.send({ delivered, faults })
  isDirty = false
}, 1)
process.on('disconnect', () => process.exit())
process.send({ opened: true })
