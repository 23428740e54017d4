import type { IncomingMessage, Server } from 'node:http'
import type { ServerHttp2Session } from 'node:http2'
import type { Socket } from 'node:net'
import { Crowd } from './crowd.ts'

const ROOM = 64

/** What keeps a server open though no request is under way: sockets and HTTP/2 sessions that nobody uses. */
export class Sockets {
  readonly #server: Server
  /** On which no request was made; an upgrade is none. */
  readonly #fresh = new Crowd<Socket>()
  #room = ROOM // beyond it those that are gone are taken out: a listener on every socket would cost 400 bytes
  readonly #sessions = new Map<ServerHttp2Session, Socket>()

  constructor (server: Server, isHttp2: boolean) {
    const connected = 'setSecureContext' in server ? 'secureConnection' : 'connection'
    this.#server = server
    if (isHttp2) {
      let latest: Socket
      server.prependListener(connected, (socket: Socket) => { latest = socket })
      server.on('session', (session: ServerHttp2Session) => { // made of it at once
        this.#sessions.set(session, latest)
        session.once('close', () => this.#sessions.delete(session))
      })
    }
    server.on(connected, (socket: Socket) => {
      if (isHttp2 && !isHttp1(socket)) return
      if (this.#fresh.size >= this.#room) this.#sweep()
      this.#fresh.add(socket)
    })
    server.on('request', (request: IncomingMessage) => { if (request.httpVersionMajor === 1) this.#fresh.delete(request.socket) })
  }

  /** Nothing is left that would have to be cut. */
  get areOver (): boolean { return this.#sessions.size === 0 && this.#unanswered().next().done === true }

  /** No new ones; those that nobody uses are closed, now or as soon as they fall idle. */
  stop (): void {
    if (this.#server.listening) {
      this.#server.close()
      this.#server.unref() // Fastify takes it for the servers it has bound beside this one, for `localhost`: they stop too
    }
    this.#server.keepAliveTimeout = 1 // closeIdleConnections() would also take the sockets whose answer is still on its way
    for (const socket of this.#fresh) if (socket.bytesRead === 0) socket.destroy() // browsers open some ahead of need; node takes them for busy
    for (const session of this.#sessions.keys()) session.close()
  }

  /** Sessions whose other end does not take what is left, and requests that were begun and do not come: node waits for ever. */
  cut (): void {
    for (const [session, socket] of this.#sessions) {
      session.destroy()
      socket.destroy() // one that was asked to close would wait until its socket has taken all
    }
    for (const socket of this.#unanswered()) socket.destroy()
  }

  * #unanswered (): Generator<Socket> {
    for (const socket of this.#fresh) if (!socket.destroyed && socket.bytesWritten === 0) yield socket
  }

  #sweep (): void {
    for (const socket of this.#fresh) if (socket.destroyed) this.#fresh.delete(socket)
    this.#room = 2 * this.#fresh.size + ROOM
  }
}

// of a server of HTTP/2 that takes both; one that does not closes it itself
function isHttp1 (socket: Socket): boolean {
  const { alpnProtocol } = socket as { alpnProtocol?: string | false | null } // of TLS only
  return alpnProtocol !== undefined && alpnProtocol !== 'h2'
}
