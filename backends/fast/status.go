package fast

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/stackfs/stackfs/stacknode"
	"github.com/stackfs/stackfs/stacknode/uapi"
)

// Describe implements stacknode.Describer: how connections are saved, what
// engine serves, and the listeners with their workers. What the workers wrote
// to their page is shown as they wrote it.
func (f *Fast) Describe() []stacknode.Line {
	lines := append(f.Stack.Describe(),
		stacknode.Line{Key: "engine", Value: "reuseport"},
		stacknode.Line{Key: "migrate", Value: f.migrate.how},
		stacknode.Line{Key: "tags", Value: f.describeTags()},
		stacknode.Line{Key: "spawn", Value: fmt.Sprint(f.spec.Fast.Spawn)})
	groups := f.all()
	slices.SortFunc(groups, func(a, b *group) int {
		return cmp.Or(a.address().Compare(b.address()), cmp.Compare(a.origin.cookie, b.origin.cookie))
	})
	for _, g := range groups {
		lines = append(lines, g.describe()...)
	}
	return lines
}

// describeTags says whether connections of this stack are told from those of
// the stack kernel.
func (f *Fast) describeTags() string {
	if f.tags == nil {
		return "no"
	}
	if err := f.tags.Check(); err != nil {
		return fmt.Sprintf("no (bpf: %v): its connections are listed as the kernel's", err)
	}
	return "bpf"
}

// steering says what a reason of a page means.
var steering = map[uint32]string{
	uapi.SteerNone:     "off (fewer than two workers)",
	uapi.SteerBalanced: "on",
	uapi.SteerSkewed:   "off (most connections arrive on few CPUs)",
	uapi.SteerOff:      "off (spawn mode 0, or no worker has a CPU)",
}

func (g *group) describe() []stacknode.Line {
	head, slots := g.page.headView(), g.page.slotViews()
	var local, remote uint64
	for _, s := range slots {
		local, remote = local+s.local, remote+s.remote
	}
	why, known := steering[head.reason]
	if !known {
		why = "unknown"
	}
	text := fmt.Sprintf("%s uid=%d workers=%d local=%d remote=%d shared=%d local_share=%s steering=%s",
		g.address(), g.origin.uid, head.workers, local, remote, head.shared, share(local, remote, head.shared), why)
	if head.since > 0 && head.reason != uapi.SteerNone {
		text += fmt.Sprintf(", for %v", head.since.Round(time.Second))
	}
	lines := []stacknode.Line{{Key: "listener", Value: text}}
	for _, s := range slots {
		lines = append(lines, stacknode.Line{Key: "cpu", Value: s.describe(g)})
	}
	if w := g.watched(); w != "" {
		lines = append(lines, stacknode.Line{Key: "note", Value: fmt.Sprintf("%s %s", g.address(), w)})
	}
	return lines
}

func (s slotView) describe(g *group) string {
	var flags []string
	if s.flags&uapi.SlotTagged != 0 {
		flags = append(flags, "tagged")
	}
	if s.flags&uapi.SlotPinned != 0 {
		flags = append(flags, "pinned")
	}
	if len(flags) == 0 {
		flags = append(flags, "-")
	}
	return fmt.Sprintf("%d %s tid=%d %s local=%d remote=%d arrived=%d", s.cpu, g.address(), s.tid, strings.Join(flags, ","), s.local, s.remote, s.arrived)
}

// share is the percentage of local ones among all. The numbers are anybody's,
// so their sum need not fit.
func share(local uint64, others ...uint64) string {
	whole := float64(local)
	for _, n := range others {
		whole += float64(n)
	}
	if whole == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f%%", 100*float64(local)/whole)
}
