package fs

import (
	"log/slog"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/stackfs/stackfs/stacknode"
)

// What one user may have the daemon keep for him at a time.
const (
	channelsPerUser = 1024
	pendingPerUser  = 64
)

// A tree is what all nodes of a mount share.
type tree struct {
	reg      *stacknode.Registry
	host     Host
	log      *slog.Logger
	channels *stacknode.Quota
	pending  *stacknode.Quota
	created  time.Time
}

func (t *tree) errno(op string, err error) syscall.Errno { return errno(t.log, op, err) }

func stackTrace() string { return string(debug.Stack()) }

// Inode numbers: a stack and its files have numbers of their own, which
// never come again; those of the directory mounted over are go-fuse's.
const (
	inoBase   = 1 << 62
	inoPerDir = 16
	inoCtl    = inoBase + 1

	fileType   = 1
	fileStatus = 2
	fileEtc    = 3
)

func stackIno(s *stacknode.Stack, file uint64) uint64 { return inoBase + s.ID()*inoPerDir + file }
