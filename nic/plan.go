package nic

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const (
	flowEntries  = 32768 // of RFS, for the whole machine; a power of two
	rxUsecs      = 333   // between interrupts, microseconds: as nic.sh
	sockFlowFile = "/proc/sys/net/core/rps_sock_flow_entries"
)

// Options say what is to be set up.
type Options struct {
	CPUs                   []int // nil: all that are online
	NoIRQ, NoRPS, NoXPS    bool
	NoChannels, NoCoalesce bool
}

// A System is where an interface is. The zero Root is the machine.
type System struct {
	Root    string  // in front of /sys and /proc
	Ethtool Ethtool // nil: nothing is done by ethtool
}

// An Ethtool asks and tells the driver. Errors that wrap
// errors.ErrUnsupported or EOPNOTSUPP mean that the driver cannot.
type Ethtool interface {
	Channels(iface string) (now, most int, err error)
	SetChannels(iface string, n int) error
	RxUsecs(iface string) (int, error)
	SetRxUsecs(iface string, n int) error
}

// Names that stand for what ethtool sets, in place of files.
const (
	whatChannels = "ethtool:channels"
	whatRxUsecs  = "ethtool:rx-usecs"
)

// A Change is one setting. What is a file, or one of ethtool's.
type Change struct {
	What, Before, After string
	Failed              string // why it cannot be set
}

// machine is an interface with what it depends on.
type machine struct {
	sys   System
	iface string
	opts  Options
	cpus  []int
	rx    []string // directories of queues, in the order of their numbers
	tx    []string
}

func (s System) path(name string) string { return filepath.Join(s.Root, name) }

func (s System) read(name string) (string, error) {
	b, err := os.ReadFile(s.path(name))
	return strings.TrimSpace(string(b)), err
}

// look finds out what there is.
func (s System) look(iface string, opts Options) (*machine, error) {
	m := &machine{sys: s, iface: iface, opts: opts}
	dir := "/sys/class/net/" + iface
	if strings.ContainsRune(iface, '/') || iface == "" || iface == "." || iface == ".." {
		return nil, fmt.Errorf("%q is no name of an interface", iface)
	}
	if _, err := os.Stat(s.path(dir)); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("there is no interface %s (ip -brief link shows them): %w", iface, fs.ErrNotExist)
		}
		return nil, err
	}
	online, err := s.read("/sys/devices/system/cpu/online")
	if err != nil {
		return nil, err
	}
	all, err := ParseList(online)
	if err != nil {
		return nil, err
	}
	m.cpus = all
	if opts.CPUs != nil {
		m.cpus = opts.CPUs
		for _, cpu := range opts.CPUs {
			if !slices.Contains(all, cpu) {
				return nil, fmt.Errorf("CPU %d is not online (%s are)", cpu, online)
			}
		}
	}
	m.rx, m.tx = s.queues(dir, "rx-"), s.queues(dir, "tx-")
	return m, nil
}

// queues lists the directories of an interface's queues.
func (s System) queues(dir, prefix string) []string {
	entries, err := os.ReadDir(s.path(dir + "/queues"))
	if err != nil {
		return nil
	}
	var list []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) {
			list = append(list, dir+"/queues/"+e.Name())
		}
	}
	number := func(path string) int {
		n, _ := strconv.Atoi(path[strings.LastIndexByte(path, '-')+1:])
		return n
	}
	slices.SortFunc(list, func(a, b string) int { return cmp.Compare(number(a), number(b)) })
	return list
}

// channels plans the number of queues: one for each CPU if there can be so
// many.
func (m *machine) channels() []Change {
	if m.sys.Ethtool == nil || m.opts.NoChannels {
		return nil
	}
	now, most, err := m.sys.Ethtool.Channels(m.iface)
	if err != nil {
		return []Change{{What: whatChannels, Failed: err.Error()}}
	}
	return change(whatChannels, strconv.Itoa(now), strconv.Itoa(max(1, min(most, len(m.cpus)))))
}

// change is nothing if it would change nothing.
func change(what, before, after string) []Change {
	if before == after {
		return nil
	}
	return []Change{{What: what, Before: before, After: after}}
}

