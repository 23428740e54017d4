import { Link } from './link.js'

const FIRST = 300 // milliseconds, at most, before the first try; twice as much after each that failed
const LONGEST = 10_000
const FINAL = [1008, 4401] // the server does not want this client back

/** A WebSocket that comes back with its cursor, after a random time so that not everybody comes at once. */
export class Socket extends Link {
  #url
  #socket = null
  #tries = 0
  #timer = 0

  /** `url()` is asked before each try; the cursor is added to it. */
  constructor (url) {
    super('WS')
    this.#url = url
    addEventListener('online', () => this.#hurry())
    addEventListener('pageshow', (event) => { if (event.persisted) this.#hurry() })
  }

  get isOpen () { return this.#socket?.readyState === WebSocket.OPEN }

  open () {
    this.close()
    const url = new URL(this.#url(), location.href)
    url.protocol = url.protocol.replace('http', 'ws')
    url.searchParams.set('lastEventId', this.cursor) // empty the first time: it asks for events with their ids
    const socket = this.#socket = new WebSocket(url)
    socket.onmessage = (message) => {
      const { event = 'message', id = '', data } = JSON.parse(message.data)
      if (event === 'ready') this.#tries = 0
      this.receive(event, data, id)
    }
    socket.onclose = ({ code }) => {
      if (socket !== this.#socket) return
      this.#socket = null
      if (FINAL.includes(code)) return this.lost('closed')
      this.lost()
      this.#timer = setTimeout(() => this.open(), Math.random() * Math.min(LONGEST, FIRST * 2 ** this.#tries++))
    }
  }

  /** False: it is not open, and nothing was sent. */
  send (text) {
    if (!this.isOpen) return false
    this.#socket.send(text)
    return true
  }

  close (state) {
    clearTimeout(this.#timer)
    const socket = this.#socket
    this.#socket = null
    socket?.close()
    if (state !== undefined) this.lost(state)
  }

  #hurry () { if (this.state === 'reconnecting' && this.#socket === null) this.open() }
}
