const MAX = 2_000

/** A topic as one token of a subject: none can be a wildcard, several tokens, or another topic. */
export function tokenOf (topic: string): string {
  const token = topic.replace(/[^\w/:-]/g, (unit) => '%' + unit.charCodeAt(0).toString(16).padStart(4, '0')) // by UTF-16 unit: no two strings are alike
  if (token.length > MAX) throw new RangeError(`a topic has at most ${MAX} characters as a subject, got ${token.length}`)
  return token
}

/** The subjects of one application. */
export class Subjects {
  readonly replies: string
  readonly probe: string
  /** All kept events, as the stream republishes them. */
  readonly all: string
  readonly #name: string

  constructor (name: string, instance: string) {
    this.#name = name
    this.replies = `${name}.r.${instance}.`
    this.probe = `${name}.p.${instance}`
    this.all = `${name}.d.k.>`
  }

  /** Where an event that is to be kept is published; it has the epoch, so that it cannot get into another sequence. */
  kept (epoch: string, token: string): string { return `${this.#name}.k.${epoch}.${token}` }
  unkept (token: string): string { return `${this.#name}.d.u.u.${token}` }
  /** Kept events of a topic, as the stream republishes them, and the others. */
  live (token: string): string { return `${this.#name}.d.*.*.${token}` }

  /** What came on one of them: where it comes from, a sequence by its epoch or `u`, and the token of its topic. */
  read (subject: string): { epoch: string, token: string } {
    const [, epoch = '', token = ''] = subject.slice(this.#name.length + 3).split('.')
    return { epoch, token }
  }
}
