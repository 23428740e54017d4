// What the plugins add to Fastify's own types. The generics repeat Fastify's, as TypeScript wants of declarations that are merged.
import type { ContextConfigDefault, RouteHandlerMethod } from 'fastify'
import type { Connection, Registry, Sendable, Source, SseReplyOptions, WsOptions } from './api.ts'
import type {
  DataOf, DefaultSchema, HandlerDoesNotFit, RouteWsHandlers, SseHandlerMethod, SseRouteOptions, Target, WsBesideRouteOptions,
  WsRouteOptions
} from './routes.ts'

/** The socket of a `{ websocket: true }` route of @fastify/websocket, which `wsReal` brings along with its types. */
export type { WebSocket } from '@fastify/websocket'

declare module 'fastify' {
  interface FastifyInstance<RawServer, RawRequest, RawReply, Logger, TypeProvider> {
    /** All connections of this node, of every transport. There once `connections`, `sseReal` or `wsReal` is registered. */
    connections: Registry
    /**
     * Declares a GET route that takes WebSockets; the same as `get(path, { ws: true }, handlers)`.
     * @throws FST_ERR_REAL_ROUTE, FST_ERR_REAL_OPTION
     */
    ws<RouteGeneric extends RouteGenericInterface = RouteGenericInterface, ContextConfig = ContextConfigDefault,
      const SchemaCompiler extends FastifySchema = DefaultSchema<RouteGeneric>>(
      path: string,
      handlers: RouteWsHandlers<RawServer, RawRequest, RouteGeneric, ContextConfig, NoInfer<SchemaCompiler>, TypeProvider, Logger>
    ): FastifyInstance<RawServer, RawRequest, RawReply, Logger, TypeProvider>
    ws<RouteGeneric extends RouteGenericInterface = RouteGenericInterface, ContextConfig = ContextConfigDefault,
      const SchemaCompiler extends FastifySchema = DefaultSchema<RouteGeneric>>(
      path: string,
      opts: Omit<WsRouteOptions<RawServer, RawRequest, RawReply, RouteGeneric, ContextConfig, SchemaCompiler, TypeProvider, Logger>, 'ws'> & {
        ws?: WsOptions | undefined
      },
      handlers: RouteWsHandlers<RawServer, RawRequest, RouteGeneric, ContextConfig, NoInfer<SchemaCompiler>, TypeProvider, Logger>
    ): FastifyInstance<RawServer, RawRequest, RawReply, Logger, TypeProvider>
    /** Answers with an event stream. */
    route<RouteGeneric extends RouteGenericInterface = RouteGenericInterface, ContextConfig = ContextConfigDefault,
      const SchemaCompiler extends FastifySchema = DefaultSchema<RouteGeneric>>(
      opts: SseRouteOptions<RawServer, RawRequest, RawReply, RouteGeneric, ContextConfig, SchemaCompiler, TypeProvider, Logger> & Target & {
        handler: SseHandlerMethod<RawServer, RawRequest, RawReply, RouteGeneric, ContextConfig, SchemaCompiler, TypeProvider, Logger>
      }
    ): FastifyInstance<RawServer, RawRequest, RawReply, Logger, TypeProvider>
    /** Takes WebSockets. */
    route<RouteGeneric extends RouteGenericInterface = RouteGenericInterface, ContextConfig = ContextConfigDefault,
      const SchemaCompiler extends FastifySchema = DefaultSchema<RouteGeneric>>(
      opts: WsRouteOptions<RawServer, RawRequest, RawReply, RouteGeneric, ContextConfig, SchemaCompiler, TypeProvider, Logger> & Target & {
        handler: RouteWsHandlers<RawServer, RawRequest, RouteGeneric, ContextConfig, NoInfer<SchemaCompiler>, TypeProvider, Logger>
      }
    ): FastifyInstance<RawServer, RawRequest, RawReply, Logger, TypeProvider>
    /** Takes WebSockets beside its ordinary handler. */
    route<RouteGeneric extends RouteGenericInterface = RouteGenericInterface, ContextConfig = ContextConfigDefault,
      const SchemaCompiler extends FastifySchema = DefaultSchema<RouteGeneric>>(
      opts: WsBesideRouteOptions<RawServer, RawRequest, RawReply, RouteGeneric, ContextConfig, SchemaCompiler, TypeProvider, Logger> & Target & {
        handler: RouteHandlerMethod<RawServer, RawRequest, RawReply, RouteGeneric, ContextConfig, SchemaCompiler, TypeProvider, Logger>
      }
    ): FastifyInstance<RawServer, RawRequest, RawReply, Logger, TypeProvider>
  }

