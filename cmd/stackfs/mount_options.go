package main

import (
	"fmt"
	"strings"
)

// ignoredOptions are those of mount(8) and fstab(5) that have nothing to
// say about a tree of stacks or say what always holds: the mount is nosuid
// and noexec, has default_permissions and allow_other.
const ignoredOptions = " defaults rw auto noauto user nouser users group owner" +
	" _netdev nofail suid nosuid exec noexec dev async sync dirsync" +
	" atime noatime diratime nodiratime relatime norelatime strictatime" +
	" nostrictatime lazytime nolazytime iversion noiversion mand nomand" +
	" silent loud allow_other default_permissions "

// apply sets the options of one -o list. sloppy ignores unknown ones, as
// mount -s asks for.
func (o *mountOptions) apply(list string, sloppy bool) error {
	words, err := splitOptions(list)
	if err != nil {
		return err
	}
	for _, word := range words {
		if err := o.applyOne(word); err != nil && !sloppy {
			return err
		}
	}
	return nil
}

func (o *mountOptions) applyOne(word string) error {
	key, value, hasValue := strings.Cut(word, "=")
	switch key {
	case "config", "log":
		if value == "" {
			return fmt.Errorf("option %s: a file is missing (%s=FILE)", key, key)
		}
		if key == "log" {
			o.Log = value
		} else {
			o.setConfig(value)
		}
		return nil
	case "comment":
		return nil
	}
	if strings.HasPrefix(key, "x-") || strings.HasPrefix(key, "X-") {
		return nil
	}
	if hasValue {
		return fmt.Errorf("unknown option %q", word)
	}
	switch key {
	case "discover", "nodiscover":
		on := key == "discover"
		o.Discover = &on
	case "debug":
		o.Verbose = true
	case "ro":
		o.ReadOnly = true
	case "rw":
		o.ReadOnly = false
	case "nodev":
		o.NoDev = true
	case "dev":
		o.NoDev = false
	case "remount":
		return fmt.Errorf("option remount: a stackfs cannot be remounted (stackfs reload DIR reads its configuration again)")
	case "":
	default:
		if !strings.Contains(ignoredOptions, " "+key+" ") {
			return fmt.Errorf("unknown option %q", word)
		}
	}
	return nil
}

// splitOptions splits at commas outside of double quotes, by which mount(8)
// lets a value have commas.
func splitOptions(list string) ([]string, error) {
	var (
		words  []string
		word   strings.Builder
		quoted bool
	)
	for _, r := range list {
		switch {
		case r == '"':
			quoted = !quoted
		case r == ',' && !quoted:
			words = append(words, word.String())
			word.Reset()
		default:
			word.WriteRune(r)
		}
	}
	if quoted {
		return nil, fmt.Errorf("options %s: a quote is not closed", list)
	}
	return append(words, word.String()), nil
}
