package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// newUmountCmd ends a mount and its daemon.
func newUmountCmd(e env) *cobra.Command {
	var keep, force bool
	c := &cobra.Command{
		Use:     "umount [--keep] [--force] DIR",
		Aliases: []string{"unmount"},
		Short:   "End a mount",
		Long: `End the mount on DIR and the daemon that serves it. What was made for its
stacks is removed; while one of them is in use nothing happens (exit code 4).
With --force the mount ends all the same: open sockets go on, and a namespace
that was made ends with the last of them. With --keep it stays for a later
mount to adopt. A mount whose daemon is gone is detached, and its namespaces
stay.`,
		Example: `  stackfs umount /dev/net
  stackfs umount --keep /dev/net   # a later mount adopts the stacks`,
		Args:                  argNames("DIR"),
		DisableFlagsInUseLine: true,
		ValidArgsFunction:     completeMounts(e),
		RunE: func(c *cobra.Command, args []string) error {
			m, err := e.mountAt(args[0])
			if err != nil {
				return err
			}
			line := "umount"
			if keep {
				line += " keep"
			}
			if force {
				line += " force"
			}
			return e.umount(c.Context(), m, line, force)
		},
	}
	f := c.Flags()
	f.SortFlags = false
	f.BoolVarP(&keep, "keep", "k", false, "keep every namespace that was made, for a later mount to adopt")
	f.BoolVarP(&force, "force", "f", false, "also if stacks are in use or the daemon does not answer")
	return c
}

func (e env) umount(ctx context.Context, m mountPoint, line string, force bool) error {
	_, err := e.order(ctx, m, line)
	dead := errors.Is(err, syscall.ENOTCONN) || errors.Is(err, syscall.ECONNABORTED)
	if dead || force && errors.Is(err, errNoAnswer) {
		if err := e.detach(m.dir); err != nil {
			return fmt.Errorf("%s: its daemon is gone and it cannot be detached: %w", m.dir, err)
		}
		fmt.Fprintf(e.stderr, "stackfs: %s: the daemon is gone; detached the mount, namespaces that it made stay\n", printable(m.dir))
		return nil
	}
	if err != nil {
		return explainOrder(err, m.dir, m, "stackfs umount --keep leaves the stacks to a later mount, --force ends them")
	}
	return e.waitGone(ctx, m)
}

// waitGone waits until a mount has left the list of mounts and its daemon
// has cleaned up: it answers before it unmounts.
func (e env) waitGone(ctx context.Context, m mountPoint) error {
	_, err := within(ctx, e.patience, func() (struct{}, error) {
		for {
			there, err := e.mountAt(m.dir)
			if err != nil || there.id != m.id {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		return struct{}{}, waitUnlocked(filepath.Join(runRoot, mountKey(m.dir)))
	})
	if err != nil {
		return fmt.Errorf("%s: the daemon agreed but the mount is still there, a program may have a file of it open (fuser -vm %s tells): %w", m.dir, m.dir, syscall.EBUSY)
	}
	return nil
}

// detachMount takes a dead mount out of the tree. UMOUNT_NOFOLLOW: dir is
// from the list of mounts, a link in its place is not it.
func detachMount(dir string) error {
	if err := unix.Unmount(filepath.Clean(dir), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
		return fmt.Errorf("umount: %w", err)
	}
	return nil
}
