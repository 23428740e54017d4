// The page: a fixed list of files, read once.
import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { extname } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { FastifyInstance } from 'fastify'

const own = ['index.html', 'style.css', 'theme.js', 'app.js', 'link.js', 'live.js', 'socket.js', 'status.js', 'chart.js', 'chat.js', 'ask.js', 'dom.js', 'icon.svg']
const uplot = { 'uplot.js': 'uplot/dist/uPlot.esm.js', 'uplot.css': 'uplot/dist/uPlot.min.css' }
const types: Record<string, string> = {
  '.html': 'text/html; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.svg': 'image/svg+xml'
}
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

export async function files (app: FastifyInstance): Promise<void> {
  const { resolve } = createRequire(import.meta.url)
  const paths = new Map(own.map((name) => [name, fileURLToPath(new URL(`public/${name}`, import.meta.url))]))
  for (const [name, module] of Object.entries(uplot)) paths.set(name, resolve(module))
  for (const [name, path] of paths) {
    const body = await readFile(path)
    const etag = `"${createHash('sha256').update(body).digest('base64url').slice(0, 22)}"`
    app.get(name === 'index.html' ? '/' : `/${name}`, async (request, reply) => {
      reply.headers({ 'cache-control': 'no-cache', etag, 'content-security-policy': policy, 'referrer-policy': 'no-referrer', 'x-content-type-options': 'nosniff' })
      if (request.headers['if-none-match'] === etag) return reply.code(304).send()
      return reply.type(types[extname(name)] as string).send(body)
    })
  }
}
