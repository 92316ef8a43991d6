//! What a worker process is given, and what the kernel thinks of it.

use snakehouse_pool::{Args, Value};

use crate::support::{Rig, as_pid, call, run, spec, workers};

#[test]
fn a_worker_is_tied_to_its_parent_in_every_way() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(1)).await;
        let standing = call(&pool, "standing", Args::none()).await.unwrap();
        let number = |key| standing.get(key).and_then(Value::as_i64).unwrap();
        let reaper = i64::from(rig.reaper.pid().unwrap());
        assert_eq!(number("parent"), reaper);
        assert_eq!(number("session"), reaper, "the reaper has a session of its own");
        assert_eq!(number("group"), number("pid"), "a worker has a group of its own");
        assert_eq!(number("death_signal"), 9);
        assert_eq!(number("subreaper"), 1);
        rig.end().await;
    });
}

#[test]
fn a_worker_has_its_own_descriptors_and_no_other() {
    run(async {
        // Not close-on-exec: what a careless library leaves open in the host.
        let leaked = std::fs::File::open("/proc/self/stat").unwrap();
        rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
        let rig = Rig::new().await;
        let pool = rig.pool(workers(1)).await;
        let Value::Dict(found) = call(&pool, "descriptors", Args::none()).await.unwrap() else {
            panic!("not a dict");
        };
        let kinds: Vec<_> = found
            .iter()
            .map(|(_, to)| to.as_str().unwrap().split([':', '[']).next().unwrap().to_owned())
            // Whatever Python itself opens while it looks.
            .filter(|to| !to.starts_with("/proc/"))
            .collect();
        let count = |kind: &str| kinds.iter().filter(|to| *to == kind).count();
        assert_eq!(count("pipe"), 3, "stdout, stderr and the lifeline: {kinds:?}");
        assert_eq!(count("socket"), 2, "the control socket, that for buffers: {kinds:?}");
        assert_eq!(count("/dev/null"), 1, "standard input: {kinds:?}");
        assert!(kinds.len() <= 7, "{kinds:?}");
        rig.end().await;
    });
}

#[test]
fn a_worker_sees_the_listed_environment_only() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool_of(spec().env("MINE", "yes"), workers(1)).await;
        let environment = call(&pool, "environment", Args::none()).await.unwrap();
        let get = |key| environment.get(key).and_then(Value::as_str);
        assert_eq!(get("MINE"), Some("yes"));
        assert_eq!(get("MALLOC_TRIM_THRESHOLD_"), Some("67108864"));
        assert_eq!(get("OMP_NUM_THREADS"), Some("1"));
        assert_eq!(get("SNAKEHOUSE_RUN"), Some(rig.token.as_str()));
        assert_eq!(get("PATH"), std::env::var("PATH").ok().as_deref());
        // Cargo sets it for every test.
        assert!(std::env::var("CARGO_MANIFEST_DIR").is_ok());
        assert_eq!(get("CARGO_MANIFEST_DIR"), None);
        rig.end().await;
    });
}

const SECRET: &str = "TEST_SECRET_TOKEN";

#[test]
#[ignore = "is started by the next test, with a secret in its environment"]
fn a_host_with_a_secret() {
    run(async {
        let Ok(secret) = std::env::var(SECRET) else { return };
        let before: Vec<_> = std::env::vars_os().collect();
        let rig = Rig::new().await;
        let closed = rig.pool_of(spec().threads(3), workers(1)).await;
        let open = rig.pool_of(spec().inherit_env("TEST_SECRET_*"), workers(1)).await;
        let told = call(&open, "environment", Args::none()).await.unwrap();
        assert_eq!(told.get(SECRET).and_then(Value::as_str), Some(secret.as_str()));
        let seen = call(&closed, "environment", Args::none()).await.unwrap();
        assert_eq!(seen.get("OMP_NUM_THREADS").and_then(Value::as_str), Some("3"));
        assert_eq!(seen.get("OPENBLAS_NUM_THREADS").and_then(Value::as_str), Some("3"));
        assert!(!format!("{seen:?}").contains(&secret), "{seen:?}");
        for reader in [rig.reaper.pid().unwrap(), closed.workers()[0].pid.unwrap()] {
            let environ = std::fs::read(format!("/proc/{reader}/environ")).unwrap();
            assert!(!String::from_utf8_lossy(&environ).contains(&secret));
        }
        rig.end().await;
        assert_eq!(std::env::vars_os().collect::<Vec<_>>(), before, "the host's own environment");
    });
}

#[test]
fn a_secret_of_the_host_stays_there_and_its_environment_as_it_is() {
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "processes::a_host_with_a_secret", "--ignored", "--nocapture"])
        .env(SECRET, "hunter2-hunter2")
        .env("PYTHONPATH", "/hunter2-hunter2")
        .env("HTTPS_PROXY", "http://user:hunter2-hunter2@proxy")
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn standard_input_of_a_tool_is_empty() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(1)).await;
        assert_eq!(call(&pool, "standard_input", Args::none()).await.unwrap(), Value::from(""));
        rig.end().await;
    });
}

#[test]
fn the_working_directory_is_the_named_one() {
    run(async {
        let rig = Rig::new().await;
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(
            directory.path().join("local_tools.py"),
            "import os\nfrom snakehouse import tool\n@tool\ndef where():\n    return os.getcwd()\n",
        )
        .unwrap();
        let spec = snakehouse_pool::WorkerSpec::python("local", crate::support::python())
            .module("local_tools")
            .cwd(directory.path());
        let pool = rig.pool_of(spec, workers(1)).await;
        let found = call(&pool, "where", Args::none()).await.unwrap();
        let real = directory.path().canonicalize().unwrap();
        assert_eq!(found.as_str(), real.to_str());
        rig.end().await;
    });
}

#[test]
fn memory_and_pid_are_shown() {
    run(async {
        let rig = Rig::new().await;
        let pool = rig.pool(workers(1)).await;
        let pid = as_pid(&call(&pool, "pid", Args::none()).await.unwrap());
        let info = pool.workers().remove(0);
        assert_eq!(info.pid, Some(pid));
        assert!(info.rss.unwrap().0 > 1 << 20, "{:?}", info.rss);
        rig.end().await;
    });
}
