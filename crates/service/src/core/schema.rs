//! The tables, as the steps that made them.

use snakehouse_store::Schema;

/// Every step from an empty database to today.
pub(super) const SCHEMA: Schema = Schema { migrations: &[FIRST] };

/// Bodies and results are kept in one of two ways: `*_bytes` holds small ones; for larger ones
/// `*_segment`, `*_offset`, `*_len` say where they lie in the blob log. All null: not kept.
const FIRST: &str = "
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE session (
    id          TEXT PRIMARY KEY,
    info        TEXT NOT NULL,
    finished    TEXT,
    detail      TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX session_open ON session (id) WHERE finished IS NULL;

-- state: 0 being made, 1 live, 2 never came to be, 3 stopped (see stopped)
CREATE TABLE model (
    id        TEXT PRIMARY KEY,
    session   TEXT NOT NULL REFERENCES session (id),
    base      TEXT NOT NULL,
    lora      TEXT,
    metadata  TEXT,
    state     INTEGER NOT NULL,
    stopped   TEXT,
    next_seq  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX model_of_session ON model (session);

-- state: 0 accepted, 1 done, 2 failed
CREATE TABLE operation (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    kind            INTEGER NOT NULL,
    model           TEXT,
    seq             INTEGER,
    sampler         TEXT,
    sample_seq      INTEGER,
    samples         INTEGER NOT NULL DEFAULT 0,
    content         BLOB NOT NULL,
    body_bytes      BLOB,
    body_segment    INTEGER,
    body_offset     INTEGER,
    body_len        INTEGER,
    body_size       INTEGER NOT NULL,
    state           INTEGER NOT NULL,
    effect          INTEGER NOT NULL DEFAULT 0,
    deaths          INTEGER NOT NULL DEFAULT 0,
    source_op       INTEGER,
    category        INTEGER,
    reply_digest    BLOB,
    result_bytes    BLOB,
    result_segment  INTEGER,
    result_offset   INTEGER,
    result_len      INTEGER
) STRICT;
CREATE UNIQUE INDEX operation_of_model ON operation (model, seq) WHERE model IS NOT NULL;
CREATE UNIQUE INDEX operation_of_sampler ON operation (sampler, sample_seq)
    WHERE sampler IS NOT NULL;
CREATE INDEX operation_accepted ON operation (id) WHERE state = 0;

-- A complete snapshot directory, named by the operation it was taken after.
CREATE TABLE snapshot (
    op     INTEGER PRIMARY KEY,
    model  TEXT NOT NULL REFERENCES model (id),
    seq    INTEGER NOT NULL,
    digest TEXT NOT NULL
) STRICT;
CREATE INDEX snapshot_of_model ON snapshot (model, seq);

-- A complete save directory, named by the operation that wrote it.
CREATE TABLE save (
    op     INTEGER PRIMARY KEY,
    model  TEXT NOT NULL,
    kind   INTEGER NOT NULL,
    base   TEXT NOT NULL,
    lora   TEXT NOT NULL,
    bytes  INTEGER NOT NULL
) STRICT;

-- A name that points to a save.
CREATE TABLE checkpoint (
    model  TEXT NOT NULL,
    kind   INTEGER NOT NULL,
    name   TEXT NOT NULL,
    op     INTEGER NOT NULL REFERENCES save (op),
    PRIMARY KEY (model, kind, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE sampler (
    id       TEXT PRIMARY KEY,
    session  TEXT NOT NULL REFERENCES session (id),
    base     TEXT NOT NULL,
    path     TEXT,
    save_op  INTEGER REFERENCES save (op)
) STRICT, WITHOUT ROWID;
CREATE INDEX sampler_of_session ON sampler (session);
";
