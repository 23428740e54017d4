// What the handlers of our routes are given and may give. `fastify.ts` puts them on Fastify's own methods.
import type {
  ContextConfigDefault, FastifyBaseLogger, FastifyInstance, FastifyReply, FastifyRequest, FastifySchema, FastifyTypeProvider,
  FastifyTypeProviderDefault, RawReplyDefaultExpression, RawRequestDefaultExpression, RawServerBase, RawServerDefault,
  RouteGenericInterface, RouteHandlerMethod, RouteOptions, RouteShorthandOptions
} from 'fastify'
import type { Connection, Message, Sendable, Source, SseOptions, WsHandlers, WsOptions } from './api.ts'

declare const kFits: unique symbol

/**
 * Nothing is of this type. TypeScript names it where a route has `sse` or `ws` and a handler that fits neither: a generator that
 * yields what cannot be sent, a misspelt handler, a handler object without `ws`.
 */
export interface HandlerDoesNotFit { readonly [kFits]: never }

/** What Fastify's own methods refuse, and ours take. */
type Ours = 'sse' | 'ws'

/** What `route()` wants beside the options of a shorthand method. */
export type Target = Pick<RouteOptions, 'method' | 'url'>

/** Options of an `{ sse }` route: Fastify's own, and ours. With `ws` the path takes WebSockets too. */
export interface SseRouteOptions<
  RawServer extends RawServerBase = RawServerDefault,
  RawRequest extends RawRequestDefaultExpression<RawServer> = RawRequestDefaultExpression<RawServer>,
  RawReply extends RawReplyDefaultExpression<RawServer> = RawReplyDefaultExpression<RawServer>,
  RouteGeneric extends RouteGenericInterface = RouteGenericInterface,
  ContextConfig = ContextConfigDefault,
  SchemaCompiler extends FastifySchema = FastifySchema,
  TypeProvider extends FastifyTypeProvider = FastifyTypeProviderDefault,
  Logger extends FastifyBaseLogger = FastifyBaseLogger
> extends Omit<
  RouteShorthandOptions<RawServer, RawRequest, RawReply, RouteGeneric, ContextConfig, SchemaCompiler, TypeProvider, Logger>, Ours
> {
  /**
   * Answers with an event stream; `true` takes the plugin's options.
   * Errors: `FST_ERR_REAL_OPTION` and `FST_ERR_REAL_ROUTE` when it is declared, `FST_ERR_REAL_NOT_ACCEPTABLE` (406),
   * `FST_ERR_REAL_ORIGIN` (403).
   */
  sse: true | SseOptions
  /** Its WebSocket options and handlers in one object. */
  ws?: false | undefined | (
    WsOptions & RouteWsHandlers<RawServer, RawRequest, RouteGeneric, ContextConfig, NoInfer<SchemaCompiler>, TypeProvider, Logger>
  )
}

/** Options of a `{ ws }` route, whose handler is an object of handlers. Plain HTTP is answered with 426. */
export interface WsRouteOptions<
  RawServer extends RawServerBase = RawServerDefault,
  RawRequest extends RawRequestDefaultExpression<RawServer> = RawRequestDefaultExpression<RawServer>,
  RawReply extends RawReplyDefaultExpression<RawServer> = RawReplyDefaultExpression<RawServer>,
  RouteGeneric extends RouteGenericInterface = RouteGenericInterface,
  ContextConfig = ContextConfigDefault,
  SchemaCompiler extends FastifySchema = FastifySchema,
  TypeProvider extends FastifyTypeProvider = FastifyTypeProviderDefault,
  Logger extends FastifyBaseLogger = FastifyBaseLogger
> extends Omit<
  RouteShorthandOptions<RawServer, RawRequest, RawReply, RouteGeneric, ContextConfig, SchemaCompiler, TypeProvider, Logger>, Ours
> {
  /**
   * Takes WebSockets; `true` takes the plugin's options.
   * Errors: `FST_ERR_REAL_OPTION` and `FST_ERR_REAL_ROUTE` when it is declared, `FST_ERR_REAL_ORIGIN` (403).
   */
  ws: true | WsOptions
  /** Off: with it on, they are `SseRouteOptions`. */
  sse?: false | undefined
}

/** Options of a route that takes WebSockets beside its ordinary handler. */
export interface WsBesideRouteOptions<
  RawServer extends RawServerBase = RawServerDefault,
  RawRequest extends RawRequestDefaultExpression<RawServer> = RawRequestDefaultExpression<RawServer>,
  RawReply extends RawReplyDefaultExpression<RawServer> = RawReplyDefaultExpression<RawServer>,
  RouteGeneric extends RouteGenericInterface = RouteGenericInterface,
  ContextConfig = ContextConfigDefault,
  SchemaCompiler extends FastifySchema = FastifySchema,
  TypeProvider extends FastifyTypeProvider = FastifyTypeProviderDefault,
  Logger extends FastifyBaseLogger = FastifyBaseLogger
> extends Omit<
  RouteShorthandOptions<RawServer, RawRequest, RawReply, RouteGeneric, ContextConfig, SchemaCompiler, TypeProvider, Logger>, Ours
> {
  /** Its WebSocket options and handlers in one object. */
  ws: WsOptions & RouteWsHandlers<RawServer, RawRequest, RouteGeneric, ContextConfig, NoInfer<SchemaCompiler>, TypeProvider, Logger>
  /** Off: with it on, they are `SseRouteOptions`. */
  sse?: false | undefined
}

