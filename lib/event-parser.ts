/** An event as a client sees it. */
export interface ParsedEvent { event: string, data: string, id: string }

/**
 * Reads text/event-stream as a client does.
 * @see https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
 */
export class EventParser {
  /** The delay the stream asked for last. Milliseconds. */
  retry: number | undefined
  readonly comments: string[] = []
  #rest = ''
  #name = ''
  #id = ''
  #data: string[] = []
  #first = true
  #afterCr = false

  /** Takes more of the stream; gives the events that are complete now. */
  push (text: string): ParsedEvent[] {
    const events: ParsedEvent[] = []
    if (text === '') return events
    const input = this.#rest + text
    let start = (this.#afterCr && text.startsWith('\n')) || (this.#first && text.startsWith('\uFEFF')) ? 1 : 0
    for (const { 0: end, index } of input.matchAll(/\r\n?|\n/g)) {
      if (index < start) continue // the other half of a CRLF
      const line = input.slice(start, index)
      start = index + end.length
      if (line === '') this.#dispatch(events)
      else this.#field(line)
    }
    this.#rest = input.slice(start)
    this.#first = false
    this.#afterCr = text.endsWith('\r')
    return events
  }

  #dispatch (events: ParsedEvent[]): void {
    if (this.#data.length > 0) events.push({ event: this.#name === '' ? 'message' : this.#name, data: this.#data.join('\n'), id: this.#id })
    this.#name = ''
    this.#data = []
  }

  #field (line: string): void {
    const colon = line.indexOf(':')
    if (colon === 0) {
      this.comments.push(line.slice(line[1] === ' ' ? 2 : 1))
      return
    }
    const name = colon === -1 ? line : line.slice(0, colon)
    const value = colon === -1 ? '' : line.slice(line[colon + 1] === ' ' ? colon + 2 : colon + 1)
    if (name === 'event') this.#name = value
    else if (name === 'data') this.#data.push(value)
    else if (name === 'id' && !value.includes('\0')) this.#id = value
    else if (name === 'retry' && /^\d+$/.test(value)) this.retry = Number(value)
  }
}
