package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/stackfs/stackfs/soccr"
	"github.com/stackfs/stackfs/soccr/image"
)

// savesPerRound is how many snapshots a value is the median of.
const savesPerRound = 11

// queueSizes are how many bytes the queues hold, each of the two.
var queueSizes = []struct {
	name  string
	bytes int
	write int  // bytes of each write: the send queue has a buffer for each
	goal  goal // of the pause
}{
	{"0", 0, 64 << 10, nil},
	{"64K", 64 << 10, 64 << 10, nil},
	{"1M", 1 << 20, 64 << 10, ratioAtMost(0.5)},
	{"1M-segments", 1 << 20, 1448, nil},
	{"4M", 4 << 20, 64 << 10, ratioAtMost(0.5)},
}

// connsTrials measure checkpoints of a connection and restoring it. The peer
// is what libsoccr does: it saves the same socket in repair mode, in a
// process that has a duplicate of it.
func connsTrials() []trial {
	var all []trial
	for _, q := range queueSizes {
		all = append(all, trial{"conns-pause-" + q.name, func(ctx context.Context, s *site, r *report) error {
			return pauseTrial(ctx, s, r, q.name, q.bytes, q.write, q.goal)
		}})
	}
	for _, q := range queueSizes {
		if q.write < 64<<10 {
			continue // restoring writes as it likes
		}
		all = append(all, trial{"conns-restore-" + q.name, func(ctx context.Context, s *site, r *report) error {
			return restoreTrial(ctx, s, r, q.name, q.bytes)
		}})
	}
	return all
}

// pauseTrial measures for how long a program on one CPU cannot use its
// socket while it is saved on another; and how long it takes to get the
// image.
func pauseTrial(ctx context.Context, s *site, r *report, name string, bytes, write int, g goal) error {
	at := placements()[len(placements())-1]
	d, err := s.connsDaemon(ctx)
	if err != nil {
		return err
	}
	sp, err := s.spinner(ctx, at.client, bytes, write)
	if err != nil {
		return err
	}
	defer sp.end()
	fd, err := duplicate(sp.cmd.Process.Pid, sp.fd)
	if err != nil {
		return err
	}
	defer fd.Close()
	// We too keep away from the program.
	for _, pid := range []int{d.pid(), os.Getpid()} {
		if err := pinAll(pid, at.server); err != nil {
			return err
		}
		defer pinAll(pid, -1)
	}
	path := sp.path(d)
	var took [2][]float64
	saving := func(i int, save func() (int, error)) func(context.Context) (float64, error) {
		return func(context.Context) (float64, error) {
			var pauses, times []float64
			for range savesPerRound {
				p, err := sp.pause(func() error {
					start := time.Now()
					n, err := save()
					times = append(times, float64(time.Since(start).Nanoseconds())/1000)
					if err == nil && n < 2*bytes {
						err = fmt.Errorf("%d bytes were saved of %d", n, 2*bytes)
					}
					return err
				})
				if err != nil {
					return 0, err
				}
				pauses = append(pauses, p)
			}
			took[i] = append(took[i], median(times))
			return median(pauses), nil
		}
	}
	got, err := interleave(ctx, s.opts.rounds,
		side{"checkpoint", saving(0, func() (int, error) { return cat(path) })},
		side{"repair", saving(1, func() (int, error) {
			c, err := saveInRepairMode(fd)
			if err != nil {
				return 0, err
			}
			return len(c.Recv) + len(c.Send), nil
		})})
	if err != nil {
		return err
	}
	r.add(figure{name: "conns-pause-" + name, unit: "us", ours: got[0], peer: "repair", theirs: got[1], goal: g})
	r.add(figure{name: "conns-cat-" + name, unit: "us", ours: took[0], peer: "repair", theirs: took[1]})
	return nil
}

// cat reads a file as cat(1) does, and returns its length.
func cat(path string) (n int, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for b := make([]byte, 128<<10); ; {
		k, err := f.Read(b)
		n += k
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// saveInRepairMode is pause, save and resume of libsoccr. A timer of TCP may
// send something meanwhile: then it saves once more.
func saveInRepairMode(f *os.File) (c *soccr.Conn, err error) {
	sk, err := soccr.Pause(int(f.Fd()))
	if err != nil {
		return nil, err
	}
	if c, err = sk.Conn(); errors.Is(err, soccr.ErrChanged) {
		c, err = sk.Conn()
	}
	if rerr := sk.Resume(); err == nil {
		err = rerr
	}
	return c, err
}

// restoreTrial measures how long it takes to make a socket from an image,
// through the mount and by the library alone. Each socket is closed in repair
// mode, so that its peer waits for the next one.
func restoreTrial(ctx context.Context, s *site, r *report, name string, bytes int) error {
	d, err := s.connsDaemon(ctx)
	if err != nil {
		return err
	}
	conn, far, err := orphanedConn(connsPath)
	if err != nil {
		return err
	}
	defer far.Close()
	// As if so much had come and so much were on its way.
	conn.Recv, conn.Send = make([]byte, bytes), make([]byte, bytes)
	conn.InqLen, conn.OutqLen = uint32(bytes), uint32(bytes)
	conn.OutqSeq += uint32(bytes)
	img, err := image.Encode(conn, image.Options{})
	if err != nil {
		return err
	}
	path := filepath.Join(d.node(connsName), "restore")
	restoring := func(restore func() (*os.File, error)) func(context.Context) (float64, error) {
		return func(context.Context) (float64, error) {
			var times []float64
			for range savesPerRound {
				start := time.Now()
				f, err := restore()
				times = append(times, float64(time.Since(start).Nanoseconds())/1000)
				if err != nil {
					return 0, err
				}
				if err := closeSilently(f); err != nil {
					return 0, err
				}
			}
			return median(times), nil
		}
	}
	got, err := interleave(ctx, s.opts.rounds,
		side{"mount", restoring(func() (*os.File, error) { return restoreThroughMount(path, img) })},
		side{"soccr", restoring(func() (*os.File, error) { return restoreHere(connsPath, conn) })})
	if err != nil {
		return err
	}
	r.add(figure{name: "conns-restore-" + name, unit: "us", ours: got[0], peer: "soccr", theirs: got[1]})
	return nil
}
