package main

import (
	"io"
	"strings"
	"unicode/utf8"
)

// A cell is one field of a table. Its colour does not count for its width,
// which is why text/tabwriter does not do.
type cell struct {
	text  string
	paint func(string) string // nil: as it is
}

// writeTable writes rows in aligned columns, two blanks apart. The last
// column is not padded.
func writeTable(w io.Writer, rows [][]cell) error {
	var widths []int
	for _, row := range rows {
		for i, c := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(c.text))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		for i, c := range row {
			text := printable(c.text)
			pad := widths[i] - utf8.RuneCountInString(text) + 2
			if c.paint != nil {
				text = c.paint(text)
			}
			b.WriteString(text)
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", max(pad, 1)))
			}
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// plain makes cells without colour.
func plain(texts ...string) []cell {
	row := make([]cell, len(texts))
	for i, t := range texts {
		row[i] = cell{text: t}
	}
	return row
}
