import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'
import { until } from './helper.ts'

/** For processes that another loader translates: their places in a file are others, and spoil the coverage of it. */
export const uncovered = { _TAPJS_PROCESSINFO_COVERAGE_: '0' }

/** A process of its own, talked to by signals and over the network: nothing of ours keeps it alive. */
export interface Child {
  readonly pid: number
  readonly port: number
  /** What it printed, line by line. */
  readonly lines: string[]
  readonly errors: string
  /** Set once it has exited. */
  exit: { code: number | null, signal: NodeJS.Signals | null } | null
  kill (signal?: NodeJS.Signals): void
  /** The first JSON line with this key. */
  told (key: string): Promise<Record<string, number>>
  exited (): Promise<{ code: number | null, signal: NodeJS.Signals | null }>
}

export interface ChildOptions { execArgv?: string[], env?: Record<string, string>, prefix?: string[], waits?: boolean }

/** Starts a script of `test/fixtures`; resolves when it has printed `{ "port": … }`. */
export async function child (t: Test, script: string, { execArgv = [], env = {}, prefix = [], waits = true }: ChildOptions = {}): Promise<Child> {
  const file = fileURLToPath(new URL(`./fixtures/${script}`, import.meta.url))
  const [command, ...args] = [...prefix, process.execPath, '--import', 'tsx', ...execArgv, file]
  const running = spawn(command as string, args, { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...uncovered, ...env } })
  let rest = ''
  let errors = ''
  const made = {
    pid: running.pid as number,
    port: 0,
    lines: [] as string[],
    exit: null as Child['exit'],
    get errors () { return errors },
    kill (signal: NodeJS.Signals = 'SIGTERM') { running.kill(signal) },
    async told (key: string) {
      const find = () => made.lines.find((line) => line.startsWith('{') && key in JSON.parse(line))
      await until(() => find() !== undefined || made.exit !== null)
      const line = find()
      if (line === undefined) throw new Error(`it exited before: ${JSON.stringify(made.exit)} ${errors}`)
      return JSON.parse(line) as Record<string, number>
    },
    async exited () {
      await until(() => made.exit !== null)
      return made.exit as NonNullable<Child['exit']>
    }
  }
  running.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    const lines = (rest + chunk).split('\n')
    rest = lines.pop() as string
    made.lines.push(...lines)
  })
  running.stderr.setEncoding('utf8').on('data', (chunk: string) => { errors += chunk })
  running.on('close', (code, signal) => { made.exit = { code, signal } })
  t.after(() => { running.kill('SIGKILL') })
  if (waits) made.port = (await made.told('port')).port as number
  return made
}
