import { createError } from '@fastify/error'

// At registration
export const OptionError = createError<[option: string, rule: string]>('FST_ERR_REAL_OPTION', 'option %s %s', 500)
export const RegisteredError = createError<[plugin: string]>('FST_ERR_REAL_REGISTERED', '%s is registered in this scope already; register it once, in the outermost scope that uses it', 500)
export const ConnectionsExistError = createError('FST_ERR_REAL_CONNECTIONS_EXIST', 'this server has its registry of connections already, so options for it come too late; register connections, with its options, before sseReal and wsReal and only once', 500)
export const NameTakenError = createError<[name: string]>('FST_ERR_REAL_NAME_TAKEN', '%s is taken by another plugin; do not register both in one scope', 500)
export const WebsocketFirstError = createError('FST_ERR_REAL_WEBSOCKET_FIRST', '@fastify/websocket was registered before wsReal; register wsReal only: it brings @fastify/websocket along, and the routes of both work', 500)
export const RouteError = createError<[route: string, rule: string]>('FST_ERR_REAL_ROUTE', 'route %s %s', 500)
export const RouteOrderError = createError<[route: string, plugin: string]>('FST_ERR_REAL_ROUTE_ORDER', 'route %s was declared where %s was not loaded; `await app.register(…)` it before the routes', 500)
export const MessageSchemaError = createError<[route: string, reason: string]>('FST_ERR_REAL_MESSAGE_SCHEMA', 'schema.message of route %s does not compile: %s', 500)
export const BackplaneError = createError<[reason: string]>('FST_ERR_REAL_BACKPLANE', 'the backplane did not start: %s', 500)

// The caller's mistakes
export const ArgumentError = createError<[argument: string, rule: string]>('FST_ERR_REAL_ARGUMENT', '%s %s', 500)
export const EventError = createError<[rule: string]>('FST_ERR_REAL_EVENT', '%s', 500)
export const DataError = createError<[reason: string]>('FST_ERR_REAL_DATA', 'the data of an event must be a string, bytes or JSON: %s', 500)
export const TooLargeError = createError<[bytes: number, limit: number]>('FST_ERR_REAL_TOO_LARGE', 'the data of an event has %s bytes, more than maxEventBytes (%s)', 500)
export const DirectIdError = createError('FST_ERR_REAL_DIRECT_ID', 'an event with an id cannot be sent to a connection whose ids are the cursors of kept rooms: it would move the client\'s place; send it without id, or open the connection with `broadcast: false` and join no kept room', 500)
export const RoomNameError = createError<[rule: string]>('FST_ERR_REAL_ROOM_NAME', 'a name of a room or user %s', 500)
export const TooManyRoomsError = createError<[limit: number]>('FST_ERR_REAL_TOO_MANY_ROOMS', 'a connection may be in at most maxRooms (%s) rooms', 429)
export const SourceError = createError<[got: string]>('FST_ERR_REAL_SOURCE', 'a source is an (async) iterable, a stream, a callback, an event or nothing; got %s', 500)
export const SseTwiceError = createError('FST_ERR_REAL_SSE_TWICE', 'reply.sse() was called twice on one reply; use the connection it returned', 500)
export const ReplySentError = createError('FST_ERR_REAL_REPLY_SENT', 'reply.sse() was called after the reply was sent', 500)

// Answers to requests
export const NotAcceptableError = createError('FST_ERR_REAL_NOT_ACCEPTABLE', 'this route answers with text/event-stream, which the Accept header refuses', 406)
export const OriginError = createError<[origin: string]>('FST_ERR_REAL_ORIGIN', 'origin %s is not one of allowedOrigins', 403)
export const UpgradeRequiredError = createError('FST_ERR_REAL_UPGRADE_REQUIRED', 'this route speaks WebSocket only', 426)
export const UpgradeError = createError<[rule: string]>('FST_ERR_REAL_UPGRADE', 'the upgrade was refused: %s', 400)
export const TooManyConnectionsError = createError<[limit: number]>('FST_ERR_REAL_TOO_MANY_CONNECTIONS', 'maxConnections (%s) is reached', 503)
export const TooManyOfUserError = createError<[limit: number]>('FST_ERR_REAL_TOO_MANY_OF_USER', 'this user has maxPerUser (%s) connections', 429)
export const TooManyOfAddressError = createError<[limit: number]>('FST_ERR_REAL_TOO_MANY_OF_ADDRESS', 'this address has maxPerAddress (%s) connections', 429)
export const ShuttingDownError = createError('FST_ERR_REAL_SHUTTING_DOWN', 'the server is shutting down', 503)

// Answers to messages
export const MessageError = createError<[reason: string]>('FST_ERR_REAL_MESSAGE', 'the message was refused: %s', 400)
