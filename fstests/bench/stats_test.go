package main

import (
	"math"
	"testing"
)

func TestMedianOfEvenAndOdd(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		v    []float64
		want float64
	}{
		{[]float64{3}, 3},
		{[]float64{4, 1}, 2.5},
		{[]float64{9, 1, 5}, 5},
		{[]float64{4, 3, 2, 1}, 2.5},
	} {
		if got := median(c.v); got != c.want {
			t.Errorf("median(%v): got %v, want %v", c.v, got, c.want)
		}
	}
}

func TestIntervalIsStudents(t *testing.T) {
	t.Parallel()
	// mean 2, s = 1, t(2) = 4.303
	lo, hi := interval95([]float64{1, 2, 3})
	half := 4.303 / math.Sqrt(3)
	if math.Abs(lo-(2-half)) > 1e-9 || math.Abs(hi-(2+half)) > 1e-9 {
		t.Errorf("interval95: got %v..%v, want 2±%v", lo, hi, half)
	}
}

func TestFigureLines(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		f      figure
		want   string
		missed bool
	}{
		{
			figure{name: "a", unit: "ns", ours: []float64{12, 10, 11}, peer: "b", theirs: []float64{10, 10, 10}, goal: ratioAtMost(1.3)},
			"a 11 ns ratio=1.100 peer=b spread=1.000..1.200 n=3 goal<=1.3 ok", false,
		},
		{
			figure{name: "a", unit: "ns", ours: []float64{20}, peer: "b", theirs: []float64{10}, goal: ratioAtMost(1.3)},
			"a 20 ns ratio=2.000 peer=b spread=2.000..2.000 n=1 goal<=1.3 MISS", true,
		},
		{
			figure{name: "m", unit: "KiB", ours: []float64{20480}},
			"m 20480 KiB ratio=- peer=- spread=- n=1", false,
		},
		{
			figure{name: "d", unit: "ns", value: subtract, ours: []float64{150, 162}, peer: "bare", theirs: []float64{100, 100}, goal: valueAtMost(60)},
			"d 56 ns ratio=1.560 peer=bare spread=1.500..1.620 n=2 goal<=60 ok", false,
		},
		{
			figure{name: "e", unit: "x", ours: []float64{9, 11, 10}, peer: "b", theirs: []float64{10, 10, 10}, goal: sameAsPeer{}},
			"e 10 x ratio=1.000 peer=b spread=0.900..1.100 n=3 ci=0.752..1.248 goal=1.00 ok", false,
		},
	} {
		line, ok := c.f.line()
		if line != c.want || ok == c.missed {
			t.Errorf("got %q %v, want %q %v", line, ok, c.want, !c.missed)
		}
	}
}
