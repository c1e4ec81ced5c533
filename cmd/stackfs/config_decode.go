package main

import (
	"errors"
	"fmt"
	"reflect"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// decode decodes text into dst, a pointer to a struct with toml tags. It is
// stricter than package toml: keys are case sensitive, unknown ones are
// errors, and a wrong type is reported with its line.
func (s *source) decode(text []byte, dst any) error {
	tree := map[string]any{}
	if _, err := toml.Decode(string(text), &tree); err != nil {
		e := &configError{File: s.file, Err: err}
		var p toml.ParseError
		if errors.As(err, &p) {
			e.Err = errors.New(p.Message)
			if !s.inline {
				e.Line = p.Position.Line
			}
		}
		return e
	}
	s.index = indexLines(string(text))
	s.shape("", reflect.TypeOf(dst).Elem(), tree)
	if err := s.err(); err != nil {
		return err
	}
	if _, err := toml.Decode(string(text), dst); err != nil {
		return &configError{File: s.file, Err: err}
	}
	return nil
}

// shape checks that the value v at key can be decoded into a t.
func (s *source) shape(key string, t reflect.Type, v any) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if u, ok := reflect.New(t).Interface().(toml.Unmarshaler); ok {
		if err := u.UnmarshalTOML(v); err != nil {
			s.bad(key, "%w", err)
		}
		return
	}
	switch t.Kind() {
	case reflect.Struct, reflect.Map:
		table, ok := v.(map[string]any)
		if !ok {
			s.bad(key, "is %s, want a table", tomlType(v))
			return
		}
		for name, value := range table {
			sub := joinKey(key, name)
			if t.Kind() == reflect.Map {
				s.shape(sub, t.Elem(), value)
			} else if field, ok := fieldByTag(t, name); ok {
				s.shape(sub, field, value)
			} else {
				s.bad(sub, "unknown key%s", didYouMean(name, tomlKeys(t)))
			}
		}
	case reflect.Slice:
		list := reflect.ValueOf(v)
		if list.Kind() != reflect.Slice {
			s.bad(key, "is %s, want an array", tomlType(v))
			return
		}
		for i := range list.Len() {
			s.shape(fmt.Sprintf("%s[%d]", key, i), t.Elem(), list.Index(i).Interface())
		}
	default:
		if reflect.TypeOf(v) != t {
			s.bad(key, "is %s, want %s", tomlType(v), tomlType(reflect.Zero(t).Interface()))
		}
	}
}

// fieldByTag returns the type of the field of t that has name as its key.
func fieldByTag(t reflect.Type, name string) (reflect.Type, bool) {
	for i := range t.NumField() {
		if f := t.Field(i); f.Tag.Get("toml") == name {
			return f.Type, true
		}
	}
	return nil, false
}

// tomlKeys returns the keys of a struct type.
func tomlKeys(t reflect.Type) []string {
	keys := make([]string, t.NumField())
	for i := range keys {
		keys[i] = t.Field(i).Tag.Get("toml")
	}
	return keys
}

// tomlType names the TOML type of a decoded value.
func tomlType(v any) string {
	switch v.(type) {
	case string:
		return "a string"
	case int64:
		return "an integer"
	case float64:
		return "a float"
	case bool:
		return "a boolean"
	case time.Time:
		return "a date"
	case map[string]any:
		return "a table"
	}
	return "an array"
}

// joinKey appends one key to a path of them.
func joinKey(path, key string) string {
	if path == "" {
		return quoteKey(key)
	}
	return path + "." + quoteKey(key)
}

// quoteKey returns key as TOML wants it: bare or in quotes.
func quoteKey(key string) string {
	bare := key != "" && strings.IndexFunc(key, func(r rune) bool {
		return r > 0x7f || r != '-' && r != '_' && (r < '0' || r > '9') && (r|0x20 < 'a' || r|0x20 > 'z')
	}) < 0
	if bare {
		return key
	}
	return strconv.Quote(key)
}

// didYouMean returns the end of a message that suggests the nearest of
// words, or nothing if none is near.
func didYouMean(word string, words []string) string {
	best, limit := "", len(word)/3+1
	sort.Strings(words)
	for _, w := range words {
		if d := editDistance(word, w); d <= limit {
			best, limit = w, d-1
		}
	}
	if best == "" {
		return fmt.Sprintf(" (there are %s)", strings.Join(words, ", "))
	}
	return fmt.Sprintf(" (did you mean %q?)", best)
}

// editDistance counts the letters to insert, delete or replace to make b
// from a.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = min(diagonal, row[j], row[j+1]) + 1
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
