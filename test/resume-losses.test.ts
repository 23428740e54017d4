import { setImmediate } from 'node:timers/promises'
import t from 'tap'
import { memory } from '../lib/index.ts'
import type { Gap } from '../lib/index.ts'
import { connect, node, turn } from './fake.ts'
import type { Fake } from './fake.ts'
import { Lossy } from './lossy.ts'
import { offsetOf, random } from './returner.ts'

// more of them: FIRST=1 SEEDS=500 npx tap test/resume-losses.test.ts
const SEEDS = Number(process.env.SEEDS ?? 20)
const FIRST = Number(process.env.FIRST ?? 20_261_127)
const STEPS = 700
const rooms = ['a', 'b', 'c', 'd']
const history = { events: 1_000_000, bytes: 1_000_000_000, age: 1_000_000, totalBytes: 1_000_000_000 }

interface Sent { readonly n: number, readonly room: string, readonly began: number, ended: number, offset: number }

/** A time in a room. */
interface Stay { readonly room: string, readonly asked: number, acknowledged: number, left: number }

class Member {
  readonly fake: Fake
  readonly place: number
  readonly stays: Stay[] = []
  /** What it joined at once when it came, before it was told its place. */
  first: readonly string[] = []
  constructor (fake: Fake, place: number) {
    this.fake = fake
    this.place = place
  }

  get events (): Array<{ event?: string, id?: string, data?: unknown }> { return this.fake.wire.events }
}

