package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Files of a stack that this program reads by name.
const (
	nameConns       = "conns"
	nameConnections = "connections"
	nameListeners   = "listeners"
	nameRestore     = "restore"
)

// errNoConns is a stack that does not show its connections.
var errNoConns = errors.New("the stack has no files of its connections")

// A connRow is one line of the file connections. Its fields are substrings
// of the text of the whole file, as the daemon wrote them.
type connRow struct {
	Cookie        string // empty: the socket has none yet
	State, Family string
	RecvQ, SendQ  string // bytes; of a listener the connections waiting and the backlog
	Local, Remote string // address:port; Remote is "-" where there is none
	UID, Inode    string
}

// readConns returns the table of a stack's connections.
func (e env) readConns(ctx context.Context, stack string) ([]connRow, error) {
	path := filepath.Join(stack, nameConnections)
	text, err := within(ctx, e.patience, func() (string, error) { return readMountFileWhole(path) })
	if err != nil {
		return nil, e.explainNoConns(ctx, err, stack)
	}
	rows, err := parseConns(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return rows, nil
}

// explainNoConns says why a stack's table, or the directory of its
// connections, could not be read.
func (e env) explainNoConns(ctx context.Context, err error, stack string) error {
	if errors.Is(err, os.ErrNotExist) {
		_, serr := within(ctx, e.patience, func() (string, error) {
			return readMountFile(filepath.Join(stack, "type"))
		})
		if serr == nil {
			return fmt.Errorf("%s: %w (connections = \"off\" in the configuration, or a stack without TCP)", stack, errNoConns)
		}
		if !errors.Is(serr, os.ErrNotExist) {
			err = serr
		}
	}
	return explain(err, stack, filepath.Dir(stack))
}

// readMountFileWhole returns the contents of a file of any size. The files of
// a mount do not tell it beforehand.
func readMountFileWhole(path string) (string, error) {
	f, err := openMountFile(path, unix.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var b strings.Builder
	// Each read is a request to the daemon, so few and large ones. The
	// kernel makes none larger than 1 MiB (FUSE_MAX_MAX_PAGES).
	_, err = io.CopyBuffer(&b, f, make([]byte, 1<<20))
	return b.String(), err
}

// parseConns takes the table apart. Fields that a later daemon may add at the
// end of a line are ignored.
func parseConns(text string) ([]connRow, error) {
	rows := make([]connRow, 0, strings.Count(text, "\n"))
	for n := 1; text != ""; n++ {
		line := text
		if end := strings.IndexByte(text, '\n'); end >= 0 {
			line, text = text[:end], text[end+1:]
		} else {
			text = ""
		}
		if line == "" || line[0] == '#' {
			continue
		}
		var r connRow
		rest := line
		for _, field := range [...]*string{
			&r.Cookie, &r.State, &r.Family, &r.RecvQ, &r.SendQ, &r.Local, &r.Remote, &r.UID, &r.Inode,
		} {
			end := strings.IndexByte(rest, ' ')
			if end < 0 {
				*field, rest = rest, ""
			} else {
				*field, rest = rest[:end], rest[end+1:]
			}
		}
		if r.Inode == "" {
			return nil, fmt.Errorf("line %d is %q, which is no connection", n, line)
		}
		if r.Cookie == "0" || r.Cookie == "-" {
			r.Cookie = ""
		}
		rows = append(rows, r)
	}
	return rows, nil
}
