package main

import (
	"errors"
	"os"
	"syscall"
)

// Exit codes. stackfs(8) lists them; a number is never given another
// meaning, and a retired one stays here as a comment.
const (
	exitOK         = 0 // done
	exitFailed     = 1 // the operation failed, for a reason not below
	exitUsage      = 2 // the command line is wrong
	exitConfig     = 3 // the configuration or an option of add is wrong; nothing was changed
	exitBusy       = 4 // in use: a stack with sockets or processes (EBUSY)
	exitNotFound   = 5 // no such stack, or no stackfs is mounted there
	exitNotAllowed = 6 // the caller lacks the right (EACCES, EPERM)
	exitNoDaemon   = 7 // the daemon is gone or does not answer

	exitNotSaveable = 8  // the connection cannot be saved, by what it is
	exitPartly      = 9  // checkpoint --all: some connections were not saved
	exitNotWritten  = 10 // the image could not be written: disk full, for example

	// stackfs run returns what the program returns, 128 plus the number of
	// the signal that ended it, or as env(1):
	exitRunFailed   = 125 // stackfs failed and the program was not started
	exitNotRunnable = 126 // the program was found but could not be started
	exitNoProgram   = 127 // the program was not found
)

// A usageError is a command line that makes no sense.
type usageError struct {
	command string // "stackfs add"
	err     error
}

func (e *usageError) Error() string {
	return e.err.Error() + " (" + e.command + " --help shows how)"
}

func (e *usageError) Unwrap() error { return e.err }

// An exitStatus ends the command with a code of its own. A nil err means
// that everything has been said.
type exitStatus struct {
	code int
	err  error
}

func (e *exitStatus) Error() string {
	if e.err == nil {
		return "exit status"
	}
	return e.err.Error()
}

func (e *exitStatus) Unwrap() error { return e.err }

// Errors that have an exit code but no errno of their own.
var (
	errNoAnswer  = errors.New("the daemon does not answer")
	errNotServed = errors.New("no stackfs is mounted")
	errNoStack   = errors.New("no such stack")
)

// exitCode maps an error to the code that scripts see.
func exitCode(err error) int {
	var (
		usage     *usageError
		config    *configError
		unwritten *writeError
		conn      *connError
	)
	switch {
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &config):
		return exitConfig
	case errors.As(err, &unwritten):
		return exitNotWritten
	case errors.As(err, &conn) && errors.Is(err, syscall.EOPNOTSUPP):
		return exitNotSaveable
	case errors.Is(err, syscall.EBUSY):
		return exitBusy
	case errors.Is(err, errNoAnswer), errors.Is(err, syscall.ENOTCONN), errors.Is(err, syscall.ECONNABORTED):
		return exitNoDaemon
	case errors.Is(err, errNotServed), errors.Is(err, errNoStack), errors.Is(err, errNoConn), errors.Is(err, os.ErrNotExist):
		return exitNotFound
	case errors.Is(err, os.ErrPermission):
		return exitNotAllowed
	}
	return exitFailed
}
