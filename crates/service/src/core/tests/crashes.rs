//! The power fails at every point, on a disk that forgets what was not synced.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use snakehouse_base::Chance;
use snakehouse_base::id::{ModelId, SessionId};
use snakehouse_store::SimulatedDisk;
use snakehouse_testkit::real_time;
use tokio::sync::Notify;

use super::bench::{Bench, assert_same, create, script};
use super::fake_engine::World;
use crate::core::{Fault, FaultPoint, NewSession, Outcome, Victim};

/// What is on the disks when the power fails.
struct Outage {
    disk: SimulatedDisk,
    home: PathBuf,
    salvage: PathBuf,
    chance: Mutex<Chance>,
    happened: Notify,
}

impl Outage {
    /// Everything but the log is kept as it is: the database is then at its most durable, which is
    /// where a row that points to lost bytes would show.
    fn strike(&self) {
        copy(&self.home, &self.salvage);
        self.disk.crash(&self.chance.lock().unwrap());
        self.disk.move_dir(&self.home.join("log"), &self.salvage.join("log"));
        self.happened.notify_one();
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Plays the script as a client does that retries everything it has no end for.
async fn play_to_the_end(bench: &Bench, session: &SessionId, model: &ModelId) -> Vec<Outcome> {
    bench.run(create(session, 0)).await;
    super::bench::play(bench, script(model)).await
}

/// The same client before the outage: from the moment on at which anything is refused, it waits.
async fn play_while_it_lasts(bench: &Bench, session: &SessionId, model: &ModelId) {
    let mut promises = Vec::new();
    for op in std::iter::once(create(session, 0)).chain(script(model)) {
        match bench.core.submit(op).await {
            Ok(promise) => promises.push(promise),
            Err(_) => std::future::pending().await,
        }
        if promises.len() == 1 {
            bench.end_or_never(&promises[0]).await;
        }
    }
    for promise in &promises {
        bench.end_or_never(promise).await;
    }
}

#[test]
fn nothing_promised_is_lost_wherever_the_power_fails() {
    let undisturbed = real_time(async {
        let home = tempfile::tempdir().unwrap();
        let bench = Bench::start(home.path()).await;
        let session = bench.core.create_session(NewSession::default()).await.unwrap();
        let model = ModelId::new(format!("{session}:train:0"));
        let ends = play_to_the_end(&bench, &session, &model).await;
        let digest = format!("{:?}", bench.digest(&model).await);
        bench.stop().await;
        (format!("{ends:?}").replace(session.as_str(), "SESSION"), digest)
    });
    for (n, point) in FaultPoint::ALL.into_iter().enumerate() {
        for nth in [1, 2, 5, 11] {
            let seed = n as u64 * 100 + nth;
            if let Some(after) = real_time(with_outage(point, nth, seed)) {
                let what = format!("{} number {nth}, seed {seed}", point.as_str());
                assert_same(&what, &after, &undisturbed);
            }
        }
    }
}

/// One outage and a restart; `None` if the point was not reached that often.
async fn with_outage(point: FaultPoint, nth: u64, seed: u64) -> Option<(String, String)> {
    let place = tempfile::tempdir().unwrap();
    let disk = SimulatedDisk::new();
    let outage = Arc::new(Outage {
        disk: disk.clone(),
        home: place.path().join("before"),
        salvage: place.path().join("after"),
        chance: Mutex::new(Chance::seeded(seed)),
        happened: Notify::new(),
    });
    let strike = outage.clone();
    let victim = Victim::Simulated(Arc::new(move || strike.strike()));
    let world = World::new();
    let first = Bench::with(&outage.home, world.clone(), |config| {
        config.disk = Arc::new(disk.clone());
        config.limits.inline_bytes = 0;
        config.limits.snapshot_ops = 5;
        config.fault = Some(Fault::new(point, nth, victim));
    })
    .await;
    let session = first.core.create_session(NewSession::default()).await.unwrap();
    let model = ModelId::new(format!("{session}:train:0"));
    let struck = tokio::select! {
        () = outage.happened.notified() => true,
        () = play_while_it_lasts(&first, &session, &model) => false,
    };
    // What hangs at the point is dropped; nobody hears of it.
    drop(first.core);
    let stopping = first.root.stop();
    if !struck {
        stopping.await;
        return None;
    }
    let aborted = tokio::time::timeout(std::time::Duration::from_millis(1), stopping).await;
    drop(aborted);
    let second = Bench::with(&outage.salvage, World::new(), |config| {
        config.disk = Arc::new(disk.clone());
        config.limits.inline_bytes = 0;
        config.limits.snapshot_ops = 5;
    })
    .await;
    let ends = play_to_the_end(&second, &session, &model).await;
    let digest = second.digest(&model).await;
    second.stop().await;
    Some((format!("{ends:?}").replace(session.as_str(), "SESSION"), format!("{digest:?}")))
}
