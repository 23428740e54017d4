import { createHash } from 'node:crypto'

/** What a command is made of. */
export type Command = Array<string | Buffer>

/** A script that Redis runs in one step, and its name there. */
export interface Script { readonly text: string, readonly sha: string }

/** How many publications of one node may be on their way: of so many Redis remembers what became of them. */
export const WINDOW = 1_024

/*
 * All of an app carries one hash tag. `meta` has the identity (#e) and the end (#s) of the sequence, which server it runs on (#u), and of each
 * topic: offset of the last event, of the last one dropped, how many there are, their bytes, when the oldest came, their age. All that proves
 * something complete is in this one key: it is there as a whole or not at all. What no topic used for long goes as one (`old`), and leaves one
 * number (#f). A topic's events are a stream whose ids are `offset-prev`; `ids` are the application's, each with its earliest and latest offset.
 */
const shared = `
local function split (state) return string.match(state, '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+)') end
local function clock () local t = redis.call('TIME'); return t[1] * 1000 + math.floor(t[2] / 1000) end
local function text (n) return string.format('%.0f', n) end
`

// KEYS meta old stream ids sent; ARGV numbers (in one: each argument costs) topic parcel id channel
const PUBLISH = shared + `
local meta, old, stream, ids, sent = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local topic, parcel, id, channel, now = ARGV[2], ARGV[3], ARGV[4], ARGV[5], clock()
local epoch, server, known, once, most, room, age, size, verb, count, topics, period = string.match(ARGV[1], '^${'(%S*) '.repeat(12)}')
age, count = tonumber(age), tonumber(count)
local h = redis.call('HMGET', meta, '#e', '#u', '#s', '#f', '#t', '#m', topic)
if h[1] ~= epoch or h[2] ~= server or tonumber(h[3]) < tonumber(known) then return {'fence'} end
local done = redis.call('HGET', sent, count)
if done then return {'done', tonumber(done)} end
local state = h[7]
if not state then
  local before = redis.call('HMGET', old, '#e', topic)
  if before[1] ~= h[1] then return {'fence'} end
  state = before[2]
end
local last, floor, events, bytes, oldest = 0, tonumber(h[4]), 0, 0, 0
if state then
  last, floor, events, bytes, oldest = split(state)
  last, floor, events, bytes, oldest = tonumber(last), tonumber(floor), tonumber(events), tonumber(bytes), tonumber(oldest)
end
if redis.call('XLEN', stream) ~= events then
  redis.call('DEL', stream, ids)
  if state then floor = last end
  events, bytes = 0, 0
end
local function drop (limit, weight)
  local first
  while events > 0 and (events > limit or bytes > weight or now - oldest >= age) do
    local pair = redis.call('XRANGE', stream, first or '-', '+', 'COUNT', 2)
    local offset = string.match(pair[1][1], '^%d+')
    local its, name = string.match(pair[1][2][2], '^%d+ (%d+) (.*)$')
    events, bytes, floor = events - 1, bytes - its, tonumber(offset)
    if name ~= '' then
      local latest = string.match(redis.call('HGET', ids, name) or '', '(%d+)$')
      if not latest or latest == offset then redis.call('HDEL', ids, name) else redis.call('HSET', ids, name, '- ' .. latest) end
    end
    if pair[2] then first, oldest = pair[2][1], tonumber(string.match(pair[2][2][2], '^%d+')) else first = nil end
  end
  if events == 0 then redis.call('DEL', stream, ids); bytes = 0 elseif first then redis.call('XTRIM', stream, 'MINID', first) end
end
if once == '1' then
  drop(math.huge, math.huge)
  local earliest = string.match(redis.call('HGET', ids, id) or '', '^%d+')
  if earliest then return {'duplicate', tonumber(earliest)} end
end
local offset = redis.call('HINCRBY', meta, '#s', 1)
redis.call('XADD', stream, text(offset) .. '-' .. text(last), 'm', text(now) .. ' ' .. size .. ' ' .. id, 'd', parcel)
if id ~= '' then
  local places = redis.call('HGET', ids, id)
  redis.call('HSET', ids, id, (places and string.match(places, '^%S+') or text(offset)) .. ' ' .. text(offset))
  redis.call('PEXPIRE', ids, age)
end
if events == 0 then oldest = now end
events, bytes = events + 1, bytes + size
local prev = last
last = offset
drop(tonumber(most), tonumber(room))
redis.call('HSET', meta, topic, table.concat({text(last), text(floor), events, text(bytes), text(oldest), text(age)}, ' '))
redis.call('PEXPIRE', stream, age)
redis.call('HSET', sent, count, text(offset))
redis.call('HDEL', sent, count - ${WINDOW * 2})
redis.call('PEXPIRE', sent, 600000)
local longest = tonumber(h[6])
if age > longest then longest = age; redis.call('HSET', meta, '#m', text(age)) end
if now - h[5] > math.max(longest, tonumber(period)) or redis.call('HLEN', meta) > tonumber(topics) then
  local r = redis.call('HGET', meta, '#r')
  redis.call('RENAME', meta, old)
  redis.call('HSET', meta, '#e', h[1], '#u', h[2], '#s', text(offset), '#f', r, '#r', text(offset), '#t', text(now), '#m', text(age))
end
local nodes = redis.call(verb, channel, '1 ' .. h[1] .. ' ' .. text(offset) .. ' ' .. text(prev) .. '\\n' .. parcel)
return {'kept', offset, nodes}
`