/** A schema that says nothing of messages. */
export interface MessagelessSchema extends FastifySchema { message?: undefined }

/** The schema of a route that gives none; with `Message` among the route's generics it may have any. */
export type DefaultSchema<RouteGeneric extends RouteGenericInterface> =
  unknown extends RouteGeneric['Message'] ? MessagelessSchema : FastifySchema

/**
 * What `onMessage` is given: `Message` of the route's generics, else what the type provider makes of `schema.message` (without a
 * provider `unknown`, since it is parsed JSON), else text or bytes.
 */
export type MessageOf<
  RouteGeneric extends RouteGenericInterface, SchemaCompiler extends FastifySchema, TypeProvider extends FastifyTypeProvider
> =
  unknown extends RouteGeneric['Message']
    ? SchemaCompiler extends { message: infer Schema }
      ? (TypeProvider & { schema: Schema })['validator']
      : 'message' extends keyof SchemaCompiler
        ? [SchemaCompiler['message']] extends [undefined] ? Message : unknown
        : Message
    : RouteGeneric['Message']

/** The data of a route's events: what the type provider makes of `response[200].content['text/event-stream'].schema`, else anything. */
export type DataOf<SchemaCompiler extends FastifySchema, TypeProvider extends FastifyTypeProvider> =
  SchemaCompiler['response'] extends { 200: { content: { 'text/event-stream': { schema: infer Schema } } } }
    ? (TypeProvider & { schema: Schema })['serializer']
    : unknown

/** What can be answered where no `Reply` is declared: anything but iterables other than arrays, which are sources. */
type Untyped =
  string | number | boolean | bigint | null | readonly unknown[] |
  (object & { then?: undefined, [Symbol.iterator]?: undefined, [Symbol.asyncIterator]?: undefined })

type Answer<Plain, Reply, Data> =
  Source<Sendable<Data>> | Sendable<Data> | Connection<unknown> | Reply | (unknown extends Plain ? Untyped : Plain) | undefined | void

type Items<T> = AsyncGenerator<T, unknown, unknown> | Generator<T, unknown, unknown>

/**
 * The handler of an `{ sse }` route. What a generator yields is sent, one item at a time, the next when the reader has room; its return
 * ends the stream, a throw before its first yield is an ordinary error answer, one after it cuts the stream. Any other handler returns a
 * source, calls `reply.sse()`, or answers as on any route: with another status, with `reply.send()`, or, where `accept` is `dual`, with
 * what it returns to a request that wants no events. Only a generator is given a connection: elsewhere `reply.sse()` makes it.
 * (`NoInfer`: to infer a schema from what is yielded takes TypeScript seconds.)
 */
export type SseHandlerMethod<
  RawServer extends RawServerBase = RawServerDefault,
  RawRequest extends RawRequestDefaultExpression<RawServer> = RawRequestDefaultExpression<RawServer>,
  RawReply extends RawReplyDefaultExpression<RawServer> = RawReplyDefaultExpression<RawServer>,
  RouteGeneric extends RouteGenericInterface = RouteGenericInterface,
  ContextConfig = ContextConfigDefault,
  SchemaCompiler extends FastifySchema = FastifySchema,
  TypeProvider extends FastifyTypeProvider = FastifyTypeProviderDefault,
  Logger extends FastifyBaseLogger = FastifyBaseLogger,
  Data = DataOf<SchemaCompiler, TypeProvider>,
  Result = Answer<
    Awaited<ReturnType<RouteHandlerMethod<RawServer, RawRequest, RawReply, RouteGeneric, ContextConfig, SchemaCompiler, TypeProvider, Logger>>>,
    FastifyReply<RouteGeneric, RawServer, RawRequest, RawReply, ContextConfig, SchemaCompiler, TypeProvider, any>,
    Data
  >
> = (
  this: FastifyInstance<RawServer, RawRequest, RawReply, Logger, TypeProvider>,
  request: FastifyRequest<RouteGeneric, RawServer, RawRequest, SchemaCompiler, TypeProvider, ContextConfig, Logger>,
  reply: FastifyReply<RouteGeneric, RawServer, RawRequest, RawReply, ContextConfig, SchemaCompiler, TypeProvider>,
  connection: Connection<FastifyRequest<RouteGeneric, RawServer, RawRequest, SchemaCompiler, TypeProvider, ContextConfig, Logger>>
) => NoInfer<Items<Sendable<Data>> | Result | Promise<Result>>

/** The handlers of a route that takes WebSockets, with its message and request. */
export interface RouteWsHandlers<
  RawServer extends RawServerBase = RawServerDefault,
  RawRequest extends RawRequestDefaultExpression<RawServer> = RawRequestDefaultExpression<RawServer>,
  RouteGeneric extends RouteGenericInterface = RouteGenericInterface,
  ContextConfig = ContextConfigDefault,
  SchemaCompiler extends FastifySchema = FastifySchema,
  TypeProvider extends FastifyTypeProvider = FastifyTypeProviderDefault,
  Logger extends FastifyBaseLogger = FastifyBaseLogger
> extends WsHandlers<
  NoInfer<MessageOf<RouteGeneric, SchemaCompiler, TypeProvider>>,
  FastifyRequest<RouteGeneric, RawServer, RawRequest, SchemaCompiler, TypeProvider, ContextConfig, Logger>
> {}
