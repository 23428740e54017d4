import t from 'tap'
import { memory } from '../../lib/index.ts'
import { backplaneContract } from '../contract/backplane.ts'

t.test('memory', async (t) => {
  backplaneContract(t, async () => {
    const shared = memory()
    return () => shared
  })
})
