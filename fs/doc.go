// Package fs is the FUSE face of stackfs.
//
// # The tree
//
//	DIR/                 what the directory held before stays visible
//	├── ctl              one command a line; root only
//	└── NAME/            a stack: a directory that answers ioctls
//	    ├── type         the kind of the stack
//	    ├── status       "key: value" lines
//	    └── etc/         files that replace those of /etc in this stack
//
// # Modes
//
// The kernel checks permissions (default_permissions) against the mode and
// owner that the stack has. Reading a stack's directory, that is opening
// it, is the right to create sockets in the stack.
//
// # Caching
//
// Names and attributes are cached for a second ([cacheTime]), so that
// checking a permission is cheap; what changes inside the daemon is
// invalidated at once. Contents are never cached.
//
// # Ioctls
//
// An ioctl on an open stack directory carries a structure of package uapi.
// The caller waits in the kernel meanwhile: who it is and what it may is
// read then (package peer). A descriptor cannot go back in a FUSE reply, so
// a socket is sent over a socketpair of the caller's that is fetched from
// it.
//
// Nothing in this package may open a file below the mount: the daemon
// would wait for itself.
package fs
