import { setImmediate } from 'node:timers/promises'
import t from 'tap'
import type { Receipt } from '../lib/index.ts'
import type { PresenceChange } from '../types/index.ts'
import { connect, node, turn } from './fake.ts'
import type { Fake, FakeNode } from './fake.ts'
import { Clock, Link, shared } from './presence-world.ts'
import { random } from './returner.ts'

// more of them: FIRST=1 SEEDS=500 npx tap test/presence-random.test.ts
const SEEDS = Number(process.env.SEEDS ?? 12)
const FIRST = Number(process.env.FIRST ?? 20_261_127)
const STEPS = Number(process.env.STEPS ?? 300)
const TIMEOUT = 200
const rooms = ['a', 'b', 'c']
const keys = ['ada', 'bob', 'joe']
const users = ['u', 'v']

interface Home extends FakeNode { readonly link: Link, readonly n: number, gone: boolean }

/** A time in a room, with what stands behind its name: as `token` in its meta. */
interface Stay { readonly token: number, readonly key: string | null, readonly watches: boolean }

class Person {
  readonly fake: Fake
  readonly home: Home
  /** It asks for the presence of one room at a time. */
  readonly single: boolean
  readonly rooms = new Map<string, Stay | null>()
  /** Joins and leaves that were asked for. */
  readonly asked = new Map<string, number>()
  joining = 0
  identified = 0
  user: string | null
  view = new Map<string, string[]>()
  constructor (fake: Fake, home: Home, single: boolean, user: string | null) {
    this.fake = fake
    this.home = home
    this.single = single
    this.user = user
  }

  get open (): boolean { return this.fake.connection.open && !this.home.gone }
}

