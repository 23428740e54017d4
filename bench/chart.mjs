// The main rows as bars, drawn by hand: SVG without a dependency, readable on a light and on a dark page.
const WIDTH = 940
const LABEL = 380
const BAR = 15
const ROOM = 120 // right of the longest bar, for its figure
const main = ['sse 1', 'sse 10', 'ws 1', 'ws 10', 'rooms-sse rooms', 'rooms-ws rooms', 'tokens tokens', 'echo echo', 'rooms-sse memory', 'rooms-ws memory']

const escape = (text) => text.replace(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`)
const figure = (value, unit) => `${value >= 10 ? value.toFixed(0) : value >= 1 ? value.toFixed(1) : value.toFixed(2)} ${unit === 'us' ? '\u00b5s' : unit}`

export function chart (rows) {
  const parts = []
  let y = 62
  for (const { title, unit, contenders } of main.flatMap((id) => rows.find((row) => row.id === id) ?? [])) {
    const shown = contenders.slice(0, 3)
    const most = Math.max(...shown.map(({ cost }) => cost.median))
    parts.push(`<text class="title" x="12" y="${y + 11}">${escape(title)}</text>`)
    for (const [i, { name, cost: { median } }] of shown.entries()) {
      const length = Math.max(2, median / most * (WIDTH - LABEL - ROOM))
      const middle = y + i * (BAR + 2) + 11
      parts.push(`<text class="name" x="${LABEL - 8}" y="${middle}">${escape(name)}</text>`)
      parts.push(`<rect class="${i === 0 ? 'ours' : 'peer'}" x="${LABEL}" y="${middle - 11}" width="${length.toFixed(1)}" height="${BAR - 1}" rx="2"/>`)
      parts.push(`<text class="figure" x="${(LABEL + length + 6).toFixed(1)}" y="${middle}">${figure(median, unit)}</text>`)
    }
    y += shown.length * (BAR + 2) + 14
  }
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${y}" width="${WIDTH}" height="${y}" role="img" aria-labelledby="head note">
<style>
text { font: 12px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328 }
.head { font-size: 15px; font-weight: 600 }
.title { font-weight: 600 }
.name { text-anchor: end; font-size: 11px }
.name, .figure, .note { fill: #59636e }
.ours { fill: #0b8a6f }
.peer { fill: #b6bec8 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .name, .figure, .note { fill: #9198a1 }
  .ours { fill: #2dd4a8 }
  .peer { fill: #4a535f }
}
</style>
<text class="head" id="head" x="12" y="24">What the server spends on one delivery, and on one idle connection</text>
<text class="note" id="note" x="12" y="43">CPU time or resident memory; shorter is better; each group has a scale of its own. bench/RESULTS.md has the machine.</text>
${parts.join('\n')}
</svg>
`
}
