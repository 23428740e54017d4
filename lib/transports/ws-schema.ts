import AjvCompiler from '@fastify/ajv-compiler'
import sjson from 'secure-json-parse'
import type { FastifyInstance, FastifySchemaCompiler } from 'fastify'
import { MessageError, MessageSchemaError } from '../errors.ts'

/** Makes a value of a message, or an error of it. */
export type Read = (data: Buffer, isBinary: boolean) => { value: unknown, error: (Error & { code: string }) | null }

interface Failure { instancePath?: string, message?: string }
type Validate = ((value: unknown) => unknown) & { errors?: Failure[] | null, $async?: boolean }

// unlike that of bodies: a message says what it means, so nothing is coerced, stripped or filled in
const ajvOptions = { customOptions: { coerceTypes: false, removeAdditional: false, useDefaults: false, allErrors: false } }

/** Compiles `schema.message` with the scope's own compiler if it has set one, else with our ajv and the scope's shared schemas. */
export function compileMessage (fastify: FastifyInstance, custom: FastifySchemaCompiler<never> | undefined, schema: unknown, url: string): Read {
  const definition = { schema, method: 'GET', url, httpPart: 'message' }
  let validate: Validate
  try {
    validate = (custom ?? AjvCompiler()(fastify.getSchemas() as never, ajvOptions as never))(definition as never) as Validate
  } catch (cause) {
    throw new MessageSchemaError(url, cause instanceof Error ? cause.message : String(cause))
  }
  if (typeof validate !== 'function') throw new MessageSchemaError(url, 'the validator compiler gave no function')
  if (validate.$async === true) throw new MessageSchemaError(url, 'messages are checked without waiting, so it must not be $async')
  return (data, isBinary) => {
    if (isBinary) return bad('it must be JSON text, not binary')
    let value: unknown
    try {
      value = sjson.parse(data.toString())
    } catch {
      return bad('it is not JSON, or has a forbidden property')
    }
    const result = validate(value)
    if (result === false) return bad(explain(validate.errors))
    if (typeof result !== 'object' || result === null) return { value, error: null }
    const { error, value: changed, then } = result as { error?: unknown, value?: unknown, then?: unknown }
    if (typeof then === 'function') throw new MessageSchemaError(url, 'the validator must not be async')
    if (error !== undefined && error !== null) return bad(explain([error].flat() as Failure[]))
    return { value: changed === undefined ? value : changed, error: null }
  }
}

function bad (reason: string): ReturnType<Read> {
  return { value: undefined, error: new MessageError(reason) }
}

function explain (failures: Failure[] | null | undefined): string {
  const [first] = failures ?? []
  return first === undefined ? 'it does not fit the schema' : `message${first.instancePath ?? ''} ${first.message ?? 'does not fit the schema'}`.slice(0, 200)
}
