//! Opening the state directory.

use snakehouse_base::{ByteSize, id::RunToken};
use snakehouse_store::{BlobLog, BlobLogConfig, Db, StateDir, StoreError};
use snakehouse_supervise::{Lane, Scope};
use sqlx::sqlite::SqliteConnection;

use super::load::load;
use super::schema::SCHEMA;
use super::shared::{Shared, Stores};
use super::snapshots::sweep;
use super::vault::Vault;
use super::{CoreConfig, CoreError};

/// Connections that read at the same time.
const READERS: usize = 4;

/// Opens everything that is stored, removes what a crash left half done, and reads what is live.
pub(super) async fn open(scope: &Scope, config: CoreConfig) -> Result<Shared, CoreError> {
    let lane = Lane::new(scope, "core", 2, 256);
    let path = config.state_dir.clone();
    let opened = lane.run(move || {
        let dir = StateDir::open(path)?;
        let (saves, snapshots) = (dir.subdir("saves")?, dir.subdir("snapshots")?);
        Ok::<_, StoreError>((dir, saves, snapshots))
    });
    let (dir, saves, snapshots) = opened.await.map_err(StoreError::from)??;
    let limits = &config.limits;
    let log = BlobLogConfig {
        segment: ByteSize(limits.log_bytes.0 / 64).min(ByteSize::mib(32)).max(ByteSize::kib(64)),
        // So that whatever is accepted at all finds room once the log has been cleared.
        record: ByteSize(limits.log_bytes.0 / 4).min(ByteSize::mib(256)),
        total: limits.log_bytes,
    };
    let log = BlobLog::open(scope, config.disk.clone(), &dir.path().join("log"), log).await?;
    let vault = Vault::new(log, limits.inline_bytes, limits.log_bytes);
    let db = Db::open(scope, &dir.path().join("state.sqlite"), SCHEMA, READERS).await?;
    let store_id = db.write(|c| Box::pin(store_id(c))).await?;
    let stores = Stores { dir, db, vault, saves, snapshots };
    let shared = Shared::new(config, stores, lane, store_id);
    sweep(&shared).await?;
    load(&shared).await?;
    Ok(shared)
}

/// The directory's own name, made at the first opening.
async fn store_id(c: &mut SqliteConnection) -> Result<String, sqlx::Error> {
    let fresh = RunToken::fresh();
    sqlx::query("INSERT OR IGNORE INTO meta (key, value) VALUES ('store', ?1)")
        .bind(fresh.as_str())
        .execute(&mut *c)
        .await?;
    sqlx::query_scalar("SELECT value FROM meta WHERE key = 'store'").fetch_one(c).await
}
