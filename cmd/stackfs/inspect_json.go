package main

import (
	"encoding/hex"
	"encoding/json"
	"io"
	"net/netip"
	"syscall"
	"time"

	"github.com/stackfs/stackfs/soccr"
	"github.com/stackfs/stackfs/soccr/image"
)

// The objects of stackfs inspect --json, which stackfs(8) describes.
type (
	jsonImage struct {
		File   string `json:"file"`
		Error  string `json:"error,omitempty"`
		Format int    `json:"format,omitempty"`
		Size   int    `json:"size,omitempty"`
		*jsonConn
		Saved *jsonSaved `json:"saved,omitempty"`
		Seal  *jsonSeal  `json:"seal,omitempty"`
	}

	jsonConn struct {
		State      string           `json:"state,omitempty"`
		Family     string           `json:"family,omitempty"`
		Local      string           `json:"local,omitempty"`
		Remote     string           `json:"remote,omitempty"`
		Shutdown   []string         `json:"shutdown"`
		Receive    jsonQueue        `json:"receive"`
		Send       jsonSendQueue    `json:"send"`
		Negotiated jsonNegotiated   `json:"negotiated"`
		Window     *jsonWindow      `json:"window,omitempty"`
		Options    map[string]int64 `json:"options"`
		Congestion string           `json:"congestion,omitempty"`
		Device     string           `json:"device,omitempty"`
		Info       jsonInfo         `json:"info"`
		Lost       []string         `json:"lost"`
	}

	jsonQueue struct {
		Bytes uint32 `json:"bytes"`
		Next  uint32 `json:"next"`
		Data  []byte `json:"data,omitempty"`
	}

	jsonSendQueue struct {
		jsonQueue
		Unsent uint32 `json:"unsent"`
	}

	jsonNegotiated struct {
		MSS        uint32  `json:"mss"`
		SndWscale  *uint32 `json:"snd_wscale,omitempty"`
		RcvWscale  *uint32 `json:"rcv_wscale,omitempty"`
		SACK       bool    `json:"sack"`
		Timestamps bool    `json:"timestamps"`
		Timestamp  uint32  `json:"timestamp"`
		ECN        bool    `json:"ecn"`
		Mask       uint32  `json:"mask"`
	}

	jsonWindow struct {
		SndWl1    uint32 `json:"snd_wl1"`
		SndWnd    uint32 `json:"snd_wnd"`
		MaxWindow uint32 `json:"max_window"`
		RcvWnd    uint32 `json:"rcv_wnd"`
		RcvWup    uint32 `json:"rcv_wup"`
	}

	jsonInfo struct {
		SndCwnd     uint32 `json:"snd_cwnd"`
		SndSsthresh uint32 `json:"snd_ssthresh"`
		RTT         int64  `json:"rtt_us"`
		RTTVar      int64  `json:"rttvar_us"`
		Retransmits uint32 `json:"retransmits"`
	}

	jsonSaved struct {
		Cookie  uint64     `json:"cookie,omitempty"`
		Inode   uint64     `json:"inode,omitempty"`
		UID     *uint32    `json:"uid,omitempty"`
		Time    *time.Time `json:"time,omitempty"`
		Live    bool       `json:"live"`
		Method  string     `json:"method,omitempty"`
		NetNS   uint64     `json:"netns_cookie,omitempty"`
		Stack   string     `json:"stack,omitempty"`
		Version string     `json:"version,omitempty"`
	}

	jsonSeal struct {
		UID    uint32 `json:"uid"`
		BootID string `json:"boot_id"`
		NetNS  uint64 `json:"netns_cookie"`
		Stack  string `json:"stack"`
		Nonce  string `json:"nonce"`
	}
)

// writeInspectJSON writes an array with an object for each connection.
func writeInspectJSON(w io.Writer, list []inspected, opts inspectOptions) error {
	objects := make([]jsonImage, len(list))
	for i := range list {
		objects[i] = inspectObject(&list[i], opts)
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(objects)
}

func inspectObject(i *inspected, opts inspectOptions) jsonImage {
	o := jsonImage{File: i.File}
	if i.Conn == nil {
		o.Error = i.Err.Error()
		return o
	}
	o.jsonConn = connObject(i.Conn, opts)
	if i.Image != nil {
		o.Size = i.Image.Size
	}
	if i.Image != nil && i.Image.Foreign {
		return o
	}
	m := &i.Conn.Meta
	o.Saved = &jsonSaved{Cookie: m.Cookie, Inode: m.Inode, Live: m.Live, Method: m.Method, NetNS: m.NetNS, Stack: m.Stack, Version: m.Version}
	if !m.Time.IsZero() {
		o.Saved.Time = &m.Time
	}
	if i.Image != nil {
		o.Format = image.Format
		o.Saved.UID = &m.UID
		o.Seal = sealObject(i.Image.Seal)
	}
	return o
}

func sealObject(s *image.Seal) *jsonSeal {
	if s == nil {
		return nil
	}
	return &jsonSeal{UID: s.UID, BootID: uuid(s.BootID), NetNS: s.NetNS, Stack: s.Stack, Nonce: hex.EncodeToString(s.Nonce[:])}
}

func connObject(c *soccr.Conn, opts inspectOptions) *jsonConn {
	o := &jsonConn{
		Local:    validAddress(c.Local),
		Remote:   validAddress(c.Remote),
		Shutdown: shutdownNames(c.Shutdown),
		Receive:  jsonQueue{c.InqLen, c.InqSeq, firstBytes(c.Recv, opts.Bytes)},
		Send:     jsonSendQueue{jsonQueue{c.OutqLen, c.OutqSeq, firstBytes(c.Send, opts.Bytes)}, c.UnsqLen},
		Negotiated: jsonNegotiated{
			MSS:        c.MSSClamp,
			SACK:       c.OptMask&soccr.OptSACK != 0,
			Timestamps: c.OptMask&soccr.OptTimestamps != 0,
			Timestamp:  c.Timestamp,
			ECN:        c.OptMask&soccr.OptECN != 0,
			Mask:       c.OptMask,
		},
		Options:    c.Options,
		Congestion: c.Congestion,
		Device:     c.Device,
		Info: jsonInfo{
			SndCwnd:     c.Info.SndCwnd,
			SndSsthresh: c.Info.SndSsthresh,
			RTT:         c.Info.RTT.Microseconds(),
			RTTVar:      c.Info.RTTVar.Microseconds(),
			Retransmits: c.Info.Retransmits,
		},
		Lost: append([]string{}, c.Info.Lost...),
	}
	if c.State != 0 {
		o.State = c.State.String()
	}
	switch c.Family {
	case syscall.AF_INET:
		o.Family = "inet"
	case syscall.AF_INET6:
		o.Family = "inet6"
	}
	if c.OptMask&soccr.OptWscale != 0 {
		o.Negotiated.SndWscale, o.Negotiated.RcvWscale = &c.SndWscale, &c.RcvWscale
	}
	if c.HasWindow {
		o.Window = &jsonWindow{c.SndWl1, c.SndWnd, c.MaxWindow, c.RcvWnd, c.RcvWup}
	}
	return o
}

// validAddress is empty for an address that is not known.
func validAddress(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}
