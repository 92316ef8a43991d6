//! Environments are made from lock files once, whoever asks and whatever ends in the middle.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use snakehouse_base::Coded;
use snakehouse_base::id::RunToken;
use snakehouse_pool::{
    Args, CallOptions, EnvironmentError, Interpreter, PoolConfig, Reaper, ReaperConfig, WorkerSpec,
};
use snakehouse_supervise::Root;
use snakehouse_testkit::{Process, executable};

use crate::support::{BOUND, Rig, call, python, run};

/// A directory with the wheel of a package `greeting`, a lock file that names it, and a tool that
/// uses it.
fn project() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let program = r#"
import sys, zipfile
with zipfile.ZipFile("greeting-1.0-py3-none-any.whl", "w") as wheel:
    wheel.writestr("greeting.py", "TEXT = 'good morning'\n")
    info = "greeting-1.0.dist-info"
    wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n")
    wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr(f"{info}/RECORD", "")
"#;
    let made = Command::new(python().path())
        .args(["-c", program])
        .current_dir(directory.path())
        .status()
        .unwrap();
    assert!(made.success());
    std::fs::write(lock(&directory), "# by hand\n./greeting-1.0-py3-none-any.whl\n").unwrap();
    let tool = "import greeting\nfrom snakehouse import tool\n\n@tool\ndef greet():\n    return greeting.TEXT\n";
    std::fs::write(directory.path().join("greet.py"), tool).unwrap();
    directory
}

fn lock(project: &tempfile::TempDir) -> PathBuf {
    project.path().join("requirements.txt")
}

/// The interpreter, and what the installer said if it was asked.
async fn ensure(rig: &Rig, lock: &Path) -> Result<(Interpreter, String), EnvironmentError> {
    let (scope, deadline) = (rig.root.scope(), CallOptions::default().deadline);
    let mut said = String::new();
    let heard = |line: &str| said.extend([line, "\n"]);
    let found =
        Interpreter::with_packages(scope, &rig.reaper, python(), lock, deadline, heard).await?;
    Ok((found, said))
}

fn environments(rig: &Rig) -> Vec<PathBuf> {
    let below = rig.cache.path().join("cache/environments");
    let entries = std::fs::read_dir(below).unwrap();
    entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect()
}

#[test]
fn an_environment_is_made_once_and_anew_if_it_was_left_half_made() {
    run(async {
        let rig = Rig::new().await;
        let project = project();
        let file = lock(&project);
        let (first, second) = tokio::join!(ensure(&rig, &file), ensure(&rig, &file));
        let (first, second) = (first.unwrap(), second.unwrap());
        assert!(first.1.is_empty() ^ second.1.is_empty(), "one of two makes it");
        assert_eq!(first.0, second.0);
        assert_eq!(environments(&rig).len(), 1);

        let module = project.path().join("greet.py").display().to_string();
        let spec = WorkerSpec::python("greet", first.0).module(module);
        let pool = rig.pool_of(spec, PoolConfig::default()).await;
        let text = call(&pool, "greet", Args::none()).await.unwrap();
        assert_eq!(text.as_str(), Some("good morning"));
        pool.stop().await;

        // As a host leaves it that is killed before the end.
        let [root] = &environments(&rig)[..] else { panic!("one environment") };
        std::fs::remove_file(root.join("complete")).unwrap();
        std::fs::remove_dir_all(root.join("lib")).unwrap();
        let (_, said) = ensure(&rig, &file).await.unwrap();
        assert!(said.contains("greeting") && root.join("lib").is_dir(), "{said}");

        // A name that is no text is as good as any.
        let odd = project.path().join(OsStr::from_bytes(b"caf\xe9.txt"));
        std::fs::copy(&file, &odd).unwrap();
        let (same, said) = ensure(&rig, &odd).await.unwrap();
        assert_eq!((same, said.as_str()), (second.0, ""));

        // Another wheel of the same name is another environment.
        std::fs::write(project.path().join("greeting-1.0-py3-none-any.whl"), "damaged").unwrap();
        let error = ensure(&rig, &file).await.unwrap_err();
        assert_eq!(error.code(), "environment_not_made");
        assert!(error.hint().is_some() && error.to_string().contains("pip"), "{error}");
        rig.end().await;
    });
}

