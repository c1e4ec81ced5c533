package netns

import "strconv"

// Busy implements stacknode.Busier.
//
// A program under stackfs run always counts; an idle channel never does,
// since libraries keep theirs for a next socket. Beyond that it depends on
// what ends with the stack:
//   - its namespace was made with it: every socket and process in it counts;
//   - stackfs has changed somebody else's namespace, which will be taken
//     back: sockets count;
//   - nothing: the sockets are no worse off without the stack.
func (n *Netns) Busy() ([]string, error) {
	var reasons []string
	if _, runs := n.w.Counts(); runs > 0 {
		reasons = append(reasons, count(runs, "program")+" of stackfs run")
	}
	if !n.made && !n.changed {
		return reasons, nil
	}
	sockets, err := socketsInUse(n.w.Do)
	if err != nil {
		return nil, err
	}
	if sockets > 0 {
		reasons = append(reasons, count(sockets, "socket"))
	}
	if n.made {
		id, _ := n.w.NetNS()
		procs, err := processesIn(id)
		if err != nil {
			return nil, err
		}
		reasons = append(reasons, procs...)
	}
	return reasons, nil
}

// count returns "1 socket", "2 sockets".
func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return strconv.Itoa(n) + " " + what
}
