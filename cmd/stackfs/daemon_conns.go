package main

import "github.com/stackfs/stackfs/backends/conns"

// connsEnv returns what saves and restores the connections of all stacks.
// Nothing of it is started yet.
func (s *server) connsEnv(cfg *config) conns.Env {
	return conns.Env{
		Log:     s.log,
		Engine:  conns.NewEngine(conns.Mode(cfg.Checkpoint), s.log, s.startGuardian),
		Seals:   conns.NewSeals(cfg.StateDir),
		Holders: conns.NewHolders(),
		Tags:    conns.NewTags(s.opts.Dir),
		Version: version,
	}
}

// closeConns ends what connsEnv returned, after all stacks.
func (s *server) closeConns() {
	if err := s.conns.Engine.Close(); err != nil {
		s.log.Error("end the checkpoint engine", "err", err)
	}
	if err := s.conns.Seals.Close(); err != nil {
		s.log.Error("close the seals", "err", err)
	}
}
