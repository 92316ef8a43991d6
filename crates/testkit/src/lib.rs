//! Virtual time, probes for leaks and processes, and other instruments for tests.
