//! SQLite with one writer, group commit and a schema version.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use snakehouse_base::ByteSize;
use snakehouse_guard::Permits;
use snakehouse_supervise::Scope;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Connection as _, Row as _};
use tokio::sync::{mpsc, oneshot};

use crate::StoreError;

/// What a transaction's closure returns: boxed, because it borrows the connection.
pub type SqlFuture<'c, T> = Pin<Box<dyn Future<Output = Result<T, sqlx::Error>> + Send + 'c>>;

/// The tables of a database, as the steps that made them.
#[derive(Clone, Copy, Debug)]
pub struct Schema {
    /// Step `n` leads from version `n` to version `n + 1`. Never changed once released.
    pub migrations: &'static [&'static str],
}

/// A SQLite database. Cheap to clone.
///
/// All writes go through one connection, in transactions that begin immediately; transactions that
/// wait together share one commit, each inside its own savepoint. Reads have connections of their
/// own and see the last commit. A commit is on disk (`synchronous=FULL`) when `write` returns.
#[derive(Clone)]
pub struct Db {
    path: Arc<PathBuf>,
    writes: mpsc::Sender<Job>,
    readers: Arc<Readers>,
}

struct Readers {
    free: Mutex<VecDeque<SqliteConnection>>,
    permits: Permits,
}

/// Runs a closure in the current transaction and keeps its result until the commit is known.
struct Job(Box<dyn for<'c> FnOnce(&'c mut SqliteConnection) -> JobFuture<'c> + Send>);
type JobFuture<'c> = Pin<Box<dyn Future<Output = Ran> + Send + 'c>>;

/// A closure that ran, not yet answered.
struct Ran {
    keep: bool,
    answer: Box<dyn FnOnce(Result<(), String>) + Send>,
}

impl Db {
    const QUEUE: usize = 1024;
    const BATCH: usize = 128;
    /// How long a lock held by another process is waited for.
    const BUSY: Duration = Duration::from_secs(5);

    /// Opens or makes the database and brings it to the newest version.
    ///
    /// # Errors
    /// [`StoreError::NewerSchema`] if it is newer than `schema`; [`StoreError::DatabaseDamaged`];
    /// [`StoreError::Sql`].
    pub async fn open(
        scope: &Scope,
        path: &Path,
        schema: Schema,
        readers: usize,
    ) -> Result<Self, StoreError> {
        // The busy timeout is set when the connection opens, before the switch to WAL.
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .busy_timeout(Self::BUSY)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true);
        let failed = |e| StoreError::sql(path, e);
        let mut writer = SqliteConnection::connect_with(&options).await.map_err(failed)?;
        migrate(&mut writer, schema).await.map_err(|e| match e {
            StoreError::Sql(e) => failed(e),
            other => other,
        })?;
        let mut free = VecDeque::new();
        for _ in 0..readers.max(1) {
            let options = options.clone().create_if_missing(false).read_only(true);
            free.push_back(SqliteConnection::connect_with(&options).await.map_err(failed)?);
        }
        let permits = Permits::counted(free.len()).expect("there is at least one reader");
        let (writes, jobs) = mpsc::channel(Self::QUEUE);
        let stop = scope.cancelled();
        let _owned_by_scope = scope.task("db-writer", async move {
            let mut jobs = jobs;
            loop {
                let first = tokio::select! {
                    job = jobs.recv() => job,
                    () = stop.cancelled() => None,
                };
                let Some(first) = first else { break };
                commit_batch(&mut writer, first, &mut jobs).await;
            }
            if let Err(error) = writer.close().await {
                tracing::warn!(%error, "database did not close cleanly");
            }
        });
        let path = Arc::new(path.to_path_buf());
        Ok(Self { path, writes, readers: Arc::new(Readers { free: Mutex::new(free), permits }) })
    }

    /// Runs a transaction; it is durable when this returns `Ok`.
    ///
    /// The closure must do all its work on the connection it is given, and neither begin nor end a
    /// transaction. An `Err` undoes what it did. Dropping the future does not stop a transaction
    /// that was queued.
    ///
    /// # Errors
    /// What the closure fails with, as [`StoreError::Sql`]; [`StoreError::NotCommitted`];
    /// [`StoreError::Closed`] at a stop.
    pub async fn write<T, F>(&self, run: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> SqlFuture<'c, T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let path = self.path.clone();
        let job = Job(Box::new(move |connection| {
            Box::pin(async move {
                let result = run(connection).await;
                let keep = result.is_ok();
                let answer = move |committed: Result<(), String>| {
                    let result = match (result, committed) {
                        (Ok(value), Ok(())) => Ok(value),
                        (Ok(_), Err(why)) => Err(StoreError::NotCommitted(why)),
                        (Err(error), _) => Err(StoreError::sql(&path, error)),
                    };
                    // The caller may have stopped waiting; the commit stands.
                    let _gone = reply.send(result);
                };
                Ran { keep, answer: Box::new(answer) }
            })
        }));
        self.writes.send(job).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| match self.writes.is_closed() {
            true => StoreError::Closed,
            false => StoreError::NotCommitted("it could not begin".into()),
        })?
    }

    /// Runs queries on a reading connection, waiting for a free one in order. Cancel safe.
    ///
    /// # Errors
    /// What the closure fails with; [`StoreError::Closed`].
    pub async fn read<T, F>(&self, run: F) -> Result<T, StoreError>
    where
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> SqlFuture<'c, T>,
    {
        let _permit = self.readers.permits.acquire(ByteSize(0)).await;
        let mut lease = Lease { readers: &self.readers, connection: self.readers.take() };
        let connection = lease.connection.as_mut().ok_or(StoreError::Closed)?;
        run(connection).await.map_err(|e| StoreError::sql(&self.path, e))
    }
}

