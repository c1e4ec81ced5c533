// Package netns is the backend whose stacks are network namespaces.
//
// A namespace is one that exists (named by ip-netns(8), that of a process,
// or any file of nsfs) or one that is made with its stack. A made namespace
// has no process to keep it alive: it is pinned by a bind mount at
// RunDir/ns/STACK, where the next daemon finds it ([Pinned]) and adopts it.
//
// What the options of a stack change (links, addresses, routes, sysctls) is
// a list of steps. Each knows whether it is done already, how to do it and
// how to take it back. The steps that this package did are written down in
// RunDir/undo/STACK before they are done, so that a daemon that is started
// after a crash neither repeats them nor forgets to take them back, and
// never takes back what somebody else did.
//
// At rest a stack costs one descriptor and no thread. A [Discoverer] makes
// and drops stacks as named namespaces come and go.
package netns
