//! The codes of errors that programs match on, each provoked by what really causes it.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use snakehouse_base::id::RunToken;
use snakehouse_base::{Coded, Kind, SystemClock};
use snakehouse_pool::{
    Args, Interpreter, PoolError, Reaper, ReaperConfig, Value, WorkerSpec, to_json,
};
use snakehouse_supervise::Root;
use snakehouse_testkit::executable;
use snakehouse_wire::Failure;
use snakehouse_wire::worker::{CallContext, Handler, serve, serve_on};

use crate::support::{Rig, Watched, call, python, run, soon, workers};

/// Answers with bytes that are no value, or not at all.
struct Rude;

impl Handler for Rude {
    fn tools(&self) -> Vec<String> {
        ["nonsense", "abort"].map(str::to_owned).into()
    }

    fn call(&mut self, tool: &str, _body: Bytes, _: &CallContext) -> Result<Bytes, Failure> {
        match tool {
            "nonsense" => Ok(Bytes::from_static(b"\xc1")),
            _ => std::process::abort(),
        }
    }
}

#[test]
#[ignore = "is started by the other tests here"]
fn a_rude_worker() {
    if std::env::var_os(snakehouse_wire::FD_VARIABLE).is_some() {
        serve(&mut Rude).unwrap();
    }
}

/// A worker that leaves the page alone, and so never says what it starts.
#[test]
#[ignore = "is started by the other tests here"]
fn a_silent_worker() {
    if std::env::var_os(snakehouse_wire::FD_VARIABLE).is_some() {
        let socket = std::os::fd::AsFd::as_fd(&std::io::stdin()).try_clone_to_owned().unwrap();
        let socket = UnixStream::from(socket);
        socket.set_nonblocking(false).unwrap();
        serve_on(socket, None, &SystemClock, &mut Rude).unwrap();
    }
}

fn program(test: &str) -> WorkerSpec {
    let args = ["--exact", test, "--ignored", "--nocapture"];
    WorkerSpec::program("rude", std::env::current_exe().unwrap(), args)
}

#[test]
fn bytes_that_are_no_value_are_a_bad_result_and_cost_no_worker() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool_of(program("codes::a_rude_worker"), workers(1)).await;
        for _ in 0..2 {
            let error = call(&pool, "nonsense", Args::none()).await.unwrap_err();
            assert_eq!((error.kind(), error.code()), (Kind::Corrupt, "bad_result"));
        }
        assert_eq!(pool.workers()[0].restarts, 0);
        rig.end().await;
    });
}

#[test]
fn a_worker_that_dies_without_saying_what_it_began_leaves_the_outcome_unknown() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool_of(program("codes::a_silent_worker"), workers(1)).await;
        let error = call(&pool, "abort", Args::none()).await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (Kind::OutcomeUnknown, "outcome_unknown"));
        assert!(error.hint().is_some());
        rig.end().await;
    });
}

#[test]
fn a_tool_that_raises_a_lost_session_and_a_stopped_pool_have_their_codes() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(1)).await;
        let error = call(&pool, "fail", Args::none().arg("no")).await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (Kind::Tool, "tool_failed"));

        let session = pool.session(soon().deadline).await.unwrap();
        Watched::new(session.worker().unwrap().pid).kill();
        session.ended().await;
        let error = session.call("count", Args::none(), soon()).await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (Kind::Unavailable, "session_lost"));

        pool.stop().await;
        let error = call(&pool, "pid", Args::none()).await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (Kind::Unavailable, "pool_stopped"));
        let error = pool.session(soon().deadline).await.unwrap_err();
        assert_eq!(error.code(), "pool_stopped");
        rig.end().await;
    });
}

#[test]
fn what_json_lacks_has_its_code() {
    let error = to_json(&Value::Float(f64::NAN)).unwrap_err();
    assert_eq!((error.kind(), error.code()), (Kind::InvalidInput, "not_json"));
    assert!(error.hint().is_some());
}