#[test]
fn a_lock_file_that_fixes_nothing_is_refused_by_name() {
    run(async {
        let rig = Rig::new().await;
        let project = project();
        let file = lock(&project);
        std::fs::write(&file, "-e ../somewhere\n").unwrap();
        let error = ensure(&rig, &file).await.unwrap_err();
        assert!(error.to_string().contains("editable"), "{error}");
        for name in [&b"absent.txt"[..], b"absent.txt\xff"] {
            let absent = project.path().join(OsStr::from_bytes(name));
            let error = ensure(&rig, &absent).await.unwrap_err();
            assert_eq!(error.code(), "environment_not_made");
            assert!(error.to_string().contains("cannot read"), "{error}");
            assert!(error.to_string().contains("absent.txt"), "{error}");
        }
        rig.end().await;
    });
}

/// An installer that never ends, with a process of its own, as `uv` on `PATH`.
const STUCK: &str = "#!/bin/sh\nsetsid sleep 600 &\necho begun\nwait\nsleep 600\n";

#[test]
fn an_installer_that_nobody_waits_for_is_ended_with_all_that_it_started() {
    // It sets PATH.
    const NAME: &str =
        "python_environments::an_installer_that_nobody_waits_for_is_ended_with_all_that_it_started";
    if std::env::var_os("TEST_STUCK_INSTALLER").is_none() {
        let bin = tempfile::tempdir().unwrap();
        let uv = bin.path().join("uv");
        executable(&uv, STUCK);
        let path = format!("{}:{}", bin.path().display(), std::env::var("PATH").unwrap());
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture"])
            .env("TEST_STUCK_INSTALLER", "1")
            .env("SNAKEHOUSE_PYTHON", python().path())
            .env("PATH", path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    run(async {
        let rig = Rig::new().await;
        let project = project();
        let (begun, mut has_begun) = tokio::sync::mpsc::channel(16);
        let file = lock(&project);
        let (scope, deadline) = (rig.root.scope(), CallOptions::within(BOUND).deadline);
        let making =
            Interpreter::with_packages(scope, &rig.reaper, python(), &file, deadline, |line| {
                begun.try_send(line.to_owned()).unwrap()
            });
        tokio::select! {
            made = making => panic!("it never ends: {made:?}"),
            line = has_begun.recv() => assert_eq!(line.as_deref(), Some("begun")),
        }
        // The installer, what it started in a session of its own, and their worker.
        let reaper = Process::of_pid(rig.reaper.pid().unwrap().try_into().unwrap()).unwrap();
        reaper.descendants().iter().for_each(|process| process.wait_gone(BOUND));
        rig.end().await;
    });
}

#[test]
fn a_cache_that_workers_cannot_be_told_of_is_named() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let cache = directory.path().join(OsStr::from_bytes(b"caf\xe9"));
        let root = Root::new("test");
        let config =
            ReaperConfig { python: python(), run_token: RunToken::fresh(), cache: Some(cache) };
        let reaper = Reaper::start(root.scope(), config).await.unwrap();
        let project = project();
        let file = lock(&project);
        let deadline = CallOptions::within(BOUND).deadline;
        let made =
            Interpreter::with_packages(root.scope(), &reaper, python(), &file, deadline, |line| {
                panic!("{line}")
            });
        let error = made.await.unwrap_err();
        assert_eq!(error.code(), "worker_not_started", "{error}");
        assert!(
            error.to_string().contains("UTF-8") && error.to_string().contains("caf"),
            "{error}"
        );
        root.stop().await;
    });
}
