import { $, el } from './dom.js'

/** Reads the event stream that answers a POST: an EventSource can only GET. */
export function ask () {
  const answer = $('answer')
  let running = null

  $('ask').addEventListener('submit', async (event) => {
    event.preventDefault()
    running?.abort()
    const controller = running = new AbortController()
    const words = el('p', 'words')
    answer.replaceChildren(words)
    busy(true)
    let end = 'the stream was cut'
    try {
      const response = await fetch('/ask', {
        method: 'POST',
        headers: { 'content-type': 'application/json', accept: 'text/event-stream' },
        body: JSON.stringify({ prompt: $('prompt').value }),
        signal: controller.signal
      })
      if (!response.ok) throw new Error(`the server answered ${response.status}`)
      for await (const { event, data } of events(response.body)) {
        if (event === 'token') words.append(data.token)
        else if (event === 'done') end = `done: ${data.count} tokens`
        answer.scrollTop = answer.scrollHeight
      }
    } catch (err) {
      end = controller.signal.aborted ? 'stopped: so has its generator' : err.message
    }
    if (running !== controller) return
    running = null
    busy(false)
    answer.append(el('p', 'end', end))
    answer.scrollTop = answer.scrollHeight
  })
  $('ask-stop').addEventListener('click', () => running?.abort())

  function busy (isBusy) {
    answer.setAttribute('aria-busy', String(isBusy))
    $('ask-stop').disabled = !isBusy
    $('ask-go').disabled = isBusy
  }
}

/** The events of a text/event-stream whose data is JSON. */
async function * events (body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader()
  let rest = ''
  for (;;) {
    const { done, value } = await reader.read()
    if (done) return
    const blocks = (rest + value).split('\n\n')
    rest = blocks.pop()
    for (const block of blocks) {
      const fields = block.split('\n').map((line) => line.split(/: ?(.*)/s))
      const data = fields.filter(([name]) => name === 'data').map(([, text]) => text).join('\n')
      if (data !== '') yield { event: fields.find(([name]) => name === 'event')?.[1] ?? 'message', data: JSON.parse(data) }
    }
  }
}
