package main

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// A lineIndex knows the line of every key of a TOML text. Keys are written
// as "stack.lab.grant[0].users".
type lineIndex map[string]int

// line returns the line of key, or of the nearest table around it; 0 if
// even that is unknown.
func (x lineIndex) line(key string) int {
	for key != "" {
		if n := x[key]; n > 0 {
			return n
		}
		key = key[:max(0, strings.LastIndexAny(key, ".["))]
	}
	return 0
}

// maxIndexDepth bounds the keys that are indexed; the configuration has
// none that deep, so a nested text costs no more than its length.
const maxIndexDepth = 8

// A lineScanner walks over a text that package toml has accepted; on any
// other text its answers are wrong, but it ends.
type lineScanner struct {
	text  string
	pos   int
	line  int
	index lineIndex
	array map[string]int // elements so far of arrays of tables
}

// indexLines finds the line of every key in a valid TOML text.
func indexLines(text string) lineIndex {
	s := &lineScanner{text: text, line: 1, index: lineIndex{}, array: map[string]int{}}
	table := ""
	for s.skipSpace(true); s.pos < len(s.text); s.skipSpace(true) {
		start := s.pos
		if s.peek() == '[' {
			table = s.header()
		} else {
			s.keyValue(table, 0)
		}
		if s.pos == start {
			s.next()
		}
	}
	return s.index
}

func (s *lineScanner) peek() byte {
	if s.pos >= len(s.text) {
		return 0
	}
	return s.text[s.pos]
}

func (s *lineScanner) next() byte {
	c := s.peek()
	if c == '\n' {
		s.line++
	}
	s.pos = min(s.pos+1, len(s.text))
	return c
}

// skipSpace skips blanks and, with lines, line ends and comments.
func (s *lineScanner) skipSpace(lines bool) {
	s.text = strings.TrimPrefix(s.text, "\ufeff")
	for s.pos < len(s.text) {
		switch c := s.peek(); {
		case c == ' ', c == '\t', c == '\r':
		case c == '\n' && lines:
		case c == '#' && lines:
			for s.pos < len(s.text) && s.peek() != '\n' {
				s.next()
			}
			continue
		default:
			return
		}
		s.next()
	}
}

// header reads [a.b] or [[a.b]] and returns the path of the table.
func (s *lineScanner) header() string {
	line := s.line
	s.next()
	many := s.peek() == '['
	if many {
		s.next()
	}
	keys := s.key()
	path := ""
	for i, key := range keys {
		path = joinKey(path, key)
		last := i == len(keys)-1
		if last && many {
			s.array[path]++
		}
		if n := s.array[path]; n > 0 {
			s.record(path, line)
			path = fmt.Sprintf("%s[%d]", path, n-1)
		}
		s.record(path, line)
	}
	for s.peek() == ']' {
		s.next()
	}
	return path
}

// keyValue reads "key = value" of a table.
func (s *lineScanner) keyValue(table string, depth int) {
	line := s.line
	path := table
	for _, key := range s.key() {
		path = joinKey(path, key)
		s.record(path, line)
	}
	if s.peek() == '=' {
		s.next()
	}
	s.value(path, depth)
}

func (s *lineScanner) record(path string, line int) {
	if _, known := s.index[path]; !known {
		s.index[path] = line
	}
}

// key reads a key with its dots. What is too deep to be a key of ours is
// left out.
func (s *lineScanner) key() []string {
	var keys []string
	for {
		s.skipSpace(false)
		var key string
		if c := s.peek(); c == '"' || c == '\'' {
			key = s.quoted()
		} else {
			start := s.pos
			for s.pos < len(s.text) && !strings.ContainsRune(".=]}{,#\"' \t\r\n", rune(s.peek())) {
				s.next()
			}
			key = s.text[start:s.pos]
		}
		if len(keys) < maxIndexDepth {
			keys = append(keys, key)
		}
		s.skipSpace(false)
		if s.peek() != '.' {
			return keys
		}
		s.next()
	}
}

// quoted reads a string and returns its contents, in which only the escapes
// that matter in a key are undone.
func (s *lineScanner) quoted() string {
	quote := s.text[s.pos : s.pos+1]
	if triple := strings.Repeat(quote, 3); strings.HasPrefix(s.text[s.pos:], triple) {
		quote = triple
	}
	s.pos += len(quote)
	var b strings.Builder
	for s.pos < len(s.text) {
		if strings.HasPrefix(s.text[s.pos:], quote) {
			s.pos += len(quote)
			// Up to two more quotes belong to a multi-line string.
			for len(quote) == 3 && s.peek() == quote[0] {
				s.next()
			}
			return b.String()
		}
		c := s.next()
		if c == '\\' && quote[0] == '"' {
			c = s.next()
		}
		b.WriteByte(c)
	}
	return strings.ToValidUTF8(b.String(), string(utf8.RuneError))
}

// value skips a value and indexes the keys within.
func (s *lineScanner) value(path string, depth int) {
	s.skipSpace(false)
	switch s.peek() {
	case '"', '\'':
		s.quoted()
	case '[':
		s.list(']', func(i int) {
			if sub := path; depth < maxIndexDepth {
				sub = fmt.Sprintf("%s[%d]", path, i)
				s.record(sub, s.line)
				s.value(sub, depth+1)
			} else {
				s.value(sub, depth)
			}
		})
	case '{':
		s.list('}', func(int) {
			if depth < maxIndexDepth {
				s.keyValue(path, depth+1)
			} else {
				s.key()
				s.next()
				s.value(path, depth)
			}
		})
	default:
		for s.pos < len(s.text) && !strings.ContainsRune(",]}#\n", rune(s.peek())) {
			s.next()
		}
	}
}

// list reads elements between commas up to end.
func (s *lineScanner) list(end byte, element func(i int)) {
	s.next()
	for i := 0; s.pos < len(s.text); {
		s.skipSpace(true)
		start := s.pos
		switch s.peek() {
		case end:
			s.next()
			return
		case ',':
			s.next()
			i++
		default:
			element(i)
		}
		if s.pos == start {
			s.next()
		}
	}
}
