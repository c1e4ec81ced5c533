package main

import (
	"math"
	"slices"
)

// median returns the middle value; v is not empty.
func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	n := len(s)
	return (s[(n-1)/2] + s[n/2]) / 2
}

// ratios divides ours by the peer's, round by round.
func ratios(ours, peer []float64) []float64 {
	r := make([]float64, len(ours))
	for i := range ours {
		r[i] = ours[i] / peer[i]
	}
	return r
}

// student95 holds the two-sided 95 % quantiles of Student's t, by degrees
// of freedom from 1.
var student95 = []float64{
	12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
	2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
	2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
}

// interval95 returns the 95 % confidence interval of the mean of v, which
// has at least two values.
func interval95(v []float64) (lo, hi float64) {
	n := float64(len(v))
	var mean, sq float64
	for _, x := range v {
		mean += x / n
	}
	for _, x := range v {
		sq += (x - mean) * (x - mean)
	}
	t := 2.0 // a little wide for many values
	if df := len(v) - 1; df <= len(student95) {
		t = student95[df-1]
	}
	half := t * math.Sqrt(sq/(n-1)/n)
	return mean - half, mean + half
}
