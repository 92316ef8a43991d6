//! Bytes that belong to a row: small ones inside it, large ones in the blob log.

use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use snakehouse_base::ByteSize;
use snakehouse_store::{BlobLog, BlobRef, Pin, StoreError};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::CoreError;

/// Where bytes of a row are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    /// In the row itself, durable with it.
    Inline(Bytes),
    /// In the blob log, durable before the row.
    Logged(BlobRef),
    /// Not kept any more.
    Dropped,
}

/// Puts bytes where they belong and finds them again.
#[derive(Clone)]
pub(super) struct Vault {
    pub(super) log: BlobLog,
    inline: usize,
    /// How large the log may become by bodies; the rest up to its bound is for results.
    admission: ByteSize,
}

/// Bytes that are durable or will be with the row. The pin is held until the row is committed.
pub(super) struct Kept {
    pub(super) stored: Stored,
    pub(super) _pin: Option<Pin>,
}

impl Vault {
    pub(super) fn new(log: BlobLog, inline: usize, total: ByteSize) -> Self {
        Self { log, inline, admission: ByteSize(total.0 - total.0 / 8) }
    }

    /// Whether a body of this length goes to the log.
    pub(super) fn is_large(&self, len: usize) -> bool {
        len > self.inline
    }

    /// Whether the log has come down far enough for whoever was refused to be let in.
    pub(super) fn has_room(&self) -> bool {
        self.log.size().0 <= self.admission.0 / 2
    }

    /// Makes the body of an operation that is to be accepted ready for its row.
    pub(super) async fn admit(&self, body: Bytes) -> Result<Kept, StoreError> {
        if !self.is_large(body.len()) {
            return Ok(Kept::inline(body));
        }
        let appended = self.log.append_below(body, self.admission).await?;
        Ok(Kept { stored: Stored::Logged(appended.at), _pin: Some(appended.pin) })
    }

    /// Makes a result ready for its row, and says whether the log had no place for it: then it
    /// goes into the row, because what has taken place must be written down.
    pub(super) async fn keep(&self, result: Bytes) -> Result<(Kept, bool), StoreError> {
        if !self.is_large(result.len()) {
            return Ok((Kept::inline(result), false));
        }
        match self.log.append(result.clone()).await {
            Ok(appended) => {
                let stored = Stored::Logged(appended.at);
                Ok((Kept { stored, _pin: Some(appended.pin) }, false))
            }
            Err(StoreError::Full { .. } | StoreError::TooLarge { .. }) => {
                Ok((Kept::inline(result), true))
            }
            Err(error) => Err(error),
        }
    }

    /// The bytes, or `None` if they are not kept any more.
    pub(super) async fn load(&self, stored: &Stored) -> Result<Option<Bytes>, StoreError> {
        match stored {
            Stored::Inline(bytes) => Ok(Some(bytes.clone())),
            Stored::Logged(at) => self.log.read(*at).await.map(Some),
            Stored::Dropped => Ok(None),
        }
    }
}

impl Kept {
    fn inline(bytes: Bytes) -> Self {
        Self { stored: Stored::Inline(bytes), _pin: None }
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").field("log", &self.log).finish_non_exhaustive()
    }
}

impl Stored {
    /// Reads the four columns that start at `columns.start`.
    pub(super) fn from_row(row: &SqliteRow, columns: Range<usize>) -> Result<Self, CoreError> {
        let first = columns.start;
        if let Some(bytes) = get::<Option<Vec<u8>>>(row, first)? {
            return Ok(Self::Inline(bytes.into()));
        }
        let Some(segment) = get::<Option<i64>>(row, first + 1)? else {
            return Ok(Self::Dropped);
        };
        let number = |n: i64| u64::try_from(n).map_err(|_| bad_number());
        Ok(Self::Logged(BlobRef {
            segment: number(segment)?,
            offset: number(get(row, first + 2)?)?,
            len: u32::try_from(get::<i64>(row, first + 3)?).map_err(|_| bad_number())?,
        }))
    }

    /// The four column values: bytes, segment, offset, length.
    pub(super) fn columns(&self) -> (Option<Vec<u8>>, Option<i64>, Option<i64>, Option<i64>) {
        match self {
            Self::Inline(bytes) => (Some(bytes.to_vec()), None, None, None),
            Self::Logged(at) => {
                (None, Some(sql(at.segment)), Some(sql(at.offset)), Some(i64::from(at.len)))
            }
            Self::Dropped => (None, None, None, None),
        }
    }
}

/// A column's value.
pub(super) fn get<'r, T>(row: &'r SqliteRow, column: usize) -> Result<T, CoreError>
where
    T: sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
{
    row.try_get(column).map_err(|e| CoreError::Corrupt(e.to_string()))
}

/// A number as SQLite holds it. Numbers that enter the core are checked to fit.
pub(super) fn sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number that SQLite held.
pub(super) fn unsql(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn bad_number() -> CoreError {
    CoreError::Corrupt("a place in the blob log is not a number".into())
}
