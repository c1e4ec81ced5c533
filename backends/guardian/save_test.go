package guardian

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stackfs/stackfs/soccr"
)

// How often a busy connection is saved, with each of the programs; less often
// where that takes too long.
const (
	saves      = 125
	fewerSaves = 40
	savesTime  = 8 * time.Second
)

// A busy connection is saved again and again; the programs at its ends notice
// nothing of it but a pause.
func TestBusyConnection(t *testing.T) {
	for _, name := range []string{"block", "epoll", "go", "asyncio"} {
		t.Run(name, func(t *testing.T) {
			argv := exchanger(t, name)
			c, log := startClient(t)
			e := connect(t, argv, "size=16384", "buf=131072")
			e.begin()
			start, done := time.Now(), 0
			for i := range saves {
				if i >= fewerSaves && time.Since(start) > savesTime {
					break
				}
				conn, err := c.Save(context.Background(), e.request)
				if err != nil {
					t.Fatalf("save %d: %v", i, err)
				}
				if err := consistent(conn); err != nil {
					t.Fatalf("save %d: %v", i, err)
				}
				done++
			}
			took := time.Since(start)
			unharmed(t, e.owner())
			server, client := e.end()
			gap := time.Duration(max(server.MaxGapUS, client.MaxGapUS)) * time.Microsecond
			t.Logf("%d saves in %v; %s; longest stall %v", done, took.Round(time.Millisecond), stood(log.String()), gap)
		})
	}
}

func consistent(c *soccr.Conn) error {
	if int(c.InqLen) != len(c.Recv) || int(c.OutqLen) != len(c.Send) || c.State != soccr.Established {
		return fmt.Errorf("state %v, lengths %d and %d, bytes %d and %d", c.State, c.InqLen, c.OutqLen, len(c.Recv), len(c.Send))
	}
	if c.Options["SO_REUSEADDR"] != 1 || len(c.Info.Lost) != 1 || c.Meta.Method != "repair" {
		return fmt.Errorf("SO_REUSEADDR %d, lost %q, method %s", c.Options["SO_REUSEADDR"], c.Info.Lost, c.Meta.Method)
	}
	return nil
}

// stood sums up what the client logged of the times that owners stood still.
func stood(log string) string {
	var total, longest time.Duration
	n := 0
	for line := range strings.Lines(log) {
		_, value, ok := strings.Cut(strings.TrimSpace(line), "stood=")
		if !ok {
			continue
		}
		d, err := time.ParseDuration(value)
		if err != nil {
			continue
		}
		n++
		total += d
		longest = max(longest, d)
	}
	if n == 0 {
		return "no times"
	}
	return fmt.Sprintf("owner stood still for %v on average, %v at most", total/time.Duration(n), longest)
}
