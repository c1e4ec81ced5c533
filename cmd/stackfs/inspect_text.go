package main

import (
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/stackfs/stackfs/soccr"
	"github.com/stackfs/stackfs/soccr/image"
)

// writeInspect writes one block of lines for each connection.
func (e env) writeInspect(w io.Writer, list []inspected, opts inspectOptions) error {
	paint := e.painter(w)
	blank := ""
	for _, i := range list {
		if i.Conn == nil {
			continue
		}
		fmt.Fprint(w, blank, paint.bold(printable(i.File)), "\n")
		blank = "\n"
		var rows [][]cell
		add := func(key string, values ...string) {
			for _, v := range values {
				if v == "" {
					continue
				}
				rows = append(rows, plain("  "+key, v))
				if key == "state:" {
					rows[len(rows)-1][1].paint = connColour(paint, v)
				}
				key = ""
			}
		}
		e.inspectOrigin(&i, add)
		inspectConn(i.Conn, opts, add)
		if err := writeTable(w, rows); err != nil {
			return err
		}
		if err := writeQueue(w, "received", i.Conn.Recv, opts.Bytes); err != nil {
			return err
		}
		if err := writeQueue(w, "to send", i.Conn.Send, opts.Bytes); err != nil {
			return err
		}
	}
	return nil
}

// inspectOrigin says what the image is and where it comes from.
func (e env) inspectOrigin(i *inspected, add func(string, ...string)) {
	m := &i.Conn.Meta
	switch {
	case i.Image == nil:
		add("image:", "of a dump of CRIU")
	case i.Image.Foreign:
		add("image:", fmt.Sprintf("of CRIU, %d bytes; addresses, state and options are in other files of the dump: inspect its directory", i.Image.Size))
	default:
		add("image:", fmt.Sprintf("of stackfs, format %d, %d bytes, undamaged", image.Format, i.Image.Size))
	}
	var saved, from []string
	if !m.Time.IsZero() {
		saved = append(saved, m.Time.Local().Format(time.DateTime+" MST"))
	}
	if m.Version != "" {
		saved = append(saved, "by stackfs "+m.Version)
	}
	if m.Method != "" {
		saved = append(saved, "("+m.Method+")")
	}
	add("saved:", strings.Join(saved, " "))
	if m.Stack != "" {
		from = append(from, "stack "+m.Stack)
	}
	if m.Cookie != 0 {
		from = append(from, fmt.Sprintf("connection %d of user %s", m.Cookie, userText(m.UID)))
	}
	if m.Inode != 0 {
		from = append(from, fmt.Sprintf("inode %d", m.Inode))
	}
	add("from:", strings.Join(from, ", "))
	if i.Image == nil || i.Image.Foreign {
		return
	}
	if m.Live {
		add("live:", "yes, the connection went on: the image is stale as soon as a byte moves")
	} else {
		add("live:", "no, the connection ended when it was saved")
	}
	add("seal:", e.sealText(i.Image.Seal))
}

// sealText says for whom an image is sealed. Whether the seal is a true one
// only the daemon can tell, which has the key.
func (e env) sealText(s *image.Seal) string {
	if s == nil {
		return "none: CAP_NET_ADMIN over the network namespace is needed to restore it"
	}
	when := "in another boot of the machine: it does not hold any more"
	if id, err := os.ReadFile(filepath.Join(e.proc, "sys/kernel/random/boot_id")); err == nil && strings.TrimSpace(string(id)) == uuid(s.BootID) {
		when = "in this boot; the daemon can tell whether it is a true one"
	}
	return fmt.Sprintf("for user %s, of stack %s, made %s", userText(s.UID), s.Stack, when)
}

func userText(uid uint32) string {
	text := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(text); err == nil {
		return u.Username
	}
	return text
}