  interface RouteShorthandMethod<RawServer, RawRequest, RawReply, TypeProvider, Logger> {
    /** Answers with an event stream. */
    <RouteGeneric extends RouteGenericInterface = RouteGenericInterface, ContextConfig = ContextConfigDefault,
      const SchemaCompiler extends FastifySchema = DefaultSchema<RouteGeneric>>(
      path: string,
      opts: SseRouteOptions<RawServer, RawRequest, RawReply, RouteGeneric, ContextConfig, SchemaCompiler, TypeProvider, Logger>,
      handler: SseHandlerMethod<RawServer, RawRequest, RawReply, RouteGeneric, ContextConfig, SchemaCompiler, TypeProvider, Logger>
    ): FastifyInstance<RawServer, RawRequest, RawReply, Logger, TypeProvider>
    /** Takes WebSockets. */
    <RouteGeneric extends RouteGenericInterface = RouteGenericInterface, ContextConfig = ContextConfigDefault,
      const SchemaCompiler extends FastifySchema = DefaultSchema<RouteGeneric>>(
      path: string,
      opts: WsRouteOptions<RawServer, RawRequest, RawReply, RouteGeneric, ContextConfig, SchemaCompiler, TypeProvider, Logger>,
      handlers: RouteWsHandlers<RawServer, RawRequest, RouteGeneric, ContextConfig, NoInfer<SchemaCompiler>, TypeProvider, Logger>
    ): FastifyInstance<RawServer, RawRequest, RawReply, Logger, TypeProvider>
    /** Takes WebSockets beside its ordinary handler. */
    <RouteGeneric extends RouteGenericInterface = RouteGenericInterface, ContextConfig = ContextConfigDefault,
      const SchemaCompiler extends FastifySchema = DefaultSchema<RouteGeneric>>(
      path: string,
      opts: WsBesideRouteOptions<RawServer, RawRequest, RawReply, RouteGeneric, ContextConfig, SchemaCompiler, TypeProvider, Logger>,
      handler: RouteHandlerMethod<RawServer, RawRequest, RawReply, RouteGeneric, ContextConfig, SchemaCompiler, TypeProvider, Logger>
    ): FastifyInstance<RawServer, RawRequest, RawReply, Logger, TypeProvider>
    <RouteGeneric extends RouteGenericInterface = RouteGenericInterface, ContextConfig = ContextConfigDefault,
      const SchemaCompiler extends FastifySchema = DefaultSchema<RouteGeneric>>(
      path: string,
      opts: SseRouteOptions<RawServer, RawRequest, RawReply, RouteGeneric, ContextConfig, SchemaCompiler, TypeProvider, Logger> & {
        handler: SseHandlerMethod<RawServer, RawRequest, RawReply, RouteGeneric, ContextConfig, SchemaCompiler, TypeProvider, Logger>
      }
    ): FastifyInstance<RawServer, RawRequest, RawReply, Logger, TypeProvider>
    <RouteGeneric extends RouteGenericInterface = RouteGenericInterface, ContextConfig = ContextConfigDefault,
      const SchemaCompiler extends FastifySchema = DefaultSchema<RouteGeneric>>(
      path: string,
      opts: WsRouteOptions<RawServer, RawRequest, RawReply, RouteGeneric, ContextConfig, SchemaCompiler, TypeProvider, Logger> & {
        handler: RouteWsHandlers<RawServer, RawRequest, RouteGeneric, ContextConfig, NoInfer<SchemaCompiler>, TypeProvider, Logger>
      }
    ): FastifyInstance<RawServer, RawRequest, RawReply, Logger, TypeProvider>
    <RouteGeneric extends RouteGenericInterface = RouteGenericInterface, ContextConfig = ContextConfigDefault,
      const SchemaCompiler extends FastifySchema = DefaultSchema<RouteGeneric>>(
      path: string,
      opts: WsBesideRouteOptions<RawServer, RawRequest, RawReply, RouteGeneric, ContextConfig, SchemaCompiler, TypeProvider, Logger> & {
        handler: RouteHandlerMethod<RawServer, RawRequest, RawReply, RouteGeneric, ContextConfig, SchemaCompiler, TypeProvider, Logger>
      }
    ): FastifyInstance<RawServer, RawRequest, RawReply, Logger, TypeProvider>
  }

  interface RouteShorthandOptions {
    /** On only with a handler that fits: `SseRouteOptions`. */
    sse?: false | HandlerDoesNotFit | undefined
    /** On only with handlers that fit: `WsRouteOptions`, `WsBesideRouteOptions`. */
    ws?: false | HandlerDoesNotFit | undefined
  }

  interface RouteGenericInterface {
    /** What `onMessage` is given, where no type provider says it. */
    Message?: unknown
  }

  interface FastifySchema {
    /** What a WebSocket message is: parsed as JSON, checked without coercion or stripping, typed in `onMessage`. */
    message?: unknown
  }

  // eslint-disable-next-line @typescript-eslint/no-unused-vars
  interface FastifyReply<RouteGeneric, RawServer, RawRequest, RawReply, ContextConfig, SchemaCompiler, TypeProvider> {
    /**
     * Makes this reply an event stream: of a source, or open until either side ends it. The head is sent when the handler has
     * settled, or `headStart` after the call.
     * @throws FST_ERR_REAL_SSE_TWICE, FST_ERR_REAL_REPLY_SENT, FST_ERR_REAL_ROUTE_ORDER, FST_ERR_REAL_OPTION
     */
    sse (
      source?: Sendable<DataOf<SchemaCompiler, TypeProvider>> | Source<Sendable<DataOf<SchemaCompiler, TypeProvider>>>,
      options?: SseReplyOptions & { map?: undefined }
    ): Connection<FastifyRequest<RouteGeneric, RawServer, RawRequest, SchemaCompiler, TypeProvider, ContextConfig>>
    /** The same of items of any kind: `map` makes something to send of each. */
    sse<T> (
      source: Source<T>,
      options: Omit<SseReplyOptions, 'map'> & { map: (item: T) => Sendable<DataOf<SchemaCompiler, TypeProvider>> }
    ): Connection<FastifyRequest<RouteGeneric, RawServer, RawRequest, SchemaCompiler, TypeProvider, ContextConfig>>
    /** What `reply.sse()` made; null before it. */
    readonly connection: Connection<FastifyRequest<RouteGeneric, RawServer, RawRequest, SchemaCompiler, TypeProvider, ContextConfig>> | null
  }

  interface FastifyRequest {
    /** The client asks for an event stream: `Accept` names text/event-stream and prefers nothing else. False without `Accept`. */
    readonly wantsEvents: boolean
  }
}
