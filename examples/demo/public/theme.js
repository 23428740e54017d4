// Before the first paint: the theme that was chosen, or else the system's.
(function () {
  const root = document.documentElement
  const dark = matchMedia('(prefers-color-scheme: dark)')
  let chosen = null
  try { chosen = localStorage.getItem('theme') } catch {} // storage may be off
  show()
  dark.addEventListener('change', show)

  function show () {
    root.dataset.theme = chosen ?? (dark.matches ? 'dark' : 'light')
    document.getElementById('theme')?.setAttribute('aria-pressed', String(root.dataset.theme === 'dark'))
    dispatchEvent(new Event('theme'))
  }

  addEventListener('DOMContentLoaded', () => {
    show()
    document.getElementById('theme').addEventListener('click', () => {
      chosen = root.dataset.theme === 'dark' ? 'light' : 'dark'
      try { localStorage.setItem('theme', chosen) } catch {}
      show()
    })
  })
})()
