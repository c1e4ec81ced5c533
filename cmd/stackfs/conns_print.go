package main

import (
	"bufio"
	"encoding/json"
	"io"
	"os/user"
	"strconv"
	"strings"
)

// A connPrinter writes connections as a table or as JSON. It is made for
// many of them: a row is copied to the output without being formatted.
type connPrinter struct {
	out       *bufio.Writer
	paint     painter
	numeric   bool // users by number
	noHeader  bool
	processes map[string][]procRef // by inode; nil: not asked for
	names     map[string]string    // of users, by number
}

func newConnPrinter(w io.Writer, paint painter) *connPrinter {
	return &connPrinter{out: bufio.NewWriterSize(w, 64<<10), paint: paint, names: map[string]string{}}
}

// The columns of the table before that of the processes.
const connColumns = 7

var connHeader = [connColumns]string{"STATE", "RECV-Q", "SEND-Q", "LOCAL", "REMOTE", "USER", "COOKIE"}

// columns returns the fields of a row in the order of the table.
func (p *connPrinter) columns(r *connRow) [connColumns]string {
	return [connColumns]string{
		r.State, r.RecvQ, r.SendQ, clean(r.Local), clean(r.Remote), p.userName(r.UID), dash(r.Cookie),
	}
}

// clean is printable for an address, in which only a zone can be somebody's
// free choice.
func clean(address string) string {
	if strings.IndexByte(address, '%') >= 0 {
		return printable(address)
	}
	return address
}

// table writes rows in aligned columns, two blanks apart.
func (p *connPrinter) table(rows []connRow) error {
	var widths [connColumns]int
	if !p.noHeader {
		for i, text := range connHeader {
			widths[i] = len(text)
		}
	}
	for i := range rows {
		for j, text := range p.columns(&rows[i]) {
			widths[j] = max(widths[j], len(text))
		}
	}
	last := connColumns - 1
	if p.processes != nil {
		last = connColumns
	}
	if !p.noHeader {
		for j, text := range connHeader {
			p.cell(p.paint.bold(text), len(text), widths[j], j == last)
		}
		if p.processes != nil {
			p.cell(p.paint.bold("PROCESSES"), 0, 0, true)
		}
	}
	colours := map[string]string{}
	for i := range rows {
		for j, text := range p.columns(&rows[i]) {
			width := len(text)
			if j == 0 && p.paint.on {
				text = p.stateText(text, colours)
			}
			p.cell(text, width, widths[j], j == last)
		}
		if p.processes != nil {
			p.cell(p.holders(rows[i].Inode), 0, 0, true)
		}
	}
	return p.out.Flush()
}

const blanks = "                                                                "

// cell writes one field; width is what text takes on the screen.
func (p *connPrinter) cell(text string, width, column int, last bool) {
	p.out.WriteString(text)
	if last {
		p.out.WriteByte('\n')
		return
	}
	pad := column - width + 2
	for pad > len(blanks) {
		p.out.WriteString(blanks)
		pad -= len(blanks)
	}
	p.out.WriteString(blanks[:pad])
}

// stateText is a state in its colour; done has those that were painted.
func (p *connPrinter) stateText(state string, done map[string]string) string {
	text, ok := done[state]
	if !ok {
		text = state
		if colour := connColour(p.paint, state); colour != nil {
			text = colour(state)
		}
		done[state] = text
	}
	return text
}

// connColour is that of a connection's state: one that is being made or
// ended is yellow. It is nil for no colour.
func connColour(p painter, state string) func(string) string {
	switch stateOf(state) {
	case stEstablished:
		return p.green
	case stListen, stTimeWait, stOther:
		return nil
	}
	return p.yellow
}

func (p *connPrinter) userName(uid string) string {
	if p.numeric {
		return uid
	}
	name, ok := p.names[uid]
	if !ok {
		name = uid
		if u, err := user.LookupId(uid); err == nil {
			name = printable(u.Username)
		}
		p.names[uid] = name
	}
	return name
}

// holders writes who holds a socket as "4711/nginx,4712/nginx".
func (p *connPrinter) holders(inode string) string {
	list := p.processes[inode]
	if len(list) == 0 {
		return "-"
	}
	var b strings.Builder
	for i, h := range list {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Itoa(h.PID))
		b.WriteByte('/')
		b.WriteString(printable(h.Command))
	}
	return b.String()
}

// json writes an array with an object for each row, which stackfs(8)
// describes. A cookie or a remote address that a socket lacks is null.
func (p *connPrinter) json(rows []connRow) error {
	open := "[\n  {"
	for i := range rows {
		r := &rows[i]
		p.out.WriteString(open)
		open = ",\n  {"
		p.number("", "cookie", r.Cookie)
		p.text(", ", "state", r.State)
		p.text(", ", "family", r.Family)
		p.number(", ", "recv_q", r.RecvQ)
		p.number(", ", "send_q", r.SendQ)
		p.text(", ", "local", r.Local)
		if r.Remote == "-" {
			p.number(", ", "remote", "")
		} else {
			p.text(", ", "remote", r.Remote)
		}
		p.number(", ", "uid", r.UID)
		p.text(", ", "user", p.userName(r.UID))
		p.number(", ", "inode", r.Inode)
		if p.processes != nil {
			p.jsonHolders(p.processes[r.Inode])
		}
		p.out.WriteByte('}')
	}
	if len(rows) == 0 {
		p.out.WriteByte('[')
	} else {
		p.out.WriteByte('\n')
	}
	p.out.WriteString("]\n")
	return p.out.Flush()
}

func (p *connPrinter) jsonHolders(list []procRef) {
	p.out.WriteString(`, "processes": [`)
	open := "{"
	for _, h := range list {
		p.out.WriteString(open)
		open = ", {"
		p.number("", "pid", strconv.Itoa(h.PID))
		p.text(", ", "command", h.Command)
		p.out.WriteByte('}')
	}
	p.out.WriteByte(']')
}

// key begins a member of an object.
func (p *connPrinter) key(separator, key string) {
	p.out.WriteString(separator)
	p.out.WriteByte('"')
	p.out.WriteString(key)
	p.out.WriteString(`": `)
}

// number writes a member that is a number, null if there is none.
func (p *connPrinter) number(separator, key, digits string) {
	if digits == "" {
		digits = "null"
	}
	p.key(separator, key)
	p.out.WriteString(digits)
}

func (p *connPrinter) text(separator, key, value string) {
	p.key(separator, key)
	if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' }) {
		quoted, _ := json.Marshal(value) // a string always can be
		p.out.Write(quoted)
		return
	}
	p.out.WriteByte('"')
	p.out.WriteString(value)
	p.out.WriteByte('"')
}
