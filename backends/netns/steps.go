package netns

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/stackfs/stackfs/stacknode"
)

// Operations of steps.
const (
	opUp     = "up"     // bring Link up
	opUplink = "uplink" // make the link that connects the namespace
	opAddr   = "addr"   // set the address Prefix on Link
	opRoute  = "route"  // add Route
	opSysctl = "sysctl" // set Key to Value
)

// A step is one change of a namespace. Two steps that are equal but for
// Found are the same change.
type step struct {
	Op       string
	Link     string          `json:",omitzero"`
	Prefix   netip.Prefix    `json:",omitzero"`
	Route    stacknode.Route `json:",omitzero"`
	Uplink   uplink          `json:",omitzero"`
	Key      string          `json:",omitzero"` // path below /proc/sys
	Value    string          `json:",omitzero"`
	Optional bool            `json:",omitzero"` // no error if Key does not exist
	Forget   bool            `json:",omitzero"` // goes with the namespace, not written down
	Found    found           `json:",omitzero"`
}

// found is what a step saw or chose when it was done.
type found struct {
	Old       string `json:",omitzero"` // value of the sysctl before
	HostName  string `json:",omitzero"` // the uplink's end on the host
	HostIndex int    `json:",omitzero"`
	Index     int    `json:",omitzero"` // of the uplink in the namespace
}

// ops says how steps are done. done tells whether the step is in effect; prev is
// the step as it was written down by an earlier daemon, or nil. make does
// the step or, when it fails, nothing. undo takes it back and is content
// if it is gone.
var ops = map[string]struct {
	done func(sp *space, st, prev *step) (bool, error)
	make func(sp *space, st *step) error
	undo func(sp *space, st *step) error
}{
	opUp:     {upDone, upMake, upUndo},
	opUplink: {uplinkDone, uplinkMake, uplinkUndo},
	opAddr:   {addrDone, addrMake, addrUndo},
	opRoute:  {routeDone, routeMake, routeUndo},
	opSysctl: {sysctlDone, sysctlMake, sysctlUndo},
}

func (s step) same(t step) bool {
	s.Found, t.Found = found{}, found{}
	return s == t
}

// plan returns the steps that the options of spec ask for, in order.
//
// lo is brought up in a namespace that we make, and where addresses go on
// it; otherwise the lo of somebody else's namespace is none of our business.
func plan(spec stacknode.Spec, runDir string) []step {
	s := spec.Netns
	link := "lo"
	if s.Uplink != nil {
		link = uplinkName(s.Uplink)
	}
	early, late := sysctlSteps(s, link)

	steps := early
	if !s.LoDown && (makes(s) || link == "lo" && len(s.Addresses) > 0) {
		steps = append(steps, step{Op: opUp, Link: "lo", Forget: makes(s)})
	}
	if s.Uplink != nil {
		steps = append(steps, step{Op: opUplink, Uplink: uplinkOf(s.Uplink, runDir, spec.Name)})
	}
	steps = append(steps, late...)
	for _, p := range s.Addresses {
		steps = append(steps, step{Op: opAddr, Link: link, Prefix: p})
	}
	for _, r := range s.Routes {
		if r.Dev == "" && s.Uplink != nil {
			r.Dev = link
		}
		r.To = r.To.Masked()
		steps = append(steps, step{Op: opRoute, Route: r})
	}
	return steps
}

// sysctlSteps returns the sysctls, sorted by key: those that are there from
// the start, and those that come with the link.
func sysctlSteps(s stacknode.NetnsSpec, link string) (early, late []step) {
	if s.NoMPTCP {
		early = append(early, step{Op: opSysctl, Key: mptcpEnabled, Value: "0", Optional: true})
	}
	for _, key := range slices.Sorted(maps.Keys(s.Sysctl)) {
		p, _ := sysctlPath(key) // Check has seen it
		st := step{Op: opSysctl, Key: p, Value: s.Sysctl[key]}
		if s.Uplink != nil && sysctlNames(p, link) {
			late = append(late, st)
		} else {
			early = append(early, st)
		}
	}
	return early, late
}

// applySteps makes the namespace be as want says. What an earlier daemon
// did and is not wanted any more is taken back first. When a step fails,
// those that this call did are undone, the last one first.
func applySteps(sp *space, j *journal, want []step) (err error) {
	if err := j.dropStale(sp, want); err != nil {
		return err
	}
	var did []step
	defer func() {
		if err == nil {
			return
		}
		for _, st := range slices.Backward(did) {
			err = errors.Join(err, ops[st.Op].undo(sp, &st), j.remove(st))
		}
	}()
	for _, st := range want {
		op := ops[st.Op]
		done, err := op.done(sp, &st, j.find(st))
		if err != nil {
			return err
		}
		if done {
			if err := j.update(st); err != nil {
				return err
			}
			continue
		}
		if err := j.put(st); err != nil {
			return err
		}
		if err := op.make(sp, &st); err != nil {
			return errors.Join(err, j.remove(st))
		}
		did = append(did, st)
		if err := j.update(st); err != nil {
			return err
		}
	}
	return nil
}

// String names the step in errors.
func (s step) String() string {
	switch s.Op {
	case opAddr:
		return fmt.Sprintf("address %v on %s", s.Prefix, s.Link)
	case opRoute:
		words := []string{"route to", s.Route.To.String()}
		if s.Route.Via.IsValid() {
			words = append(words, "via", s.Route.Via.String())
		}
		if s.Route.Dev != "" {
			words = append(words, "dev", s.Route.Dev)
		}
		return strings.Join(words, " ")
	case opUplink:
		return s.Uplink.Type + " " + s.Uplink.Name
	}
	return s.Op + " " + s.Link + s.Key
}
