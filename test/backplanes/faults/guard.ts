// Processes that do not outlive the test, whatever ends it: a shell waits for the end of its input, which comes with our own, and kills them.
import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import type { Socket } from 'node:net'

const script = `
pids=''
while read -r sign pid; do
  if [ "$sign" = + ]; then pids="$pids $pid"; continue; fi
  rest=''
  for one in $pids; do [ "$one" = "$pid" ] || rest="$rest $one"; done
  pids=$rest
done
[ -z "$pids" ] || kill -KILL $pids
`
let watcher: ChildProcess | null = null

export function guard<T extends ChildProcess> (child: T): T {
  if (watcher === null) {
    watcher = spawn('sh', ['-c', script], { detached: true, stdio: ['pipe', 'ignore', 'ignore'] }) // in no group that a terminal ends
    watcher.unref()
    ;(watcher.stdin as Socket).unref()
  }
  const { stdin } = watcher
  stdin?.write(`+ ${child.pid}\n`)
  child.once('exit', () => { stdin?.write(`- ${child.pid}\n`) })
  return child
}
