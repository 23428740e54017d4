// Translates the TypeScript of the tests, as tap's own loader does, and keeps what comes out in `.tap`. Tap's loader loads the
// compiler twice into each process and translates everything again in each: two thirds of what most tests cost.
import { createHash } from 'node:crypto'
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { createRequire, register } from 'node:module'
import { dirname, relative } from 'node:path'
import { fileURLToPath } from 'node:url'

const require = createRequire(import.meta.url)
const root = fileURLToPath(new URL('..', import.meta.url))
const self = fileURLToPath(import.meta.url)
const config = `${root}tsconfig.json`
const read = (file) => readFileSync(file, 'utf8')
const sha = (...texts) => createHash('sha256').update(texts.join('\0')).digest('hex')
const translator = sha(read(self), read(config), require('typescript/package.json').version)

if (!import.meta.url.endsWith('?hooks')) register(`${import.meta.url}?hooks`)

export async function load (url, context, nextLoad) {
  const file = url.startsWith('file:') ? fileURLToPath(url) : ''
  if (!file.endsWith('.ts') || !file.startsWith(root) || file.includes('/node_modules/')) return nextLoad(url, context)
  const text = read(file)
  const key = sha(translator, file, text)
  const kept = `${root}.tap/translated/${relative(root, file)}.js`
  return nextLoad(url, { ...context, format: 'module', source: find(kept, key) ?? keep(kept, key, translate(file, text)) })
}

function find (kept, key) {
  try {
    const [first, ...lines] = read(kept).split('\n')
    if (first === key) return lines.join('\n')
  } catch {}
}

// by a rename: other processes look for it at the same time
function keep (kept, key, source) {
  const part = `${kept}.${process.pid}`
  mkdirSync(dirname(kept), { recursive: true })
  writeFileSync(part, `${key}\n${source}`)
  renameSync(part, kept)
  return source
}

function translate (file, text) {
  const ts = require('typescript')
  const { options } = ts.convertCompilerOptionsFromJson(ts.readConfigFile(config, read).config.compilerOptions, root)
  Object.assign(options, { module: ts.ModuleKind.ESNext, noEmit: false, rewriteRelativeImportExtensions: false, sourceMap: true, inlineSources: true })
  const { outputText, sourceMapText } = ts.transpileModule(text, { fileName: file, compilerOptions: options })
  const map = Buffer.from(JSON.stringify({ ...JSON.parse(sourceMapText), file, sources: [file] })).toString('base64')
  const end = outputText.lastIndexOf('//# sourceMappingURL=')
  return `${outputText.slice(0, end)}//# sourceMappingURL=data:application/json;charset=utf-8;base64,${map}`
}
