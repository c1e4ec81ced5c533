package fs

import (
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/stackfs/stackfs/stacknode"
)

// What one user may have the daemon keep for him at a time.
const (
	channelsPerUser = 1024
	pendingPerUser  = 64
	memoryPerUser   = 256 << 20 // bytes: images and tables in open files
)

// A tree is what all nodes of a mount share.
type tree struct {
	reg      *stacknode.Registry
	host     Host
	log      *slog.Logger
	channels *stacknode.Quota
	pending  *stacknode.Quota
	memory   *stacknode.Quota // in bytes
	verdicts *verdicts
	created  time.Time

	mu      sync.Mutex // guards the fields below
	etcInos map[etcFile]uint64
	told    chan struct{} // closed when the kernel knows the last change
	holds   map[connKey]*connCtlHandle
}

func newTree(o Options) *tree {
	return &tree{
		reg: o.Registry, host: o.Host, log: o.Log,
		channels: stacknode.NewQuota(channelsPerUser),
		pending:  stacknode.NewQuota(pendingPerUser),
		memory:   stacknode.NewQuota(memoryPerUser),
		verdicts: newVerdicts(),
		created:  time.Now(),
		etcInos:  map[etcFile]uint64{},
		holds:    map[connKey]*connCtlHandle{},
	}
}

func (t *tree) errno(op string, err error) syscall.Errno { return errno(t.log, op, err) }

func stackTrace() string { return string(debug.Stack()) }

var errMemory = fmt.Errorf("open files of yours hold %d MiB of the daemon's memory: %w", memoryPerUser>>20, syscall.ENOBUFS)

// keep counts n bytes as held for uid until release. Returns ENOBUFS at the
// limit: EAGAIN would have programs try again while they hold it.
func (t *tree) keep(uid uint32, n int) (release func(), err error) {
	release, err = t.memory.AcquireN(uid, n)
	if err != nil {
		return nil, errMemory
	}
	return release, nil
}

// Inode numbers fit into 32 bits: stat(2) of old 32-bit programs fails with
// EOVERFLOW otherwise. A stack and its files have numbers from inoBase on,
// which come again only after 134 million stacks, files of etc from inoEtc
// on, those of connections from inoConns on; what is below the mount has
// lower ones.
const (
	inoBase   = 1 << 31
	inoEtc    = inoBase | 1<<30
	inoConns  = inoBase | 3<<29
	inoPerDir = 8
	inoCtl    = inoBase + 1

	fileType        = 1
	fileStatus      = 2
	fileEtc         = 3
	fileConnections = 4
	fileConns       = 5
	fileListeners   = 6
	fileRestore     = 7
)

func stackIno(s *stacknode.Stack, file uint64) uint64 {
	return inoBase + (s.ID()*inoPerDir+file)%(inoEtc-inoBase)
}

// etcIno returns the number of a file of etc: the same one each time, since
// go-fuse takes an equal number for the same file.
func (t *tree) etcIno(s *stacknode.Stack, name string) uint64 {
	key := etcFile{s.ID(), name}
	t.mu.Lock()
	defer t.mu.Unlock()
	ino, ok := t.etcInos[key]
	if !ok {
		ino = inoEtc + uint64(len(t.etcInos))
		t.etcInos[key] = ino
	}
	return ino
}

type etcFile struct {
	stack uint64
	name  string
}
