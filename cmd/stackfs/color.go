package main

import (
	"io"
	"strconv"
	"strings"

	"github.com/fatih/color"
)

// A painter colours text, or leaves it as it is.
type painter struct{ on bool }

// painter returns one that colours only what goes to a terminal, and not if
// NO_COLOR is set (no-color.org).
func (e env) painter(w io.Writer) painter {
	return painter{on: e.getenv("NO_COLOR") == "" && e.getenv("TERM") != "dumb" && e.isTerminal(w)}
}

func (p painter) paint(text string, attrs ...color.Attribute) string {
	if !p.on {
		return text
	}
	c := color.New(attrs...)
	c.EnableColor() // whatever color thinks of os.Stdout
	return c.Sprint(text)
}

func (p painter) red(text string) string    { return p.paint(text, color.FgRed) }
func (p painter) green(text string) string  { return p.paint(text, color.FgGreen) }
func (p painter) yellow(text string) string { return p.paint(text, color.FgYellow) }
func (p painter) bold(text string) string   { return p.paint(text, color.Bold) }

// printable replaces what could steer a terminal: names and texts that the
// daemon hands on may be an ordinary user's.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if strconv.IsPrint(r) || r == '\t' {
			return r
		}
		return '?'
	}, text)
}