// steering plans everything but the number of queues.
func (m *machine) steering() (list []Change, notes []string) {
	irqs := m.irqs()
	if !m.opts.NoIRQ {
		for i, irq := range irqs {
			file := fmt.Sprintf("/proc/irq/%d/smp_affinity_list", irq)
			list = append(list, m.file(file, strconv.Itoa(m.cpus[i%len(m.cpus)]), func(a, b string) bool { return a == b })...)
		}
		if len(irqs) == 0 {
			notes = append(notes, m.iface+" has no interrupts of its own: a virtual interface, or a driver that shares one")
		}
	}
	if !m.opts.NoRPS {
		list = append(list, m.rps(len(irqs))...)
	}
	if !m.opts.NoXPS {
		list = append(list, m.xps()...)
	}
	if m.sys.Ethtool != nil && !m.opts.NoCoalesce {
		if now, err := m.sys.Ethtool.RxUsecs(m.iface); err != nil {
			list = append(list, Change{What: whatRxUsecs, Failed: err.Error()})
		} else {
			list = append(list, change(whatRxUsecs, strconv.Itoa(now), strconv.Itoa(rxUsecs))...)
		}
	}
	return list, notes
}

// file plans the contents of a file; one that is not there is nothing.
func (m *machine) file(name, want string, same func(a, b string) bool) []Change {
	now, err := m.sys.read(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return []Change{{What: name, After: want, Failed: err.Error()}}
	case same(now, want):
		return nil
	}
	return []Change{{What: name, Before: now, After: want}}
}

// rps plans that the CPUs share what few queues take in: not where each has a
// queue with an interrupt of its own.
func (m *machine) rps(irqs int) (list []Change) {
	everyone := mask(m.cpus)
	flows := flowEntries
	if irqs >= len(m.cpus) && len(m.rx) >= len(m.cpus) {
		everyone, flows = "0", 0
	}
	for _, q := range m.rx {
		list = append(list, m.file(q+"/rps_cpus", everyone, sameMask)...)
		list = append(list, m.file(q+"/rps_flow_cnt", strconv.Itoa(flows/len(m.rx)), func(a, b string) bool { return a == b })...)
	}
	if flows > 0 && len(m.rx) > 0 {
		// More than wanted is somebody else's wish.
		list = append(list, m.file(sockFlowFile, strconv.Itoa(flows), func(a, b string) bool {
			now, err := strconv.Atoi(a)
			return err == nil && now >= flows
		})...)
	}
	return list
}

// xps plans which CPUs send by which queue.
func (m *machine) xps() (list []Change) {
	if len(m.tx) < 2 {
		return nil // the kernel has nothing to choose there
	}
	for i, q := range m.tx {
		var cpus []int
		for k, cpu := range m.cpus {
			if k%len(m.tx) == i || len(m.tx) > len(m.cpus) && i%len(m.cpus) == k {
				cpus = append(cpus, cpu)
			}
		}
		list = append(list, m.file(q+"/xps_cpus", mask(cpus), sameMask)...)
	}
	return list
}

// notQueues are words in names of interrupts that are of no queue.
var notQueues = []string{"config", "async", "ctrl", "mgmt", "mgmnt", "adminq", "misc", "fdir"}

// irqs lists the interrupts of the interface's queues, in the order of their
// numbers.
func (m *machine) irqs() []int {
	own := map[int]bool{}
	entries, _ := os.ReadDir(m.sys.path("/sys/class/net/" + m.iface + "/device/msi_irqs"))
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil {
			own[n] = true
		}
	}
	text, err := m.sys.read("/proc/interrupts")
	if err != nil {
		return nil
	}
	var list []int
	for line := range strings.Lines(text) {
		number, rest, ok := strings.Cut(line, ":")
		n, err := strconv.Atoi(strings.TrimSpace(number))
		fields := strings.Fields(rest)
		if !ok || err != nil || len(fields) == 0 {
			continue
		}
		name := fields[len(fields)-1]
		mine := own[n] || name == m.iface || strings.HasPrefix(name, m.iface+"-")
		if mine && !slices.ContainsFunc(notQueues, func(w string) bool { return strings.Contains(strings.ToLower(name), w) }) {
			list = append(list, n)
		}
	}
	slices.Sort(list)
	return list
}
