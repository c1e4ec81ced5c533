package snapshot

import (
	"fmt"
	"syscall"

	"github.com/stackfs/stackfs/soccr"
)

var (
	// ErrQueue: the bytes of a queue were not as the sequence numbers tell,
	// or could not be read. Nothing of it is returned.
	ErrQueue = fmt.Errorf("the queue is not as it should be: %w", syscall.EIO)
	// ErrStuck: the owner of a socket in the namespace keeps its lock, which
	// the iterator waits for.
	ErrStuck = fmt.Errorf("a socket in the namespace is locked by its owner: %w", syscall.ETIMEDOUT)
	// ErrClosed: the Snapshotter was closed.
	ErrClosed = fmt.Errorf("the snapshotter is closed: %w", syscall.ENODEV)
)

// failure returns the error that a slot tells of, nil if the connection was
// taken. Whether it may be in repair mode is for the caller to know.
func (o *bpfSlot) failure() error {
	switch o.Status {
	case bpfStatusTAKEN:
		return nil
	case bpfStatusUNSEEN:
		return soccr.ErrNotFound
	case bpfStatusMINI:
		if soccr.State(o.State) == soccr.TimeWait {
			return soccr.ErrEnded
		}
		return unsaveable("in state " + soccr.State(o.State).String())
	case bpfStatusREFUSED:
		return o.refusal()
	case bpfStatusNO_ROOM:
		return unsaveable(fmt.Sprintf("%d bytes in its queues, more than %d", o.queued(), int64(largestQueues)))
	case bpfStatusFAILED:
		if o.Failure == bpfFailureFOREIGN {
			return unsaveable("bytes that are not in the host's memory")
		}
		return fmt.Errorf("%s: %w", failureNames[o.Failure], ErrQueue)
	}
	return fmt.Errorf("slot with status %d: %w", o.Status, ErrQueue)
}

var failureNames = map[bpfFailure]string{
	bpfFailureUNREADABLE:     "a buffer cannot be read",
	bpfFailureNESTED:         "a list of buffers in a list of buffers",
	bpfFailureGAP:            "bytes are missing between two buffers",
	bpfFailureTOO_LONG:       "more bytes than sequence numbers",
	bpfFailureTOO_SHORT:      "fewer bytes than sequence numbers",
	bpfFailureBAD_PIECES:     "a buffer is not as long as its pieces",
	bpfFailureNO_ARENA:       "the arena ended too early",
	bpfFailureNOT_CALIBRATED: "the known bytes were not found in memory",
}

// refusal names the reason that says most. A listener or an MPTCP subflow
// has others too.
func (o *bpfSlot) refusal() error {
	has := func(r bpfRefusal) bool { return o.Refused&(1<<r) != 0 }
	switch state := soccr.State(o.State); {
	case state == soccr.Listen:
		return unsaveable("a listener is not a connection")
	case has(bpfRefusalMPTCP):
		return unsaveable("MPTCP")
	case has(bpfRefusalSTATE):
		return unsaveable("in state " + state.String())
	case has(bpfRefusalULP):
		switch name := cString(o.Ulp[:]); name {
		case "tls":
			return unsaveable("kTLS")
		case "mptcp": // a peer without MPTCP
			return unsaveable("MPTCP")
		default:
			return unsaveable("upper layer protocol " + name)
		}
	case has(bpfRefusalMD5):
		return unsaveable("TCP-MD5 signatures")
	case has(bpfRefusalAO):
		return unsaveable("TCP-AO signatures")
	case has(bpfRefusalURGENT):
		return unsaveable("1 byte of urgent data") // TCP has never more than one
	case has(bpfRefusalURGENT_SENT):
		return unsaveable("urgent data that was sent and is not acknowledged")
	case has(bpfRefusalSOCKMAP):
		return unsaveable("its data goes through BPF (sockmap)")
	case has(bpfRefusalSYN_DATA):
		return unsaveable("data in the SYN (TCP Fast Open)")
	}
	return unsaveable(fmt.Sprintf("refused (%#x)", o.Refused))
}

func unsaveable(reason string) error { return &soccr.UnsaveableError{Reason: reason} }

// cString returns what is before the first NUL.
func cString(s []int8) string {
	b := make([]byte, 0, len(s))
	for _, c := range s {
		if c == 0 {
			break
		}
		b = append(b, byte(c))
	}
	return string(b)
}
