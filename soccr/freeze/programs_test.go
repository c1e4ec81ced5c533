package freeze

import (
	"fmt"
	"testing"
	"time"

	"github.com/stackfs/stackfs/fstests"
)

// Programs whose runtime waits in many ways notice nothing.
func TestProgramsUnderStorm(t *testing.T) {
	fstests.Require(t, fstests.Root)
	for _, test := range []struct {
		name    string
		need    fstests.Need
		command func() []string
	}{
		{"go", fstests.Program("go"), func() []string { return []string{fstests.GoBuild(t, "testdata/goroutines")} }},
		{"python", fstests.Program("python3"), func() []string { return []string{"python3", "testdata/loop.py"} }},
	} {
		t.Run(test.name, func(t *testing.T) {
			fstests.Require(t, test.need)
			p := launch(t, test.command()...)
			stop := storm(t, New(nil, nil), p)
			out := p.output(20 * time.Second)
			n := stop()
			var echoes, ticks, waits int
			if _, err := fmt.Sscanf(out, "ok %d %d %d", &echoes, &ticks, &waits); err != nil {
				t.Fatalf("it says %q", out)
			}
			if n < fstests.Scale(30) || echoes < 50 || ticks < 50 || waits < 20 {
				t.Errorf("%d freezes, it says %s", n, out)
			}
			t.Logf("%d freezes; %s", n, out)
		})
	}
}
