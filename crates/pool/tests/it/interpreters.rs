//! Interpreters that are missing, too old, or something else.

use std::path::PathBuf;

use snakehouse_base::id::RunToken;
use snakehouse_base::{Coded, Kind};
use snakehouse_pool::{Args, Interpreter, PoolError, Reaper, ReaperConfig, Value, WorkerSpec};
use snakehouse_supervise::Root;
use snakehouse_testkit::executable;

use crate::support::{Rig, call, python, run, workers};

fn script(directory: &tempfile::TempDir, body: &str) -> PathBuf {
    let path = directory.path().join("python");
    executable(&path, &format!("#!/bin/sh\n{body}\n"));
    path
}

#[test]
fn the_real_one_is_found_and_is_new_enough() {
    let python = python();
    assert!(python.path().is_absolute());
    assert!(python.version() >= Interpreter::MINIMUM);
    let again = Interpreter::find(Some(python.path())).unwrap();
    assert_eq!(again, python);
}

#[test]
fn a_missing_one_is_named_with_what_to_do() {
    let path = PathBuf::from("/no/such/python3");
    let error = Interpreter::find(Some(&path)).unwrap_err();
    assert_eq!((error.code(), error.kind()), ("interpreter_missing", Kind::Environment));
    assert!(error.to_string().contains("/no/such/python3"), "{error}");
    assert!(error.hint().unwrap().contains("SNAKEHOUSE_PYTHON"));
}

#[test]
fn an_old_one_is_refused_with_its_version() {
    let directory = tempfile::tempdir().unwrap();
    let path = script(&directory, "printf '/usr/bin/python3\\n3.10.12\\n'");
    let error = Interpreter::find(Some(&path)).unwrap_err();
    assert_eq!(error.code(), "interpreter_too_old");
    assert!(error.to_string().contains("3.10.12"), "{error}");
}

#[test]
fn something_else_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    for body in ["exit 3", "echo hello", "printf '/x\\n3.11.0\\nmore\\n'", "yes"] {
        let error = Interpreter::find(Some(&script(&directory, body))).unwrap_err();
        assert_eq!(error.code(), "interpreter_broken", "{body}: {error}");
    }
}

#[test]
fn one_without_ctypes_says_so() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        // Hides ctypes from everything that it runs.
        let hide = "import sys; sys.modules['ctypes'] = None; import runpy; \
                    sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')";
        let real = python();
        let real = real.path().display();
        let path = script(
            &directory,
            &format!(
                "case \"$1\" in -I) shift 2; exec {real} -I -S -c \"{hide}\" \"$@\";; esac\n\
                 printf '{}/python\\n3.11.0\\n'",
                directory.path().display()
            ),
        );
        let fake = Interpreter::find(Some(&path)).unwrap();
        let root = Root::new("test");
        let config = ReaperConfig {
            python: fake,
            run_token: RunToken::fresh(),
            cache: Some(directory.path().join("cache")),
        };
        let error = Reaper::start(root.scope(), config).await.unwrap_err();
        assert!(
            matches!(&error, PoolError::ReaperUnfit { reason, .. } if reason == "ctypes_missing"),
            "{error:?}"
        );
        assert!(error.hint().unwrap().contains("ctypes"));
        root.stop().await;
    });
}

/// Where an interpreter of this name may be: on `PATH`, or where pyenv and uv keep theirs.
fn places(name: &str) -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let kept = [".pyenv/versions", ".local/share/uv/python"].map(|below| home.join(below));
    let kept = kept.into_iter().filter_map(|directory| std::fs::read_dir(directory).ok());
    let kept = kept.flatten().flatten().map(|entry| entry.path().join("bin").join(name));
    [PathBuf::from(name)].into_iter().chain(kept.filter(|path| path.exists())).collect()
}

/// Every version that works, with the one that is on this machine.
fn versions() -> Vec<(&'static str, Option<Interpreter>)> {
    let names = ["python3.11", "python3.12", "python3.13", "python3.14"];
    let find = |name| places(name).iter().find_map(|path| Interpreter::find(Some(path)).ok());
    names.map(|name| (name, find(name))).into()
}

/// A pool of a tool that uses the standard library only, on this interpreter; gives its answer.
async fn serves(python: Interpreter) -> (Vec<Value>, bool) {
    let rig = Rig::new().await;
    let module = rig.cache.path().join("bare.py");
    std::fs::write(&module, BARE).unwrap();
    let spec = WorkerSpec::python("bare", python).module(module.to_str().unwrap());
    let pool = rig.pool_of(spec, workers(1)).await;
    let value = Value::from(vec![Value::from(1), Value::from("two"), Value::from(3.5)]);
    assert_eq!(call(&pool, "echo", Args::none().arg(value.clone())).await.unwrap(), value);
    let about = call(&pool, "about", Args::none()).await.unwrap();
    let error = call(&pool, "fail", Args::none()).await.unwrap_err();
    assert!(error.to_string().contains("ZeroDivisionError"), "{error}");
    rig.end().await;
    let about = about.as_slice().unwrap().to_vec();
    let has_site = about[1] == Value::from(true);
    (about, has_site)
}

const BARE: &str = "
import sys
from snakehouse import tool

@tool
def echo(value):
    return value

@tool
def about():
    return ['%d.%d' % sys.version_info[:2], 'site' in sys.modules, sys.flags.isolated]

@tool
def fail():
    return 1 / 0
";

#[test]
fn every_version_from_the_oldest_on_serves() {
    run(async {
        let mut served = 0;
        for (name, python) in versions() {
            let Some(python) = python else {
                println!("not run: {name} is not on this machine");
                continue;
            };
            let expected = name.strip_prefix("python").unwrap();
            let (about, _) = serves(python).await;
            assert_eq!(about[0], Value::from(expected));
            served += 1;
        }
        println!("{served} of 4 versions served");
        // Whatever this machine has under the plain name serves in any case.
        serves(python()).await;
    });
}

#[test]
fn a_bare_environment_serves() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let environment = directory.path().join("bare");
        let made = std::process::Command::new(python().path())
            .args(["-m", "venv", "--without-pip"])
            .arg(&environment)
            .status()
            .unwrap();
        assert!(made.success());
        let bare = Interpreter::find(Some(&environment.join("bin/python"))).unwrap();
        assert!(bare.path().starts_with(&environment), "{bare:?}");
        assert!(!bare.abilities().codec, "nothing is installed in it");
        serves(bare).await;
    });
}

#[test]
fn an_interpreter_without_site_packages_and_environment_serves() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let real = python();
        let real = real.path().display();
        let path = script(
            &directory,
            &format!(
                "case \"$1\" in -E) printf '{}/python\\n3.11.0\\n';; *) exec {real} -I -S \"$@\";; esac",
                directory.path().display()
            ),
        );
        let isolated = Interpreter::find(Some(&path)).unwrap();
        let (about, has_site) = serves(isolated).await;
        assert!(!has_site, "{about:?}");
        assert_eq!(about[2], Value::from(1), "isolated");
    });
}
