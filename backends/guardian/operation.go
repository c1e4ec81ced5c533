package guardian

import (
	"context"
	"os"
)

// An operation is what the guardian was asked for.
type operation struct {
	id      uint64
	link    *link
	answers chan answer // what an order waits for
	done    chan struct{}
	err     error // why it ended; valid when done is closed

	box *box // of link.read alone; nil: nothing is to be put back
}

// An answer is what the guardian says; whoever takes it closes the file.
type answer struct {
	message
	file *os.File
}

// order sends an order. If the guardian is gone, that ends the operation.
func (op *operation) order(what string) {
	_ = send(op.link.conn, message{Op: what, ID: op.id}, nil, 0)
}

// wait returns the next answer, or why there is none.
func (op *operation) wait(ctx context.Context) (answer, error) {
	select {
	case a := <-op.answers:
		return a, a.Error.unpack()
	case <-op.done:
		select { // it came before the end
		case a := <-op.answers:
			return a, a.Error.unpack()
		default:
		}
		if op.err == nil {
			return answer{}, errEnded
		}
		return answer{}, op.err
	case <-ctx.Done():
		return answer{}, ctx.Err()
	}
}

// abandon ends an operation for whose answer nobody waits any more.
func (op *operation) abandon() {
	op.order(opCancel)
	go func() {
		<-op.done
		for {
			select {
			case a := <-op.answers:
				if a.file != nil {
					a.file.Close()
				}
			default:
				return
			}
		}
	}()
}

// keep replaces the box; nil: there is nothing to put back any more.
func (op *operation) keep(b *box) {
	op.box.close()
	op.box = b
}
