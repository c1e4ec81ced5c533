package fstests

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// serveDNS answers queries for the names in zone ("host.example.") on conn
// until the test ends; other names do not exist.
func serveDNS(t *testing.T, conn net.PacketConn, zone map[string]netip.Addr) {
	t.Helper()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		b := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			if reply := answerDNS(b[:n], zone); reply != nil {
				_, _ = conn.WriteTo(reply, from)
			}
		}
	}()
	t.Cleanup(func() {
		conn.Close()
		select {
		case <-ended:
		case <-time.After(ScaleTime(5 * time.Second)):
			t.Error("the name server does not end")
		}
	})
}

// answerDNS makes the answer to a query of one question: RFC 1035.
func answerDNS(query []byte, zone map[string]netip.Addr) []byte {
	const header = 12
	if len(query) < header {
		return nil
	}
	var labels []string
	at := header
	for at < len(query) && query[at] != 0 {
		end := at + 1 + int(query[at])
		if end > len(query) {
			return nil
		}
		labels = append(labels, string(query[at+1:end]))
		at = end
	}
	if at+5 > len(query) {
		return nil
	}
	qtype := binary.BigEndian.Uint16(query[at+1:])
	question := query[header : at+5]
	addr, known := zone[strings.ToLower(strings.Join(labels, "."))+"."]

	flags := uint16(0x8580) // an answer, with authority
	if !known {
		flags |= 3 // NXDOMAIN
	}
	var record []byte
	if known && (qtype == 1 && addr.Is4() || qtype == 28 && addr.Is6()) {
		record = append(record, 0xc0, header) // the name of the question
		record = binary.BigEndian.AppendUint16(record, qtype)
		record = binary.BigEndian.AppendUint16(record, 1)  // IN
		record = binary.BigEndian.AppendUint32(record, 60) // seconds
		record = binary.BigEndian.AppendUint16(record, uint16(len(addr.AsSlice())))
		record = append(record, addr.AsSlice()...)
	}
	reply := append([]byte(nil), query[:2]...)
	reply = binary.BigEndian.AppendUint16(reply, flags)
	reply = append(reply, 0, 1, 0, min(1, byte(len(record))), 0, 0, 0, 0)
	reply = append(reply, question...)
	return append(reply, record...)
}
