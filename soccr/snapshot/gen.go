package snapshot

// clang, llvm-strip and the headers of libbpf are needed only here; the
// object is committed.
//
//go:generate go tool bpf2go -tags linux -target bpfel -strip llvm-strip -type slot -type control -type status -type refusal -type failure -cflags "-O2 -g -Wall -Werror" bpf bpf/snapshot.bpf.c