// KEYS meta old; ARGV epoch server known fresh verify channel verb token topics...
const MARK = shared + `
local meta, old, server = KEYS[1], KEYS[2], ARGV[2]
local h = redis.call('HMGET', meta, '#e', '#u', '#s')
if ARGV[5] == '1' then
  local info = redis.pcall('INFO', 'server')
  server = type(info) == 'string' and string.match(info, 'run_id:(%w+)') or ''
end
local lost = not h[1] or redis.call('HGET', old, '#e') ~= h[1] or h[2] ~= server or (h[1] == ARGV[1] and tonumber(h[3]) < tonumber(ARGV[3]))
if lost and ARGV[5] ~= '1' then return {'fence'} end
if lost then
  h = {ARGV[4], server, '0'}
  redis.call('DEL', meta, old)
  redis.call('HSET', meta, '#e', h[1], '#u', h[2], '#s', 0, '#f', 0, '#r', 0, '#t', text(clock()), '#m', 0)
  redis.call('HSET', old, '#e', h[1])
end
if ARGV[6] ~= '' then
  local said = {ARGV[8], h[1], h[3]}
  for at = 9, #ARGV do
    local state = redis.call('HGET', meta, ARGV[at]) or redis.call('HGET', old, ARGV[at])
    said[at - 5] = state and split(state) or '0'
  end
  redis.call(ARGV[7], ARGV[6], table.concat(said, ' '))
end
return {'marked', h[1], h[2], tonumber(h[3])}
`

// KEYS meta old stream ids; ARGV epoch server topic kind place limit
const RANGE = shared + `
local meta, old, stream, ids = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local kind, limit = ARGV[4], tonumber(ARGV[6])
local h = redis.call('HMGET', meta, '#e', '#u', '#s', '#f', ARGV[3])
if h[1] ~= ARGV[1] or h[2] ~= ARGV[2] then return {'fence'} end
local top, state = tonumber(h[3]), h[5]
if not state then
  local before = redis.call('HMGET', old, '#e', ARGV[3])
  if before[1] ~= h[1] then return {'fence'} end
  state = before[2]
end
local last, floor, events, oldest, age = 0, tonumber(h[4]), 0, 0, 0
if state then
  local bytes
  last, floor, events, bytes, oldest, age = split(state)
  last, floor, events, oldest, age = tonumber(last), tonumber(floor), tonumber(events), tonumber(oldest), tonumber(age)
end
local gone = clock() - age
if redis.call('XLEN', stream) ~= events then
  if state then floor = last end
  events = 0
elseif events > 0 and oldest <= gone then
  for _, entry in ipairs(redis.call('XRANGE', stream, '-', '+')) do
    if tonumber(string.match(entry[2][2], '^%d+')) > gone then break end
    floor, events = tonumber(string.match(entry[1], '^%d+')), events - 1
  end
end
local from = tonumber(ARGV[5]) or 0
if kind == 'id' then
  from = events > 0 and tonumber(string.match(redis.call('HGET', ids, ARGV[5]) or '', '^%d+')) or -1
  if from <= floor then return {'range', 0, 0, -1, top, {}} end
end
local found = {}
if events > 0 and kind == 'last' then
  local entries = redis.call('XREVRANGE', stream, '+', text(floor + 1), 'COUNT', limit)
  for at = #entries, 1, -1 do found[#found + 1] = entries[at][1]; found[#found + 1] = entries[at][2][4] end
  return {'range', (floor == 0 and #entries == events) and 1 or 0, 0, from, top, found}
end
local more = 0
if events > 0 then
  for at, entry in ipairs(redis.call('XRANGE', stream, text(math.max(from, floor) + 1), '+', 'COUNT', limit + 1)) do
    if at > limit then more = 1 else found[#found + 1] = entry[1]; found[#found + 1] = entry[2][4] end
  end
end
local complete = from >= floor
if kind == 'last' then complete = floor == 0 end
return {'range', complete and 1 or 0, more, from, top, found}
`

function scriptOf (text: string): Script { return { text, sha: createHash('sha1').update(text).digest('hex') } }

export const publishScript = scriptOf(PUBLISH)
export const markScript = scriptOf(MARK)
export const rangeScript = scriptOf(RANGE)

/** The names of all that an app has in Redis: one hash tag, so that one shard has it all. */
export class Keys {
  readonly #tag: string
  readonly meta: string
  readonly old: string
  /** Before the name of a topic: its channel. */
  readonly channels: string

  constructor (prefix: string) {
    this.#tag = `{${prefix}}:`
    this.meta = `${this.#tag}meta`
    this.old = `${this.#tag}old`
    this.channels = `${this.#tag}c:`
  }

  stream (topic: string): string { return `${this.#tag}s:${topic}` }
  ids (topic: string): string { return `${this.#tag}i:${topic}` }
  sent (node: string): string { return `${this.#tag}n:${node}` }
  channel (topic: string): string { return this.channels + topic }
  /** Of a node's own channel, which is no topic's. */
  own (node: string): string { return `${this.#tag}n:${node}` }
}

/** Runs a script that is known there. */
export function run ({ sha }: Script, keys: string[], args: Array<string | number | Buffer>): Command {
  return ['EVALSHA', sha, String(keys.length), ...keys, ...args.map((arg) => typeof arg === 'number' ? String(arg) : arg)]
}
