import neostandard from 'neostandard'

// with types for lib only: in tests, what t.test() returns is tap's to await
const rules = {
  '@typescript-eslint/no-floating-promises': 'error',
  '@typescript-eslint/no-misused-promises': 'error',
  'prefer-promise-reject-errors': 'off' // what the application threw is passed on as it is
}

const browser = ['EventSource', 'ResizeObserver', 'addEventListener', 'dispatchEvent', 'getComputedStyle', 'location', 'matchMedia']

export default [
  ...neostandard({ ts: true, ignores: ['dist', '.tap', 'coverage', 'tmp'] }),
  { rules: { 'no-void': ['error', { allowAsStatement: true }] } },
  { files: ['examples/demo/public/*.js'], languageOptions: { globals: Object.fromEntries(browser.map((name) => [name, 'readonly'])) } },
  { files: ['lib/**/*.ts'], languageOptions: { parserOptions: { projectService: true } }, rules }
]
