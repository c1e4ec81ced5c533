package main

import (
	"errors"
	"fmt"
	"sort"
	"strings"
)

// A configError is one thing wrong with a configuration and where it is.
type configError struct {
	File string
	Line int    // 0: the file as a whole
	Key  string // "stack.lab.uplink.mtu", empty for a syntax error
	Err  error
}

func (e *configError) Error() string {
	s := e.File + ": "
	if e.Line > 0 {
		s = fmt.Sprintf("%s:%d: ", e.File, e.Line)
	}
	if e.Key != "" {
		s += e.Key + ": "
	}
	return s + e.Err.Error()
}

func (e *configError) Unwrap() error { return e.Err }

// A source is a configuration text in the course of being checked. It
// collects what is wrong, so that one run tells all of it.
type source struct {
	file   string
	index  lineIndex
	inline bool // the text is the argument of a command, in a table "stack"
	errs   []*configError
}

// bad records an error at key.
func (s *source) bad(key string, format string, args ...any) {
	e := &configError{File: s.file, Line: s.index.line(key), Key: key, Err: fmt.Errorf(format, args...)}
	if s.inline {
		e.Line, e.Key = 0, strings.TrimPrefix(strings.TrimPrefix(key, "stack"), ".")
	}
	s.errs = append(s.errs, e)
}

// err returns everything recorded, in the order of the file.
func (s *source) err() error {
	sort.SliceStable(s.errs, func(i, j int) bool {
		a, b := s.errs[i], s.errs[j]
		if a.Line != b.Line {
			return a.Line < b.Line
		}
		return a.Key < b.Key
	})
	errs := make([]error, len(s.errs))
	for i, e := range s.errs {
		errs[i] = e
	}
	return errors.Join(errs...)
}
