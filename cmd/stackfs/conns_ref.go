package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// A connRef is a connection, or a listener, by its file.
type connRef struct {
	stack string // absolute path of the node
	dir   string // nameConns or nameListeners
	id    string // its cookie
}

func (r connRef) path(file string) string { return filepath.Join(r.stack, r.dir, r.id, file) }

// connArgs reads the arguments that name connections: STACK/conns/N alone,
// or STACK and any number of N.
func (e env) connArgs(args []string) (stack string, refs []connRef, err error) {
	if len(args) == 1 {
		dir, id := filepath.Split(strings.TrimRight(args[0], "/"))
		dir = strings.TrimRight(dir, "/")
		if kind := filepath.Base(dir); isCookie(id) && (kind == nameConns || kind == nameListeners) {
			stack, err = e.absPath(filepath.Dir(dir))
			return stack, []connRef{{stack, kind, id}}, err
		}
	}
	stack, err = e.stackPath(args[0])
	if err != nil {
		return "", nil, err
	}
	for _, id := range args[1:] {
		if !isCookie(id) {
			return "", nil, fmt.Errorf("%q is no number of a connection (the column COOKIE of stackfs conns)", id)
		}
		refs = append(refs, connRef{stack, nameConns, id})
	}
	return stack, refs, nil
}

// isCookie tells whether text is the name of a connection: a decimal number
// of 64 bits, without zeros before it.
func isCookie(text string) bool {
	return isNumber(text) && text[0] != '-' && text != "0"
}

// A connError says what is wrong with one connection.
type connError struct {
	id  string
	err error
}

func (e *connError) Error() string { return "conn " + e.id + ": " + e.err.Error() }
func (e *connError) Unwrap() error { return e.err }

// errNoConn is a connection that there is not (any more).
var errNoConn = errors.New("no such connection")

// readConnFile returns the contents of a small file of a connection.
func (e env) readConnFile(ctx context.Context, ref connRef, file string) (string, error) {
	text, err := within(ctx, e.patience, func() (string, error) { return readMountFile(ref.path(file)) })
	if err != nil {
		return "", e.explainConn(ctx, err, ref)
	}
	return text, nil
}

// explainConn says what the error of an access to a connection's file means.
func (e env) explainConn(ctx context.Context, err error, ref connRef) error {
	dir := filepath.Join(ref.stack, ref.dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if _, serr := within(ctx, e.patience, func() (os.FileInfo, error) { return os.Lstat(dir) }); serr != nil {
			return e.explainNoConns(ctx, serr, ref.stack)
		}
		return &connError{ref.id, fmt.Errorf("%w (stackfs conns -a %s shows what there is)", errNoConn, ref.stack)}
	case errors.Is(err, syscall.ESTALE):
		return &connError{ref.id, fmt.Errorf("%w: it has ended", errNoConn)}
	case errors.Is(err, os.ErrPermission):
		return &connError{ref.id, fmt.Errorf("only its owner and root may: %w", reason(err))}
	case errors.Is(err, errNoAnswer), errors.Is(err, syscall.ENOTCONN), errors.Is(err, syscall.ECONNABORTED):
		return explain(err, ref.stack, filepath.Dir(ref.stack))
	}
	return &connError{ref.id, reason(err)}
}
