import type { Server } from 'node:http'
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import type { ConnectionsOptions } from '../types/api.ts'
import type { Acceptance, Link } from '../types/transport.ts'
import { memory } from './backplanes/memory.ts'
import { ArgumentError, BackplaneError, ConnectionsExistError, NameTakenError, OptionError } from './errors.ts'
import { checkConnections, FASTIFY } from './options.ts'
import type { RegistryOptions } from './options.ts'
import { Registry } from './registry.ts'
import { Sockets } from './sockets.ts'

const registries = new WeakMap<object, Promise<Registry>>()

/** The registry of this server, made with defaults when there is none yet, and decorated where it is asked for. */
export async function sharedRegistry (fastify: FastifyInstance): Promise<Registry> {
  return decorate(fastify, await (registries.get(fastify.server) ?? create(fastify, {})))
}

/**
 * Opens a connection of a transport outside this package, for whom `identify` says the request is. Rejects with the coded refusal
 * when a limit is reached or the server stops. The wire is told nothing before; `opened()` and `closed()` are the transport's to call.
 */
export async function openConnection (fastify: FastifyInstance, acceptance: Acceptance): Promise<Link> {
  const registry = await registries.get(fastify.server)
  if (registry === undefined) throw new ArgumentError('fastify', 'has no registry of connections; register connections before its routes')
  const who = await registry.whoIs(acceptance.request)
  const refusal = registry.refusal(who.user, acceptance.request)
  if (refusal !== null) throw refusal
  return registry.accept(acceptance, who)
}

async function plugin (fastify: FastifyInstance, options: ConnectionsOptions): Promise<void> {
  const existing = registries.get(fastify.server)
  if (existing !== undefined && (isGiven(options) || fastify.hasDecorator('connections'))) throw new ConnectionsExistError()
  decorate(fastify, await (existing ?? create(fastify, options)))
}

/** Options of the registry. `sseReal` and `wsReal` make one with defaults when it is not registered. */
export const connections = fp(plugin, { name: 'fastify-real-connections', fastify: '5.x' })

function create (fastify: FastifyInstance, options: ConnectionsOptions): Promise<Registry> {
  if (fastify.hasDecorator('connections')) throw new NameTakenError('fastify.connections')
  const settings = within(checkConnections(options), fastify.initialConfig.pluginTimeout as number, options.drain?.grace !== undefined)
  const made = start(fastify, new Registry(settings, options.backplane ?? memory(settings.memory), fastify.log))
  registries.set(fastify.server, made)
  made.catch(() => registries.delete(fastify.server))
  return made
}

async function start (fastify: FastifyInstance, registry: Registry): Promise<Registry> {
  const sockets = new Sockets(fastify.server as Server, fastify.initialConfig.http2 === true)
  fastify.addHook('preClose', () => registry.drain.run(sockets))
  fastify.addHook('onClose', () => registry.stop())
  try {
    await registry.start()
  } catch (cause) {
    throw cause instanceof BackplaneError ? cause : new BackplaneError(cause instanceof Error ? cause.message : String(cause))
  }
  return registry
}

function decorate (fastify: FastifyInstance, registry: Registry): Registry {
  if (!fastify.hasDecorator('connections')) fastify.decorate('connections', registry)
  else if (fastify.connections !== registry) throw new NameTakenError('fastify.connections')
  return registry
}

// Fastify waits no longer than that for a hook, and then its close fails
function within (settings: RegistryOptions, pluginTimeout: number, isExplicit: boolean): RegistryOptions {
  const { drain } = settings
  if (pluginTimeout === 0 || drain.grace < pluginTimeout) return settings
  if (isExplicit) throw new OptionError('drain.grace', `must be shorter than Fastify's pluginTimeout (${pluginTimeout} milliseconds): it waits no longer for a close`)
  return Object.freeze({ ...settings, drain: Object.freeze({ ...drain, grace: Math.floor(pluginTimeout / 2) }) })
}

// beside what Fastify itself puts there
function isGiven (options: ConnectionsOptions): boolean { return Object.keys(options).some((name) => !FASTIFY.includes(name)) }
