package main

import (
	"strings"
	"testing"
	"time"
)

func TestLineIndex(t *testing.T) {
	t.Parallel()
	const text = "\ufeff" + `# comment with [stack.no] and = in it
a = 1; b = "not a key = 3"
"quoted key" = 'x'
'lit.eral' = """
multi = 5
[stack.no]
\""" still
""""
c.d . "e" = [ 1, # [x
  { f = 2,
    g.h = [] },
]
  [stack . "la\"b" ]   # c
addresses = [
  "x",
  'y' ]
[[stack.web.grant]]
users = [1]
[[stack.web.grant]]
users = [2]
[stack.web.grant.sub]
z = 1
[[stack.web.grant.list]]
y = 1
`
	index := indexLines(text)
	for key, want := range map[string]int{
		"a": 2, `"quoted key"`: 3, `"lit.eral"`: 4, "multi": 0, "stack.no": 0,
		"c": 9, "c.d": 9, "c.d.e": 9, "c.d.e[0]": 9, "c.d.e[1]": 10, "c.d.e[1].f": 10, "c.d.e[1].g.h": 11,
		`stack."la\"b"`: 13, `stack."la\"b".addresses`: 14, `stack."la\"b".addresses[1]`: 16,
		"stack.web.grant": 17, "stack.web.grant[0]": 17, "stack.web.grant[0].users": 18,
		"stack.web.grant[1].users[0]": 20, "stack.web.grant[1].sub.z": 22, "stack.web.grant[1].list[0].y": 24,
	} {
		if got := index[key]; got != want {
			t.Errorf("%s: got line %d, want %d", key, got, want)
		}
	}
	for key, want := range map[string]int{
		"c.d.nope": 9, "stack.web.grant[7].x": 17, "nope": 0, "": 0, "stack.web.grant[1].users[9]": 20,
	} {
		if got := index.line(key); got != want {
			t.Errorf("line(%s): got %d, want %d", key, got, want)
		}
	}
}

func TestLineIndexOfADeepTextIsCheap(t *testing.T) {
	t.Parallel()
	const n = 100_000
	start := time.Now()
	for _, text := range []string{
		"a = " + strings.Repeat("[", n), "a = " + strings.Repeat("{a=", n), strings.Repeat("a.", n) + "a = 1",
		strings.Repeat("[[a]]\n", n), "[" + strings.Repeat("a.", n) + "a]", strings.Repeat("\"", n), strings.Repeat("]", n),
	} {
		if got := len(indexLines(text)); got > 3*n {
			t.Errorf("%.20s: got %d keys, want no more than text", text, got)
		}
	}
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("took %v", d)
	}
}
