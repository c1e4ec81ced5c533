package msocket

import (
	"errors"
	"maps"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseDefaults(t *testing.T) {
	for value, want := range map[string]map[int]string{
		"":                            {},
		"2=/dev/net/lab":              {2: "/dev/net/lab"},
		"2=/dev/net/lab,10=/dev/n/b,": {2: "/dev/net/lab", 10: "/dev/n/b"},
		"17=/a%20b%2Cc%25%7f":         {17: "/a b,c%\x7f"},
		"0=/x,1=/y,16=/z":             {16: "/z"},
		"2=/a,2=/b":                   {2: "/b"},
	} {
		if got, err := parseDefaults(value); err != nil || !maps.Equal(got, want) {
			t.Errorf("%q: got %v, %v, want %v", value, got, err, want)
		}
	}
	for _, value := range []string{
		"lab", "2", "=/dev/net/lab", "x=/dev/net/lab", "-2=/a", "64=/a", "2=", "2=lab", "2=/a%2", "2=/a%zz",
		"2=/a%00", "2=/a,,10=/b", ",2=/a", "2=/" + strings.Repeat("a", unix.PathMax),
	} {
		if got, err := parseDefaults(value); !errors.Is(err, unix.EINVAL) {
			t.Errorf("%q: got %v, %v, want EINVAL", value, got, err)
		}
	}
}

func FuzzParseDefaults(f *testing.F) {
	f.Add("2=/dev/net/lab,10=/dev/net/lab")
	f.Add("17=/a%20b%2Cc%25")
	f.Add("2=/\xff\n")
	f.Fuzz(func(t *testing.T, value string) {
		paths, err := parseDefaults(value)
		if err != nil {
			return
		}
		text := renderDefaults(paths)
		if strings.ContainsAny(text, " \n\x7f") {
			t.Errorf("%q: rendered %q", value, text)
		}
		if again, err := parseDefaults(text); err != nil || !maps.Equal(again, paths) {
			t.Errorf("%q: rendered %q, which is %v, %v, want %v", value, text, again, err, paths)
		}
	})
}
