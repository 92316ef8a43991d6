//! Interpreters that are missing, too old, or something else.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use snakehouse_base::id::RunToken;
use snakehouse_base::{Coded, Kind};
use snakehouse_pool::{Interpreter, PoolError, Reaper, ReaperConfig};
use snakehouse_supervise::Root;

use crate::support::{python, run};

fn script(directory: &tempfile::TempDir, body: &str) -> PathBuf {
    let path = directory.path().join("python");
    std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
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
