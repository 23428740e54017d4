import t from 'tap'
import * as errors from '../lib/errors.ts'
import * as index from '../lib/index.ts'

const all = Object.entries(errors) as Array<[string, new (...args: unknown[]) => Error & { code: string, statusCode: number }]>

t.test('every code is unique and begins with FST_ERR_REAL_', async (t) => {
  const codes = all.map(([, E]) => new E().code)
  t.ok(codes.length > 20)
  t.equal(new Set(codes).size, codes.length)
  for (const code of codes) t.match(code, /^FST_ERR_REAL_[A-Z]+(?:_[A-Z]+)*$/)
})

t.test('every code is the name of its class', async (t) => {
  for (const [name, E] of all) t.equal(new E().code, `FST_ERR_REAL_${name.replace(/Error$/, '').replace(/(?<=[a-z])(?=[A-Z])/g, '_').toUpperCase()}`)
})

t.test('every error has a status and a message that takes all it is told', async (t) => {
  for (const [name, E] of all) {
    const holes = new E().message.split('%s').length - 1
    const told = Array.from({ length: holes }, (_, i) => `told ${i}`)
    const error = new E(...told)
    t.ok(error.statusCode >= 400 && error.statusCode < 600, name)
    t.notMatch(error.message, /%s|undefined/, name)
    for (const one of told) t.match(error.message, one, name)
    t.match(error.message, /^[^\s.].*[^\s.]$/, `${name} says a sentence`)
    t.ok(error instanceof Error)
  }
})

t.test('refusals have the status a client understands', async (t) => {
  const status = Object.fromEntries(all.map(([name, E]) => [name, new E().statusCode]))
  t.match(status, {
    NotAcceptableError: 406,
    OriginError: 403,
    UpgradeRequiredError: 426,
    UpgradeError: 400,
    TooManyConnectionsError: 503,
    TooManyOfUserError: 429,
    TooManyOfAddressError: 429,
    ShuttingDownError: 503,
    MessageError: 400,
    RouteOrderError: 500
  })
})

t.test('an error that names the way out names it', async (t) => {
  t.match(new errors.RouteOrderError('GET /x', 'sseReal').message, /GET \/x.*sseReal.*await app\.register/)
  t.match(new errors.WebsocketFirstError().message, /register wsReal only/)
  t.match(new errors.ConnectionsExistError().message, /before sseReal and wsReal/)
})

t.test('the errors are public, to be told apart by class', async (t) => {
  t.strictSame(Object.keys(index.errors), Object.keys(errors))
  t.equal(index.errors.OptionError, errors.OptionError)
})
