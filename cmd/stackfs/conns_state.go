package main

import (
	"fmt"
	"strings"
)

// A stateSet has one bit for each TCP state, by the kernel's number
// (include/net/tcp_states.h).
type stateSet uint32

// States by the names of soccr.State, which are those of ss(8).
const (
	stEstablished stateSet = 1 << (1 + iota)
	stSynSent
	stSynRecv
	stFinWait1
	stFinWait2
	stTimeWait
	stClose
	stCloseWait
	stLastAck
	stListen
	stClosing
	stNewSynRecv
	stOther // a name that is none of these
)

// Sets of states, as ss(8) has them.
const (
	stAll    stateSet = 1<<32 - 1
	stBucket          = stSynRecv | stNewSynRecv | stTimeWait
	// stConns is what there is without any flag: open connections.
	stConns        = stAll &^ (stListen | stClose | stBucket)
	stConnected    = stAll &^ (stListen | stClose)
	stSynchronized = stConnected &^ stSynSent
	stBig          = stAll &^ stBucket
	// stSaveable is soccr.State.Saveable.
	stSaveable = stEstablished | stSynSent | stFinWait1 | stFinWait2 | stClose | stCloseWait | stLastAck | stClosing
)

// stateOf returns the bit of a state as the file connections names it.
func stateOf(name string) stateSet {
	switch name {
	case "established":
		return stEstablished
	case "syn-sent":
		return stSynSent
	case "syn-recv":
		return stSynRecv
	case "fin-wait-1":
		return stFinWait1
	case "fin-wait-2":
		return stFinWait2
	case "time-wait":
		return stTimeWait
	case "close":
		return stClose
	case "close-wait":
		return stCloseWait
	case "last-ack":
		return stLastAck
	case "listen":
		return stListen
	case "closing":
		return stClosing
	case "new-syn-recv":
		return stNewSynRecv
	}
	return stOther
}

// stateWords are the further words that --state takes.
var stateWords = map[string]stateSet{
	"all": stAll, "connected": stConnected, "synchronized": stSynchronized, "bucket": stBucket, "big": stBig,
	"estab": stEstablished, "listening": stListen, "closed": stClose, "unconnected": stClose,
	"fin-wait1": stFinWait1, "fin-wait2": stFinWait2, "syn-rcv": stSynRecv,
}

// parseStates reads lists of states and groups of them, in either case.
func parseStates(lists []string) (stateSet, error) {
	var set stateSet
	for _, list := range lists {
		for word := range strings.SplitSeq(list, ",") {
			word = strings.ToLower(strings.TrimSpace(word))
			bits, ok := stateWords[word]
			if !ok {
				if bits = stateOf(word); bits == stOther {
					return 0, fmt.Errorf("unknown state %q%s", word, didYouMean(word, stateNames()))
				}
			}
			set |= bits
		}
	}
	return set, nil
}

// stateNames are the words of --state that help and completion show.
func stateNames() []string {
	return []string{
		"established", "syn-sent", "syn-recv", "fin-wait-1", "fin-wait-2", "time-wait", "close", "close-wait", "last-ack",
		"listen", "closing", "all", "connected", "synchronized", "bucket", "big",
	}
}
