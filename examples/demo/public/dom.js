export const $ = (id) => document.getElementById(id)

/** An element with text or elements in it; nothing is ever parsed as HTML. */
export function el (name, className = '', ...children) {
  const element = document.createElement(name)
  if (className !== '') element.className = className
  element.append(...children)
  return element
}

export function time (at) {
  const element = el('time', '', new Date(at).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit', second: '2-digit', hour12: false }))
  element.dateTime = new Date(at).toISOString()
  return element
}

/** Adds at the end, keeps at most `limit`, and follows the end unless the reader has scrolled away from it. */
export function follow (list, item, limit = 100) {
  const isAtEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40
  list.append(item)
  while (list.childElementCount > limit) list.firstElementChild.remove()
  if (isAtEnd) list.scrollTop = list.scrollHeight
}

/** The same hue for the same name, everywhere. */
export function avatar (name) {
  const badge = el('span', 'avatar', [...name][0].toUpperCase())
  let hash = 0
  for (const letter of name) hash = (hash * 31 + letter.codePointAt(0)) % 360
  badge.style.setProperty('--hue', String(hash))
  badge.setAttribute('aria-hidden', 'true')
  return badge
}

/** True when the server took it. */
export async function post (path, body) {
  const init = body === undefined ? {} : { headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) }
  try {
    return (await fetch(path, { method: 'POST', ...init })).ok
  } catch {
    return false
  }
}

export async function json (path) {
  const answer = await fetch(path)
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`)
  return answer.json()
}

export const pause = (time) => new Promise((resolve) => setTimeout(resolve, time))
