package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stackfs/stackfs/soccr"
	"github.com/stackfs/stackfs/soccr/image"
)

const inspectLong = `Show what images of connections hold: where they come from, the state, the
queues, the options, and what a restore would lose. FILE is an image that
"stackfs checkpoint" wrote, - for the standard input, a tcp-stream image of
CRIU, the directory of a dump of CRIU, or a connection STACK/conns/N, which is
saved for that.

An image that is damaged is refused, and the message says where.`

// maxInspect is the largest image that is read, in bytes: twice what a stack
// takes back. A device may have no end.
const maxInspect = 256 << 20

// hexdumpBytes is what --hexdump shows of each queue if it does not say more.
const hexdumpBytes = 256

// inspectOptions is the command line of stackfs inspect.
type inspectOptions struct {
	JSON  bool
	All   bool // options with the value they have by themselves, too
	Bytes int  // of each queue; -1: all
}

// newInspectCmd shows images.
func newInspectCmd(e env) *cobra.Command {
	var (
		opts    inspectOptions
		hexdump string
	)
	c := &cobra.Command{
		Use:   "inspect [-aj] [--hexdump[=N|=all]] FILE...",
		Short: "Show the image of a connection",
		Long:  inspectLong,
		Example: `  stackfs inspect conn.img
  stackfs inspect --hexdump=64 conn.img
  stackfs inspect --json /var/tmp/lab/4097.img | jq '.[].send.unsent'
  stackfs inspect /dev/net/lab/conns/4097
  stackfs inspect /var/tmp/criu-dump`,
		Args:                  argsFrom("FILE"),
		DisableFlagsInUseLine: true,
		ValidArgsFunction:     completeFiles,
		RunE: func(c *cobra.Command, args []string) error {
			if c.Flags().Changed("hexdump") {
				n, err := strconv.Atoi(hexdump)
				switch {
				case hexdump == "all":
					n = -1
				case err != nil || n < 1:
					return usage(c, fmt.Errorf("--hexdump=%s: is neither a number of bytes nor all", hexdump))
				}
				opts.Bytes = n
			}
			return e.inspect(c.Context(), opts, args)
		},
	}
	f := c.Flags()
	f.BoolVarP(&opts.JSON, "json", "j", false, "write a JSON array")
	f.BoolVarP(&opts.All, "all", "a", false, "show the options that have their usual value, too")
	f.StringVar(&hexdump, "hexdump", "", "show the first `N` bytes of each queue, "+strconv.Itoa(hexdumpBytes)+" without a number")
	f.Lookup("hexdump").NoOptDefVal = strconv.Itoa(hexdumpBytes)
	return c
}

// completeFiles leaves the arguments to the shell.
func completeFiles(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveDefault
}

// An inspected is one connection that was found in a file.
type inspected struct {
	File  string
	Image *image.Image // nil: the connection is one of a dump of CRIU
	Conn  *soccr.Conn
	Err   error // why there is no connection
}

// inspect shows what all the arguments hold; what cannot be read is said at
// the end.
func (e env) inspect(ctx context.Context, opts inspectOptions, args []string) error {
	var (
		list []inspected
		errs []error
	)
	for _, arg := range args {
		found, err := e.inspectArg(ctx, arg)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		list = append(list, found...)
		for _, i := range found {
			if i.Err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", i.File, i.Err))
			}
		}
	}
	var err error
	if opts.JSON {
		err = writeInspectJSON(e.stdout, list, opts)
	} else {
		err = e.writeInspect(e.stdout, list, opts)
	}
	return errors.Join(append(errs, err)...)
}

// inspectArg reads what one argument names.
func (e env) inspectArg(ctx context.Context, arg string) ([]inspected, error) {
	if arg == "-" {
		return decodeInspected("standard input", e.stdin)
	}
	if ref, ok := e.connectionArg(arg); ok {
		text, err := e.readImage(ctx, ref)
		if err != nil {
			return nil, err
		}
		return decodeInspected(arg, strings.NewReader(string(text)))
	}
	info, err := within(ctx, e.patience, func() (os.FileInfo, error) { return os.Stat(arg) })
	if err != nil {
		return nil, fmt.Errorf("%s: %w", arg, reason(err))
	}
	if info.IsDir() {
		return inspectDump(arg)
	}
	f, err := os.Open(arg)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", arg, reason(err))
	}
	defer f.Close()
	return decodeInspected(arg, f)
}

// connectionArg takes STACK/conns/N, or its file checkpoint, for a connection
// of a mount.
func (e env) connectionArg(arg string) (connRef, bool) {
	dir := strings.TrimSuffix(strings.TrimRight(arg, "/"), "/checkpoint")
	if filepath.Base(filepath.Dir(dir)) != nameConns || !isCookie(filepath.Base(dir)) {
		return connRef{}, false
	}
	_, refs, err := e.connArgs([]string{dir})
	if err != nil || len(refs) != 1 {
		return connRef{}, false
	}
	mounts, err := e.mounts()
	return refs[0], err == nil && mountAbove(mounts, refs[0].path("")) != ""
}

func decodeInspected(name string, in io.Reader) ([]inspected, error) {
	tooLarge := fmt.Errorf("%s: is larger than %d MiB, which no image is", name, maxInspect>>20)
	if f, ok := in.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Size() > maxInspect {
			return nil, tooLarge // without reading it
		}
	}
	text, err := io.ReadAll(io.LimitReader(in, maxInspect+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", name, reason(err))
	case len(text) > maxInspect:
		return nil, tooLarge
	}
	i, err := image.Decode(text)
	if errors.Is(err, image.ErrDamaged) {
		return nil, fmt.Errorf("%s: %w (copy the file or save the connection again)", name, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return []inspected{{File: name, Image: i, Conn: i.Conn}}, nil
}

// inspectDump lists the connections of a dump of CRIU.
func inspectDump(dir string) ([]inspected, error) {
	dump, err := image.ReadCRIU(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("%w (images of stackfs are given one by one: %s/*.img)", err, strings.TrimRight(dir, "/"))
	case err != nil:
		return nil, err
	case len(dump) == 0:
		return nil, fmt.Errorf("%s: the dump has no TCP connection", dir)
	}
	list := make([]inspected, len(dump))
	for i, d := range dump {
		list[i] = inspected{File: filepath.Join(dir, d.File), Conn: d.Conn, Err: d.Err}
	}
	return list, nil
}
