// `npm start`: the demo on http://127.0.0.1:3000, or the next free port. PORT and HOST may say otherwise.
import { demo } from './app.ts'

const host = process.env.HOST ?? '127.0.0.1'
const wanted = Number(process.env.PORT ?? 3000)
if (!Number.isInteger(wanted) || wanted < 0 || wanted > 65_535) {
  console.error(`PORT must be a number from 0 to 65535, got ${JSON.stringify(process.env.PORT)}`)
  process.exit(1)
}

const app = await demo({ logger: { level: 'warn' } })
console.log(`\n  fastify-real demo: ${await listen(wanted)}\n  Open it in two windows. Ctrl+C stops it.\n`)
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => { void app.close() })

async function listen (port: number): Promise<string> {
  try {
    return await app.listen({ port, host })
  } catch (err) {
    if ((err as NodeJS.ErrnoException).code !== 'EADDRINUSE' || port >= wanted + 50) throw err
    return await listen(port + 1)
  }
}
