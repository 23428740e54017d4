import Plot from './uplot.js'
import { $, el } from './dom.js'

const SPAN = 60 // prices to be seen
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim()

/** A moving chart of the last prices. */
export class Chart {
  #box = $('chart')
  #plot
  #tick
  #points = new Map() // by time, so that what comes twice is there once
  #cells

  constructor ({ symbols, tick }) {
    this.#tick = tick
    this.#cells = symbols.map((symbol, i) => {
      const price = el('b', '', '–')
      const change = el('span', 'change')
      const key = el('i', 'key')
      key.style.setProperty('--key', `var(--series-${i + 1})`)
      $('tickers').append(el('div', '', el('dt', '', key, symbol), el('dd', '', price, change)))
      return { price, change }
    })
    const axis = { stroke: () => css('--muted'), font: '12px system-ui, sans-serif', ticks: { show: false }, grid: { stroke: () => css('--grid'), width: 1 } }
    this.#plot = new Plot({
      ...this.#size(),
      legend: { show: false },
      cursor: { y: false, points: { size: 7 } },
      padding: [12, 10, 0, 0],
      scales: { x: { range: () => this.#range() }, y: { range: (_, min, max) => [Math.floor(min - 1), Math.ceil(max + 1)] } },
      axes: [
        { ...axis, size: 24, space: 80, values: (_, splits) => splits.map((at) => new Date(at * 1000).toLocaleTimeString([], { minute: '2-digit', second: '2-digit' })) },
        { ...axis, size: 40 }
      ],
      series: [{}, ...symbols.map((label, i) => ({
        label,
        width: 2,
        stroke: () => css(`--series-${i + 1}`),
        points: { show: true, size: 7, width: 0, fill: () => css(`--series-${i + 1}`), filter: (plot) => [plot.data[0].length - 1] } // the last alone
      }))]
    }, [[], ...symbols.map(() => [])], this.#box)
    new ResizeObserver(() => this.#plot.setSize(this.#size())).observe(this.#box)
    addEventListener('theme', () => this.#plot.redraw())
  }

  get length () { return this.#points.size }

  /** All there was, as the server knows it; what came since stays. */
  set (points) {
    const last = points.at(-1)?.at ?? 0
    this.#points = new Map([...this.#points].filter(([at]) => at > last))
    this.add(...points)
  }

  add (...points) {
    for (const { at, values } of points) this.#points.set(at, values)
    const all = [...this.#points].sort(([a], [b]) => a - b).slice(-SPAN)
    this.#points = new Map(all)
    this.#plot.setData([all.map(([at]) => at / 1000), ...this.#cells.map((_, i) => all.map(([, values]) => values[i]))])
    const last = all.at(-1)?.[1]
    if (last !== undefined) this.#say(all[0][1], last)
  }

  #say (first, last) {
    for (const [i, { price, change }] of this.#cells.entries()) {
      const percent = Math.round((last[i] / first[i] - 1) * 1000) / 10
      price.textContent = last[i].toFixed(2)
      change.textContent = `${percent < 0 ? '−' : '+'}${Math.abs(percent).toFixed(1)} %`
      change.dataset.sign = percent < 0 ? 'down' : 'up'
    }
    this.#box.dataset.last = String([...this.#points.keys()].at(-1))
  }

  #range () {
    const last = [...this.#points.keys()].at(-1) ?? Date.now()
    return [(last - (SPAN - 1) * this.#tick) / 1000, last / 1000]
  }

  #size () { return { width: this.#box.clientWidth, height: this.#box.clientHeight } }
}
