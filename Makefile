# stackfs. `make demo` shows it, `make test` proves it.

PREFIX  ?= /usr/local
DESTDIR ?=
BINDIR   = $(DESTDIR)$(PREFIX)/bin
SBINDIR ?= $(DESTDIR)/sbin
MANDIR   = $(DESTDIR)$(PREFIX)/share/man
GO      ?= go
GOFLAGS_BUILD = -trimpath -buildvcs=false

export CGO_ENABLED = 0

all: build

# Everything that is built is in build/.
build: build/stackfs shim

build/stackfs: FORCE
	$(GO) build $(GOFLAGS_BUILD) -ldflags '-s -w' -o $@ ./cmd/stackfs

shim:
	$(MAKE) -C stacknode/shim all
	$(MAKE) -C stacknode/fsocket all

# The main job, shown on a fresh machine: installs what it needs.
demo:
	./packaging/need.sh build demo
	$(MAKE) build
	./packaging/demo.sh

# All tests, as root. They make namespaces and mounts of their own. The time
# limit is for slow machines; -p 1: one package's mounts at a time.
test:
	./packaging/need.sh build test kernels
	$(MAKE) build
	$(MAKE) -C stacknode/shim test
	$(MAKE) test-kmod
	$(GO) test -count=1 -p 1 -timeout 40m ./...

# The kernel module for the kernel whose headers are KDIR.
kmod:
	$(MAKE) -C kmod OUT=$(CURDIR)/build/kmod $(if $(KDIR),KDIR=$(KDIR))

# The module's tests on Debian's kernels, in QEMU. SERIES and CPUS choose.
SERIES ?= 6.1 6.12
CPUS ?= 2
test-kmod:
	./packaging/need.sh build kernels
	./packaging/kernels/test-kmod.sh $(CPUS) $(SERIES)

# The tests of all packages on Debian's kernels, in QEMU: hours. Does not pass yet.
test-kernels: test-kmod
	./packaging/need.sh build guest
	CPUS=$(CPUS) ./packaging/kernels/test-kernels.sh $(SERIES)

lint:
	./packaging/need.sh build lint
	./packaging/lint.sh

bench: build
	./packaging/need.sh build bench
	$(GO) run ./fstests/bench $(BENCHFLAGS)

fuzz:
	./packaging/fuzz.sh

man:
	mandoc -Tlint -Wwarning cmd/stackfs/stackfs.8 cmd/stackfs/stackfs.toml.5 stacknode/shim/msocket.3 stacknode/fsocket/libfsocket.3

# mount(8) looks for its helpers in /sbin alone.
install: build
	install -d $(BINDIR) $(SBINDIR) $(MANDIR)/man5 $(MANDIR)/man8 $(DESTDIR)$(PREFIX)/include/linux
	install -m 755 build/stackfs $(BINDIR)/stackfs
	ln -sf $(PREFIX)/bin/stackfs $(SBINDIR)/mount.stackfs
	install -m 644 cmd/stackfs/stackfs.8 $(MANDIR)/man8/
	install -m 644 cmd/stackfs/stackfs.toml.5 $(MANDIR)/man5/
	install -m 644 stacknode/uapi/stackfs.h $(DESTDIR)$(PREFIX)/include/linux/stackfs.h
	install -d $(DESTDIR)$(PREFIX)/share/doc/stackfs
	install -m 644 README.md config.toml.example $(DESTDIR)$(PREFIX)/share/doc/stackfs/
	for s in bash zsh fish; do build/stackfs completion $$s > build/completion.$$s || exit 1; done
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	install -m 644 build/completion.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/stackfs
	install -d $(DESTDIR)$(PREFIX)/share/zsh/site-functions
	install -m 644 build/completion.zsh $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_stackfs
	install -d $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	install -m 644 build/completion.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/stackfs.fish
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	sed 's|@PREFIX@|$(PREFIX)|' packaging/stackfs@.service > $(DESTDIR)$(PREFIX)/lib/systemd/system/stackfs@.service
	$(MAKE) -C stacknode/shim install PREFIX=$(PREFIX) DESTDIR=$(DESTDIR)
	$(MAKE) -C stacknode/fsocket install PREFIX=$(PREFIX) DESTDIR=$(DESTDIR)

uninstall:
	rm -f $(BINDIR)/stackfs $(SBINDIR)/mount.stackfs $(MANDIR)/man8/stackfs.8 $(MANDIR)/man5/stackfs.toml.5 \
		$(DESTDIR)$(PREFIX)/include/linux/stackfs.h $(DESTDIR)$(PREFIX)/include/msocket.h \
		$(DESTDIR)$(PREFIX)/lib/libmsocket.so $(DESTDIR)$(PREFIX)/lib/libmsocket.so.0 \
		$(DESTDIR)$(PREFIX)/lib/pkgconfig/msocket.pc $(MANDIR)/man3/msocket.3 \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions/stackfs \
		$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_stackfs \
		$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/stackfs.fish \
		$(DESTDIR)$(PREFIX)/lib/systemd/system/stackfs@.service
	rm -rf $(DESTDIR)$(PREFIX)/share/doc/stackfs

clean:
	rm -rf build

FORCE:

.PHONY: all build shim demo test kmod test-kmod test-kernels lint bench fuzz man install uninstall clean FORCE
