package conns

import (
	"fmt"
	"syscall"
)

// Each error wraps the errno that it means.
var (
	errOff     = fmt.Errorf("connections are not saved here (checkpoint = \"off\" in the configuration): %w", syscall.EOPNOTSUPP)
	errHolds   = fmt.Errorf("%d connections are held for you already: %w", holdsPerUser, syscall.EMFILE)
	errNotHeld = fmt.Errorf("its owner does not stand still after %s (a call of his may keep the socket locked): %w", holdPatience, syscall.ETIMEDOUT)
	errUnheld  = fmt.Errorf("no process holds the connection, and then only who may trace every process (CAP_SYS_PTRACE) may: %w", syscall.EPERM)
	errSealed  = fmt.Errorf("the seal does not fit: %w", syscall.EPERM)
	errNonce   = fmt.Errorf("a connection was made of this image before, and without CAP_NET_ADMIN that can be done once: %w", syscall.EPERM)
	errForeign = fmt.Errorf("an image that CRIU wrote has no addresses: stackfs restore --criu takes a whole dump: %w", syscall.EINVAL)
)
