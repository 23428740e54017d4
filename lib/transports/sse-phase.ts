import type { FastifyReply } from 'fastify'

const kAnswered = Symbol('fastify-real.answered')
const kPhase = Symbol('fastify-real.phase')

/** Decorators of the reply: whether it has been answered, where Fastify's `sent` comes too late; and where its handler is. */
export const keys = { answered: kAnswered, phase: kPhase }

/** Of a handler; 0 before it. */
export type Phase = 0 | 1 | 2 | 3
export const INSIDE = 1
export const RETURNED = 2
export const FAILED = 3

interface Reply extends FastifyReply { [kAnswered]: boolean, [kPhase]: Phase }

export function isAnswered (reply: FastifyReply): boolean { return reply.sent || (reply as Reply)[kAnswered] }
export function setAnswered (reply: FastifyReply): void { (reply as Reply)[kAnswered] = true }
export function phaseOf (reply: FastifyReply): Phase { return (reply as Reply)[kPhase] }
export function setPhase (reply: FastifyReply, phase: Phase): void { (reply as Reply)[kPhase] = phase }
