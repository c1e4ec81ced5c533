// Package nic sets a network interface up so that what arrives on a CPU stays
// there: as many queues as CPUs, each with its interrupt, its transmit queue
// and, where there are fewer queues, receive packet steering (RPS), receive
// flow steering (RFS) and fewer interrupts. It does what Fastsocket's nic.sh
// did for four drivers for any, by what the kernel offers for all: sysfs,
// procfs and ethtool.
package nic
