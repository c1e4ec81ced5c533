package nic

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A fakeDriver is an interface whose queues come and go in a fake tree.
type fakeDriver struct {
	channels, most, usecs int
	fail                  error
	changed               func(n int)
}

func (d *fakeDriver) Channels(string) (int, int, error) { return d.channels, d.most, d.fail }
func (d *fakeDriver) SetChannels(_ string, n int) error {
	d.channels = n
	d.changed(n)
	return nil
}
func (d *fakeDriver) RxUsecs(string) (int, error) { return d.usecs, d.fail }
func (d *fakeDriver) SetRxUsecs(_ string, n int) error {
	d.usecs = n
	return nil
}

func write(t *testing.T, root, name, text string) {
	t.Helper()
	path := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// fakeMachine has an interface eth0 with some queues and an interrupt for
// each.
func fakeMachine(t *testing.T, cpus, queues int) (System, *fakeDriver) {
	t.Helper()
	root := t.TempDir()
	write(t, root, "/sys/devices/system/cpu/online", fmt.Sprintf("0-%d", cpus-1))
	write(t, root, "/proc/sys/net/core/rps_sock_flow_entries", "0")
	d := &fakeDriver{channels: queues, most: 64, usecs: 3}
	d.changed = func(n int) {
		os.RemoveAll(filepath.Join(root, "/sys/class/net/eth0/queues"))
		interrupts := "            CPU0\n"
		for i := range n {
			for _, f := range []string{"rx-%d/rps_cpus", "rx-%d/rps_flow_cnt", "tx-%d/xps_cpus"} {
				write(t, root, "/sys/class/net/eth0/queues/"+fmt.Sprintf(f, i), "0")
			}
			write(t, root, fmt.Sprintf("/proc/irq/%d/smp_affinity_list", 40+i), "0")
			interrupts += fmt.Sprintf("%4d:   12   PCI-MSI   eth0-TxRx-%d\n", 40+i, i)
		}
		write(t, root, "/proc/interrupts", interrupts+"  900:  1  PCI-MSI eth0-config\n  901: 3 IO-APIC eth01\n NMI: 0 Non-maskable")
		write(t, root, "/proc/irq/900/smp_affinity_list", "0")
	}
	d.changed(queues)
	return System{Root: root, Ethtool: d}, d
}

func mustRead(t *testing.T, s System, name string) string {
	t.Helper()
	text, err := s.read(name)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestMask(t *testing.T) {
	for _, c := range []struct {
		cpus []int
		want string
	}{{nil, "0"}, {[]int{0, 1}, "3"}, {[]int{31}, "80000000"}, {[]int{32}, "1,00000000"}, {[]int{0, 64, 95}, "80000001,00000000,00000001"}} {
		if got := mask(c.cpus); got != c.want {
			t.Errorf("%v: got %q, want %q", c.cpus, got, c.want)
		}
	}
	if !sameMask("00000000,00000003", "3") || sameMask("1,00000000", "1") {
		t.Error("sameMask")
	}
}

func TestParseList(t *testing.T) {
	got, err := ParseList("0-2,8\n")
	if err != nil || fmt.Sprint(got) != "[0 1 2 8]" {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range []string{"", "a", "3-1", "-1", "0,", "1-99999999"} {
		if _, err := ParseList(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

// As many queues as CPUs, each with its CPU; and back.
func TestSetupAndUndo(t *testing.T) {
	for _, cpus := range []int{2, 8, 64} {
		t.Run(fmt.Sprint(cpus), func(t *testing.T) {
			s, d := fakeMachine(t, cpus, 1)
			if _, err := s.Setup("eth0", Options{}, true); err != nil || d.channels != 1 || mustRead(t, s, "/proc/irq/40/smp_affinity_list") != "0" {
				t.Fatalf("a dry run changed something, or %v", err)
			}
			r, err := s.Setup("eth0", Options{}, false)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range r.Changes {
				if c.Failed != "" {
					t.Errorf("%+v", c)
				}
			}
			last := cpus - 1
			for name, want := range map[string]string{
				fmt.Sprintf("/proc/irq/%d/smp_affinity_list", 40+last):         fmt.Sprint(last),
				fmt.Sprintf("/sys/class/net/eth0/queues/tx-%d/xps_cpus", last): mask([]int{last}),
				fmt.Sprintf("/sys/class/net/eth0/queues/rx-%d/rps_cpus", last): "0",
				"/proc/irq/900/smp_affinity_list":                              "0",
			} {
				if got := mustRead(t, s, name); got != want {
					t.Errorf("%s: got %q, want %q", name, got, want)
				}
			}
			if d.channels != cpus || d.usecs != rxUsecs {
				t.Errorf("got %+v", d)
			}
			// Again: nothing to do, and what was before is not forgotten.
			if r, err := s.Setup("eth0", Options{}, false); err != nil || len(r.Changes) != 0 {
				t.Errorf("again: %+v, %v", r, err)
			}
			if _, err := s.Undo("eth0", false); err != nil {
				t.Fatal(err)
			}
			if d.channels != 1 || d.usecs != 3 || mustRead(t, s, "/proc/irq/40/smp_affinity_list") != "0" {
				t.Errorf("after undo: %+v", d)
			}
			if _, err := s.Undo("eth0", false); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("undo twice: %v", err)
			}
		})
	}
}

// Fewer queues than CPUs: the others take part by RPS and RFS. More than 64
// CPUs have long masks.
func TestFewQueues(t *testing.T) {
	s, d := fakeMachine(t, 96, 4)
	d.most = 4
	if _, err := s.Setup("eth0", Options{}, false); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"/sys/class/net/eth0/queues/rx-3/rps_cpus":     "ffffffff,ffffffff,ffffffff",
		"/sys/class/net/eth0/queues/rx-3/rps_flow_cnt": "8192",
		"/sys/class/net/eth0/queues/tx-1/xps_cpus":     "22222222,22222222,22222222",
		"/proc/sys/net/core/rps_sock_flow_entries":     "32768",
	} {
		if got := mustRead(t, s, name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

// A driver that can nothing is no error: what can be set is, and the rest has
// a reason.
func TestPoorDriver(t *testing.T) {
	s, d := fakeMachine(t, 2, 1)
	d.fail = syscall.EOPNOTSUPP
	r, err := s.Setup("eth0", Options{NoIRQ: true}, false)
	if err != nil {
		t.Fatal(err)
	}
	failed := 0
	for _, c := range r.Changes {
		if c.Failed != "" {
			failed++
		}
	}
	if failed != 2 || mustRead(t, s, "/sys/class/net/eth0/queues/rx-0/rps_cpus") != "3" {
		t.Errorf("got %+v", r)
	}
}

// What fails in the middle is taken back.
func TestFailureIsTakenBack(t *testing.T) {
	if os.Geteuid() == 0 {
		// root writes everywhere: a directory in place of a file fails.
		s, _ := fakeMachine(t, 2, 2)
		name := s.path("/sys/class/net/eth0/queues/tx-1/xps_cpus")
		write(t, s.Root, "/sys/class/net/eth0/queues/tx-0/xps_cpus", "ff")
		plan, err := s.look("eth0", Options{NoChannels: true})
		if err != nil {
			t.Fatal(err)
		}
		list, _ := plan.steering()
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(name, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := s.apply("eth0", list); !errors.Is(err, syscall.EISDIR) || !strings.Contains(err.Error(), "xps_cpus") {
			t.Errorf("got %v, want EISDIR with the file", err)
		}
	}
}

func TestBadInput(t *testing.T) {
	s, _ := fakeMachine(t, 2, 1)
	for iface, want := range map[string]string{"eth1": "there is no interface eth1", "../x": "no name", "": "no name"} {
		if _, err := s.Setup(iface, Options{}, true); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", iface, err, want)
		}
	}
	if _, err := s.Setup("eth0", Options{CPUs: []int{7}}, true); err == nil || !strings.Contains(err.Error(), "CPU 7 is not online (0-1 are)") {
		t.Errorf("got %v", err)
	}
}
