# The probe, in the ways a program can come to have libmsocket or not.

PROBE_SRCS := test/probe.c $(wildcard test/do_*.c)
PROBE_DEPS := $(PROBE_SRCS) test/main.c test/probe.h msocket.h
PROBE_CC   := $(CC) $(CFLAGS)

test: all $(addprefix $(TESTDIR)/,probe probe-linked probe-static probe-ctor probe-ctor-linked)

$(TESTDIR)/probe: $(PROBE_DEPS)
	@mkdir -p $(TESTDIR)
	$(PROBE_CC) -o $@ $(PROBE_SRCS) test/main.c -ldl -lpthread

# An absolute path: with $ORIGIN a set-user-ID copy would not find it.
$(TESTDIR)/probe-linked: $(PROBE_DEPS) $(BUILD)/libmsocket.so
	@mkdir -p $(TESTDIR)
	$(PROBE_CC) -o $@ $(PROBE_SRCS) test/main.c -L$(BUILD) -lmsocket \
		-Wl,-rpath,$(abspath $(BUILD)) -ldl -lpthread

# dlsym in a static program warns that it needs the shared libc: unused here.
$(TESTDIR)/probe-static: $(PROBE_DEPS)
	@mkdir -p $(TESTDIR)
	$(PROBE_CC) -static -o $@ $(PROBE_SRCS) test/main.c -lpthread 2>/dev/null

$(TESTDIR)/libprobe-ctor.so: $(PROBE_DEPS) test/ctor.c
	@mkdir -p $(TESTDIR)
	$(PROBE_CC) -fPIC -shared -o $@ $(PROBE_SRCS) test/ctor.c -ldl -lpthread

$(TESTDIR)/probe-ctor: $(TESTDIR)/libprobe-ctor.so test/ctor_main.c
	$(PROBE_CC) -o $@ test/ctor_main.c -L$(TESTDIR) -Wl,--no-as-needed \
		-lprobe-ctor -Wl,-rpath,'$$ORIGIN'

$(TESTDIR)/probe-ctor-linked: $(TESTDIR)/libprobe-ctor.so test/ctor_main.c $(BUILD)/libmsocket.so
	$(PROBE_CC) -o $@ test/ctor_main.c -L$(TESTDIR) -L$(BUILD) \
		-Wl,--no-as-needed -lmsocket -lprobe-ctor \
		-Wl,-rpath,'$$ORIGIN:$$ORIGIN/..'
