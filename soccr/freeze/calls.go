package freeze

import (
	"sync"
	"time"
)

// calls remembers when calls that were restarted are to end, so that their
// timeouts do not begin anew with every freeze. The zero value is ready.
type calls struct {
	mu    sync.Mutex
	last  uint32
	byTID map[int]deadline
	sweep int // clear out when there are as many
}

// A deadline is that of the call that carries the mark.
type deadline struct {
	mark uint32
	end  time.Time
}

// minSweep bounds how many deadlines are kept although they are over.
const minSweep = 1024

// remember returns the mark for a call that ends at end.
func (c *calls) remember(tid int, end time.Time) uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byTID == nil {
		c.byTID, c.sweep = map[int]deadline{}, minSweep
		// An earlier program may have marked calls, too.
		c.last = uint32(time.Now().UnixNano() / 1000)
	}
	if len(c.byTID) >= c.sweep {
		now := time.Now()
		for tid, d := range c.byTID {
			if d.end.Before(now) {
				delete(c.byTID, tid)
			}
		}
		c.sweep = max(minSweep, 2*len(c.byTID))
	}
	c.last = max(1, (c.last+1)&(1<<31-1))
	c.byTID[tid] = deadline{c.last, end}
	return c.last
}

// deadline returns when the call with this mark is to end.
func (c *calls) deadline(tid int, mark uint32) (time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d, ok := c.byTID[tid]
	return d.end, ok && mark != 0 && d.mark == mark
}
