import { ask } from './ask.js'
import { Chart } from './chart.js'
import { Chat, Log, People } from './chat.js'
import { $, avatar, el, json, pause, post, time } from './dom.js'
import { Live } from './live.js'
import { Socket } from './socket.js'
import { note, show, showStats } from './status.js'

const live = new Live()
const socket = new Socket(() => `/chat?${chat.query}`)
const chat = new Chat(socket)
const reader = { log: new Log($('reader-log')), people: new People() }
const orders = new Set()
let chart
let snapshot

show(live, 'sse')
show(socket, 'ws')
ask()

// --- the event stream: first what there is, then what comes after it

live.onevent = (name, data) => {
  if (name === 'prices') chart.add(data)
  else if (name === 'order') showOrder(data)
  else if (name === 'said') reader.log.said(data, null)
  else if (name === 'presence') showReaders(data)
  else if (name === 'stats') showServer(data)
  else if (name === 'gap') void read()
}
socket.onevent = (name, data) => chat.take(name, data)

/** Reads all there is, until the server is there to tell it. */
async function read () {
  const { room } = live
  try {
    const [now, said] = await Promise.all([json('/snapshot'), json(`/rooms/${encodeURIComponent(room)}/history`)])
    snapshot = now
    chart ??= new Chart(snapshot)
    chart.set(snapshot.prices)
    for (const order of snapshot.orders) showOrder(order)
    if (room === live.room) for (const one of said) reader.log.said(one, null)
  } catch {
    await pause(500 + Math.random() * 1_000)
    await read()
  }
}

async function start () {
  await read()
  live.cursor = snapshot.cursor
  live.open()
  socket.open()
}

// --- orders

function showOrder ({ id, item, by, at }) {
  const key = `${id} ${at}`
  if (orders.has(key)) return
  orders.add(key)
  const entry = el('li', 'order', avatar(by), el('div', '', el('p', 'item', item), el('p', 'by', `#${id} for ${by}, `, time(at))))
  entry.dataset.at = String(at)
  const older = [...$('orders').children].find((other) => other.dataset.at < entry.dataset.at)
  $('orders').insertBefore(entry, older ?? null)
  while ($('orders').childElementCount > 30) $('orders').lastElementChild.remove()
}

$('order').addEventListener('click', async () => {
  if (!await post('/orders', { by: chat.name })) note('POST', 'the order was not taken')
})

// --- the reader

function showReaders (change) {
  reader.people.take(change)
  const names = [...reader.people.names.keys()]
  $('reader-people').textContent = names.length === 0 ? 'nobody is present' : `present: ${names.join(', ')}`
}

$('reader-room').addEventListener('change', ({ target }) => {
  live.room = target.value
  reader.log.clear()
  reader.people = new People()
  void read().then(() => live.open()) // the same cursor, another room
})

function showServer (stats) {
  showStats(stats)
  const names = [...new Set(['lobby', live.room, ...stats.rooms.map(({ name }) => name)])].sort()
  const select = $('reader-room')
  if ([...select.options].map(({ value }) => value).join() === names.join()) return
  select.replaceChildren(...names.map((name) => el('option', '', name)))
  select.value = live.room
}

// --- away for a moment, or for longer than the server remembers

const away = [$('offline-short'), $('offline-long')]

async function leave (button, ticks) {
  const said = button.textContent
  live.close('offline')
  socket.close('offline')
  for (const one of away) one.disabled = true
  for (const end = Date.now() + ticks * snapshot.tick; Date.now() < end;) {
    button.textContent = `Back in ${Math.ceil((end - Date.now()) / 1_000)} s`
    await pause(Math.min(250, end - Date.now()))
  }
  button.textContent = said
  for (const one of away) one.disabled = false
  live.open()
  socket.open()
}

away[0].addEventListener('click', () => leave(away[0], 4))
away[1].addEventListener('click', () => leave(away[1], snapshot.kept + 4))

void start()
