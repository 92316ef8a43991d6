use futures_util::future::join_all;
use snakehouse_base::Coded as _;
use snakehouse_supervise::{Root, run};

use super::*;

const SCHEMA: Schema = Schema {
    migrations: &[
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT NOT NULL UNIQUE) STRICT",
        "ALTER TABLE t ADD COLUMN w INTEGER NOT NULL DEFAULT 5",
    ],
};

async fn add(db: &Db, v: &'static str) -> Result<i64, StoreError> {
    db.write(move |c| {
        Box::pin(async move {
            let done = sqlx::query("INSERT INTO t (v) VALUES (?1)").bind(v).execute(c).await?;
            Ok(done.last_insert_rowid())
        })
    })
    .await
}

async fn count(db: &Db) -> i64 {
    db.read(|c| Box::pin(sqlx::query_scalar("SELECT count(*) FROM t").fetch_one(c))).await.unwrap()
}

#[test]
fn a_committed_row_is_there_after_reopening() {
    run(async {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("state.sqlite");
        for life in 0..2 {
            let root = Root::new("db");
            let db = Db::open(root.scope(), &path, SCHEMA, 2).await.unwrap();
            assert_eq!(count(&db).await, life);
            add(&db, if life == 0 { "a" } else { "b" }).await.unwrap();
            assert!(root.stop().await.is_clean());
        }
    });
}

#[test]
fn the_file_is_opened_as_the_discipline_says() {
    run(async {
        let home = tempfile::tempdir().unwrap();
        let root = Root::new("db");
        let db = Db::open(root.scope(), &home.path().join("d"), SCHEMA, 1).await.unwrap();
        let pragma = |name: &'static str| {
            db.write(move |c| {
                Box::pin(async move {
                    let text =
                        AssertSqlSafe(format!("SELECT CAST({name} AS TEXT) FROM pragma_{name}"));
                    sqlx::query_scalar::<_, String>(text).fetch_one(c).await
                })
            })
        };
        assert_eq!(pragma("journal_mode").await.unwrap(), "wal");
        assert_eq!(pragma("synchronous").await.unwrap(), "2");
        assert_eq!(pragma("foreign_keys").await.unwrap(), "1");
        assert_eq!(pragma("user_version").await.unwrap(), "2");
        root.stop().await;
    });
}

#[test]
fn a_failed_transaction_undoes_itself_and_nothing_else() {
    run(async {
        let home = tempfile::tempdir().unwrap();
        let root = Root::new("db");
        let db = Db::open(root.scope(), &home.path().join("d"), SCHEMA, 1).await.unwrap();
        let twice = db.write(|c| {
            Box::pin(async move {
                sqlx::query("INSERT INTO t (v) VALUES ('half')").execute(&mut *c).await?;
                sqlx::query("INSERT INTO t (v) VALUES ('half')").execute(c).await
            })
        });
        // All wait together, so they share one commit.
        let (twice, a, b) = tokio::join!(twice, add(&db, "a"), add(&db, "b"));
        assert_eq!(twice.unwrap_err().code(), "sql");
        assert!(a.is_ok() && b.is_ok());
        assert_eq!(count(&db).await, 2);
        root.stop().await;
    });
}

#[test]
fn many_writers_are_served() {
    run(async {
        let home = tempfile::tempdir().unwrap();
        let root = Root::new("db");
        let db = Db::open(root.scope(), &home.path().join("d"), SCHEMA, 4).await.unwrap();
        let writes = (0..300).map(|n| {
            db.write(move |c| {
                Box::pin(async move {
                    let insert = sqlx::query("INSERT INTO t (v) VALUES (?1)");
                    insert.bind(n.to_string()).execute(c).await
                })
            })
        });
        assert!(join_all(writes).await.iter().all(Result::is_ok));
        let reads = join_all((0..50).map(|_| count(&db))).await;
        assert!(reads.iter().all(|n| *n == 300));
        root.stop().await;
    });
}

#[test]
fn a_newer_file_is_refused_by_name() {
    run(async {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("d");
        let root = Root::new("db");
        Db::open(root.scope(), &path, SCHEMA, 1).await.unwrap();
        root.stop().await;
        let older = Schema { migrations: &SCHEMA.migrations[..1] };
        let root = Root::new("db");
        let error = Db::open(root.scope(), &path, older, 1).await.unwrap_err();
        assert!(matches!(error, StoreError::NewerSchema { found: 2, known: 1 }), "{error}");
        assert!(error.hint().is_some());
        root.stop().await;
    });
}

#[test]
fn a_damaged_file_is_called_that_with_a_way_out() {
    run(async {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("state.sqlite");
        std::fs::write(&path, vec![7; 8192]).unwrap();
        let root = Root::new("db");
        let error = Db::open(root.scope(), &path, SCHEMA, 1).await.unwrap_err();
        assert_eq!(error.code(), "database_damaged", "{error}");
        let hint = error.hint().unwrap();
        assert!(hint.contains("state.sqlite") && hint.contains("saves/"), "{hint}");
        root.stop().await;
    });
}