for (let seed = FIRST; seed < FIRST + SEEDS; seed++) {
  t.test(`whatever is lost on the way, joined, left and not read in time: all comes once, in the order of its room, or a gap is told (seed ${seed})`, async (t) => {
    const next = random(seed)
    const chance = (share: number): boolean => next() < share
    const below = (count: number): number => Math.floor(next() * count)
    let isCalm = false
    let loss = 0
    const lossy = new Lossy({
      loses () {
        if (chance(0.01)) loss = below(12) // so many in a row
        return !isCalm && loss-- > 0
      },
      async later () { for (let n = isCalm ? 0 : below(4); n > 0; n--) await setImmediate() }
    }, () => memory({ totalBytes: history.totalBytes }))
    const one = await node(t, { history, slow: seed % 4 === 0 ? 'drop' : 'catch-up', maxBuffered: 2_000 }, lossy.backplane)
    const sent: Sent[] = []
    let time = 0
    const sending = new Set<Promise<unknown>>()

    const send = async (): Promise<void> => {
      const room = rooms[below(rooms.length)] as string
      const made: Sent = { n: sent.length, room, began: ++time, ended: Infinity, offset: 0 }
      sent.push(made)
      const { id } = await one.registry.room(room).send({ data: { n: made.n, filler: 'x'.repeat(below(300)) } })
      made.ended = ++time
      made.offset = offsetOf(id)
    }
    const track = (work: Promise<unknown>): void => {
      sending.add(work)
      void work.then(() => sending.delete(work))
    }

    const keeper = connect(one, { bare: false, broadcast: false })
    await keeper.connection.join('a')
    for (let i = 0; i < 30; i++) await send()
    const place = `${lossy.backplane.epoch}-10`
    const members = Array.from({ length: 9 }, (_, n) => n % 3 === 0 ? new Member(connect(one, { bare: false, broadcast: false, lastEventId: place }), 10) : new Member(connect(one, { bare: n % 3 === 1, broadcast: false }), 0))

    const enter = (member: Member): void => {
      const room = rooms[below(rooms.length)] as string
      const isStay = (room: string): boolean => member.stays.some((stay) => stay.room === room && stay.left === Infinity)
      const isIn = isStay(room)
      const { connection } = member.fake
      if (isIn && member.place === 0 && chance(0.5)) {
        for (const stay of member.stays) if (stay.room === room && stay.left === Infinity) stay.left = ++time
        void connection.leave(room)
      } else if (!isIn) {
        const stays = rooms.filter((one) => one === room || (chance(0.3) && !isStay(one))).map((room): Stay => ({ room, asked: ++time, acknowledged: Infinity, left: Infinity }))
        member.stays.push(...stays)
        track(connection.join(stays.map(({ room }) => room)).then(() => { for (const stay of stays) stay.acknowledged = ++time }))
      }
    }
    for (const member of members) enter(member)
    const regulars = members.length

    const come = (): void => {
      const member = new Member(connect(one, { bare: false, broadcast: false }), 0)
      members.push(member)
      member.first = rooms.filter(() => chance(0.6))
      const stays = member.first.map((room): Stay => ({ room, asked: ++time, acknowledged: Infinity, left: Infinity }))
      member.stays.push(...stays)
      track(member.fake.connection.join([...member.first]).then(() => { for (const stay of stays) stay.acknowledged = ++time }))
    }

    for (let step = 0; step < STEPS; step++) {
      const member = members[below(members.length)] as Member
      if (chance(0.6)) track(send())
      if (chance(0.05)) enter(member)
      if (chance(0.01)) come()
      if (chance(0.03)) member.fake.wire.buffered = 1_900
      if (chance(0.1)) for (const { fake } of members) fake.wire.buffered = 0
      if (chance(0.04)) lossy.find(chance(0.5) ? undefined : `room/${rooms[below(rooms.length)]}`)
      if (seed % 3 === 0 && chance(0.04)) lossy.unreadable.add(`room/${rooms[below(rooms.length)]}`)
      if (chance(0.2)) lossy.unreadable.clear()
      if (chance(0.3)) await setImmediate()
    }
    lossy.unreadable.clear()
    isCalm = true
    for (const { fake } of members) fake.wire.buffered = 0
    while (sending.size > 0) await setImmediate()
    lossy.find()
    for (let i = 0; i < 60; i++) await turn()
    for (const room of rooms) await one.registry.room(room).send({ data: { n: -1 } })
    for (let i = 0; i < 20; i++) await turn()

    let gaps = 0
    for (const [index, member] of members.entries()) {
      const { stays, place, events } = member
      const what = `${index < regulars ? ['returning', 'bare', 'fresh'][index % 3] : 'new'} ${index}`
      const told = events.filter(({ event }) => event === 'gap').map(({ data }) => data as Gap)
      gaps += told.length
      const numbers = events.filter(({ event }) => event === undefined).map(({ data }) => (data as { n: number }).n).filter((n) => n >= 0)
      const got = new Set(numbers)
      t.equal(got.size, numbers.length, `${what}: nothing twice`)
      const strange = numbers.map((n) => sent[n] as Sent).filter(({ room, ended, began, offset }) => place > 0
        ? offset <= place || !stays.some((stay) => stay.room === room)
        : !lossy.late.has(offset) && !stays.some((stay) => stay.room === room && ended > stay.asked && began < stay.left)) // what is late may come to who has joined since
      t.strictSame(strange, [], `${what}: nothing that is not for it`, { stays })
      const disordered = rooms.filter((room) => {
        const offsets = numbers.map((n) => sent[n] as Sent).filter((one) => one.room === room).map(({ offset }) => offset)
        return offsets.some((offset, at) => at > 0 && offset < (offsets[at - 1] as number))
      })
      t.strictSame(disordered, [], `${what}: in order`)
      const missing = sent.filter(({ n, room, began, offset }) => !got.has(n) && stays.some((stay) => stay.room === room && (place > 0 ? offset > place : began > stay.acknowledged && stay.left === Infinity))) // who leaves is not given what it has not had by then
      t.strictSame(missing.filter(({ room }) => !told.some((gap) => gap.room === undefined || gap.room === room)), [], `${what}: nothing is missing without a word`, { told, stays })
      const ready = offsetOf(events.find(({ event }) => event === 'ready')?.id)
      const promised = sent.filter(({ n, room, offset }) => member.first.includes(room) && offset > ready && !got.has(n) && stays.every((stay) => stay.room !== room || stay.left === Infinity))
      t.strictSame(promised.filter(({ room }) => !told.some((gap) => gap.room === undefined || gap.room === room)), [], `${what}: nothing is missing after the place it was told`, { ready, told, stays })
      const offsets = events.filter(({ id, data }) => id !== undefined && (data as { n?: number }).n !== -1).map(({ id }) => offsetOf(id))
      t.ok(offsets.every((offset, at) => at === 0 || offset > (offsets[at - 1] as number)), `${what}: its place only grows`, { offsets })
      t.strictSame(told.filter(({ reason }) => reason !== 'unknown' && reason !== 'slow'), [], `${what}: nothing else is told`)
      const last = events.filter(({ data }) => (data as { n?: number } | undefined)?.n === -1).length
      t.equal(last, new Set(stays.filter(({ left }) => left === Infinity).map(({ room }) => room)).size, `${what}: it is live at the end`)
    }
    t.comment(`${sent.length} sent, ${gaps} gaps`)
  })
}
