package fstests

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

const attackLab = "[stack.lab]\nmode = \"0755\"\naddresses = [\"192.0.2.1/24\"]\n"

// What comes with a request is not taken in, whatever the caller does to the
// end of the pair that the daemon has and that he may have kept.
func TestAttackerCannotGiveDescriptorsToTheDaemon(t *testing.T) {
	m := newAttackMount(t, Config{TOML: attackLab})
	for name, c := range map[string]struct{ end, options, fds string }{
		"rights on the channel":       {"chan", "", "[r] * 4"},
		"rights on the pair":          {"keep", "", "[r] * 4"},
		"rights without credentials":  {"keep", "end.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)", "[r] * 4"},
		"pidfd without credentials":   {"keep", "end.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0); end.setsockopt(socket.SOL_SOCKET, SO_PASSPIDFD, 1)", "[]"},
		"pidfd for the channel's end": {"chan", "chan.setsockopt(socket.SOL_SOCKET, SO_PASSPIDFD, 1)", "[]"},
	} {
		t.Run(name, func(t *testing.T) {
			before := fdKinds(m.PID())
			cmd := AsUser(m.python(t, fmt.Sprintf(`
conns = []
fd = node("lab")
for i in range(40):
	keep, end = pair()
	raw_msocket(fd, INET, STREAM, 0, end.fileno(), cookie(end))
	_, _, _, (sock, chan) = receive(keep)
	try:
		%s
		r, w = os.pipe()
		for j in range(4):
			socket.send_fds(%s, [struct.pack("IIiiiI", 1, 0, INET, STREAM, 0, 0)], %s)
	except OSError: pass
	os.close(r), os.close(w)
	conns.append((keep, end, sock, chan))
# The daemon works them off in order: when it has this one it had all.
msocket(fd)
print("sent", flush=True)
sys.stdin.read()
`, c.options, c.end, c.fds)), Nobody, Nobody)
			leave := startAttack(t, cmd)
			for kind, n := range fdKinds(m.PID()) {
				if (kind == "pipe:[N]" || strings.Contains(kind, "pidfd")) && n > before[kind]+8 {
					t.Errorf("the daemon holds %d of %s, %d before", n, kind, before[kind])
				}
			}
			leave()
		})
	}
	m.attack(t, `msocket("lab")`)
}

// A socket that lingers blocks whoever closes it last. That must not be the
// thread that serves everybody.
func TestLingeringSocketDoesNotHoldUpOtherUsers(t *testing.T) {
	m := newAttackMount(t, Config{TOML: attackLab})
	attacker := AsUser(m.python(t, `
fd = node("lab")
def linger():
	"""A connection with data that nobody takes, and hours of patience."""
	l = socket.socket(); l.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1); l.bind(("127.0.0.1", 0)); l.listen(1)
	c = socket.create_connection(l.getsockname()); a, _ = l.accept()
	c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
	c.setblocking(False)
	try:
		while True: c.send(b"x" * 65536)
	except BlockingIOError: pass
	return l, a, c
held = []
for i in range(12):
	_, chan = msocket(fd)
	l, a, c = linger()
	held.append((l, a, chan))
	try: socket.send_fds(chan, [struct.pack("IIiiiI", 1, 0, INET, STREAM, 0, 0)], [c.fileno()])
	except PermissionError: pass # Linux 6.16 and newer
	c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))
	c.close()
# On a pair of ours the message can be there before the daemon is.
for i in range(12):
	keep, end = pair()
	l, a, c = linger()
	socket.send_fds(keep, [struct.pack("IIiiiI", 1, 0, INET, STREAM, 0, 0)], [c.fileno()])
	os.close(c.detach())
	raw_msocket(fd, INET, STREAM, 0, end.fileno(), cookie(end))
	held.append((l, a, keep, end))
print("sent", flush=True)
sys.stdin.read()
os._exit(0) # a process that ends does not linger
`), Nobody, Nobody)
	defer startAttack(t, attacker)()
	worst := RunCmd(t, AsUser(m.python(t, `
s, chan = msocket("lab")
worst = 0
end = time.monotonic() + 2
while time.monotonic() < end:
	start = time.monotonic()
	ask(chan).close()
	msocket("lab")
	worst = max(worst, time.monotonic() - start)
	time.sleep(0.001)
print(worst)
`), 1001, 1001))
	var seconds float64
	if _, err := fmt.Sscan(worst, &seconds); err != nil || seconds > ScaleTime(time.Second).Seconds() {
		t.Errorf("another user waited for %q s, %v", worst, err)
	}
}
