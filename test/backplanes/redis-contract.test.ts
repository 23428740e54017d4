import t from 'tap'
import { redis } from '../../lib/backplanes/redis.ts'
import { backplaneContract } from '../contract/backplane.ts'
import { clients, redisServer, withRedis } from '../redis.ts'

withRedis(t, () => {
  for (const [name, make] of Object.entries(clients)) {
    t.test(name, async (t) => {
      const { port } = await redisServer(t)
      let prefixes = 0
      backplaneContract(t, async (t) => {
        const prefix = `contract ${++prefixes}`.replace(' ', '-')
        const given = [await make(t, port), await make(t, port), await make(t, port)]
        return () => redis({ client: given.shift() ?? given[0] as never, prefix })
      })
    })
  }
})
