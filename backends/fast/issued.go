package fast

import "time"

const (
	// maxIssued is how many clones of a group are known.
	maxIssued = 1024
	// refills is how often in a second all of a box may be replaced.
	refills = 4
)

// Issued are the clones that a group has given out last. Who takes clones and
// throws them away does not make it larger.
type issued struct {
	known map[uint64]bool
	order []uint64 // a ring, when it is full
	next  int
}

func (i *issued) add(cookie uint64) {
	if i.known == nil {
		i.known = map[uint64]bool{}
	}
	if len(i.order) < maxIssued {
		i.order = append(i.order, cookie)
	} else {
		delete(i.known, i.order[i.next])
		i.order[i.next] = cookie
		i.next = (i.next + 1) % maxIssued
	}
	i.known[cookie] = true
}

func (i *issued) has(cookie uint64) bool { return i.known[cookie] }

// A pace lets something happen limit times in a while, and no more often.
type pace struct {
	limit int
	per   time.Duration

	since time.Time
	n     int
}

// wait returns when it may happen once more; false: ended was closed before.
func (p *pace) wait(ended <-chan struct{}) bool {
	if now := time.Now(); now.Sub(p.since) >= p.per {
		p.since, p.n = now, 0
	}
	if p.n++; p.n <= p.limit {
		return true
	}
	later := time.NewTimer(time.Until(p.since.Add(p.per)))
	defer later.Stop()
	select {
	case <-later.C:
		p.since, p.n = time.Now(), 1
		return true
	case <-ended:
		return false
	}
}
