package soccr

import (
	"flag"
	"os"
	"testing"
)

// Most of these tests wait for retransmission timeouts of their own
// namespace: many at a time cost nothing.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "16"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}