for (let seed = FIRST; seed < FIRST + SEEDS; seed++) {
  t.test(`whoever comes, goes and is cut off on whichever node: all who watch end up with who is there, and nobody blinks (seed ${seed})`, async (t) => {
    const clock = new Clock()
    clock.install()
    const next = random(seed)
    const chance = (share: number): boolean => next() < share
    const below = (count: number): number => Math.floor(next() * count)
    const pick = <T> (list: readonly T[]): T => list[below(list.length)] as T
    let isCalm = false
    const faults: string[] = []
    const trace: string[] = []
    const fault = (what: string): void => { faults.push(`at ${clock.now}: ${what}`) }
    const log = (what: string): void => { trace.push(`${clock.now} ${what}`) }
    const backplane = shared()
    const kind = pick(['calm', 'lossy', 'lossy', 'failing'])
    const slow = pick(['close', 'drop', 'catch-up'] as const)
    const history = chance(0.5) ? false : undefined
    const maxPerUser = chance(0.3) ? 2 : 0
    const homes: Home[] = []
    const persons: Person[] = []
    const stays = new Map<number, { person: Person, room: string }>()
    const clears = new Set<string>()
    const ordered = new Set<string>()
    const pending = new Set<Promise<unknown>>()
    let time = 0
    const track = (work: Promise<unknown>): void => {
      pending.add(work)
      void work.then(() => pending.delete(work), (err: unknown) => { fault(String(err)); pending.delete(work) })
    }

    const begin = async (): Promise<void> => {
      const link = new Link(backplane, clock, { lag: () => isCalm ? 0 : below(4), fails: (topic) => !isCalm && kind === 'failing' && (topic.startsWith('presence/') || topic.startsWith('room/')) && chance(0.2), loses: () => chance(0.4) })
      const home: Home = Object.assign(await node(t, { history, slow, maxBuffered: 3_000, maxPerUser, heartbeat: false, hold: 50, presence: { timeout: TIMEOUT } }, link), { link, n: homes.length, gone: false })
      home.registry.on('leave', (connection, room) => {
        const person = persons.find(({ fake }) => fake.connection === connection) as Person
        if (connection.open && !home.gone && person.rooms.has(room) && person.joining === 0 && !clears.has(room) && !ordered.has(connection.id)) fault(`${connection.id} has left ${room} and nobody asked for it`)
        log(`left: ${persons.indexOf(person)} ${room}`)
        person.rooms.delete(room)
      })
      homes.push(home)
    }
    const alive = (): Home[] => homes.filter(({ gone }) => !gone)

    const isThere = (token: number): Person | null => {
      const stay = stays.get(token)
      return stay !== undefined && stay.person.open && stay.person.rooms.get(stay.room)?.token === token ? stay.person : null
    }
    const wasAway = ({ link }: Home): boolean => link.fault === 'crashed' || link.away(TIMEOUT * 2) > TIMEOUT / 2
    const tokens = (metas: unknown[]): string[] => metas.map((meta) => String((meta as { token: number }).token))

    const see = (person: Person, change: PresenceChange): void => {
      const me = persons.indexOf(person)
      log(`told: ${me} ${JSON.stringify(change)}`)
      if (!person.single || person.home.gone) return
      const before = new Map(person.view)
      const { view } = person
      if (change.snapshot !== undefined) {
        view.clear()
        for (const { key, metas } of change.snapshot) view.set(key, tokens(metas))
      }
      for (const { key, metas } of change.joined ?? []) {
        if (view.has(key)) fault(`${me}: ${key} joined twice`)
        view.set(key, tokens(metas))
      }
      for (const { key, metas } of change.updated ?? []) {
        if (!view.has(key)) fault(`${me}: ${key} is updated and was not there`)
        view.set(key, tokens(metas))
      }
      for (const { key } of change.left ?? []) if (!view.delete(key)) fault(`${me}: ${key} left and was not there`)
      for (const [key, list] of before) {
        for (const token of list) {
          const holder = isThere(Number(token))
          if (holder === null || view.get(key)?.includes(token) === true) continue
          const { room } = stays.get(Number(token)) as { room: string }
          if (!person.rooms.has(room) || wasAway(holder.home) || wasAway(person.home) || change.snapshot !== undefined) continue
          fault(`${me} on ${person.home.n}: ${key} of ${token} on ${holder.home.n} blinks`)
        }
      }
    }

    const come = (): void => {
      const home = pick(alive())
      const user = chance(0.4) ? pick(users) : null
      const held = chance(0.15)
      const opened = !chance(0.15)
      const fake = connect(home, { user, bare: held ? false : chance(0.5), opened: opened && !held, ...held ? { lastEventId: `${backplane.epoch}-0` } : {} })
      const person = new Person(fake, home, chance(0.8), user)
      log(`come: ${persons.length} on ${home.n} ${fake.connection.id} held ${held} opened ${opened}`)
      persons.push(person)
      const write = fake.wire.write.bind(fake.wire)
      fake.wire.write = (frame) => {
        write(frame)
        for (const line of Buffer.from(frame).toString().split('\n')) {
          if (line === '') continue
          const { event, data } = JSON.parse(line) as { event?: string, data: PresenceChange }
          if (event === 'presence') see(person, data)
        }
      }
      for (let i = below(3); i > 0; i--) enter(person)
      if (chance(0.05)) fake.connection.close()
    }
    const wake = ({ fake: { connection } }: Person): void => {
      connection.opened()
      connection.live()
    }

    const enter = (person: Person): void => {
      const { connection } = person.fake
      if (!person.open) return
      const room = pick(rooms)
      const how = pick(['plain', 'watch', 'present', 'present', 'present'])
      const token = ++time
      const key = how === 'present' ? pick(keys) : null
      const before = person.rooms.get(room) ?? null
      const stay: Stay | null = how === 'plain' ? before : { token, key, watches: true }
      if (person.single && stay !== null) for (const [name, other] of [...person.rooms]) if (name !== room && other !== null) leave(person, name)
      person.rooms.set(room, stay)
      stays.set(token, { person, room })
      person.asked.set(room, time)
      person.joining++
      log(`join: ${persons.indexOf(person)} ${room} ${how} ${key} ${token}`)
      track(connection.join(room, how === 'plain' ? {} : how === 'watch' ? { presence: true } : { presence: { key: key as string, meta: { token } } }).then((isIn) => {
        person.joining--
        log(`joined: ${persons.indexOf(person)} ${room} ${token} ${isIn}`)
        if (isIn && person.asked.get(room) === token && !person.rooms.has(room) && person.open && !clears.has(room) && !ordered.has(connection.id)) fault(`${persons.indexOf(person)} is told that it is in ${room} and is not`)
      }))
    }
    const leave = (person: Person, room: string): void => {
      person.asked.set(room, ++time)
      person.rooms.delete(room)
      log(`leave: ${persons.indexOf(person)} ${room}`)
      void person.fake.connection.leave(room)
    }
    const settle = async (): Promise<void> => {
      await clock.pass(TIMEOUT * 3 + 2_000)
      for (let i = 0; i < 50 && pending.size > 0; i++) await clock.pass(100)
      if (pending.size > 0) fault(`${pending.size} promises are still to settle`)
    }

    const sends: Array<{ n: number, home: Home, receipt: Receipt, spared: string }> = []
    const order = async (home: Home): Promise<void> => {
      const what = pick(['user', 'clear', 'room', 'close', 'leave', 'send', 'emit', 'emit'])
      const room = pick(rooms)
      const user = pick(users)
      const person = pick(persons)
      const n = ++time
      const { registry, link } = home
      const { connection, wire } = person.fake
      const isWell = (): boolean => homes.every(({ link }) => link.fault === 'none' && link.away(3_000) === 0)
      const wasWell = isWell()
      const wasOpen = person.open
      log(`order: ${what} on ${home.n} ${room} ${user} ${persons.indexOf(person)} ${n}`)
      if (what === 'user' || what === 'room') {
        const targets = persons.filter((one) => one.open && (what === 'user' ? one.fake.connection.user === user : one.rooms.has(room)))
        const marks = targets.map((one) => what === 'user' ? one.identified : one.asked.get(room))
        const lost = homes.map(({ link }) => link.lost.length)
        await (what === 'user' ? registry.user(user) : registry.room(room)).disconnect(`order ${n}`)
        const isCarried = link.publications.some((text) => text.includes(`order ${n}"`))
        const isMissed = (one: Person): boolean => one.home.link.lost.slice(lost[one.home.n]).some((text) => text.includes(`order ${n}"`))
        const check = (here: boolean): void => {
          for (const [i, one] of targets.entries()) {
            if (!one.open || (here && one.home !== home) || (!here && (isMissed(one) || !isCarried))) continue
            if ((what === 'user' ? one.identified : one.asked.get(room)) === marks[i] && (what === 'user' || one.rooms.has(room))) fault(`${persons.indexOf(one)} is still there after ${what} ${n} was disconnected on ${home.n}, here: ${here}`)
          }
        }
        if (!home.gone && link.fault !== 'crashed') check(true)
        track(clock.pass(0).then(async () => { for (let i = 0; i < 100; i++) await setImmediate(); if (!home.gone) check(false) }))
      } else if (what === 'clear') {
        clears.add(room)
        const targets = persons.filter((one) => one.open && one.home === home && one.rooms.has(room))
        const marks = targets.map((one) => one.asked.get(room))
        await registry.room(room).clear()
        for (const [i, one] of targets.entries()) if (!home.gone && one.open && one.rooms.has(room) && one.asked.get(room) === marks[i]) fault(`${persons.indexOf(one)} is still in ${room} after it was cleared`)
      } else if (what === 'close') {
        const done = await registry.close(connection.id)
        if (done && connection.open) fault(`${persons.indexOf(person)} is open and should have been closed`)
        if (!done && !home.gone && wasWell && isWell() && wasOpen && person.open) fault(`${persons.indexOf(person)} could not be closed`)
      } else if (what === 'leave') {
        ordered.add(connection.id)
        const mark = person.asked.get(room)
        const done = await registry.leave(connection.id, room)
        if (done && person.rooms.has(room) && person.asked.get(room) === mark && person.open) fault(`${persons.indexOf(person)} is in ${room} and should have left`)
        if (!done && !home.gone && wasWell && isWell() && wasOpen && person.open) fault(`${persons.indexOf(person)} could not leave`)
      } else if (what === 'send') {
        if (!person.fake.wire.bare) return
        const done = await registry.send(connection.id, { event: 'direct', data: n })
        await turn()
        const got = wire.events.filter(({ event, data }) => event === 'direct' && data === n).length
        if (slow !== 'drop' && done && got !== 1 && slow !== 'catch-up') fault(`${persons.indexOf(person)} got a direct event ${got} times`)
        if (slow === 'close' && !done && wasWell && isWell() && wasOpen && person.open) fault(`${persons.indexOf(person)} could not be sent to`)
      } else {
        const except = chance(0.3) ? pick([connection.id, { user }]) : undefined
        const receipt = await (chance(0.2) ? registry.user(user) : registry.room(room)).send({ data: { n } }, except === undefined ? {} : { except })
        sends.push({ n, home, receipt, spared: typeof except === 'string' ? except : '' })
      }
    }

    const disturb = (): void => {
      const home = pick(alive())
      if (home.link.fault === 'none') {
        const fault = pick(['cut', 'deaf', 'lossy', 'lossy'] as const)
        log(`fault: ${home.n} ${fault}`)
        home.link.begin(fault)
      }
    }
    const end = async (home: Home): Promise<void> => {
      home.gone = true
      if (chance(0.5)) {
        log(`crash: ${home.n}`)
        home.link.begin('crashed')
      } else {
        log(`stop: ${home.n}`)
        for (const { fake, home: its } of persons) if (its === home) fake.connection.close()
        if (chance(0.5)) await turn()
        await home.registry.stop()
      }
    }

    try {
      for (let i = 0; i < 3; i++) await begin()
      for (let i = 0; i < 6; i++) come()
      for (let step = 0; step < STEPS; step++) {
        const there = persons.filter(({ open }) => open)
        if (chance(0.1) && there.length < 14) come()
        if (there.length > 0) {
          const person = pick(there)
          if (chance(0.4)) enter(person)
          if (chance(0.15) && person.rooms.size > 0) leave(person, pick([...person.rooms.keys()]))
          if (chance(0.08)) wake(person)
          if (chance(0.04)) {
            log(`close: ${persons.indexOf(person)}`)
            if (chance(0.5)) person.fake.connection.close()
            else person.fake.wire.link?.closed({ code: 1006, reason: 'lost' }, false)
          }
          if (chance(0.05)) {
            person.identified++
            person.user = chance(0.3) ? null : pick(users)
            person.fake.connection.identify(person.user)
          }
          if (slow !== 'close' && chance(0.04)) person.fake.wire.buffered = 2_990
          if (chance(0.1)) for (const { fake } of persons) fake.wire.buffered = 0
          if (chance(0.15)) track(order(pick(alive())))
        }
        if (kind !== 'calm' && chance(0.03)) disturb()
        if (chance(0.08)) for (const { link } of homes) if (chance(0.5)) { if (link.fault !== 'none') log('heal'); link.heal() }
        if (chance(0.005) && alive().length > 1) await end(pick(alive()))
        if (chance(0.01) && alive().length < 4) await begin()
        if (chance(0.4)) await setImmediate()
        if (chance(0.1)) await clock.pass(below(60))
      }
      isCalm = true
      log('calm')
      for (const { link } of homes) link.heal()
      for (const person of persons) {
        person.fake.wire.buffered = 0
        if (person.open) wake(person)
      }
      await settle()

      for (const room of rooms) {
        const expected: Record<string, string[]> = {}
        for (const person of persons) {
          const stay = person.rooms.get(room)
          if (!person.open || stay === undefined || stay === null || stay.key === null) continue
          (expected[stay.key] ??= []).push(String(stay.token))
        }
        const shape = (entries: Array<[string, string[]]>): string => JSON.stringify(entries.map(([key, list]) => [key, [...list].sort()]).sort())
        const wanted = shape(Object.entries(expected))
        for (const { registry, n } of alive()) {
          const listing = registry.room(room).presence()
          track(listing)
          await settle()
          const listed = shape((await listing).map(({ key, metas }) => [key, tokens(metas)]))
          if (listed !== wanted) fault(`${n} lists in ${room} ${listed} instead of ${wanted}`)
        }
        for (const [i, person] of persons.entries()) {
          const stay = person.rooms.get(room)
          if (!person.open || !person.single || stay === undefined || stay === null) continue
          const seen = shape([...person.view])
          if (seen !== wanted) fault(`${i} on ${person.home.n} was told of ${room} ${seen} instead of ${wanted}`)
        }
      }
      for (const [i, { open, fake: { connection }, rooms }] of persons.entries()) if (open && [...connection.rooms].sort().join() !== [...rooms.keys()].sort().join()) fault(`${i} is in ${[...connection.rooms].join()} instead of ${[...rooms.keys()].join()}`)
      for (const home of alive()) {
        const here = persons.filter((person) => person.home === home && person.open)
        const of = (user: string): Person[] => here.filter((person) => person.user === user)
        for (const user of users) if (home.registry.user(user).size !== of(user).length || here.some(({ fake: { connection }, user: its }) => connection.user !== its)) fault(`${home.n} has ${home.registry.user(user).size} of ${user} instead of ${of(user).length}`)
        if (home.registry.stats().users !== users.filter((user) => of(user).length > 0).length) fault(`${home.n} counts ${home.registry.stats().users} users`)
      }
      if (slow === 'close') {
        for (const { n, home, receipt } of sends) {
          if (home.gone) continue
          const here = persons.filter((person) => person.home === home)
          const returning = here.filter(({ fake: { connection } }) => connection.returning !== null).length // they may be given it again, or never
          const got = here.filter(({ fake: { wire, connection } }) => connection.returning === null && wire.events.some(({ data }) => (data as { n?: number } | undefined)?.n === n)).length
          if ((got > receipt.members && (history === false || kind === 'calm')) || got + returning < receipt.members) fault(`${n} was given to ${got} on ${home.n} and the receipt says ${receipt.members}`)
        }
      }
      for (const { fake, open } of persons) if (open) fake.connection.close()
      await settle()
      for (const { registry, link, n } of alive()) {
        const { connections, rooms, users } = registry.stats()
        if (connections + rooms + users > 0) fault(`${n} has still ${connections} connections, ${rooms} rooms, ${users} users`)
        if ([...link.followed].join() !== 'nodes') fault(`${n} still follows ${[...link.followed].join()}`)
      }
      const timers = [...clock.timers].filter(({ every }) => every === TIMEOUT / 5).length
      if (timers > homes.filter(({ link }) => link.fault === 'crashed').length) fault(`there are still ${timers} timers`)
    } finally {
      for (const { link } of homes) link.heal()
      await clock.pass(100)
      clock.remove()
    }
    if (process.env.TRACE !== undefined && faults.length > 0) for (const line of trace) console.error(line)
    t.equal(faults.slice(0, 8).join('\n'), '', `${kind}, ${slow}`)
    t.comment(`${kind}, ${slow}: ${persons.length} connections, ${homes.length} nodes, ${trace.length} lines`)
  })
}
