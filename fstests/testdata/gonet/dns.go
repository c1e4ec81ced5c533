package main

import (
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/net/dns/dnsmessage"
)

// serveDNS ADDRESS ANSWER: a name server that knows every name, at ANSWER,
// and prints the names that it is asked for.
func serveDNS(args []string) error {
	answer := netip.MustParseAddr(args[1]).As4()
	conn, err := net.ListenPacket("udp", args[0])
	if err != nil {
		return err
	}
	fmt.Println("ready")
	b := make([]byte, 1500)
	for {
		n, from, err := conn.ReadFrom(b)
		if err != nil {
			return err
		}
		var m dnsmessage.Message
		if err := m.Unpack(b[:n]); err != nil || len(m.Questions) != 1 {
			fmt.Println("garbage")
			continue
		}
		q := m.Questions[0]
		fmt.Println(q.Name)
		m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
		if q.Type == dnsmessage.TypeA {
			m.Answers = []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 600},
				Body:   &dnsmessage.AResource{A: answer},
			}}
		}
		reply, err := m.Pack()
		if err != nil {
			return err
		}
		if _, err := conn.WriteTo(reply, from); err != nil {
			return err
		}
	}
}
