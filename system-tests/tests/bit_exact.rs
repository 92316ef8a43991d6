//! Training is exactly-once and repeatable: whoever is killed, whenever, the bits are the same.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use snakehouse_base::{Chance, Clock as _, SystemClock};

/// Steps of the runs that are killed.
const ROUNDS: &str = "16";

struct Place {
    _dir: tempfile::TempDir,
    model: PathBuf,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let model = dir.path().join("tiny");
        snakehouse_engine::make_tiny(&model, snakehouse_engine::TINY_SEED).expect("tiny is made");
        Self { model, _dir: dir }
    }
}

/// What one life of the host came to.
enum Life {
    Ended(Value),
    Killed(Option<Value>),
}

/// Runs the host once. `patience` ends it from outside after so many microseconds.
#[expect(clippy::disallowed_methods, reason = "the moment of the kill is what is being chosen")]
#[expect(clippy::panic, reason = "a test's verdict is a panic")]
fn live(home: &Path, place: &Place, rounds: &str, extra: &[String], patience: Option<u64>) -> Life {
    let mut child = Command::new(env!("CARGO_BIN_EXE_core_host"))
        .arg(home)
        .arg(&place.model)
        .arg(rounds)
        .args(extra)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the host starts");
    if let Some(micros) = patience {
        // audit(sleep): the moment of the kill is what is being chosen here; nothing waits for it
        std::thread::sleep(std::time::Duration::from_micros(micros));
        child.kill().expect("the host can be killed");
    }
    let output = child.wait_with_output().expect("the host ends");
    let stdout = String::from_utf8_lossy(&output.stdout);
    let document = stdout.lines().last().and_then(|line| serde_json::from_str(line).ok());
    match (output.status.code(), document) {
        (Some(0), Some(document)) => Life::Ended(document),
        (None, document) => Life::Killed(document),
        (code, _) => panic!("exit {code:?}: {}", String::from_utf8_lossy(&output.stderr)),
    }
}

/// Runs the host until it comes to its end; says how often it was killed.
fn finish(home: &Path, place: &Place, extra: &[String], patience: Option<u64>) -> (Value, u32) {
    std::fs::create_dir_all(home).expect("the home is made");
    let snapshots = ["--snapshot-ops", "9", "--inline", "none"].map(str::to_owned);
    let first: Vec<String> = snapshots.iter().cloned().chain(extra.iter().cloned()).collect();
    let (mut extra, mut patience, mut kills) = (first, patience, 0);
    loop {
        match live(home, place, ROUNDS, &extra, patience) {
            Life::Ended(document) => return (document, kills),
            Life::Killed(_) => kills += 1,
        }
        // Lives after the first are undisturbed.
        (extra, patience) = (snapshots.to_vec(), None);
        assert!(kills < 3, "the host dies by itself");
    }
}

/// What must be equal.
fn bits(document: &Value) -> (Value, Value) {
    (document["digest"].clone(), document["results"].clone())
}

#[test]
fn twenty_deaths_change_no_bit() {
    let place = Place::new();
    let homes = tempfile::tempdir().expect("a temporary directory");
    let clock = SystemClock;
    let began = clock.now();
    let (undisturbed, kills) = finish(&homes.path().join("quiet"), &place, &[], None);
    let whole = u64::try_from((clock.now() - began).as_micros()).expect("a run takes seconds");
    assert_eq!((kills, undisturbed["engine_deaths"].as_u64()), (0, Some(0)));
    let chance = Chance::seeded(2026);
    let points = [
        ("before_accept", "service", 30),
        ("after_accept", "service", 30),
        ("mid_call", "service", 30),
        ("before_result", "service", 30),
        ("after_result", "service", 30),
        ("mid_snapshot", "service", 3),
        ("between_snapshot_and_prune", "service", 3),
        ("mid_save", "service", 4),
        ("mid_call", "engine", 30),
        ("before_result", "engine", 30),
        ("mid_snapshot", "engine", 3),
        ("mid_save", "engine", 4),
    ];
    let mut deaths = 0;
    for (n, (point, victim, most)) in points.into_iter().enumerate() {
        let nth = chance.next_u64() % most + 1;
        let fault = ["--fault".to_owned(), format!("{point}:{nth}:{victim}")];
        let (document, kills) = finish(&homes.path().join(n.to_string()), &place, &fault, None);
        let hit = u64::from(kills) + document["engine_deaths"].as_u64().unwrap_or(0);
        assert!(hit >= 1, "{fault:?} killed nobody");
        assert_eq!(bits(&document), bits(&undisturbed), "{fault:?}");
        deaths += 1;
    }
    for (n, (point, most)) in
        [("mid_kernel", 30), ("mid_snapshot", 3), ("after_snapshot", 3), ("mid_save", 4)]
            .into_iter()
            .enumerate()
    {
        let home = homes.path().join(format!("engine-{n}"));
        let marker = homes.path().join(format!("died-{n}"));
        let nth = chance.next_u64() % most + 1;
        let fault = format!("{point}:{nth}:{}", marker.display());
        let extra = ["--engine-fault".to_owned(), fault.clone()];
        let (document, _) = finish(&home, &place, &extra, None);
        assert!(marker.exists(), "{fault} killed nobody");
        assert_eq!(bits(&document), bits(&undisturbed), "{fault}");
        deaths += 1;
    }
    for n in 0..4 {
        // Somewhere in the run; should this run be so fast that it ends before, then earlier.
        let mut micros = whole / 10 + chance.next_u64() % (whole / 2);
        loop {
            let home = homes.path().join(format!("any-{n}-{micros}"));
            let (document, kills) = finish(&home, &place, &[], Some(micros));
            assert_eq!(bits(&document), bits(&undisturbed), "killed after {micros} µs");
            if kills == 1 {
                break;
            }
            micros /= 2;
        }
        deaths += 1;
    }
    assert_eq!(deaths, 20);
}

#[test]
fn recovery_does_not_grow_with_the_run() {
    let place = Place::new();
    let homes = tempfile::tempdir().expect("a temporary directory");
    let killed = ["--end", "killed"].map(str::to_owned);
    let runs = ["100", "1000"].map(|rounds| {
        let home = homes.path().join(rounds);
        std::fs::create_dir_all(&home).expect("the home is made");
        let Life::Killed(Some(before)) = live(&home, &place, rounds, &killed, None) else {
            panic!("the run was to end by SIGKILL");
        };
        (home, before)
    });
    // The best of five, in turn, each of them the same recovery: this machine has other work too.
    let mut best = [u64::MAX; 2];
    let mut replayed = [0; 2];
    for _ in 0..5 {
        for (n, (home, before)) in runs.iter().enumerate() {
            let Life::Killed(Some(after)) = live(home, &place, "0", &killed, None) else {
                panic!("the recovery was to end by SIGKILL");
            };
            assert_eq!(after["digest"], before["digest"]);
            replayed[n] = after["replayed_ops"].as_u64().expect("a number");
            assert!((1..=256).contains(&replayed[n]), "{after}");
            best[n] = best[n].min(after["recovered_ms"].as_u64().expect("a number"));
        }
    }
    let [short, long] = best;
    println!(
        "recovered after 100 steps in {short} ms, after 1,000 steps in {long} ms; replayed {replayed:?}"
    );
    assert!(2 * long <= 3 * short, "100 steps: {short} ms, 1,000 steps: {long} ms");
}
