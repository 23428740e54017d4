// What a page knows of one of its connections, whatever the transport: its state, and the cursor it would come back with.
// States: connecting, live, reconnecting, resumed, gap, offline, closed.
export class Link {
  transport
  state = 'connecting'
  /** The id of the last event that had one. */
  cursor = ''
  /** The connection's own id on the server, for a button that drops it. */
  id = ''
  /** Events of this return that are older than it. */
  replayed = 0
  /** A gap of this return. */
  gap = null
  /** Called with true when the state is another. */
  onchange = () => {}
  onevent = () => {}
  #openedAt = 0
  #isReturn = false
  #calm = 0

  constructor (transport) { this.transport = transport }

  /** An event has come: `id` is its cursor, if it has one. */
  receive (name, data, id) {
    if (name === 'hello') {
      this.id = data.id
      this.#openedAt = data.at
      this.replayed = 0
      this.gap = null
    } else if (name === 'ready') {
      this.#set(data.resumed && this.#isReturn ? 'resumed' : 'live')
      this.#isReturn = true
    } else if (name === 'gap') {
      this.gap = data
      this.#set('gap')
    } else if (data?.at < this.#openedAt && id !== '' && this.state !== 'live') {
      this.replayed++
    }
    if (id) this.cursor = id
    this.onchange(false)
    this.onevent(name, data)
  }

  /** The wire is gone, for now or for good. */
  lost (state = 'reconnecting') {
    this.id = ''
    if (state !== this.state) this.#set(state)
  }

  #set (state) {
    clearTimeout(this.#calm)
    this.state = state
    this.onchange(true)
    if (state === 'resumed' || state === 'gap') this.#calm = setTimeout(() => this.#set('live'), 8_000)
  }
}
