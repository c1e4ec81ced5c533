package netns

import "time"

// A name is looked at again after firstRetry, then each time twice as late,
// up to slowRetry. A stack that could not be made is tried maxTries times,
// about six seconds; a file that may yet become a namespace for ever.
const (
	firstRetry = time.Millisecond
	slowRetry  = time.Second
	maxTries   = 15
)

// retries are the names that are not yet what they will be. One timer
// serves all; it runs only while there are some. Not for concurrent use.
type retries struct {
	tries map[string]int
	delay time.Duration
	timer *time.Timer // nil until the first
}

// later has name looked at again. It returns how often that makes.
func (r *retries) later(name string) int {
	if r.tries == nil {
		r.tries = map[string]int{}
	}
	r.tries[name]++
	if r.tries[name] == 1 {
		r.delay = firstRetry
		r.arm()
	}
	return r.tries[name]
}

// forget ends the retries of name.
func (r *retries) forget(name string) { delete(r.tries, name) }

// waiting returns the names to look at again.
func (r *retries) waiting() []string {
	names := make([]string, 0, len(r.tries))
	for name := range r.tries {
		names = append(names, name)
	}
	return names
}

// arm starts the timer, unless no name waits.
func (r *retries) arm() {
	if len(r.tries) == 0 {
		return
	}
	if r.timer == nil {
		r.timer = time.NewTimer(r.delay)
	} else {
		r.timer.Reset(r.delay)
	}
	r.delay = min(2*r.delay, slowRetry)
}

// C is ready when the timer has run; call arm again.
func (r *retries) C() <-chan time.Time {
	if r.timer == nil {
		return nil
	}
	return r.timer.C
}

func (r *retries) stop() {
	if r.timer != nil {
		r.timer.Stop()
	}
}
