package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/stackfs/stackfs/fs"
	"github.com/stackfs/stackfs/stacknode"
)

var _ fs.Host = (*server)(nil)

// errInvalid is what a line on ctl means that cannot be carried out.
var errInvalid error = syscall.EINVAL

// Control implements fs.Host: the grammar of ctl, which stackfs(8)
// describes.
func (s *server) Control(_ context.Context, line string) (string, error) {
	verb, rest, _ := strings.Cut(line, " ")
	rest = strings.TrimSpace(rest)
	switch verb {
	case "add":
		return s.controlAdd(rest)
	case "remove":
		return s.controlRemove(rest)
	case "reload":
		if rest != "" {
			return "", fmt.Errorf("reload takes no argument: %w", errInvalid)
		}
		return s.reload()
	case "umount":
		return s.controlUmount(strings.Fields(rest))
	}
	return "", fmt.Errorf("unknown order %q (add, remove, reload, umount): %w", verb, errInvalid)
}

func (s *server) controlAdd(rest string) (string, error) {
	name, options, _ := strings.Cut(rest, " ")
	if err := s.makeStack(name, strings.TrimSpace(options)); err != nil {
		return "", err
	}
	return "ok\n", nil
}

func (s *server) makeStack(name, options string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.reg.Get(name); err == nil {
		return fmt.Errorf("stack %s: %w", name, stacknode.ErrExists)
	}
	// Saved first: a daemon that dies in between must not adopt the
	// namespace without its options.
	s.state.Runtime[name] = options
	s.saveState()
	if err := s.addRuntime(name, options); err != nil {
		delete(s.state.Runtime, name)
		s.saveState()
		return err
	}
	return nil
}

func (s *server) controlRemove(rest string) (string, error) {
	name, word, _ := strings.Cut(rest, " ")
	if name == "" || word != "" && word != "force" {
		return "", fmt.Errorf("remove NAME [force]: %w", errInvalid)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.remove(name, word == "force"); err != nil {
		return "", err
	}
	return "ok\n", nil
}

func (s *server) controlUmount(words []string) (string, error) {
	var order stopOrder
	for _, w := range words {
		switch w {
		case "keep":
			order.keep = true
		case "force":
			order.force = true
		default:
			return "", fmt.Errorf("umount [keep] [force]: %w", errInvalid)
		}
	}
	if !order.keep && !order.force {
		if err := s.reg.Busy(); err != nil {
			return "", err
		}
	}
	s.stopping <- order
	return "ok\n", nil
}

// MakeStack implements fs.Host.
func (s *server) MakeStack(name string) error { return s.makeStack(name, "") }

// RemoveStack implements fs.Host.
func (s *server) RemoveStack(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.remove(name, false)
}

// Run implements fs.Host.
func (s *server) Run(caller *stacknode.Caller, st *stacknode.Stack, listener *os.File, families stacknode.FamilySet) error {
	return s.runs.Start(caller, st, listener, families)
}

// RunTicket implements fs.Host.
func (s *server) RunTicket(caller *stacknode.Caller, st *stacknode.Stack, families stacknode.FamilySet) (uint64, error) {
	return s.runs.Ticket(caller, st, families)
}
