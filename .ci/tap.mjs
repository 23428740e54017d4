// Runs tap and closes with one line, `N passed, N failed`, which none of its reporters prints; exits as tap does.
import { spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { constants, tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const tty = process.stdout.isTTY
const dir = mkdtempSync(join(tmpdir(), 'tap-'))
const file = join(dir, 'out.tap')
const bin = fileURLToPath(new URL('../node_modules/.bin/tap', import.meta.url))
const args = [tty ? `--output-file=${file}` : '--reporter=tap', ...process.argv.slice(2)]
const child = spawn(bin, args, { stdio: ['inherit', tty ? 'inherit' : 'pipe', 'inherit'] })
let tap = ''
child.stdout?.setEncoding('utf8').on('data', (s) => { process.stdout.write(s); tap = (tap + s).slice(-65536) })
for (const s of ['SIGINT', 'SIGTERM']) process.on(s, () => child.kill(s))
child.on('error', () => done(1))
child.on('close', (code, signal) => done(code ?? 128 + constants.signals[signal]))

function done (code) {
  try { if (tty) tap = readFileSync(file, 'utf8') } catch {}
  rmSync(dir, { recursive: true, force: true })
  const sum = [...tap.matchAll(/^# \{ total: \d+.*\}$/gm)].at(-1)?.[0] ?? ''
  const n = (key) => Number(new RegExp(`\\b${key}: (\\d+)`).exec(sum)?.[1] ?? 0)
  const pass = n('pass')
  let fail = n('fail')
  const skip = n('skip') + n('todo')
  if (pass + fail === 0) { code ||= 1; fail = 1 } // nothing ran, or tap died
  console.log(`\n${pass} passed, ${fail} failed${skip > 0 ? `, ${skip} skipped` : ''}`)
  process.exitCode = code
}
