//! Whole-system tests: the real binary, real processes, real Python.
