// Figures of all rounds -> rows with ratios -> text and Markdown.
const OURS = 'fastify-real'

const titles = [
  ['sse 1', 'SSE broadcast, 1 event a turn', 'us'],
  ['sse 10', 'SSE broadcast, 10 events a turn', 'us'],
  ['sse 100', 'SSE broadcast, 100 events a turn', 'us'],
  ['ws 1', 'WebSocket broadcast, 1 event a turn', 'us'],
  ['ws 10', 'WebSocket broadcast, 10 events a turn', 'us'],
  ['ws 100', 'WebSocket broadcast, 100 events a turn', 'us'],
  ['rooms-sse rooms', 'SSE rooms of 10', 'us'],
  ['rooms-ws rooms', 'WebSocket rooms of 10', 'us'],
  ['tokens tokens', 'SSE tokens of 100 generators', 'us'],
  ['echo echo', 'WebSocket echo', 'us'],
  ['rooms-sse memory', 'memory of an idle SSE connection', 'KB'],
  ['rooms-ws memory', 'memory of an idle WebSocket connection', 'KB']
]

function spread (values) {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  return { median: sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2, min: sorted[0], max: sorted.at(-1) }
}

/** A row for each workload that was run: its contenders, ours first, each with its cost and the ratio of ours to it, round by round. */
export function tabulate (costs) {
  return titles.filter(([id]) => costs[id]?.[OURS] !== undefined).map(([id, title, unit]) => {
    const scale = unit === 'KB' ? 1 / 1_024 : 1
    const ours = costs[id][OURS]
    const contenders = Object.entries(costs[id]).map(([name, values]) => ({
      name,
      cost: spread(values.map((value) => value * scale)),
      ratio: spread(values.map((value, round) => ours[Math.min(round, ours.length - 1)] / value))
    }))
    return { id, title, unit, contenders: contenders.sort((a, b) => order(a.name) - order(b.name)) }
  })
}

const names = [OURS, 'http', 'ws', '@fastify/sse', '@fastify/websocket', 'better-sse', 'socket.io', 'fastify-sse-v2', 'crossws']
function order (name) { return names.indexOf(name) }

const figure = (value) => value >= 10 ? value.toFixed(0) : value >= 1 ? value.toFixed(1) : value.toFixed(2)
const percent = (value) => value >= 0.1 ? value.toFixed(2) : value.toFixed(3)
const costText = ({ median, min, max }, unit) => `${figure(median)} ${unit} [${figure(min)}-${figure(max)}]`
const ratioText = ({ median, min, max }) => `${percent(median)} [${percent(min)}-${percent(max)}]`

function cells ({ title, unit, contenders: [ours, ...others] }) {
  return [title, costText(ours.cost, unit), ...others.map(({ name, ratio }) => `${ratioText(ratio)} x ${name}`)]
}

/** For a terminal. */
export function table (rows) {
  const lines = [['', OURS, 'of what its peers take: median [least-most] of the rounds'], ...rows.map(cells)]
  const widths = [0, 1, 2, 3].map((column) => Math.max(...lines.map((line) => (line[column] ?? '').length * Number(line !== lines[0] || column < 2))))
  return lines.map((line) => line.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join('  ').trimEnd()).join('\n')
}

const row = (values) => `| ${values.join(' | ')} |`

export function markdown ({ rows, machine, versions, rounds, date, size }) {
  const costs = rows.flatMap(({ title, unit, contenders }) => contenders.map(({ name, cost }, i) => row([i === 0 ? title : '', name, costText(cost, unit)])))
  return `# fastify-real and its peers

Written by \`npm run bench\` on ${date}. ${rounds} rounds; the contenders of a workload run one after another in each, and a ratio is
that of two runs of the same round. All figures are median [least-most] of the rounds.

| | |
| --- | --- |
| machine | ${machine.cores} cores, ${machine.model.trim()} |
| system | ${machine.system}, Node.js ${machine.node} |
| versions | ${Object.entries(versions).map(([name, version]) => `${name} ${version}`).join(', ')} |

## How much of its peers' cost fastify-real needs

Below 1 it is cheaper. The peer named first is the hand-written one: \`http\` is node:http that writes one shared buffer to
every response, \`ws\` is the package of that name.

${row(['workload', 'fastify-real', 'hand-written', 'Fastify plugin', 'others'])}
${row(['---', '---', '---', '---', '---'])}
${rows.map((each) => {
  const [title, ours, hand = '', plugin = '', ...others] = cells(each)
  return row([title, ours, hand, plugin, others.join('<br>')])
}).join('\n')}

## What is measured

A server in a process of its own; its clients in another, bare sockets on the loopback that look for the number in each event.
Every delivery is checked: once, and in order on every connection; if one is not, nothing is written here. The next turn begins
when everybody has had the last one. us is server CPU time (user and system) for one delivery of 200 bytes of JSON, or for one
message of an echo: not latency, and on the loopback it has the kernel's receiving side in it. All contenders have a heartbeat
of 15 s; fastify-real runs as it comes: history, limits and resume are on.

- broadcast: ${size.crowd} connections. One turn of the event loop has 1, 10 or 100 events.
- rooms: ${size.crowded} connections in rooms of 10; 10 events a turn, each to a random room. Peers without rooms have a Map of Sets.
- tokens: 100 generators at once, ${size.tokens} small events each, every one in a turn of its own.
- echo: 64 WebSockets, each with one message on its way.
- memory: resident, after garbage collection, of the server of the rooms workload: what its last three quarters of connections added, for each.

## Cost of each

${row(['workload', 'contender', 'cost'])}
${row(['---', '---', '---'])}
${costs.join('\n')}
`
}
