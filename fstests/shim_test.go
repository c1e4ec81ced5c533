package fstests

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Each call of libmsocket in each situation that a program can be in.

func TestShimMsocket(t *testing.T) {
	m := newShimMount(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, s := range shimSituations {
		t.Run(s.name, func(t *testing.T) {
			m.check(t, s, [][2]string{
				{"msocket NULL 2 1 0", "host"},
				{"msocket NULL 2 -1 0", "EINVAL"},
				{"msocket " + m.lab + " 2 1 0", "net"},
				{"msocket " + m.lab + " 2 1 0", "net"},
				{"msocket " + m.lab + "/ 10 2 0", "net"},
				{"msocket " + m.lab + " 2 3 1", "net"},  // raw
				{"msocket " + m.lab + " 17 3 0", "net"}, // packet
				{"msocket " + m.lab + " 16 3 0", "net"}, // netlink
				{"msocket " + m.lab + " 1 1 0", "host"}, // AF_UNIX is local
				{"msocket " + m.dir + "/kernel 2 1 0", "host"},
				{"msocket " + m.dir + "/kernel 2 2 0", "host"},
				{"msocket " + m.dir + "/nothing 2 1 0", "ENOENT"},
				{"msocket " + m.dir + " 2 1 0", "EOPNOTSUPP"}, // ENOTSUP by its other name
				{"msocket /tmp 2 1 0", "EOPNOTSUPP"},
				{"msocket /tmp 1 1 0", "EOPNOTSUPP"},
				{"msocket /proc/self/ns 2 1 0", "EOPNOTSUPP"},
				{"msocket /dev/null 2 1 0", "EOPNOTSUPP"},
				{"msocket " + file + " 2 1 0", "EOPNOTSUPP"},
				{"msocket " + m.lab + " 31 1 0", "EAFNOSUPPORT"},
				{"msocket " + m.lab + " -1 1 0", "EAFNOSUPPORT"},
				{"msocket " + m.lab + " 64 1 0", "EAFNOSUPPORT"},
				{"msocket " + m.dir + "/null 2 1 0", "EAFNOSUPPORT"},
				{"msocket " + m.dir + "/null 2 -1 0", "EAFNOSUPPORT"},
				{"msocket " + m.lab + " 2 1 17", "EPROTONOSUPPORT"},
				{"msocket " + m.lab + " 2 -1 0", "EINVAL"},
				{"msocket " + m.dir + "/kernel 2 -1 0", "EINVAL"},
			}...)
		})
	}
}

func TestShimMsocketWithoutRights(t *testing.T) {
	m := newShimMount(t)
	for _, s := range []shimSituation{shimLinked, shimPreloaded} {
		t.Run(s.name, func(t *testing.T) {
			m.check(t, s, [][2]string{
				{"msocket " + m.lab + " 2 1 0", "net"}, // the channel is root's
				{"default " + m.lab + " 10", "ok"},
				{"user 65534", ""},
				{"msocket " + m.lab + " 2 1 0", "EACCES"},
				{"socket 10 1 0", "EACCES"},
				{"default " + m.lab + " 2", "EACCES"},
				{"msocket " + m.dir + "/shared 2 1 0", "net"},
				{"msocket " + m.dir + "/shared 2 3 1", "EPERM"},
				{"msocket " + m.dir + "/kernel 2 3 1", "EPERM"},
			}...)
			m.check(t, s, [2]string{"user 12345", ""},
				[2]string{"msocket " + m.dir + "/shared 2 3 1", "net"})
		})
	}
}

func TestShimSocketFlagsAndNumber(t *testing.T) {
	m := newShimMount(t)
	// Twice: by ioctl and on the channel.
	for _, path := range []string{m.lab, m.dir + "/kernel"} {
		for range 2 {
			lines := shimLinked.run(t, nil, "closefrom 3",
				"msocket "+path+" 2 1 0", "msocket "+path+" 2 0x80802 0",
				"msocket "+path+" 10 0x801 6", "msocket "+path+" 10 0x80001 0")
			for i, want := range []string{
				"domain=2 type=1 cloexec=0 nonblock=0 fd=3",
				"domain=2 type=2 cloexec=1 nonblock=1 fd=3",
				"domain=10 type=1 cloexec=0 nonblock=1 fd=3",
				"domain=10 type=1 cloexec=1 nonblock=0 fd=3",
			} {
				if !strings.Contains(lines[i], want) {
					t.Errorf("%s, want %s", lines[i], want)
				}
			}
		}
	}
}

func TestShimKeepsOutOfLowNumbers(t *testing.T) {
	m := newShimMount(t)
	m.check(t, shimLinked, [][2]string{
		{"closefrom 3", ""},
		{"msocket " + m.lab + " 2 1 0", "net"},
		{"lowest", "500"},
		{"nofile 100", ""},
		{"msocket " + m.dir + "/shared 2 1 0", "net"},
		{"lowest", "50"},
	}...)
}

func TestShimDefault(t *testing.T) {
	m := newShimMount(t)
	for _, s := range shimSituations {
		t.Run(s.name, func(t *testing.T) {
			m.check(t, s, [][2]string{
				{"default " + m.lab + " 2", "ok"},
				{"socket 2 1 0", "net"},
				{"msocket NULL 2 1 0", "net"},
				{"socket 10 1 0", "host"}, // per family
				{"socket 1 1 0", "host"},
				{"default " + m.lab + " 0", "ok"},
				{"socket 10 2 0", "net"},
				{"socket 16 3 0", "net"},
				{"socket 1 1 0", "host"},
				{"default " + m.dir + "/kernel 2", "ok"},
				{"socket 2 1 0", "host"},
				{"socket 10 1 0", "net"},
				{"default " + m.lab + " 31", "EAFNOSUPPORT"},
				{"default " + m.lab + " 1", "EAFNOSUPPORT"},
				{"default " + m.dir + "/nothing 2", "ENOENT"},
				{"default /tmp 2", "EOPNOTSUPP"},
				{"socket 2 1 0", "host"}, // as it was
				{"default NULL 10", "ok"},
				{"socket 10 1 0", "host"},
				{"socket 16 3 0", "net"},
				{"default " + m.dir + "/null 0", "ok"}, // takes networking away
				{"socket 2 1 0", "EAFNOSUPPORT"},
				{"socket 31 1 0", "EAFNOSUPPORT"},
				{"socket 1 1 0", "host"},
				{"default NULL 0", "ok"},
				{"socket 2 1 0", "host"},
				{"socket 16 3 0", "host"},
			}...)
		})
	}
}

func TestShimDefaultByRelativePath(t *testing.T) {
	m := newShimMount(t)
	m.check(t, shimLinked, [][2]string{
		{"chdir " + m.dir, ""},
		{"default lab 2", "ok"},
		{"msocket lab 2 1 0", "net"},
		{"chdir /tmp", ""},
		{"socket 2 1 0", "net"},
		{"msocket lab 2 1 0", "ENOENT"},
		{"chdir " + m.dir, ""},
		{"msocket ./null 2 1 0", "EAFNOSUPPORT"},
		{"msocket lab 2 1 0", "net"},
	}...)
}

func TestShimDefaultIsCopiedByFork(t *testing.T) {
	m := newShimMount(t)
	// Parent and child change theirs, and use what was one channel, at the
	// same time.
	lines := shimLinked.run(t, nil, "default "+m.lab+" 2", "msocket "+m.dir+"/shared 2 1 0",
		"msocket "+m.lab+" 10 1 0", "parent-and-child",
		"default NULL 2", "socket 2 1 0", "default "+m.lab+" 2", "loop 1000 "+m.lab+" 0 1 0", "socket 2 1 0")
	var host, net int
	for _, line := range lines {
		switch {
		case strings.Contains(line, "netns="+m.host+" "):
			host++
		case strings.Contains(line, "netns="+m.net+" "):
			net++
		case strings.Contains(line, "loop") && !strings.Contains(line, "failed=0 leaked=0"):
			t.Error(line)
		}
	}
	if host != 2 || net != 4 {
		t.Errorf("%d host and %d lab sockets, want 2 and 4:\n%s", host, net, strings.Join(lines, "\n"))
	}
}

var shimExecCalls = []string{
	"exec execve", "exec execve-empty", "exec execve-null", "exec execve-own",
	"exec execv", "exec execvp", "exec execvpe", "exec execl", "exec execlp",
	"exec execle", "exec fexecve", "exec fexecve-path", "exec execveat",
	"exec execveat-fd", "spawn posix_spawn", "spawn posix_spawnp", "vfork",
}

func TestShimDefaultSurvivesExec(t *testing.T) {
	m := newShimMount(t)
	probe := shimAbs(t, shimBuildDir+"/probe")
	for _, s := range []shimSituation{shimLinked, shimPreloaded} {
		for _, call := range shimExecCalls {
			t.Run(s.name+"/"+call, func(t *testing.T) {
				m.check(t, s, [2]string{"default " + m.lab + " 2", "ok"},
					[2]string{call + " " + probe + " socket 2 1 0", "net"})
			})
		}
		for _, call := range []string{"system", "popen"} {
			t.Run(s.name+"/"+call, func(t *testing.T) {
				m.check(t, s, [][2]string{
					{"default " + m.lab + " 2", "ok"},
					{call + " '" + probe + " socket 2 1 0'", "net"},
					{"clearenv", ""},
					{call + " '" + probe + " socket 2 1 0'", "net"},
					{"default NULL 0", "ok"},
					{call + " '" + probe + " socket 2 1 0'", "host"},
				}...)
			})
		}
	}
}

func TestShimDefaultSurvivesLongEnvironment(t *testing.T) {
	m := newShimMount(t)
	var env []string
	for i := range 3000 {
		env = append(env, fmt.Sprintf("V%d=%s", i, strings.Repeat("x", 20)))
	}
	m.checkEnv(t, shimLinked, env, [2]string{"default " + m.lab + " 2", "ok"},
		[2]string{"exec execve " + shimAbs(t, shimBuildDir+"/probe") + " socket 2 1 0", "net"})
}

// A program may be executed by name, with #! and without.
func TestShimDefaultSurvivesSearch(t *testing.T) {
	m := newShimMount(t)
	dir := t.TempDir()
	probe := shimAbs(t, shimBuildDir+"/probe")
	for name, text := range map[string]string{
		"shim-script": "#!/bin/sh\nexec " + probe + " socket 2 1 0\n",
		"shim-text":   "exec " + probe + " socket 2 1 0\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	env := []string{"PATH=/nonexistent:" + dir + ":/usr/bin:/bin"}
	for _, call := range []string{"exec execvp shim-script", "exec execlp shim-script", "spawn posix_spawnp shim-script", "exec execvp shim-text"} {
		t.Run(call, func(t *testing.T) {
			m.checkEnv(t, shimLinked, env, [2]string{"default " + m.lab + " 2", "ok"}, [2]string{call, "net"})
		})
	}
	for _, call := range []string{"exec execvp shim-none", "spawn posix_spawnp shim-none", "exec execve /shim/none"} {
		m.checkEnv(t, shimLinked, env, [2]string{"default " + m.lab + " 2", "ok"}, [2]string{call, "ENOENT"})
	}
	m.checkEnv(t, shimLinked, env, [2]string{"default " + m.lab + " 2", "ok"},
		[2]string{"exec execve " + dir + "/shim-text", "ENOEXEC"})
}

func TestShimRefusesProgramsThatWouldNotFollow(t *testing.T) {
	m := newShimMount(t)
	dir := t.TempDir()
	static := shimAbs(t, shimBuildDir+"/probe-static")
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	image, err := os.ReadFile(shimAbs(t, shimBuildDir+"/probe"))
	if err != nil {
		t.Fatal(err)
	}
	foreign := append([]byte{}, image...)
	binary.NativeEndian.PutUint16(foreign[18:], 0xf3) // e_machine
	small := append([]byte{}, image...)
	small[4] = 3 - small[4] // EI_CLASS

	script := write("script", "#!"+static+" socket 2 1 0\n", 0o755)
	setuid := write("setuid", string(image), 0o755)
	if err := os.Chown(setuid, 12345, 12345); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(setuid, 0o755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{
		"static":       static,
		"script":       script,
		"two scripts":  write("script2", "#!"+script+"\n", 0o755),
		"set-user-id":  setuid,
		"machine":      write("machine", string(foreign), 0o755),
		"word size":    write("class", string(small), 0o755),
		"not readable": write("secret", string(image), 0o711),
	} {
		t.Run(name, func(t *testing.T) {
			steps := [][2]string{{"default " + m.dir + "/shared 2", "ok"}}
			if name == "not readable" {
				for dir := dir; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
					os.Chmod(dir, 0o755)
				}
				steps = append(steps, [2]string{"user 65534", ""})
			}
			for _, call := range []string{"exec execve ", "exec execvp ", "exec fexecve-path ", "exec execveat ", "spawn posix_spawn "} {
				m.check(t, shimLinked, append(steps, [2]string{call + path + " socket 2 1 0", "EACCES"})...)
			}
		})
	}
	t.Run("search goes no further", func(t *testing.T) {
		if err := os.Symlink(static, filepath.Join(dir, "sh")); err != nil {
			t.Fatal(err)
		}
		m.checkEnv(t, shimLinked, []string{"PATH=" + dir + ":/usr/bin:/bin"},
			[2]string{"default " + m.lab + " 2", "ok"}, [2]string{"exec execvp sh", "EACCES"})
	})
	t.Run("no library", func(t *testing.T) {
		root := t.TempDir()
		if err := os.WriteFile(filepath.Join(root, "prog"), image, 0o755); err != nil {
			t.Fatal(err)
		}
		m.check(t, shimLinked, [][2]string{
			{"default " + m.lab + " 2", "ok"},
			{"chroot " + root, ""},
			{"exec execve /prog socket 2 1 0", "EACCES"},
		}...)
	})
	t.Run("opted out", func(t *testing.T) {
		m.check(t, shimLinked, [2]string{"default " + m.lab + " 2", "ok"},
			[2]string{"exec execve-off " + static + " socket 2 1 0", "host"})
	})
	t.Run("without a filter STACKFS_RUN says nothing", func(t *testing.T) {
		m.checkEnv(t, shimLinked, []string{"STACKFS_RUN=1"}, [2]string{"default " + m.lab + " 2", "ok"},
			[2]string{"exec execve " + static + " socket 2 1 0", "EACCES"})
	})
	t.Run("without a default", func(t *testing.T) {
		for _, call := range shimExecCalls {
			m.check(t, shimPreloaded, [2]string{call + " " + static + " socket 2 1 0", "host"})
		}
	})
}

func TestShimEnvironment(t *testing.T) {
	m := newShimMount(t)
	lib := shimAbs(t, "../build/libmsocket.so")
	preload := "LD_PRELOAD=" + lib
	plain := shimSituation{program: "probe"}
	for _, tc := range []struct {
		name  string
		env   []string
		steps [][2]string
	}{
		{"inherited", []string{"STACKFS_DEFAULT=2=" + m.lab + ",10=" + m.dir + "/null"}, [][2]string{
			{"socket 2 1 0", "net"}, {"socket 10 1 0", "EAFNOSUPPORT"}, {"socket 16 3 0", "host"}}},
		{"copied at the start", []string{"STACKFS_DEFAULT=2=" + m.lab}, [][2]string{
			{"scribble", ""}, {"socket 2 1 0", "net"}}},
		{"no default for AF_UNIX", []string{"STACKFS_DEFAULT=1=" + m.lab}, [][2]string{{"socket 1 1 0", "host"}}},
		{"escaped", []string{"STACKFS_DEFAULT=2=" + strings.Replace(m.lab, "lab", "%6Cab", 1)}, [][2]string{{"socket 2 1 0", "net"}}},
		{"gone", []string{"STACKFS_DEFAULT=2=/nonexistent"}, [][2]string{{"socket 2 1 0", "ENODEV"}, {"socket 10 1 0", "host"}}},
		{"no stack", []string{"STACKFS_DEFAULT=2=/tmp"}, [][2]string{{"socket 2 1 0", "ENODEV"}}},
		{"malformed", []string{"STACKFS_DEFAULT=lab"}, [][2]string{{"socket 2 1 0", "ENODEV"}, {"socket 16 3 0", "ENODEV"}, {"socket 1 1 0", "host"}}},
		{"relative", []string{"STACKFS_DEFAULT=2=lab"}, [][2]string{{"socket 2 1 0", "ENODEV"}}},
		{"off", []string{"STACKFS_SHIM=off", "STACKFS_DEFAULT=2=" + m.lab}, [][2]string{
			{"socket 2 1 0", "host"}, {"default " + m.lab + " 2", "EOPNOTSUPP"}, {"msocket " + m.lab + " 2 1 0", "net"}}},
		{"written", nil, [][2]string{
			{"env STACKFS_DEFAULT", "(unset)"}, {"default " + m.lab + " 2", "ok"}, {"env STACKFS_DEFAULT", "2=" + m.lab},
			{"env LD_PRELOAD", lib}, {"default NULL 0", "ok"}, {"env STACKFS_DEFAULT", "(unset)"}}},
		{"merged", []string{"STACKFS_DEFAULT=10=" + m.lab}, [][2]string{
			{"default NULL 10", "ok"}, {"default " + m.lab + " 2", "ok"},
			{"exec execve " + shimAbs(t, shimBuildDir+"/probe") + " env STACKFS_DEFAULT", "2=" + m.lab}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m.checkEnv(t, plain, append(tc.env, preload), tc.steps...)
		})
	}
}

func TestShimSecureExecution(t *testing.T) {
	m := newShimMount(t)
	image, err := os.ReadFile(shimAbs(t, shimBuildDir+"/probe-linked"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "setuid")
	if err := os.WriteFile(path, image, 0o755); err != nil {
		t.Fatal(err)
	}
	for dir := filepath.Dir(path); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		os.Chmod(dir, 0o755)
	}
	if err := os.Chmod(path, 0o755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	// The caller's variables choose nothing in a set-user-ID program.
	m.checkEnv(t, shimSituation{program: "probe"}, []string{"STACKFS_DEFAULT=2=" + m.lab},
		[2]string{"user 65534", ""}, [2]string{"exec execve " + path + " socket 2 1 0", "host"})
}

func TestShimStat(t *testing.T) {
	m := newShimMount(t)
	const stack, dir = "160000 stack errno=0", "040000 errno=0"
	var steps [][2]string
	for _, call := range []string{"stat", "stat64", "lstat", "lstat64", "fstatat64", "statx", "__xstat", "__lxstat", "__xstat64", "__lxstat64"} {
		steps = append(steps, [][2]string{
			{call + " " + m.lab, stack},
			{call + " " + m.dir + "/null", stack},
			{call + " " + m.lab + "/", dir},
			{call + " " + m.lab + "/.", dir},
			{call + " " + m.dir, dir},
			{call + " /tmp", dir},
			{call + " /proc", dir},
			{call + " " + m.lab + "/type", "100000 errno=0"},
			{call + " " + m.lab + "/none", "ENOENT"},
		}...)
	}
	steps = append(steps, [][2]string{
		{"fstat " + m.lab, dir},
		{"statx-empty " + m.lab, dir},
		{"fstatat " + m.dir + " lab", stack},
		{"fstatat " + m.dir + " lab/", dir},
		{"fstatat " + m.lab + " .", dir},
		{"fstatat " + m.lab + " ..", dir},
		{"chdir " + m.dir, ""},
		{"stat lab", stack},
		{"stat ./lab", stack},
		{"stat .", dir},
	}...)
	for _, s := range []shimSituation{shimLinked, shimPreloaded} {
		t.Run(s.name, func(t *testing.T) { m.check(t, s, steps...) })
	}
	t.Run("off", func(t *testing.T) {
		m.checkEnv(t, shimPreloaded, []string{"STACKFS_SHIM=off"}, [2]string{"stat " + m.lab, dir})
	})
	t.Run("only on FUSE", func(t *testing.T) {
		forged := t.TempDir()
		if err := shimSetXattr(forged); err != nil {
			t.Skipf("%s takes no user attributes: %v", forged, err)
		}
		m.check(t, shimPreloaded, [2]string{"stat " + forged, dir})
	})
}

func TestShimDescriptorsDoNotLeak(t *testing.T) {
	m := newShimMount(t)
	// The daemon's threads and their descriptors come with the first call,
	// those of the BPF program when it is loaded: status waits for that.
	_, err := os.ReadFile(m.lab + "/status")
	mustDo(t, err)
	shimLinked.run(t, nil, "msocket "+m.lab+" 2 1 0", "msocket "+m.dir+"/kernel 2 1 0")
	var before int
	shimEventually(t, "an idle daemon", func() bool {
		last := before
		before = m.daemonFDs(t)
		return last == before
	})
	for _, s := range []shimSituation{shimLinked, {name: "fork", program: "probe-linked", prefix: []string{"fork", ","}}, {name: "alarms", program: "probe-linked", prefix: []string{"alarms", ","}}} {
		for _, call := range []string{"10000 " + m.lab + " 2 1 0", "500 " + m.lab + " 2 3 1", "10000 " + m.dir + "/kernel 2 1 0", "500 " + m.lab + " 2 1 17", "500 /tmp 2 1 0"} {
			t.Run(s.name+"/"+call, func(t *testing.T) {
				lines := s.run(t, nil, "loop "+call)
				if !strings.Contains(lines[0], "leaked=0") {
					t.Error(lines[0])
				}
				if fails := strings.Contains(call, " 17") || strings.Contains(call, "/tmp"); !fails && !strings.Contains(lines[0], "failed=0") {
					t.Error(lines[0])
				}
			})
		}
	}
	shimEventually(t, "the daemon has no more descriptors than before", func() bool { return m.daemonFDs(t) <= before })
}

func TestShimProgramClosesEverything(t *testing.T) {
	m := newShimMount(t)
	m.check(t, shimLinked, [][2]string{
		{"default " + m.lab + " 0", "ok"},
		{"socket 2 1 0", "net"},
		{"closefrom 3", ""},
		{"socket 2 1 0", "net"},
		{"reuse", ""}, // files of its own on our numbers
		{"socket 2 1 0", "net"},
		{"reused", "ok"},
		{"fork", ""},
		{"socket 2 1 0", "net"},
		{"reused", "ok"},
	}...)
}

func TestShimFewDescriptors(t *testing.T) {
	m := newShimMount(t)
	for n, want := range map[int]string{4: "EMFILE", 5: "EMFILE", 6: "net", 10: "net", 300: "net"} {
		m.check(t, shimLinked, [2]string{"closefrom 3", ""}, [2]string{fmt.Sprintf("nofile %d", n), ""},
			[2]string{"msocket " + m.lab + " 2 1 0", want}, [2]string{"msocket " + m.lab + " 2 1 0", want})
	}
}

func TestShimThreads(t *testing.T) {
	m := newShimMount(t)
	for _, user := range []string{"user 0", "user 12345"} {
		for _, call := range []string{"loop 100 " + m.dir + "/shared 2 1 0", "loop 10 " + m.dir + "/shared 2 -1 0"} {
			lines := shimLinked.run(t, nil, "default "+m.dir+"/shared 10", user, "threads 50 "+call, "threads 50 socket 10 1 0", "fds")
			if len(lines) != 102 {
				t.Fatalf("%d lines, want 102:\n%s", len(lines), strings.Join(lines, "\n"))
			}
			for _, line := range lines[1:51] {
				if !strings.Contains(line, "failed=0") && !strings.HasSuffix(line, "EINVAL") {
					t.Errorf("%s: %s", call, line)
				}
			}
			for _, line := range lines[51:101] {
				if !strings.Contains(line, "ok netns="+m.net) {
					t.Error(line)
				}
			}
		}
	}
}

func TestShimLeavesItsNamespace(t *testing.T) {
	m := newShimMount(t)
	m.check(t, shimLinked, [][2]string{
		{"default " + m.dir + "/kernel 2", "ok"},
		{"default " + m.lab + " 10", "ok"},
		{"socket 2 1 0", "host"},
		{"unshare", ""},
		{"socket 2 1 0", "EACCES"}, // no way out of a sandbox, and not the new one
		{"socket 10 1 0", "net"},
	}...)
}

// paused starts the probe and returns when it is at its "pause"; the rest
// of its lines are those after it.
func (m *shimMount) paused(t *testing.T, before, after []string) (resume func() []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	cmd := shimLinked.command(t, ctx, nil, append(append(before, "pause"), after...)...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != "pause" {
	}
	return func() (rest []string) {
		fmt.Fprintln(in)
		for lines.Scan() {
			rest = append(rest, lines.Text())
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v", strings.Join(cmd.Args[1:], " "), err)
		}
		return rest
	}
}

func TestShimNeverTheWrongStack(t *testing.T) {
	probe := shimAbs(t, shimBuildDir+"/probe")
	for name, after := range map[string][]string{
		"in the process": {"socket 2 1 0", "msocket NULL 2 2 0", "socket 2 3 1", "socket 2 1 0"},
		"after fork":     {"fork", "socket 2 1 0", "socket 2 2 0"},
		"after raw fork": {"raw-fork", "socket 2 1 0"},
		"after exec":     {"exec execve-empty " + probe + " socket 2 1 0"},
		"after spawn":    {"spawn posix_spawn " + probe + " socket 2 1 0"},
		"after vfork":    {"vfork " + probe + " socket 2 1 0"},
		"after system":   {"system '" + probe + " socket 2 1 0'"},
		"in threads":     {"threads 20 socket 2 1 0"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newShimMount(t)
			before := []string{"default " + m.lab + " 2", "socket 2 1 0", "msocket " + m.dir + "/null 2 1 0"}
			wait := []func() []string{m.paused(t, before, after), m.paused(t, before, after)}
			m.kill(t)
			lines := wait[0]() // at once
			shimEventually(t, "the dead mount is detached", func() bool { return !m.mounted() })
			lines = append(lines, wait[1]()...)
			if len(lines) < 2*min(len(after), 1) {
				t.Fatalf("too few lines: %q", lines)
			}
			for _, line := range lines {
				if shimResult(line) != "ENODEV" {
					t.Errorf("%s, want ENODEV", line)
				}
			}
		})
	}
}

func TestShimDaemonComesBack(t *testing.T) {
	m := newShimMount(t)
	resume := m.paused(t, []string{"default " + m.lab + " 2", "socket 2 1 0", "msocket " + m.lab + " 10 1 0"},
		[]string{"socket 2 1 0", "msocket " + m.lab + " 10 1 0"})
	m.kill(t)
	m.start(t)
	for _, line := range resume() {
		m.checkLine(t, line, "net")
	}
}

func TestShimStackIsRemoved(t *testing.T) {
	m := newShimMount(t)
	resume := m.paused(t, []string{"default " + m.lab + " 2", "socket 2 1 0"}, []string{"socket 2 1 0", "msocket " + m.lab + " 2 1 0"})
	text, err := os.ReadFile(m.config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(m.config, []byte(strings.Replace(string(text), "[stack.lab]", "[stack.other]", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	shimCommand(t, shimBuildDir+"/stackfs", "reload", m.dir)
	for _, line := range resume() {
		m.checkLine(t, line, "ENODEV")
	}
}

// Below a seccomp filter a socket of our own may be another stack's.
func TestShimUnderRun(t *testing.T) {
	m := newShimMount(t)
	static := shimAbs(t, shimBuildDir+"/probe-static")
	for _, tc := range []struct {
		stack string
		lines [][2]string
	}{
		{"/lab", [][2]string{
			{"socket 2 1 0", "net"},
			{"msocket " + m.dir + "/kernel 2 1 0", "host"},
			{"msocket " + m.dir + "/kernel 2 1 0", "host"},
			{"msocket " + m.dir + "/kernel 2 -1 0", "EINVAL"},
			{"default " + m.lab + " 2", "ok"},
			{"exec execve-empty " + static + " socket 2 1 0", "net"},
		}},
		{"/null", [][2]string{
			{"socket 2 1 0", "EAFNOSUPPORT"},
			{"msocket " + m.dir + "/kernel 2 1 0", "host"},
			{"msocket " + m.lab + " 2 1 0", "net"},
			{"default " + m.lab + " 2", "ok"},
			{"socket 2 1 0", "net"},
			{"exec execve " + static + " socket 2 1 0", "EACCES"}, // null, not lab
		}},
	} {
		var words []string
		for _, line := range tc.lines {
			words = append(words, strings.Fields(line[0])...)
			words = append(words, ",")
		}
		args := []string{shimBuildDir + "/stackfs", "run", m.dir + tc.stack, "--", "env",
			"LD_PRELOAD=" + shimAbs(t, "../build/libmsocket.so"), shimAbs(t, shimBuildDir+"/probe")}
		out := shimCommand(t, append(args, words[:len(words)-1]...)...)
		lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
		if len(lines) != len(tc.lines) {
			t.Fatalf("%d lines, want %d:\n%s", len(lines), len(tc.lines), out)
		}
		for i, line := range lines {
			m.checkLine(t, line, tc.lines[i][1])
		}
	}
}

func BenchmarkShim(b *testing.B) {
	m := newShimMount(b)
	for name, words := range map[string]string{
		"channel": "bench %d " + m.lab, "self": "bench %d " + m.dir + "/kernel",
		"socket": "bench-socket %d", "scm": "bench-scm %d",
	} {
		b.Run(name, func(b *testing.B) { shimLinked.run(b, nil, fmt.Sprintf(words, b.N)) })
	}
}
