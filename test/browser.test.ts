// Real Chromium: what an EventSource, a WebSocket and the demo do in a browser.
import { existsSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import type { FastifyInstance } from 'fastify'
import { memory } from 'fastify-real'
import { chromium } from 'playwright-core'
import type { Browser, BrowserContextOptions, Page } from 'playwright-core'
import t from 'tap'
import type { Test } from 'tap'
import { demo } from '../examples/demo/app.ts'
import type { DemoOptions } from '../examples/demo/app.ts'
import { cluster, missing } from './example-cluster.ts'
import { build, listen, until } from './helper.ts'
import type { BuildOptions } from './helper.ts'
import { redisServer } from './redis.ts'

const args = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync']
const executablePath = ['chromium', 'chromium-browser']
  .flatMap((name) => (process.env.PATH ?? '').split(delimiter).map((folder) => join(folder, name)))
  .find((path) => existsSync(path))

if (executablePath !== undefined) {
  const browser = await chromium.launch({ executablePath, args })
  t.teardown(() => browser.close())
  tests(browser)
} else if (process.env.REQUIRE_SERVICES === '1') {
  throw new Error('chromium is not installed')
} else {
  t.plan(0, 'chromium is not installed')
}

function tests (browser: Browser): void {
  interface Tab { page: Page, problems: string[], text (selector: string): Promise<string>, all (selector: string): Promise<string[]>, say (text: string): Promise<void> }

  /** A page in a browser of its own. What goes wrong in it is collected. */
  async function visit (t: Test, url: string, options: BrowserContextOptions = {}): Promise<Tab> {
    const context = await browser.newContext(options)
    t.after(() => context.close())
    const page = await context.newPage()
    const problems: string[] = []
    page.on('console', (message) => { if (message.type() === 'error' || message.type() === 'warning') problems.push(message.text()) })
    page.on('pageerror', (err) => { problems.push(String(err)) })
    page.on('request', (request) => { if (new URL(request.url()).origin !== new URL(url).origin) problems.push(`asked for ${request.url()}`) })
    await page.goto(url)
    return {
      page,
      problems,
      text: (selector) => page.locator(selector).innerText(),
      all: (selector) => page.locator(selector).allInnerTexts(),
      async say (text) {
        await page.fill('#say', text)
        await page.press('#say', 'Enter')
      }
    }
  }

  async function start (t: Test, options: DemoOptions = {}, port: number = 0): Promise<{ app: FastifyInstance, url: string, port: number }> {
    const app = await demo({ tick: 100, pace: 5, ...options })
    t.after(() => app.close())
    const url = await app.listen({ port, host: '127.0.0.1' })
    return { app, url, port: Number(new URL(url).port) }
  }

  /** The demo, with both of its connections live. */
  async function live (t: Test, url: string, options: BrowserContextOptions = {}): Promise<Tab> {
    const tab = await visit(t, url, options)
    await states(tab, 'live', 'live')
    return tab
  }

  async function states ({ page }: Tab, sse: string, ws: string): Promise<void> {
    await page.waitForSelector(`#sse-chip[data-state=${sse}]`)
    await page.waitForSelector(`#ws-chip[data-state=${ws}]`)
  }

  /** A blank page at the origin of an application of the test's own, with an EventSource whose numbers it collects. */
  async function listener (t: Test, options: BuildOptions, routes: (app: FastifyInstance) => void): Promise<{ app: FastifyInstance, tab: Tab, got (): Promise<unknown[]> }> {
    const app = await build(t, options)
    app.get('/', async (_request, reply) => reply.type('text/html').send('<!doctype html><link rel="icon" href="data:,"><title>numbers</title>'))
    routes(app)
    const tab = await visit(t, `http://127.0.0.1:${await listen(app)}/`)
    await tab.page.evaluate(`
      got = []
      source = new EventSource('/numbers')
      for (const name of ['number', 'ready', 'gap']) source.addEventListener(name, ({ data }) => got.push(name === 'number' ? Number(data) : name))
    `)
    return { app, tab, got: () => tab.page.evaluate('got') }
  }

  t.test('an EventSource comes back by itself, however it was dropped, and has every event once', async (t) => {
    const COUNT = 400
    const { app, got } = await listener(t, { connections: { history: { events: 1_000 } } }, (app) => {
      app.get('/numbers', { sse: { retry: 20 } }, async (_request, reply) => { await reply.sse().join('numbers') })
    })
    const { connections } = app
    const drops = [
      () => { for (const { id } of connections) void connections.close(id) },
      () => { for (const { request } of connections) request.raw.socket.destroy() },
      () => { for (const { request } of connections) request.raw.socket.resetAndDestroy() }
    ]
    await until(async () => (await got()).includes('ready')) // before its first place a client has nothing to come back with
    for (let n = 1; n <= COUNT; n++) {
      await connections.room('numbers').send({ event: 'number', data: n })
      if (n % 50 === 25) await until(() => connections.size === 1)
      if (n % 50 !== 0) continue
      drops[n / 50 % drops.length]?.() // with numbers on their way, and 25 more before it is back
      await until(() => connections.size === 0)
    }
    await until(async () => (await got()).at(-1) as number >= COUNT)
    const numbers = (await got()).filter((one) => one !== 'ready')
    t.strictSame(numbers, numbers.map((_, i) => i + 1))
    t.ok(connections.stats().resumed >= COUNT / 50, `it came back ${connections.stats().resumed} times`)
    t.equal(connections.stats().gaps, 0)
  })

  t.test('an EventSource reads what is compressed once for all, also when it comes late', async (t) => {
    const COUNT = 60
    const { app, tab, got } = await listener(t, { sse: { compression: true } }, (app) => {
      app.get('/numbers', { sse: true }, async (_request, reply) => { await reply.sse().join('numbers') })
    })
    const room = app.connections.room('numbers')
    await until(() => room.size === 1)
    const row = (n: number): object => ({ event: 'number', data: n, comment: 'ü'.repeat(n % 2 === 0 ? 1 : 400) })
    for (let n = 1; n <= COUNT / 2; n++) await room.send(row(n))
    await until(async () => (await got()).at(-1) === COUNT / 2)
    await tab.page.evaluate(`
      late = []
      encoding = fetch('/numbers').then(({ headers }) => headers.get('content-encoding'))
      new EventSource('/numbers').addEventListener('number', ({ data }) => late.push(Number(data)))
    `)
    await until(() => room.size === 3)
    for (let n = COUNT / 2 + 1; n <= COUNT; n++) await room.send(row(n))
    await until(async () => (await got()).at(-1) === COUNT && ((await tab.page.evaluate('late')) as number[]).at(-1) === COUNT)
    const numbers = Array.from({ length: COUNT }, (_, i) => i + 1)
    t.strictSame(await got(), ['ready', ...numbers])
    t.strictSame(await tab.page.evaluate('late'), numbers.slice(COUNT / 2))
    t.equal(await tab.page.evaluate('encoding'), 'gzip')
    t.strictSame(tab.problems, [])
  })

  t.test('an EventSource that was cut before its first event loses none', async (t) => {
    let visits = 0
    const { app, got } = await listener(t, {}, (app) => {
      app.connections.on('disconnect', () => { for (const n of [1, 2, 3]) void app.connections.room('quiet').send({ event: 'number', data: n }) })
      app.get('/numbers', { sse: { retry: 20 } }, async (_request, reply) => {
        const connection = reply.sse()
        await connection.join('quiet')
        if (++visits === 1) connection.signal.addEventListener('abort', () => { visits++ })
      })
    })
    await until(async () => (await got()).length > 0)
    t.strictSame(await got(), ['ready'])
    for (const { request } of app.connections) request.raw.socket.destroy()
    await until(async () => (await got()).includes(3))
    t.strictSame(await got(), ['ready', 'ready', 1, 2, 3])
    t.equal(visits, 3, 'one came, was cut, and came back')
  })

  t.test('two browsers talk in one room, a reader without a WebSocket sees it, and a closed tab is no longer present', async (t) => {
    const { url } = await start(t)
    const [ada, bob] = [await live(t, url), await live(t, url)]
    await ada.say('/name ada')
    await bob.say('/name bob')
    await until(async () => (await ada.all('#people .name')).join() === 'ada,bob')
    await until(async () => await bob.text('#reader-people') === 'present: ada, bob')
    await ada.say('hello, bob')
    await bob.page.waitForSelector('#log .said:has-text("hello, bob")')
    await bob.say('<b>hello</b>, ada')
    await ada.page.waitForSelector('#log .said:has-text("<b>hello</b>, ada")')
    for (const { all } of [ada, bob]) {
      await until(async () => (await all('#reader-log .text')).length === 2)
      t.strictSame(await all('#log .text'), ['hello, bob', '<b>hello</b>, ada'])
      t.strictSame(await all('#reader-log .text'), ['hello, bob', '<b>hello</b>, ada'])
    }
    const eve = await live(t, url)
    await until(async () => (await eve.all('#log .text')).length === 2)
    t.pass('who comes later reads what was said')

    await bob.page.close()
    await until(async () => (await ada.all('#people .name')).length === 2 && !(await ada.all('#people .name')).includes('bob'))
    await ada.page.waitForSelector('#log :text("bob has left")')
    await until(async () => !(await ada.text('#reader-people')).includes('bob'))
    t.strictSame([...ada.problems, ...bob.problems, ...eve.problems], [])
  })

  t.test('a page is in several rooms at once, and the reader in the one it chose', async (t) => {
    const { url } = await start(t)
    const [ada, bob] = [await live(t, url), await live(t, url)]
    await ada.say('/join dev')
    await until(async () => (await ada.all('#tabs .tab[aria-pressed=true]')).join() === 'dev')
    await bob.say('in the lobby')
    await ada.page.waitForSelector('#tabs .tab:has-text("lobby") .unread')
    t.strictSame(await ada.all('#log .text'), [])
    await ada.say('in dev')
    await ada.page.waitForSelector('#log .said:has-text("in dev")')
    await bob.page.waitForSelector('#reader-room option:has-text("dev")', { state: 'attached' })
    await bob.page.selectOption('#reader-room', 'dev')
    await until(async () => (await bob.all('#reader-log .text')).join() === 'in dev')
    await ada.page.click('#tabs .tab:has-text("lobby")')
    await until(async () => (await ada.all('#log .text')).join() === 'in the lobby')
    for (const [command, answer] of [['/who', 'in lobby: '], ['/rooms', 'rooms: '], ['/leave', '']] as const) {
      await ada.page.click(`.commands button:text-is("${command}")`)
      if (answer !== '') await ada.page.waitForSelector(`#log .info:has-text("${answer}")`)
    }
    await until(async () => (await ada.all('#tabs .tab')).join() === 'dev')
    t.strictSame([...ada.problems, ...bob.problems], [])
  })

  t.test('the chart moves, and an order that one browser places is shown in another', async (t) => {
    const { url } = await start(t)
    const [ada, bob] = [await live(t, url), await live(t, url)]
    const look = async (): Promise<{ last: number, picture: string }> => await bob.page.evaluate('({ last: Number(document.getElementById("chart").dataset.last), picture: document.querySelector("#chart canvas").toDataURL() })')
    await until(async () => (await look()).last > 0)
    const before = await look()
    await until(async () => (await look()).last > before.last && (await look()).picture !== before.picture)
    await ada.page.click('#order')
    await until(async () => (await bob.all('#orders .item')).length === 1)
    await bob.page.click('#order')
    await until(async () => (await ada.all('#orders .item')).length === 2)
    t.strictSame(await ada.all('#orders .item'), await bob.all('#orders .item'), 'the newest first')
    t.match(await bob.text('#orders .order:last-child .by'), `#1 for ${await ada.text('#me')}`)
    t.strictSame([...ada.problems, ...bob.problems], [])
  })

  t.test('stopping the tokens stops their generator', async (t) => {
    const { url } = await start(t, { pace: 20 })
    const tab = await live(t, url)
    await tab.page.click('#ask-go')
    await until(async () => await tab.text('#generators') === '1' && (await tab.text('#answer .words')).length > 20)
    await tab.page.click('#ask-stop')
    await tab.page.waitForSelector('#answer .end:has-text("stopped")')
    await until(async () => await tab.text('#generators') === '0')
    const words = await tab.text('#answer .words')
    t.notMatch(words, 'the whole application')
    await tab.page.fill('#prompt', 'What if I stop?')
    await tab.page.press('#prompt', 'Enter')
    await tab.page.waitForSelector('#answer .end:has-text("done: ")')
    t.match(await tab.text('#answer .words'), /^Press Stop while .* do not spend\.$/)
    t.strictSame(tab.problems, [])
  })

  t.test('a dropped page says so, comes back by itself and shows what it missed; one that was away too long says that', async (t) => {
    const { app, url } = await start(t, { tick: 150, retry: 200 })
    const [ada, bob] = [await live(t, url), await live(t, url)]
    await ada.say('/name ada')
    await ada.page.click('[data-drop=sse]')
    await ada.page.waitForSelector('#sse-chip[data-state=reconnecting]')
    for (let i = 0; i < 3; i++) await bob.page.click('#order')
    await ada.page.waitForSelector('#sse-chip[data-state=resumed]')
    await until(async () => (await ada.all('#orders .item')).length === 3)
    await until(async () => /SSE\s+resumed, [1-9]\d* replayed/.test((await ada.all('#journal li')).join('\n')))
    t.match(await ada.text('#sse-chip code'), /^[A-Za-z0-9_-]+-\d+$/)

    await ada.page.click('[data-drop=ws]')
    await bob.say('are you there?')
    await until(async () => (await ada.all('#journal li')).some((line) => /WS\s+resumed/.test(line)))
    await until(async () => (await ada.all('#log .text')).join() === 'are you there?')
    await until(async () => (await bob.all('#people .name')).includes('ada'))
    t.equal(app.connections.stats().gaps, 0)

    await ada.page.click('#offline-long')
    await states(ada, 'offline', 'offline')
    await bob.say('gone?')
    await states(ada, 'gap', 'resumed')
    await until(async () => (await ada.all('#log .text')).join() === 'are you there?,gone?')
    t.match((await ada.all('#journal li')).join('\n'), 'gap: too much was missed in prices')
    t.equal((await ada.all('#orders .item')).length, 3, 'reading it all again doubles nothing')
    t.strictSame([...ada.problems, ...bob.problems], [])
  })

  // while nobody listens Chromium says so
  const besideRefusals = ({ problems }: Tab): string[] => problems.filter((text) => !/ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED|ERR_CONNECTION_RESET|ERR_EMPTY_RESPONSE/.test(text))

  t.test('when the server restarts every page is live again, and what was accepted meanwhile is there, once', async (t) => {
    const backplane = memory()
    const other = await start(t, { backplane, tick: 1_000 }) // a node that stays
    const { app, url, port } = await start(t, { backplane, tick: 1_000 })
    const tabs = [await live(t, url), await live(t, url)]
    await tabs[0]?.say('before')
    await tabs[1]?.page.waitForSelector('#log .said:has-text("before")')
    await app.close()
    for (const tab of tabs) await states(tab, 'reconnecting', 'reconnecting')
    for (const by of ['one', 'two', 'three']) await other.app.inject({ method: 'POST', url: '/orders', payload: { by } })
    await other.app.connections.room('chat:lobby').send({ event: 'said', data: { id: 'x', room: 'lobby', name: 'other', text: 'meanwhile', at: Date.now() } })
    const again = await start(t, { backplane, tick: 1_000 }, port)
    for (const tab of tabs) {
      await states(tab, 'resumed', 'resumed')
      await until(async () => (await tab.all('#orders .by')).length === 3)
      await until(async () => (await tab.all('#log .text')).join() === 'before,meanwhile')
      await until(async () => (await tab.all('#reader-log .text')).join() === 'before,meanwhile')
    }
    await tabs[1]?.say('after')
    await tabs[0]?.page.waitForSelector('#log .said:has-text("after")')
    await tabs[0]?.page.click('#order')
    for (const tab of tabs) {
      await until(async () => (await tab.all('#orders .by')).length === 4)
      t.strictSame(besideRefusals(tab), [])
    }
    t.equal(again.app.connections.stats().gaps, 0)
  })

  t.test('when the server has forgotten all at its restart, every page says so and is live again', async (t) => {
    const { app, url, port } = await start(t)
    const tabs = [await live(t, url), await live(t, url)]
    await tabs[0]?.say('before')
    await tabs[1]?.page.waitForSelector('#reader-log .said:has-text("before")')
    await app.close()
    await start(t, {}, port)
    for (const tab of tabs) {
      await states(tab, 'gap', 'gap')
      t.match((await tab.all('#journal li')).join('\n'), 'gap: the server has started anew')
    }
    await tabs[1]?.say('after')
    await tabs[0]?.page.click('#order')
    for (const tab of tabs) {
      await tab.page.waitForSelector('#log .said:has-text("after")')
      await tab.page.waitForSelector('#reader-log .said:has-text("after")')
      await until(async () => (await tab.all('#orders .item')).length === 1)
      t.strictSame(await tab.all('#log .text'), ['before', 'after'], 'what the page knew stays')
      t.strictSame(besideRefusals(tab), [])
    }
  })

  t.test('the pages of a cluster show one chat, and that of a node that is killed goes on at the other', { skip: missing('redis-server') }, async (t) => {
    const { names } = await cluster(t, (await redisServer(t)).url)
    const open = async (name: string): Promise<Page> => {
      const page = await (await browser.newContext()).newPage()
      t.after(() => page.context().close())
      await page.goto(`http://${name}/`)
      await page.getByText(`On ${name}`).waitFor()
      return page
    }
    const [here, there] = [await open(names[0] as string), await open(names[1] as string)]
    const say = async (page: Page, text: string): Promise<void> => {
      await page.fill('input', text)
      await page.press('input', 'Enter')
    }
    const said = (page: Page): Promise<string[]> => page.locator('li').allInnerTexts()
    await say(here, 'one')
    await until(async () => (await said(there)).length === 1)
    await say(here, '/kill')
    await here.getByText('On no node').waitFor()
    await say(there, 'two')
    await here.getByText(`On ${names[1]}`).waitFor()
    await say(here, 'three')
    for (const page of [here, there]) {
      await until(async () => (await said(page)).length === 3)
      t.strictSame((await said(page)).map((text) => text.split(' ')[0]), ['one', 'two', 'three'])
    }
  })

  t.test('the page fits a phone and a desk, by day and by night, and everything in it has a name', async (t) => {
    const { url } = await start(t)
    const tab = await live(t, url, { viewport: { width: 390, height: 844 }, colorScheme: 'light' })
    await tab.say(`${'W'.repeat(200)} and a word`)
    await tab.page.click('#order')
    await tab.page.waitForSelector('#orders .item')
    for (const colorScheme of ['light', 'dark'] as const) {
      await tab.page.emulateMedia({ colorScheme })
      await tab.page.waitForSelector(`html[data-theme=${colorScheme}]`)
      for (const [width, height] of [[390, 844], [320, 568], [768, 1024], [1280, 900]] as const) {
        await tab.page.setViewportSize({ width, height })
        await until(() => tab.page.evaluate('document.querySelector("#chart .uplot").offsetWidth === document.getElementById("chart").clientWidth')) // it follows
        const wide = await tab.page.evaluate('[...document.querySelectorAll("body *")].filter((one) => !one.closest(".skip, .visually-hidden, #people, svg, canvas") && one.getBoundingClientRect().right > innerWidth + 0.5).map((one) => one.outerHTML.slice(0, 80))')
        t.strictSame(wide, [], `nothing is cut at ${width} px`)
        t.ok(await tab.page.evaluate('document.documentElement.scrollWidth <= innerWidth'), `no sideways scrolling at ${width} px`)
      }
    }
    const shade = async (): Promise<unknown> => await tab.page.evaluate('getComputedStyle(document.body).backgroundColor')
    const before = await shade()
    await tab.page.click('#theme')
    t.not(await shade(), before)
    await tab.page.reload()
    await states(tab, 'live', 'live')
    t.not(await shade(), before, 'the choice is kept')
    t.equal(await tab.page.getAttribute('#theme', 'aria-pressed'), 'false')
    const nameless = await tab.page.evaluate(`[...document.querySelectorAll('button, input, select, [role=log], [tabindex="0"]')].filter((one) =>
      !(one.getAttribute('aria-label') || one.labels?.[0]?.textContent || (one.localName === 'button' && one.textContent.trim()))).map((one) => one.outerHTML)`)
    t.strictSame(nameless, [])
    t.strictSame(tab.problems, [])
  })
}