impl fmt::Debug for Db {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Db").finish_non_exhaustive()
    }
}

/// Gives a reading connection back when dropped, also when a query is abandoned.
struct Lease<'a> {
    readers: &'a Readers,
    connection: Option<SqliteConnection>,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            let mut free = self.readers.free.lock().unwrap_or_else(PoisonError::into_inner);
            free.push_back(connection);
        }
    }
}

impl Readers {
    fn take(&self) -> Option<SqliteConnection> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

/// Runs what waits in one transaction and answers everybody after the commit.
async fn commit_batch(writer: &mut SqliteConnection, first: Job, jobs: &mut mpsc::Receiver<Job>) {
    let mut waiting = Vec::new();
    let result = run_batch(writer, first, jobs, &mut waiting).await;
    let result = match result {
        Ok(()) => Ok(()),
        Err(error) => {
            tracing::error!(%error, "transaction did not commit");
            // There is nothing to roll back if the failure already ended the transaction.
            let _ended = sqlx::query("ROLLBACK").execute(writer).await;
            Err(error.to_string())
        }
    };
    for answer in waiting {
        answer(result.clone());
    }
}

type Answer = Box<dyn FnOnce(Result<(), String>) + Send>;

async fn run_batch(
    writer: &mut SqliteConnection,
    first: Job,
    jobs: &mut mpsc::Receiver<Job>,
    waiting: &mut Vec<Answer>,
) -> Result<(), sqlx::Error> {
    sqlx::query("BEGIN IMMEDIATE").execute(&mut *writer).await?;
    let mut next = Some(first);
    while let Some(Job(run)) = next {
        sqlx::query("SAVEPOINT job").execute(&mut *writer).await?;
        let ran = run(writer).await;
        waiting.push(ran.answer);
        if !ran.keep {
            sqlx::query("ROLLBACK TO job").execute(&mut *writer).await?;
        }
        sqlx::query("RELEASE job").execute(&mut *writer).await?;
        next = if waiting.len() < Db::BATCH { jobs.try_recv().ok() } else { None };
    }
    sqlx::query("COMMIT").execute(&mut *writer).await?;
    Ok(())
}

async fn migrate(writer: &mut SqliteConnection, schema: Schema) -> Result<(), StoreError> {
    let known = u32::try_from(schema.migrations.len()).unwrap_or(u32::MAX);
    let row = sqlx::query("PRAGMA user_version").fetch_one(&mut *writer).await?;
    let found: u32 = row.try_get(0)?;
    if found > known {
        return Err(StoreError::NewerSchema { found, known });
    }
    for (version, step) in (1u32..).zip(schema.migrations).skip(found as usize) {
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::raw_sql(*step).execute(&mut *transaction).await?;
        let stamp = AssertSqlSafe(format!("PRAGMA user_version = {version}"));
        sqlx::raw_sql(stamp).execute(&mut *transaction).await?;
        transaction.commit().await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
