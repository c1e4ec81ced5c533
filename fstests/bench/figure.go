package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
)

// A figure is one line of the report.
type figure struct {
	name   string
	unit   string
	ours   []float64 // by rounds
	peer   string    // empty: there is none
	theirs []float64
	value  func(ours, theirs []float64) float64 // nil: the median of ours
	goal   goal                                 // nil: none
}

// A goal judges a figure and says what it asked for.
type goal interface {
	judge(f *figure, value, ratio float64) (text string, ok bool)
}

// A ratioAtMost bounds the ratio.
type ratioAtMost float64

func (g ratioAtMost) judge(_ *figure, _, ratio float64) (string, bool) {
	return fmt.Sprintf("goal<=%v", float64(g)), ratio <= float64(g)
}

// A valueAtMost bounds the value.
type valueAtMost float64

func (g valueAtMost) judge(_ *figure, value, _ float64) (string, bool) {
	return fmt.Sprintf("goal<=%v", float64(g)), value <= float64(g)
}

// A ratioAtLeast bounds the ratio from below.
type ratioAtLeast float64

func (g ratioAtLeast) judge(_ *figure, _, ratio float64) (string, bool) {
	return fmt.Sprintf("goal>=%v", float64(g)), ratio >= float64(g)
}

// A valueAtLeast bounds the value from below.
type valueAtLeast float64

func (g valueAtLeast) judge(_ *figure, value, _ float64) (string, bool) {
	return fmt.Sprintf("goal>=%v", float64(g)), value >= float64(g)
}

// sameAsPeer wants no difference that can be told from chance.
type sameAsPeer struct{}

func (sameAsPeer) judge(f *figure, _, _ float64) (string, bool) {
	if len(f.ours) < 2 {
		return "ci=- goal=1.00", false
	}
	lo, hi := interval95(ratios(f.ours, f.theirs))
	return fmt.Sprintf("ci=%.3f..%.3f goal=1.00", lo, hi), lo <= 1 && hi >= 1
}

// subtract is the value of a figure that tells how much ours is above the
// peer's.
func subtract(ours, theirs []float64) float64 { return median(ours) - median(theirs) }

// line returns the line of the report and whether the goal was met.
func (f *figure) line() (text string, ok bool) {
	value := median(f.ours)
	if f.value != nil {
		value = f.value(f.ours, f.theirs)
	}
	ratio, against := 0.0, "ratio=- peer=- spread=-"
	if f.peer != "" {
		r := ratios(f.ours, f.theirs)
		ratio = median(r)
		against = fmt.Sprintf("ratio=%.3f peer=%s spread=%.3f..%.3f", ratio, f.peer, slices.Min(r), slices.Max(r))
	}
	text = fmt.Sprintf("%s %s %s %s n=%d", f.name, number(value), f.unit, against, len(f.ours))
	if f.goal == nil {
		return text, true
	}
	wanted, ok := f.goal.judge(f, value, ratio)
	verdict := " ok"
	if !ok {
		verdict = " MISS"
	}
	return text + " " + wanted + verdict, ok
}

// number prints at least four digits of v and no needless ones.
func number(v float64) string {
	digits := 0
	for limit := 1000.0; digits < 3 && v < limit && v > -limit && v != float64(int64(v)); limit /= 10 {
		digits++
	}
	return strconv.FormatFloat(v, 'f', digits, 64)
}

// A report prints figures as they come.
type report struct {
	out    io.Writer
	missed int
}

func (r *report) add(f figure) {
	text, ok := f.line()
	if !ok {
		r.missed++
	}
	fmt.Fprintln(r.out, text)
}
