// Package fast is the host's network stack with a listener for each CPU, as
// Fastsocket has it, on a kernel as it is.
//
// A listener becomes one of a reuseport group whose members carry the CPU that
// they are for (SO_INCOMING_CPU): the kernel gives a connection to the member
// of the CPU that handled its SYN, else to any. The members are made here and
// wait, bound but not listening, in a socket that all workers of the program
// have, the box: a worker takes one by receiving it, needs nobody for that and
// alone has it then, so that it goes with the worker. Connections that wait in
// the queue of a member that goes move to another one (SK_REUSEPORT with
// select_or_migrate).
//
// The listener itself stays in the group, open in all workers, and is what
// connections come to that no member is for.
package fast
