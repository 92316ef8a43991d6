//! Durable state: a SQLite connection discipline and a blob log with group commit.
