import { readdirSync, readFileSync } from 'node:fs'
import { basename, dirname, join, posix, sep } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import t from 'tap'
import ts from 'typescript'

// Imports go down only. A new file gets its floor here, deliberately (CONTRIBUTING.md says what each floor is for).
const floors = [
  /^types\/[\w-]+$/,
  /^lib\/(errors|close-reasons|deflate|event-parser|transports\/[\w-]+-frame)$/,
  /^lib\/(arguments|crowd|event|frame|identity|ids|options|origin|parcel|reply|upgrade)$/,
  /^lib\/(admission|aging-map|backlog|connection-host|drain|ending|heartbeat|history|hold|joins|ledger|log-reader|nodes|outbox|present-room|replay|returning|room|roster|signals|sockets|source|topics)$/,
  /^lib\/(connection|outgoing|presence)$/,
  /^lib\/backplanes\/[\w-]+$/,
  /^lib\/(node|orders|resume|rosters)$/,
  /^lib\/registry$/,
  /^lib\/(connections|route-order)$/,
  /^lib\/transports\/[\w-]+$/,
  /^lib\/(index|testing)$/
]
const parts = 3 // the floor whose files do not know each other

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const files = [...list('types'), ...list('lib')]

function list (folder: string): string[] {
  return readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .map((name) => posix.join(folder, name.split(sep).join('/')))
    .filter((name) => name.endsWith('.ts') && !name.endsWith('.tst.ts'))
    .sort()
}

function read (file: string): string {
  return readFileSync(join(root, file), 'utf8')
}

function floorOf (file: string): number {
  return floors.findIndex((floor) => floor.test(file.replace(/\.ts$/, '')))
}

/** `transports/sse` for sse.ts, sse-frame.ts and sse-source.ts; nothing for a file that is no interchangeable part. */
function familyOf (file: string): string | undefined {
  return /^lib\/((?:transports|backplanes)\/[a-z0-9]+)/.exec(file)?.[1]
}

/** Why `from` may not import `to`, or nothing when it may. */
function refusal (from: string, to: string): string | undefined {
  const [above, below] = [floorOf(from), floorOf(to)]
  if (below === -1) return `${from} imports ${to}, which has no floor`
  if (below > above) return `${from} (floor ${above}) climbs to ${to} (floor ${below})`
  const [family, other] = [familyOf(from), familyOf(to)]
  if (family && other && family !== other) return `${from} imports ${to}: transports and backplanes never meet`
  if (below === above && above === parts) return `${from} imports ${to}: the parts of floor ${parts} do not know each other`
}

/** What a file imports at run time: all but what is erased, which `verbatimModuleSyntax` leaves to the word `type` alone. */
function runtimeImports (text: string): string[] {
  const found: string[] = []
  ts.forEachChild(ts.createSourceFile('x.ts', text, ts.ScriptTarget.ESNext), function visit (node): void {
    if (ts.isImportDeclaration(node) && node.importClause?.phaseModifier !== ts.SyntaxKind.TypeKeyword) add(node.moduleSpecifier)
    else if (ts.isExportDeclaration(node) && !node.isTypeOnly) add(node.moduleSpecifier)
    else if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword) add(node.arguments[0])
    ts.forEachChild(node, visit)
  })
  return found

  function add (specifier: ts.Node | undefined): void {
    if (specifier && ts.isStringLiteralLike(specifier)) found.push(specifier.text)
  }
}

/** The files of the package that each file imports at run time. */
const imports = new Map(files.map((file) => [file, runtimeImports(read(file))
  .filter((specifier) => specifier.startsWith('.'))
  .map((specifier) => posix.join(posix.dirname(file), specifier))]))

function importsOf (file: string): string[] {
  return imports.get(file) as string[]
}

function cycleFrom (file: string, path: string[] = [], clean = new Set<string>()): string[] | undefined {
  if (path.includes(file)) return [...path.slice(path.indexOf(file)), file]
  if (clean.has(file) || !files.includes(file)) return
  for (const next of importsOf(file)) {
    const cycle = cycleFrom(next, [...path, file], clean)
    if (cycle) return cycle
  }
  clean.add(file)
}

t.test('the rule allows what goes down and refuses what climbs', async (t) => {
  const allowed: Array<[string, string]> = [
    ['lib/event.ts', 'lib/errors.ts'],
    ['lib/frame.ts', 'lib/transports/sse-frame.ts'],
    ['lib/transports/sse.ts', 'lib/transports/sse-source.ts'],
    ['lib/transports/ws.ts', 'lib/transports/ws-frame.ts'],
    ['lib/registry.ts', 'lib/backplanes/memory.ts'],
    ['lib/index.ts', 'lib/transports/ws.ts']
  ]
  for (const [from, to] of allowed) t.equal(refusal(from, to), undefined, `${from} may import ${to}`)
  t.match(refusal('lib/errors.ts', 'lib/event.ts'), 'climbs')
  t.match(refusal('types/api.ts', 'lib/errors.ts'), 'climbs')
  t.match(refusal('lib/roster.ts', 'lib/outbox.ts'), 'do not know each other')
  t.match(refusal('lib/transports/sse.ts', 'lib/transports/ws.ts'), 'never meet')
  t.match(refusal('lib/transports/sse.ts', 'lib/transports/ws-frame.ts'), 'never meet')
  t.match(refusal('lib/transports/ws.ts', 'lib/backplanes/memory.ts'), 'never meet')
  t.match(refusal('lib/backplanes/redis.ts', 'lib/backplanes/nats.ts'), 'never meet')
  t.match(refusal('lib/index.ts', 'lib/hub.ts'), 'no floor')
  t.match(refusal('lib/index.ts', 'test/helper.ts'), 'no floor')
})

t.test('imports, re-exports and dynamic imports are read; types are not', async (t) => {
  const text = `import a from './a.ts'
    import './b.ts'
    import type { C } from './c.ts'
    import { type D, d } from './d.ts'
    import { type I } from './i.ts'
    export * from './e.ts'
    export type { F } from './f.ts'
    export const g: (typeof import('./h.ts'))['h'] = (await import('./g.ts')).g`
  t.strictSame(runtimeImports(text), ['./a.ts', './b.ts', './d.ts', './i.ts', './e.ts', './g.ts'])
})

t.test('every file has a floor', async (t) => {
  for (const file of files) {
    t.not(floorOf(file), -1, `${file} has a floor: a file of a new name is added to the table in test/floors.test.ts`)
  }
})

t.test('imports go down only', async (t) => {
  for (const file of files) {
    const refused = importsOf(file).map((to) => refusal(file, to)).filter((reason) => reason !== undefined)
    t.strictSame(refused, [], `${file} imports from below`)
  }
})

t.test('there is no circle of imports', async (t) => {
  for (const file of files) t.equal(cycleFrom(file)?.join(' -> '), undefined, `${file} is in no circle`)
})

t.test('no file of lib is longer than 300 lines', async (t) => {
  for (const file of list('lib')) {
    const lines = read(file).trimEnd().split('\n').length
    t.ok(lines <= 300, `${file} has ${lines} lines`)
  }
})

// coverage counts only what some test loads: a file without tests would pass unseen
t.test('every file of lib can be loaded', async (t) => {
  const last = (file: string): number => Number(basename(file) === 'index.ts')
  for (const file of list('lib').sort((a, b) => last(a) - last(b))) {
    await t.resolves(import(pathToFileURL(join(root, file)).href), file)
  }
})
