package stacknode

import "sync"

// A Quota counts what each user holds of a thing that the daemon keeps for
// him. Root is not limited.
type Quota struct {
	limit int

	mu   sync.Mutex // guards used
	used map[uint32]int
}

// NewQuota allows every user limit units.
func NewQuota(limit int) *Quota { return &Quota{limit: limit, used: map[uint32]int{}} }

// Acquire takes one unit for uid. The release function gives it back; it
// may be called more than once. Returns ErrQuota at the limit.
func (q *Quota) Acquire(uid uint32) (release func(), err error) { return q.AcquireN(uid, 1) }

// AcquireN is Acquire for n units, all of them or none.
func (q *Quota) AcquireN(uid uint32, n int) (release func(), err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if uid != 0 && n > q.limit-q.used[uid] {
		return nil, ErrQuota
	}
	q.used[uid] += n
	return sync.OnceFunc(func() { q.release(uid, n) }), nil
}

func (q *Quota) release(uid uint32, n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.used[uid] -= n; q.used[uid] == 0 {
		delete(q.used, uid)
	}
}
