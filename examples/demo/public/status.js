import { $, el, follow, post, time } from './dom.js'

/** Shows a connection in the bar and in its card, and writes down what becomes of it. */
export function show (link, short) {
  const places = [$(`${short}-chip`), $(`${short}-wire`)]
  const drop = places[1].querySelector('button')
  let entry = null

  link.onchange = (isNew) => {
    for (const place of places) {
      place.dataset.state = link.state
      place.querySelector('.state').textContent = link.state
      place.querySelector('code').textContent = link.cursor === '' ? 'no cursor' : link.cursor
    }
    drop.disabled = link.id === ''
    if (!isNew) {
      if (link.state === 'resumed') entry.lastChild.textContent = describe(link)
    } else if (link.state !== 'live' || entry === null) {
      entry = write(link)
      $('spoken').textContent = `${link.transport}: ${describe(link)}`
    }
  }
  drop.addEventListener('click', () => post(`/connections/${link.id}/drop`))
}

function describe ({ state, replayed, gap }) {
  if (state === 'resumed') return replayed === 0 ? 'resumed, nothing was missed' : `resumed, ${replayed} replayed`
  if (state === 'gap') return `gap: ${WHY[gap.reason]}${gap.room === undefined ? '' : ` in ${gap.room}`}; the page was read again`
  return { live: 'live', reconnecting: 'lost, coming back', offline: 'offline', connecting: 'connecting', closed: 'closed for good' }[state]
}

const WHY = { epoch: 'the server has started anew', trimmed: 'too much was missed', unknown: 'an unknown place', slow: 'too far behind' }

function write (link) {
  const entry = note(link.transport, describe(link))
  entry.dataset.state = link.state
  return entry
}

/** Writes a line into the journal. */
export function note (who, text) {
  const entry = el('li', '', time(Date.now()), el('b', '', who), el('span', '', text))
  follow($('journal'), entry, 30)
  return entry
}

export function showStats ({ byTransport, rooms, sent, resumed, gaps, generators }) {
  $('generators').textContent = String(generators)
  const facts = { 'over SSE': byTransport.sse ?? 0, 'over WebSocket': byTransport.ws ?? 0, 'chat rooms': rooms.length, 'events sent': sent, resumed, gaps }
  $('stats').replaceChildren(...Object.entries(facts).map(([name, value]) => el('span', '', el('b', '', value.toLocaleString('en')), ` ${value === 1 ? name.replace(/s\b/, '') : name}`)))
}
