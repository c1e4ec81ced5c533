package fs

import (
	"bytes"
	"context"
	"encoding/json"
	"net/netip"
	"strings"

	"github.com/stackfs/stackfs/stacknode"
)

// appendAddr adds an address as package netip writes it, and "-" for none.
func appendAddr(b []byte, a netip.AddrPort) []byte {
	if !a.IsValid() {
		return append(b, '-')
	}
	return a.AppendTo(b)
}

func localText(_ context.Context, _ *connTextNode, c *stacknode.Conn) ([]byte, error) {
	return append(appendAddr(nil, c.Local), '\n'), nil
}

func remoteText(_ context.Context, _ *connTextNode, c *stacknode.Conn) ([]byte, error) {
	return append(appendAddr(nil, c.Remote), '\n'), nil
}

// lines returns what the caller may know of the connection. Which processes
// hold the socket is for root and its owner.
func (n *connTextNode) lines(ctx context.Context, c *stacknode.Conn) ([]stacknode.Line, error) {
	table, ok := n.of.table()
	if !ok {
		return nil, stacknode.ErrNoConn
	}
	uid := callerUID(ctx)
	return table.ConnDetails(ctx, n.cookie, uid == 0 || uid == c.UID)
}

func connStatusText(ctx context.Context, n *connTextNode, c *stacknode.Conn) ([]byte, error) {
	lines, err := n.lines(ctx, c)
	if err != nil {
		return nil, err
	}
	return appendLines(nil, lines), nil
}

func connInfoText(ctx context.Context, n *connTextNode, c *stacknode.Conn) ([]byte, error) {
	lines, err := n.lines(ctx, c)
	if err != nil {
		return nil, err
	}
	return appendObject(nil, lines)
}

// appendLines adds a line for each, whatever is in a value.
func appendLines(b []byte, lines []stacknode.Line) []byte {
	for _, l := range lines {
		b = append(b, l.Key...)
		b = append(b, ": "...)
		b = append(b, strings.ReplaceAll(l.Value, "\n", " ")...)
		b = append(b, '\n')
	}
	return b
}

// appendObject adds lines as a JSON object, in their order: what looks like a
// number is one, "true" and "false" are booleans, and the values of a key of
// which there may be several are an array.
func appendObject(b []byte, lines []stacknode.Line) ([]byte, error) {
	values := map[string][]string{}
	for _, l := range lines {
		values[l.Key] = append(values[l.Key], l.Value)
	}
	b = append(b, '{')
	for _, l := range lines {
		all := values[l.Key]
		if all == nil {
			continue // written with the first of its key
		}
		delete(values, l.Key)
		if b[len(b)-1] != '{' {
			b = append(b, ',')
		}
		b = append(b, "\n  "...)
		key, err := json.Marshal(l.Key)
		if err != nil {
			return nil, err
		}
		b = append(append(b, key...), ": "...)
		several := l.Key == stacknode.KeyProcess || len(all) > 1
		if several {
			b = append(b, '[')
		}
		for i, value := range all {
			if i > 0 {
				b = append(b, ", "...)
			}
			if b, err = appendValue(b, value); err != nil {
				return nil, err
			}
		}
		if several {
			b = append(b, ']')
		}
	}
	return append(b, "\n}\n"...), nil
}

func appendValue(b []byte, value string) ([]byte, error) {
	if value == "true" || value == "false" || isNumber(value) {
		return append(b, value...), nil
	}
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(value); err != nil {
		return nil, err
	}
	return append(b, bytes.TrimSuffix(text.Bytes(), []byte("\n"))...), nil
}

// isNumber tells whether value is a number of JSON without exponent.
func isNumber(value string) bool {
	return value != "" && strings.Trim(value, "-0123456789.") == "" && json.Valid([]byte(value))
}
