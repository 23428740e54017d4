import t from 'tap'
import type { FastifyRequest } from 'fastify'
import { isAllowedOrigin, isSameOrigin } from '../lib/origin.ts'

function requestTo (protocol: string, host: string): FastifyRequest { return { protocol, host } as FastifyRequest }

// everything an attacker may own that looks like the origin that is allowed
const alike = [
  'null', '', 'https://example.com.evil.net', 'https://evilexample.com', 'https://sub.example.com', 'https://example.co', 'http://example.com', 'https://example.com:8443', 'https://example.com:443',
  'https://example.com/', 'https://example.com@evil.net', 'https://EXAMPLE.com', 'HTTPS://example.com', ' https://example.com', 'https://example.com, https://evil.net', 'https://example.com\0', 'https://exämple.com', '*'
]

t.test('an origin is allowed when it is one of the list, exactly', async (t) => {
  const request = requestTo('http', 'localhost')
  t.equal(isAllowedOrigin(['https://other.net', 'https://example.com'], 'https://example.com', request), true)
  t.equal(isAllowedOrigin(['null'], 'null', request), true)
  t.equal(isAllowedOrigin([], 'https://example.com', request), false)
  for (const origin of alike) t.equal(isAllowedOrigin(['https://example.com'], origin, request), false, JSON.stringify(origin))
})

t.test('a function decides with the origin and the request, and nothing but true allows', async (t) => {
  const request = requestTo('http', 'localhost')
  const asked: unknown[] = []
  t.equal(isAllowedOrigin((...args) => asked.push(args) === 1, 'https://a.net', request), true)
  t.strictSame(asked, [['https://a.net', request]])
  for (const said of [false, 'yes', 1, Promise.resolve(true), undefined]) t.equal(isAllowedOrigin((() => said) as never, 'https://a.net', request), false)
})

t.test('the same origin is that of the request, as Fastify sees it', async (t) => {
  const same: Array<[protocol: string, host: string, origin: string]> = [
    ['https', 'example.com', 'https://example.com'],
    ['https', 'example.com:443', 'https://example.com'],
    ['http', 'example.com:80', 'http://example.com'],
    ['http', 'localhost:3000', 'http://localhost:3000'],
    ['http', 'Example.COM', 'http://example.com'],
    ['http', '[::1]:3000', 'http://[::1]:3000'],
    ['http', '127.0.0.1:3000', 'http://127.0.0.1:3000']
  ]
  for (const [protocol, host, origin] of same) t.equal(isSameOrigin(origin, requestTo(protocol, host)), true, `${protocol} ${host}`)
  for (const origin of alike) t.equal(isSameOrigin(origin, requestTo('https', 'example.com')), false, JSON.stringify(origin))
  t.equal(isSameOrigin('http://localhost:3001', requestTo('http', 'localhost:3000')), false)
})

t.test('a host that is none has no origin', async (t) => {
  for (const host of ['', 'a b', '%', 'example.com:99999']) {
    t.equal(isSameOrigin(`http://${host}`, requestTo('http', host)), false, JSON.stringify(host))
    t.equal(isSameOrigin('null', requestTo('http', host)), false)
  }
})
