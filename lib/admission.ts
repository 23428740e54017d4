import { isIPv6 } from 'node:net'
import { TooManyConnectionsError, TooManyOfAddressError, TooManyOfUserError } from './errors.ts'

export interface Limits { readonly maxConnections: number, readonly maxPerUser: number, readonly maxPerAddress: number }

/** Counts the connections of this node, in all, of a user and of an address, and says when a limit is reached. */
export class Admission<C> {
  /** Everybody's connections, also those that take no broadcasts. */
  readonly users = new Map<string, Set<C>>()
  readonly #addresses = new Map<string, number>()
  readonly #limits: Limits
  #total = 0

  constructor (limits: Limits) {
    this.#limits = limits
  }

  /** What a request is counted as; empty where addresses have no limit: a system call, and 90 bytes that its socket keeps. */
  addressOf (request: { readonly ip: string }): string { return this.#limits.maxPerAddress > 0 ? addressOf(request.ip) : '' }

  /** Null, or why there is no room for one more. */
  refusal (user: string | null, address: string): Error | null {
    const { maxConnections, maxPerUser, maxPerAddress } = this.#limits
    if (maxConnections > 0 && this.#total >= maxConnections) return new TooManyConnectionsError(maxConnections)
    if (maxPerAddress > 0 && address !== '' && (this.#addresses.get(address) ?? 0) >= maxPerAddress) return new TooManyOfAddressError(maxPerAddress)
    return user === null || !this.userIsFull(user) ? null : new TooManyOfUserError(maxPerUser)
  }

  userIsFull (user: string): boolean {
    const { maxPerUser } = this.#limits
    return maxPerUser > 0 && (this.users.get(user)?.size ?? 0) >= maxPerUser
  }

  enter (address: string): void {
    this.#total++
    if (address !== '') this.#addresses.set(address, (this.#addresses.get(address) ?? 0) + 1)
  }

  exit (address: string): void {
    this.#total--
    const left = (this.#addresses.get(address) ?? 0) - 1
    if (left > 0) this.#addresses.set(address, left)
    else this.#addresses.delete(address)
  }

  addUser (user: string, connection: C): void {
    const own = this.users.get(user)
    if (own === undefined) this.users.set(user, new Set([connection]))
    else own.add(connection)
  }

  removeUser (user: string, connection: C): void {
    const own = this.users.get(user)
    if (own?.delete(connection) === true && own.size === 0) this.users.delete(user)
  }
}

/** What an address is counted as: IPv4 as it is, also when it is mapped into IPv6; of IPv6 the /64 a customer is given. */
export function addressOf (ip: string | undefined): string {
  if (ip === undefined || !ip.includes(':') || !isIPv6(ip)) return ip ?? ''
  const groups = groupsOf(ip)
  if (groups.slice(0, 6).join(':') !== '0:0:0:0:0:ffff') return `${groups.slice(0, 4).join(':')}::/64`
  return groups.slice(6).map((group) => parseInt(group, 16)).map((pair) => `${pair >> 8}.${pair & 255}`).join('.')
}

// URL writes every address in one way: hexadecimal, in lower case, without leading zeros
function groupsOf (ip: string): string[] {
  const { hostname } = new URL(`http://[${ip.split('%')[0]}]`)
  const [left = [], right = []] = hostname.slice(1, -1).split('::').map((half) => half === '' ? [] : half.split(':'))
  return [...left, ...new Array<string>(8 - left.length - right.length).fill('0'), ...right]
}
