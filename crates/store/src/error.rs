//! What can go wrong with stored state.

use std::io;
use std::path::{Path, PathBuf};

use snakehouse_base::{ByteSize, Coded, Kind};
use snakehouse_supervise::LaneError;

use crate::{BlobRef, Holder};

/// A failure of the state directory, the blob log or the database.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process owns the state directory.
    #[error("state directory {dir} is in use by {holder}")]
    Held {
        /// The directory.
        dir: PathBuf,
        /// Who owns it.
        holder: Holder,
    },
    /// The state directory cannot be made or written.
    #[error("state directory {dir} is not writable: {source}")]
    NotWritable {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The database was written by a newer version.
    #[error("the database has schema version {found}, this program knows versions up to {known}")]
    NewerSchema {
        /// What the file says.
        found: u32,
        /// The newest that this program understands.
        known: u32,
    },
    /// The blob log has reached its bound.
    #[error("the blob log is full: its limit is {limit}")]
    Full {
        /// The bound.
        limit: ByteSize,
    },
    /// A record is larger than the log takes.
    #[error("a record of {size} is larger than the limit of {limit}")]
    TooLarge {
        /// The record.
        size: ByteSize,
        /// The limit.
        limit: ByteSize,
    },
    /// Stored bytes are not what was written.
    #[error("blob {at} is damaged: {what}")]
    Damaged {
        /// Where.
        at: BlobRef,
        /// In which way.
        what: &'static str,
    },
    /// An operation of the file system failed.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The disk failed under a batch of appends that this one was part of.
    #[error("the write was not made durable: {0}")]
    NotDurable(String),
    /// The database file is not one, or not whole.
    #[error("the database {path} is damaged: {source}")]
    DatabaseDamaged {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: sqlx::Error,
    },
    /// A statement failed.
    #[error("database: {0}")]
    Sql(#[from] sqlx::Error),
    /// A transaction that this one was part of did not commit.
    #[error("the transaction did not commit: {0}")]
    NotCommitted(String),
    /// Blocking work ran into a bug.
    #[error("internal error: {0}")]
    Panicked(String),
    /// The store is stopping or its task has ended.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    pub(crate) fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { what, path: path.to_path_buf(), source }
    }
}

impl StoreError {
    /// A failure of SQLite, by its result code.
    pub(crate) fn sql(path: &Path, source: sqlx::Error) -> Self {
        const CORRUPT: u32 = 11;
        const NOT_A_DATABASE: u32 = 26;
        let code = source.as_database_error().and_then(|e| e.code()?.parse::<u32>().ok());
        // The low byte is the code, the rest says more about it.
        match code.map(|code| code & 0xff) {
            Some(CORRUPT | NOT_A_DATABASE) => {
                Self::DatabaseDamaged { path: path.to_path_buf(), source }
            }
            _ => Self::Sql(source),
        }
    }
}

impl From<LaneError> for StoreError {
    fn from(error: LaneError) -> Self {
        match error {
            LaneError::Panicked { payload, .. } => Self::Panicked(payload),
            _ => Self::Closed,
        }
    }
}

impl Coded for StoreError {
    fn kind(&self) -> Kind {
        match self {
            Self::Held { .. } => Kind::Conflict,
            Self::NotWritable { .. } | Self::NewerSchema { .. } | Self::Io { .. } => {
                Kind::Environment
            }
            Self::Full { .. } => Kind::Saturated,
            Self::TooLarge { .. } => Kind::InvalidInput,
            Self::Damaged { .. } | Self::DatabaseDamaged { .. } => Kind::Corrupt,
            Self::NotDurable(_) | Self::Sql(_) | Self::NotCommitted(_) => Kind::Environment,
            Self::Panicked(_) => Kind::Internal,
            Self::Closed => Kind::Unavailable,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Held { .. } => "state_dir_in_use",
            Self::NotWritable { .. } => "state_dir_not_writable",
            Self::NewerSchema { .. } => "newer_schema",
            Self::Full { .. } => "log_full",
            Self::TooLarge { .. } => "record_too_large",
            Self::Damaged { .. } => "blob_damaged",
            Self::DatabaseDamaged { .. } => "database_damaged",
            Self::Io { .. } => "io",
            Self::NotDurable(_) => "not_durable",
            Self::Sql(_) => "sql",
            Self::NotCommitted(_) => "not_committed",
            Self::Panicked(_) => "internal",
            Self::Closed => "store_closed",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Held { holder, .. } => Some(match holder.port {
                Some(port) => format!(
                    "use the service that runs at http://127.0.0.1:{port}, stop process {}, or \
                     choose another directory with SNAKEHOUSE_HOME",
                    holder.pid
                ),
                None => format!(
                    "stop process {} or choose another directory with SNAKEHOUSE_HOME",
                    holder.pid
                ),
            }),
            Self::NotWritable { dir, .. } => Some(format!(
                "make {} writable for this user or choose another directory with SNAKEHOUSE_HOME",
                dir.display()
            )),
            Self::NewerSchema { .. } => {
                Some("use the newer program, or another state directory".into())
            }
            Self::Io { .. } | Self::NotDurable(_) => {
                Some("check free space and the health of the disk".into())
            }
            Self::Damaged { .. } => Some("check the health of the disk".into()),
            Self::DatabaseDamaged { path, .. } => Some(format!(
                "check the disk, then put a copy of {} in its place or move the whole state \
                 directory away and begin anew; checkpoints in its saves/ remain readable PEFT \
                 directories",
                path.display()
            )),
            Self::Full { .. } => Some(
                "try again in a moment: finished work is being let go; if this stays, finish \
                 sessions that are no longer needed"
                    .into(),
            ),
            _ => None,
        }
    }
}