// uuid writes 16 bytes as the kernel writes a boot id.
func uuid(b [16]byte) string {
	h := hex.EncodeToString(b[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// inspectConn says what the connection is.
func inspectConn(c *soccr.Conn, opts inspectOptions, add func(string, ...string)) {
	if c.State != 0 {
		add("state:", c.State.String())
	}
	add("shutdown:", strings.Join(shutdownNames(c.Shutdown), " and "))
	if c.Local.IsValid() {
		add("local:", c.Local.String())
		add("remote:", dash(validAddress(c.Remote)))
	}
	add("received:", fmt.Sprintf("%s not read by its owner", count(c.InqLen, "byte")))
	add("to send:", fmt.Sprintf("%s not acknowledged by the peer: %d were sent, %d were not", count(c.OutqLen, "byte"), c.OutqLen-c.UnsqLen, c.UnsqLen))
	add("sequence:", fmt.Sprintf("next from the peer %d, next of ours %d", c.InqSeq, c.OutqSeq))
	add("negotiated:", strings.Join(negotiated(&c.Data), ", "))
	if c.HasWindow {
		add("window:", fmt.Sprintf("of the peer %d bytes, at most %d; ours %d bytes", c.SndWnd, c.MaxWindow, c.RcvWnd))
	}
	add("congestion:", c.Congestion)
	add("device:", c.Device)
	add("options:", optionTexts(c, opts.All)...)
	add("lost:", lostTexts(c)...)
}

func count(n uint32, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func shutdownNames(how uint8) []string {
	names := []string{}
	if how&1 != 0 {
		names = append(names, "reading")
	}
	if how&2 != 0 {
		names = append(names, "writing")
	}
	return names
}

// negotiated names what both ends agreed on.
func negotiated(d *soccr.Data) []string {
	list := []string{fmt.Sprintf("segments of %d bytes", d.MSSClamp)}
	if d.OptMask&soccr.OptWscale != 0 {
		list = append(list, fmt.Sprintf("window scale %d of the peer and %d of ours", d.SndWscale, d.RcvWscale))
	}
	for _, o := range []struct {
		bit  uint32
		name string
	}{
		{soccr.OptSACK, "SACK"}, {soccr.OptTimestamps, "timestamps"}, {soccr.OptUsecTS, "in microseconds"},
		{soccr.OptECN, "ECN"}, {soccr.OptSynData, "data in the SYN"},
	} {
		if d.OptMask&o.bit != 0 {
			list = append(list, o.name)
		}
	}
	return list
}

// usualOptions are the values that options have by themselves on a kernel
// whose settings nobody has changed, where they are not 0.
var usualOptions = soccr.Options{
	"SO_LINGER": -1, "SO_RCVLOWAT": 1, "SO_MAX_PACING_RATE": -1, "SO_PEEK_OFF": -1,
	"IP_TTL": 64, "IP_MTU_DISCOVER": 1, "IPV6_UNICAST_HOPS": 64, "IPV6_MTU_DISCOVER": 1,
	"TCP_KEEPIDLE": 7200, "TCP_KEEPINTVL": 75, "TCP_KEEPCNT": 9, "TCP_SYNCNT": 6, "TCP_LINGER2": 60,
}

// optionTexts returns the options with their values, those that are as usual
// only with all.
func optionTexts(c *soccr.Conn, all bool) []string {
	var texts []string
	for _, o := range soccr.OptionNames() {
		v, ok := c.Options[o.Name]
		// Such sizes differ for every connection, unless its owner set them.
		unusual := v != usualOptions[o.Name] && o.Flags&soccr.FlagAuto == 0 ||
			o.Name == "SO_SNDBUF" && c.Options["SO_BUF_LOCK"]&1 != 0 ||
			o.Name == "SO_RCVBUF" && c.Options["SO_BUF_LOCK"]&2 != 0
		if ok && (all || unusual) {
			texts = append(texts, o.Name+" "+optionValue(o.Kind, v))
		}
	}
	return texts
}

// optionValue writes a value with its unit, where the kind has one.
func optionValue(kind soccr.Kind, v int64) string {
	switch {
	case kind == soccr.KindTimeval && v != 0:
		return (time.Duration(v) * time.Microsecond).String()
	case kind == soccr.KindLinger && v >= 0:
		return fmt.Sprintf("%d seconds", v)
	}
	return strconv.FormatInt(v, 10)
}

// lostTexts says what a restored connection lacks.
func lostTexts(c *soccr.Conn) []string {
	texts := append([]string(nil), c.Info.Lost...)
	var anew []string
	if c.Info.SndCwnd != 0 {
		anew = append(anew, fmt.Sprintf("a congestion window of %s", count(c.Info.SndCwnd, "segment")))
	}
	if c.Info.RTT != 0 {
		anew = append(anew, fmt.Sprintf("a round trip of %s", c.Info.RTT))
	}
	if len(anew) > 0 {
		texts = append(texts, strings.Join(anew, " and ")+", found out anew")
	}
	return texts
}

// writeQueue writes a hexdump of the first bytes of a queue.
func writeQueue(w io.Writer, name string, queue []byte, most int) error {
	shown := firstBytes(queue, most)
	if len(shown) == 0 {
		return nil
	}
	title := fmt.Sprintf("  %s, all %d bytes:\n", name, len(queue))
	if len(shown) < len(queue) {
		title = fmt.Sprintf("  %s, the first %d of %d bytes:\n", name, len(shown), len(queue))
	}
	text := strings.ReplaceAll(strings.TrimRight(hex.Dump(shown), "\n"), "\n", "\n  ")
	_, err := io.WriteString(w, title+"  "+text+"\n")
	return err
}

// firstBytes returns what inspectOptions.Bytes allows.
func firstBytes(queue []byte, most int) []byte {
	if most < 0 || most > len(queue) {
		return queue
	}
	return queue[:most]
}
