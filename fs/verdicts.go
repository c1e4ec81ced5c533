package fs

import (
	"context"
	"strings"
	"sync"
	"time"
)

// How long and how many of them the reasons of failures are kept.
const (
	verdictTime = 30 * time.Second
	maxVerdicts = 1024
)

// A connKey names a connection of a mount.
type connKey struct{ stack, cookie uint64 }

func (r connRef) key() connKey { return connKey{r.of.stack.ID(), r.cookie} }

// verdicts are the reasons why what users asked of connections was refused:
// an open(2) that fails can return a number only.
type verdicts struct {
	mu   sync.Mutex // guards last
	last map[verdictKey]verdict
}

type verdictKey struct {
	uid uint32
	connKey
}

type verdict struct {
	text string
	at   time.Time
}

func newVerdicts() *verdicts { return &verdicts{last: map[verdictKey]verdict{}} }

// put keeps err as the last one of its key; nil removes that.
func (v *verdicts) put(k verdictKey, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.last, k)
	if err == nil {
		return
	}
	if len(v.last) >= maxVerdicts {
		v.shrink()
	}
	v.last[k] = verdict{errorText(err), time.Now()}
}

// shrink makes room: it drops what has expired, or else the oldest.
func (v *verdicts) shrink() {
	var oldest verdictKey
	first := time.Now()
	for k, d := range v.last {
		if time.Since(d.at) > verdictTime {
			delete(v.last, k)
		}
		if !d.at.After(first) {
			oldest, first = k, d.at
		}
	}
	if len(v.last) >= maxVerdicts {
		delete(v.last, oldest)
	}
}

func (v *verdicts) get(k verdictKey) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	d, ok := v.last[k]
	if !ok || time.Since(d.at) > verdictTime {
		return ""
	}
	return d.text
}

// errorText is how a file that takes commands answers that one failed.
func errorText(err error) string {
	return "error: " + strings.ReplaceAll(err.Error(), "\n", "; ") + "\n"
}

// judge keeps how the caller's request about the connection ended.
func (n *connFileNode) judge(ctx context.Context, err error) {
	n.of.tree.verdicts.put(verdictKey{callerUID(ctx), n.key()}, err)
}
