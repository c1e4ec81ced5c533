// Package fs is the FUSE face of stackfs.
//
// # The tree
//
//	DIR/                 what the directory held before stays visible
//	├── ctl              one command a line; root only
//	└── NAME/            a stack: a directory that answers ioctls
//	    ├── type         the kind of the stack
//	    ├── status       "key: value" lines
//	    ├── etc/         files that replace those of /etc in this stack
//	    ├── connections  all TCP sockets, one a line
//	    ├── conns/
//	    │   └── N/       a connection; N is its SO_COOKIE, never used again
//	    │       ├── local, remote   "192.0.2.1:80"; "-": there is none
//	    │       ├── status, info    what is known of it; info is JSON
//	    │       ├── checkpoint      its image, made by open(2)
//	    │       └── ctl             pause, hold, resume, abort, release
//	    ├── listeners/
//	    │   └── N/       a listener: local, status, info
//	    └── restore      takes an image and makes a socket of it
//
// What is about connections is there if the backend is a
// [stacknode.ConnTable], checkpoint, ctl and restore if it is a
// [stacknode.Checkpointer].
//
// # Modes
//
// The kernel checks permissions (default_permissions) against the mode and
// owner that the stack has. Reading a stack's directory, that is opening
// it, is the right to create sockets in the stack.
//
// The directory of a connection belongs to the owner of its socket: 0555,
// checkpoint 0400, ctl 0600, the rest 0444. To save, hold or end a connection
// takes more than that: the backend looks at who holds the socket. The option
// "connections" of a stack shows every user only his own (another's look-up
// is ENOENT), or none at all. The processes that hold a socket are told to
// its owner and root.
//
// The file restore is open to whoever may open the directory for reading: its
// mode gives to read and to write where the stack's gives to read, 0660 for a
// stack of mode 0750, and its owner is the stack's. What an image is good for
// is the backend's to say.
//
// A stack that serves its own network namespace only shows nothing of its
// connections to callers of others (EACCES), as it makes no sockets for them.
//
// # Caching
//
// Names and attributes are cached for a second ([cacheTime]), so that
// checking a permission is cheap; what changes inside the daemon is
// invalidated at once. Contents are never cached.
//
// The name of a connection is cached for a tick of the kernel's clock, the
// shortest time there is, and each request looks for the cookie again. So one
// that has ended is ENOENT to a look-up and ESTALE to a file that was found
// before, and never another connection. What was opened while it was there
// can be read until it is closed.
//
// Lists are made in one dump when they are first read; nothing is kept of an
// entry. The kernel does not look each of them up, since READDIRPLUS is off
// for the mount. What it has looked up it remembers until it runs short of
// memory: a dump also tells it which of these have ended ([sweepFrom]).
//
// # Connections
//
// open(2) of checkpoint saves the connection, and the image is in memory
// until the file is closed. Tables, lists and images of open files count as
// their user's (memoryPerUser; then ENOBUFS).
//
// A write to ctl carries out its lines and ends at the first that fails. The
// same open file then gives the answer, "ok" or "error: why"; one that was
// opened anew gives why the last request of that user about that connection
// failed, for some seconds, also that of a checkpoint: the writer may have
// been an echo of the shell. A "pause" ends by itself (60 seconds unless it
// says otherwise), a "hold" when the open file on which it was written is
// closed, by whatever death; "release" ends a connection without a packet.
// The writer must have the rights of who opened the file, or fewer.
//
// An image is written to restore, then STACKFS_IOC_RESTORE on the same open
// file makes the socket. Each open file has an image of its own. Should the
// socket not reach the caller it is closed in repair mode, so that its peer
// does not notice.
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
