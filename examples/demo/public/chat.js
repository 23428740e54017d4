import { $, avatar, el, follow, json, time } from './dom.js'

/** A list of what was said in a room; what comes twice is shown once. */
export class Log {
  #list
  #seen = new Set()

  constructor (list) { this.#list = list }

  said ({ id, name, text, at }, me) {
    if (this.#seen.has(id)) return
    this.#seen.add(id)
    const item = el('li', name === me ? 'said mine' : 'said', avatar(name), el('div', 'bubble', el('p', 'who', el('b', '', name), ' ', time(at)), el('p', 'text', text)))
    item.dataset.at = String(at)
    const later = [...this.#list.children].find((other) => other.dataset.at > item.dataset.at)
    if (later === undefined) follow(this.#list, item)
    else later.before(item)
  }

  note (text, kind = 'note') { follow(this.#list, el('li', kind, text)) }

  clear () {
    this.#seen.clear()
    this.#list.replaceChildren()
  }
}

/** Who is present in a room, kept by the `presence` events. Gives words for what changed. */
export class People {
  names = new Map()

  take ({ snapshot, joined = [], left = [], updated = [] }) {
    if (snapshot !== undefined) this.names = new Map(snapshot.map(({ key, metas }) => [key, metas.length]))
    for (const { key, metas } of [...joined, ...updated]) this.names.set(key, metas.length)
    for (const { key } of left) this.names.delete(key)
    return [...joined.map(({ key }) => `${key} has joined`), ...left.map(({ key }) => `${key} has left`)]
  }
}

/** The rooms this page is in, over its WebSocket. */
export class Chat {
  name = sessionStorage.getItem('name') ?? guest()
  rooms = JSON.parse(sessionStorage.getItem('rooms') ?? '["lobby"]')
  room = sessionStorage.getItem('room') ?? 'lobby'
  #socket
  #log = new Log($('log'))
  #past = new Map() // of each room: what to show when it is looked at
  #people = new Map()
  #unread = new Set()

  constructor (socket) {
    this.#socket = socket
    $('composer').addEventListener('submit', (event) => {
      event.preventDefault()
      const input = $('say')
      if (input.value.trim() === '') return
      if (socket.send(input.value)) input.value = ''
      else this.#log.note('not connected: it was not sent', 'info')
    })
    $('composer').parentElement.querySelector('.commands').addEventListener('click', ({ target }) => {
      const { command } = target.dataset
      if (command === undefined) return
      if (!command.endsWith(' ')) return socket.send(command)
      $('say').value = command
      $('say').focus()
    })
    $('me').textContent = this.name
    this.#showTabs()
  }

  /** The query of the next try to connect. */
  get query () { return new URLSearchParams({ name: this.name, room: this.room, rooms: this.rooms.join() }) }

  take (name, data) {
    if (name === 'you') void this.#where(data)
    else if (name === 'said') this.#said(data)
    else if (name === 'presence') this.#presence(data)
    else if (name === 'info') this.#log.note(data.text, 'info')
    else if (name === 'gap') for (const room of this.rooms) void this.#read(room)
  }

  async #where ({ name, room, rooms }) {
    Object.assign(this, { name, rooms })
    $('me').textContent = name
    sessionStorage.setItem('name', name)
    sessionStorage.setItem('rooms', JSON.stringify(rooms))
    sessionStorage.setItem('room', room)
    for (const gone of [...this.#past.keys()].filter((known) => !rooms.includes(known))) {
      this.#past.delete(gone)
      this.#people.delete(gone)
    }
    const fresh = rooms.filter((known) => !this.#past.has(known))
    for (const known of fresh) this.#past.set(known, new Map())
    this.#look(room)
    await Promise.all(fresh.map((known) => this.#read(known)))
  }

  /** What was said before we came, or while we were away. */
  async #read (room) {
    const past = this.#past.get(room)
    const said = await json(`/rooms/${encodeURIComponent(room)}/history`).catch(() => [])
    for (const one of said) {
      past?.set(one.id, one)
      if (room === this.room) this.#log.said(one, this.name)
    }
  }

  #said (said) {
    this.#past.get(said.room)?.set(said.id, said)
    if (said.room === this.room) return this.#log.said(said, this.name)
    this.#unread.add(said.room)
    this.#showTabs()
  }

  #presence (change) {
    const room = change.room.slice('chat:'.length)
    let people = this.#people.get(room)
    if (people === undefined) this.#people.set(room, people = new People())
    const words = people.take(change)
    if (room !== this.room) return
    for (const word of words) if (!word.startsWith(`${this.name} `)) this.#log.note(word)
    this.#showPeople()
  }

  #look (room) {
    if (room !== this.room || this.#unread.has(room) || $('log').childElementCount === 0) {
      this.room = room
      this.#unread.delete(room)
      this.#show()
    }
    this.#showTabs()
    this.#showPeople()
    $('say').placeholder = `Message ${room}`
  }

  #show () {
    this.#log.clear()
    for (const said of this.#past.get(this.room)?.values() ?? []) this.#log.said(said, this.name) // in their order, whatever order they came in
  }

  #showTabs () {
    $('tabs').replaceChildren(...this.rooms.map((room) => {
      const tab = el('button', 'tab', room)
      tab.type = 'button'
      tab.setAttribute('aria-pressed', String(room === this.room))
      if (this.#unread.has(room)) tab.append(el('span', 'unread', el('span', 'visually-hidden', 'unread')))
      tab.addEventListener('click', () => this.#socket.send(`/join ${room}`))
      return tab
    }))
  }

  #showPeople () {
    const names = [...this.#people.get(this.room)?.names ?? []]
    $('people-count').textContent = String(names.length)
    $('people').replaceChildren(...names.map(([name, count]) => {
      const item = el('li', name === this.name ? 'me' : '', avatar(name), el('span', 'name', name))
      if (count > 1) item.append(el('span', 'times', `×${count}`))
      return item
    }))
  }
}

function guest () {
  const names = ['ada', 'alan', 'grace', 'linus', 'margaret', 'edsger', 'barbara', 'donald', 'radia', 'ken']
  return `${names[Math.floor(Math.random() * names.length)]}-${Math.floor(Math.random() * 90) + 10}`
}
