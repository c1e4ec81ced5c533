module github.com/stackfs/stackfs

go 1.26
