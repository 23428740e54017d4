/** What an Accept header says of text/event-stream. RFC 9110, section 12.5.1. */
export interface Acceptability {
  /** It may be sent: nothing refuses it. */
  acceptable: boolean
  /** It is asked for by name, and nothing named is preferred to it. */
  wanted: boolean
}

const EVERY_EVENT_SOURCE: Acceptability = Object.freeze({ acceptable: true, wanted: true })
const ranges = ['*/*', 'text/*', 'text/event-stream'] // the more specific, the later
const NAMED = 2
const QUOTED = /"(?:[^"\\]|\\.)*"?/g

export function acceptability (header: string | undefined): Acceptability {
  if (header === 'text/event-stream') return EVERY_EVENT_SOURCE
  if (header === undefined || header.trim() === '') return { acceptable: true, wanted: false }
  let specific = -1
  let quality = 0
  let best = 0
  for (const range of header.replace(QUOTED, '').split(',')) {
    const [type, ...parameters] = range.split(';').map((part) => part.trim().toLowerCase()) as [string, ...string[]]
    const q = qualityOf(parameters)
    const at = ranges.indexOf(type)
    if (at === -1) best = type === '' ? best : Math.max(best, q)
    else if (at === specific) quality = Math.max(quality, q)
    else if (at > specific) [specific, quality] = [at, q]
  }
  return { acceptable: quality > 0, wanted: specific === NAMED && quality > 0 && quality >= best }
}

/** gzip is listed, or everything, and it is not refused. RFC 9110, section 12.5.3. */
export function acceptsGzip (header: string | undefined): boolean {
  let quality: number | null = null
  let any = 0
  for (const coding of (header ?? '').split(',')) {
    const [name, ...parameters] = coding.split(';').map((part) => part.trim().toLowerCase()) as [string, ...string[]]
    if (name === 'gzip' || name === 'x-gzip') quality = Math.max(quality ?? 0, qualityOf(parameters))
    else if (name === '*') any = qualityOf(parameters)
  }
  return (quality ?? any) > 0
}

function qualityOf (parameters: string[]): number {
  const given = parameters.find((parameter) => parameter.startsWith('q='))?.slice(2)
  const q = given === undefined || given === '' ? 1 : Number(given)
  return q >= 0 && q <= 1 ? q : 1 // what is no weight refuses nothing
}