/// Why a reaper that is to start this way does not.
async fn start(python: Interpreter, cache: &Path) -> Result<(), PoolError> {
    let root = Root::new("test");
    let cache = Some(cache.to_path_buf());
    let config = ReaperConfig { python, run_token: RunToken::fresh(), cache };
    let started = Reaper::start(root.scope(), config).await.map(drop);
    assert!(root.stop().await.is_clean());
    started
}

#[test]
fn a_place_that_takes_no_files_is_an_error_of_the_package() {
    run(async {
        // The kernel makes no directory there for anybody.
        let error = start(python(), Path::new("/proc/self/cache")).await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (Kind::Environment, "package_not_extracted"));
        assert!(error.to_string().contains("/proc/self/cache"), "{error}");
        assert!(error.hint().unwrap().contains("XDG_CACHE_HOME"));
    });
}

/// An interpreter like the real one, except that it answers `-I`, which starts the reaper, with
/// these lines of shell.
fn interpreter(directory: &Path, lines: &str) -> Interpreter {
    let path = directory.join("python");
    let real = python();
    let real = real.path().display();
    let text = format!(
        "#!/bin/sh\ncase \"$2\" in -S) {lines};; esac\nprintf '{}\\n3.11.0\\n'\n",
        path.display()
    );
    executable(&path, &text.replace("REAL", &real.to_string()));
    Interpreter::find(Some(&path)).unwrap()
}

#[test]
fn a_reaper_that_ends_or_may_not_do_its_work_is_told_apart() {
    // The kernel says no to every prctl, as a container's profile may.
    let refused = "shift 2; exec REAL -I -S -c \"import ctypes, runpy, sys
class No:
    def prctl(self, *_): ctypes.set_errno(1); return -1
ctypes.CDLL = lambda *_, **__: No()
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')\" \"$@\"";
    let table = [
        ("exit 3", Kind::Unavailable, "reaper_gone", "exit status: 3"),
        (refused, Kind::Environment, "reaper_unfit", "not permitted"),
    ];
    for (lines, kind, code, word) in table {
        run(async {
            let directory = tempfile::tempdir().unwrap();
            let python = interpreter(directory.path(), lines);
            let error = start(python, &directory.path().join("cache")).await.unwrap_err();
            assert_eq!((error.kind(), error.code()), (kind, code), "{error}");
            assert!(error.to_string().contains(word), "{error}");
        });
    }
}

/// In a process of its own: the limit is the whole process's.
#[test]
#[ignore = "is started by the test below"]
fn a_process_with_one_descriptor_left() {
    let Some(cache) = std::env::var_os("SNAKEHOUSE_TEST_CACHE") else { return };
    run(async {
        let python = python();
        let cache = Path::new(&cache);
        start(python.clone(), cache).await.unwrap();
        let before = getrlimit(Resource::Nofile);
        let free = std::fs::File::open("/dev/null").unwrap().as_raw_fd();
        let few = Some(u64::try_from(free).unwrap() + 1);
        setrlimit(Resource::Nofile, Rlimit { current: few, maximum: before.maximum }).unwrap();
        let error = start(python, cache).await.unwrap_err();
        setrlimit(Resource::Nofile, before).unwrap();
        assert_eq!((error.kind(), error.code()), (Kind::Environment, "os_call_failed"), "{error}");
        assert!(error.to_string().contains("socket pair"), "{error}");
        assert!(error.hint().unwrap().contains("descriptors"));
    });
}

#[test]
fn a_process_without_descriptors_hears_which_call_failed() {
    let cache = tempfile::tempdir().unwrap();
    let ended = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "codes::a_process_with_one_descriptor_left", "--ignored", "--nocapture"])
        .env("SNAKEHOUSE_TEST_CACHE", cache.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert!(ended.status.success(), "{said}{}", String::from_utf8_lossy(&ended.stderr));
    assert!(said.contains("1 passed"), "{said}");
}
