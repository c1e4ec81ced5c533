package nic

import (
	"fmt"
	"syscall"

	"github.com/safchain/ethtool"
)

// driver is Ethtool by the kernel's ioctls.
type driver struct{ e *ethtool.Ethtool }

// OpenEthtool returns the machine's own. The caller calls close.
func OpenEthtool() (e Ethtool, close func(), err error) {
	et, err := ethtool.NewEthtool()
	if err != nil {
		return nil, nil, fmt.Errorf("ethtool: %w", err)
	}
	return driver{et}, et.Close, nil
}

func (d driver) Channels(iface string) (now, most int, err error) {
	c, err := d.e.GetChannels(iface)
	if err == nil && c.MaxCombined == 0 {
		err = fmt.Errorf("no combined channels: %w", syscall.EOPNOTSUPP)
	}
	return int(c.CombinedCount), int(c.MaxCombined), err
}

func (d driver) SetChannels(iface string, n int) error {
	c, err := d.e.GetChannels(iface)
	if err != nil {
		return err
	}
	c.CombinedCount = uint32(n)
	_, err = d.e.SetChannels(iface, c)
	return err
}

func (d driver) RxUsecs(iface string) (int, error) {
	c, err := d.e.GetCoalesce(iface)
	return int(c.RxCoalesceUsecs), err
}

func (d driver) SetRxUsecs(iface string, n int) error {
	c, err := d.e.GetCoalesce(iface)
	if err != nil {
		return err
	}
	c.RxCoalesceUsecs = uint32(n)
	_, err = d.e.SetCoalesce(iface, c)
	return err
}
