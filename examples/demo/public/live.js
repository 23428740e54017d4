import { Link } from './link.js'

const NAMES = ['hello', 'ready', 'gap', 'prices', 'stats', 'order', 'said', 'presence']

/** An EventSource. It comes back by itself with its Last-Event-ID; only when it has given up, or was closed, do we open another. */
export class Live extends Link {
  room = 'lobby'
  #source = null
  #timer = 0

  constructor () {
    super('SSE')
    // a browser may freeze or kill the streams of a page in the background
    addEventListener('pageshow', (event) => { if (event.persisted) this.open() })
    document.addEventListener('visibilitychange', () => { if (!document.hidden && this.state === 'reconnecting' && this.#source?.readyState === EventSource.CLOSED) this.open() })
  }

  open () {
    this.close()
    const source = this.#source = new EventSource(`/live?${new URLSearchParams({ room: this.room, lastEventId: this.cursor })}`)
    for (const name of NAMES) {
      source.addEventListener(name, (event) => {
        if (source === this.#source) this.receive(name, JSON.parse(event.data), event.lastEventId)
      })
    }
    source.onerror = () => {
      if (source !== this.#source) return
      this.lost()
      // it never comes back after an answer that is no event stream: a 502 of a proxy while the server restarts
      if (source.readyState === EventSource.CLOSED) this.#timer = setTimeout(() => this.open(), 1_000 + Math.random() * 2_000)
    }
  }

  close (state) {
    clearTimeout(this.#timer)
    this.#source?.close()
    this.#source = null
    if (state !== undefined) this.lost(state)
  }
}
