// Package soccr saves TCP connections and restores them: in another process,
// on another machine, behind the peer's back. It is the counterpart, in Go
// and without C libraries, of CRIU's libsoccr, whose verbs and data it has,
// and adds what libsoccr leaves to its caller: addresses, socket options,
// the silent end of the original, and errors that say what to do.
//
// It works on descriptors. It knows nothing of processes, files or formats.
//
// # Saving
//
//	err := soccr.Saveable(fd)   // 1. can it be saved at all?
//	                            // 2. stop every thread that may use the socket
//	b, err := soccr.Block(fd)   // 3. keep the peer's packets away
//	s, err := soccr.Pause(fd)   // 4. repair mode
//	c, err := s.Conn()          // 5. save; again after ErrChanged
//	err = s.Resume()            // 6. the connection goes on,
//	err = s.Discard()           //    or ends without a packet
//	err = b.Undo()              // 7. the peer's packets are let in again
//	                            // 8. let the threads run
//
// Step 2 is the caller's, and is no formality. While a socket is in repair
// mode, read(2) fails with EPERM or, at the wrong moment, returns bytes that
// it then returns again; write(2) fails with EINVAL or puts bytes into a
// queue from which they are never sent; close(2) forgets the connection. The
// threads must be outside of the kernel or asleep there, and every process
// that has the socket counts. Undo in the reverse order, whatever happens: a
// socket that stays in repair mode is broken for its owner.
//
// Step 3 drops packets, which the peer sends again after a timeout of some
// 200 ms. Without it a save may find that the connection moved (ErrChanged),
// which does no harm, and one that is followed by Discard may lose bytes:
// those that came after the save were acknowledged.
//
// Timers of the connection run on. If one of them wants to send (that of
// pacing, mostly) in the moment in which Save has the send queue selected,
// the kernel marks the unsent bytes as sent instead. Save returns ErrChanged
// then, and they are sent after a timeout: nothing is lost but time.
//
// After Discard nothing answers for the connection: a packet of the peer
// makes the stack send a reset, which ends it at the peer. Until it is
// restored, take the address away, or drop packets by a rule of netfilter.
//
// # Restoring
//
//	fd, err := unix.Socket(c.Family, unix.SOCK_STREAM, 0) // in the namespace where it is to live
//	err = soccr.Restore(fd, c)
//
// The steps inside, which are also those with libsoccr's verbs
// ([Socket.SetAddr], [Socket.SetQueueBytes], [Socket.Restore],
// [Socket.Resume]):
//
//  1. Options that have a say in routing, binding and the handshake.
//  2. Repair mode; bind; the numbers at which both queues begin; a filter
//     that takes no packets but our own; connect, which in repair mode sends
//     nothing and leads to ESTABLISHED.
//  3. What the handshake agreed on: MSS, window scales, SACK, timestamps,
//     and the clock of the latter.
//  4. The bytes: those received; those sent; out of repair mode those not
//     sent, which stay, for the peer's window still counts as closed.
//  5. The windows, and the options that would have been in the way: sizes
//     and limits of the buffers.
//  6. The FINs, see below.
//  7. The filter is taken off, repair mode is left with a window probe, to
//     which the peer answers with what it has; SO_REUSEADDR.
//
// If any step before the last fails, the peer has not heard of it, and does
// not when the socket is closed at once, see [Restore].
//
// Bytes that were sent and not acknowledged are in the hands of the
// retransmission timers of a new connection, unless the answer to the probe
// acknowledges them: if they were lost they are sent again after about 4
// seconds (a loss probe after 1, the timeout after 3 more), or 0.4 where the
// kernel remembers the destination (ip tcp_metrics). To send them at once
// as if they were new would not do: a peer that has them acknowledges more
// than was sent, and such packets are dropped.
//
// # Sequence numbers
//
// The receive queue:
//
//	copied_seq                                      rcv_nxt = InqSeq
//	    |<----------------- InqLen ---------------->|     |
//	----+-------------------------------------------+-----+-----------------+---->
//	    |  Recv: came in, not read by the owner     | FIN | may be sent     |
//	----+-------------------------------------------+-----+-----------------+---->
//	                                                           RcvWup + RcvWnd
//
// The send queue:
//
//	snd_una                    snd_nxt                        write_seq = OutqSeq
//	    |<-------------------- OutqLen -------------------->|     |
//	    |                         |<------- UnsqLen ------->|     |
//	----+-------------------------+-------------------------+-----+---->
//	    |  sent, unacknowledged   |        not sent         | FIN |
//	----+-------------------------+-------------------------+-----+---->
//	    |<---------------------- Send ----------------------|
//
// A FIN has a number and no byte. Lengths count bytes; InqSeq and OutqSeq
// count a FIN that is there. So the first byte in the receive queue has the
// number InqSeq-InqLen, less 1 where the peer sent a FIN, and the first in
// the send queue OutqSeq-OutqLen, less 1 where we did:
//
//	state           peer's FIN   our FIN          how it is reached in a restore
//	ESTABLISHED     -            -                connect
//	SYN_SENT        -            -                connect, out of repair mode: a real SYN
//	FIN_WAIT1       -            in the queue     shutdown
//	FIN_WAIT2       -            acknowledged     shutdown, *ACK
//	CLOSING         received     in the queue     shutdown, *FIN
//	CLOSE_WAIT      received     -                *FIN
//	LAST_ACK        received     in the queue     *FIN, shutdown
//	CLOSE           received     acknowledged     *FIN, shutdown, *ACK
//
//	                         ESTABLISHED
//	             shutdown   /           \   *FIN
//	            FIN_WAIT1                CLOSE_WAIT
//	        *ACK /      \ *FIN                | shutdown
//	    FIN_WAIT2      CLOSING             LAST_ACK
//	                                          | *ACK
//	                                        CLOSE
//
// A star marks a packet that must come from the peer. Restore makes it up
// and sends it by a raw socket to the address of the connection itself; it
// has [Mark] as its mark, so let that pass where netfilter holds up the
// connection. In FIN_WAIT1, CLOSING and LAST_ACK our FIN counts as sent if
// no byte before it is unsent. In CLOSE, what was in the send queue is gone,
// what is in the receive queue can be read, and the numbers mean nothing. A
// socket in CLOSE that has no peer is restored with options and address.
//
// LISTEN, SYN_RECV and TIME_WAIT are not connections with a socket that
// could be saved.
//
// # What is not kept
//
// Congestion window, round trip time and timers start over (Info shows
// them); the peer's last timestamp and ECN are off until negotiated anew;
// data that came out of order the peer has to send again; TCP_QUICKACK, which
// the kernel changes all the time, is as in a new connection; a filter, a
// pending error and the error queue are gone (Info.Lost names the first
// two). In SYN_SENT the clock of the timestamps is the new stack's.
//
// # Memory and descriptors
//
// Descriptors are borrowed and never closed: by functions for the call, by
// [Pause] and [Block] until their results are ended. A [Conn] is its
// holder's alone, with the bytes in it; so is what QueueBytes returns,
// unless UseBuffer was called. Restore reads its Conn and keeps nothing.
//
// # Privileges and kernels
//
// Repair mode needs CAP_NET_ADMIN over the user namespace that owns the
// network namespace; forged packets CAP_NET_RAW, and CAP_SYS_ADMIN if the
// caller is in another network namespace than the socket; Block nothing.
// Linux 4.19 has all that is needed; sizes of buffers stay under the
// kernel's control across a restore since 5.14 (SO_BUF_LOCK). A receive
// queue that is as full as its window is restored on 6.17 and later too.
package soccr
