//go:build !amd64

package freeze

// supported tells whether the registers of this machine are known.
func supported() bool { return false }

// A call does not exist here: Freeze fails before there is one.
type call struct{}

func (*call) apply(int, *calls) error { return ErrArch }

func (*thread) giveBack(*calls) error { return ErrArch }

func waitsWithTimeout(int, int) bool { return false }
