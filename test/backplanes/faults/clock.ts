// Loaded before everything else, so that nothing has taken the clock yet. Only what people call the time jumps; monotonic time goes on.
let shift = 0
const RealDate = Date
const now = Date.now.bind(Date)

export function jump (milliseconds: number): void { shift += milliseconds }

globalThis.Date = class extends RealDate {
  constructor (...args: unknown[]) {
    if (args.length === 0) super(now() + shift)
    else super(...args as [number])
  }

  static override now (): number { return now() + shift }
} as DateConstructor
