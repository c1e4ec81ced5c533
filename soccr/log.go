package soccr

import (
	"log/slog"
	"sync/atomic"
)

var logTo atomic.Pointer[slog.Logger]

// SetLog sets where this package logs to: what a restore had to leave out
// (Warn) and its steps (Debug). It logs nothing by default, and never a
// byte of a queue.
func SetLog(l *slog.Logger) { logTo.Store(l) }

func logger() *slog.Logger {
	if l := logTo.Load(); l != nil {
		return l
	}
	return discard
}

var discard = slog.New(slog.DiscardHandler)
