import { spawn } from 'node:child_process'
import { once } from 'node:events'
import t from 'tap'
import { uncovered } from '../../child.ts'
import { until } from '../../helper.ts'

const script = `
import { spawn } from 'node:child_process'
import { guard } from ${JSON.stringify(new URL('guard.ts', import.meta.url).href)}
const ended = guard(spawn('sleep', ['1000'], { stdio: 'ignore' }))
const living = guard(spawn('sleep', ['1000'], { stdio: 'ignore' }))
ended.kill('SIGKILL')
living.kill('SIGSTOP')
ended.on('exit', () => setTimeout(() => console.log(living.pid), 50))
`

function lives (pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch {
    return false
  }
}

t.test('what is guarded does not outlive the process, however that ends, not even while it is stopped', { skip: process.platform === 'win32' }, async (t) => {
  for (const signal of ['SIGKILL', 'SIGTERM'] as const) {
    const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', script], { stdio: ['ignore', 'pipe', 'inherit'], env: { ...process.env, ...uncovered } })
    t.after(() => { child.kill('SIGKILL') })
    const [text] = await once(child.stdout, 'data') as [Buffer]
    const pid = Number(text)
    t.ok(lives(pid))
    child.kill(signal)
    await once(child, 'exit')
    await until(() => !lives(pid))
  }
})
