package netns

import (
	"bytes"
	"fmt"
	"os"
	"strconv"

	"github.com/stackfs/stackfs/stacknode"
)

// maxNamed is how many processes Busy names before it counts the rest.
const maxNamed = 4

// processesIn returns the processes in the namespace id as reasons:
// "process 71 (sleep)". The daemon itself does not count. Those that end
// while we look are left out.
func processesIn(id stacknode.NSID) ([]string, error) {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer proc.Close()
	names, err := proc.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	want := fmt.Sprintf("net:[%d]", id.Ino)
	self := os.Getpid()
	var reasons []string
	more := 0
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid == self {
			continue
		}
		if ns, err := os.Readlink("/proc/" + name + "/ns/net"); err != nil || ns != want {
			continue
		}
		if len(reasons) == maxNamed {
			more++
			continue
		}
		comm, err := os.ReadFile("/proc/" + name + "/comm")
		if err != nil {
			continue
		}
		reasons = append(reasons, fmt.Sprintf("process %d (%s)", pid, bytes.TrimRight(comm, "\n")))
	}
	switch {
	case more == 1:
		reasons = append(reasons, "1 more process")
	case more > 1:
		reasons = append(reasons, fmt.Sprintf("%d more processes", more))
	}
	return reasons, nil
}
