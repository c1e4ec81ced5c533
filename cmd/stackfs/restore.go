package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/stackfs/stackfs/soccr"
	"github.com/stackfs/stackfs/soccr/image"
	"github.com/stackfs/stackfs/stacknode/msocket"
)

// maxImage is the largest image that is read, in bytes: what the file restore
// of a stack takes.
const maxImage = 128 << 20

// restore makes the socket and becomes the program. It returns only an error.
// The program is looked for first: a connection that nobody takes is lost.
func (e env) restore(ctx context.Context, opts restoreOptions) error {
	path, err := exec.LookPath(opts.Argv[0])
	if err != nil && !errors.Is(err, exec.ErrDot) {
		code := exitNotRunnable
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
			code = exitNoProgram
		}
		return &exitStatus{code, fmt.Errorf("%s: %w", opts.Argv[0], plainReason(err))}
	}
	text, _, err := e.loadImage(opts)
	if err != nil {
		return &exitStatus{exitRunFailed, err}
	}
	// A restore may take long; a daemon that does not tell this at once is
	// stuck.
	kind := filepath.Join(opts.Stack, "type")
	if _, err := within(ctx, e.patience, func() (string, error) { return readMountFile(kind) }); err != nil {
		return &exitStatus{exitRunFailed, explain(err, opts.Stack, filepath.Dir(opts.Stack))}
	}
	sock, err := within(ctx, ctlPatience*e.patience, func() (*os.File, error) {
		return e.restoreSocket(ctx, opts.Stack, bytes.NewReader(text))
	})
	if err != nil {
		return &exitStatus{exitRunFailed, e.explainRestore(ctx, err, opts.Stack)}
	}
	err = e.become(sock, opts.Inetd, path, opts.Argv)
	code := exitNotRunnable
	if errors.Is(err, fs.ErrNotExist) {
		code = exitNoProgram
	}
	return &exitStatus{code, fmt.Errorf("%s: %w", path, err)}
}

// checkRestore checks what can be checked without restoring anything, and
// prints the connection.
func (e env) checkRestore(ctx context.Context, opts restoreOptions) error {
	_, conn, err := e.loadImage(opts)
	if err != nil {
		return err
	}
	file := filepath.Join(opts.Stack, nameRestore)
	if _, err := within(ctx, e.patience, func() (fs.FileInfo, error) { return os.Lstat(file) }); err != nil {
		return e.explainNoConns(ctx, err, opts.Stack)
	}
	fmt.Fprintf(e.stdout, "%s %s %s, %d bytes received, %d bytes to send\n",
		clean(conn.Local.String()), clean(addressText(conn.Remote)), conn.State, len(conn.Recv), len(conn.Send))
	return nil
}

func addressText(a netip.AddrPort) string {
	if !a.IsValid() {
		return "-"
	}
	return a.String()
}

// loadImage returns the image and the connection that it is of.
func (e env) loadImage(opts restoreOptions) ([]byte, *soccr.Conn, error) {
	if opts.CRIU != "" {
		return loadDump(opts.CRIU, opts.Conn)
	}
	in, name := e.stdin, "standard input"
	if opts.Image != "-" {
		name = opts.Image
		f, err := os.Open(name)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", name, reason(err))
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxImage+1))
	if err == nil && len(text) > maxImage {
		err = fmt.Errorf("is larger than %d MiB", maxImage>>20)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", name, reason(err))
	}
	i, err := image.Decode(text)
	if err == nil && i.Foreign {
		err = errors.New("an image of CRIU's, whose addresses are in other files of the dump (--criu DIR)")
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	return text, i.Conn, nil
}

// loadDump takes one connection out of a dump that criu made.
func loadDump(dir, which string) ([]byte, *soccr.Conn, error) {
	list, err := image.ReadCRIU(dir)
	if err != nil {
		return nil, nil, err
	}
	d, err := chooseDumped(list, which)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", dir, err)
	}
	text, err := image.Encode(d.Conn, image.Options{})
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %s: %w", dir, d.File, err)
	}
	return text, d.Conn, nil
}

// chooseDumped finds the connection that --conn names; without it there must
// be one only.
func chooseDumped(list []image.Dumped, which string) (*image.Dumped, error) {
	if n, err := strconv.Atoi(which); err == nil {
		if n < 1 || n > len(list) {
			return nil, fmt.Errorf("--conn %d: the dump has %d connections", n, len(list))
		}
		return &list[n-1], list[n-1].Err
	}
	var side [2]netip.AddrPort
	if which != "" {
		local, remote, ok := strings.Cut(which, "-")
		if !ok {
			return nil, fmt.Errorf("--conn %s: is neither LOCAL-REMOTE (192.0.2.1:80-192.0.2.2:4711) nor a number", which)
		}
		for i, text := range []string{local, remote} {
			if text == "" || text == "*" {
				continue
			}
			var err error
			if side[i], err = netip.ParseAddrPort(text); err != nil {
				return nil, fmt.Errorf("--conn %s: %q is no address with a port", which, text)
			}
		}
	}
	d, err := image.Select(list, side[0], side[1])
	if errors.Is(err, image.ErrAmbiguous) {
		err = fmt.Errorf("%w (--conn says which)", err)
	}
	return d, err
}

// explainRestore says which stack did not make the socket. Why, and what can
// be done, is the daemon's to say.
func (e env) explainRestore(ctx context.Context, err error, stack string) error {
	var named *msocket.OpError
	if errors.As(err, &named) {
		err = named.Err
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return e.explainNoConns(ctx, err, stack)
	case errors.Is(err, errNoAnswer), errors.Is(err, syscall.ENOTCONN), errors.Is(err, syscall.ECONNABORTED),
		err.Error() == syscall.EACCES.Error(): // the mode of the node; else there is a reason
		return explain(err, stack, filepath.Dir(stack))
	}
	return fmt.Errorf("%s: %w", stack, err)
}
