package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// showConns prints what is known of each connection: its file status, or as
// JSON its file info.
func (e env) showConns(ctx context.Context, refs []connRef, asJSON bool) error {
	if asJSON {
		return e.writeConnInfo(ctx, refs)
	}
	paint := e.painter(e.stdout)
	for i, ref := range refs {
		ref, text, err := e.readDetails(ctx, ref, "status")
		if err != nil {
			return err
		}
		if i > 0 {
			fmt.Fprintln(e.stdout)
		}
		fmt.Fprintln(e.stdout, paint.bold(printable(ref.path(""))))
		var rows [][]cell
		for _, l := range parseStatus(text) {
			row := plain("  "+l.Key+":", l.Value)
			if l.Key == "state" {
				row[1].paint = connColour(paint, l.Value)
			}
			rows = append(rows, row)
		}
		if err := writeTable(e.stdout, rows); err != nil {
			return err
		}
	}
	return nil
}

// writeConnInfo writes an array with an object for each connection.
func (e env) writeConnInfo(ctx context.Context, refs []connRef) error {
	objects := make([]json.RawMessage, len(refs))
	for i, ref := range refs {
		ref, text, err := e.readDetails(ctx, ref, "info")
		if err != nil {
			return err
		}
		if !json.Valid([]byte(text)) {
			return &connError{ref.id, errors.New("what the daemon tells of it is not JSON")}
		}
		objects[i] = json.RawMessage(text)
	}
	enc := json.NewEncoder(e.stdout)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(objects)
}

// readDetails returns a file of a connection or, where there is none of that
// number, of the listener: both have them. It also tells which of both.
func (e env) readDetails(ctx context.Context, ref connRef, file string) (connRef, string, error) {
	text, err := e.readConnFile(ctx, ref, file)
	if errors.Is(err, errNoConn) && ref.dir == nameConns {
		listener := connRef{ref.stack, nameListeners, ref.id}
		if text, lerr := e.readConnFile(ctx, listener, file); lerr == nil {
			return listener, text, nil
		}
	}
	return ref, text, err
}
