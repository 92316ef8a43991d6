//! Checks of the machine: kernel, limits, directories, port, and what would make things stronger.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};
use snakehouse_base::ByteSize;
use snakehouse_pool::Kernel;

use super::Check;
use crate::error::CliError;
use crate::home::{Home, not_writable};

const OLDEST_KERNEL: (u32, u32) = (5, 10);
const LITTLE_SPACE: u64 = 1 << 30;

/// A reaper, its workers' sockets and pipes, the store: about six per worker and fifty besides.
const FEW_DESCRIPTORS: u64 = 256;
/// Connections of a service that many clients use.
const MANY_DESCRIPTORS: u64 = 4096;

/// The system and the machine this runs on.
pub(super) fn this_platform() -> Check {
    let system = rustix::system::uname();
    platform(&system.release().to_string_lossy(), &system.machine().to_string_lossy())
}

fn platform(release: &str, machine: &str) -> Check {
    let found = format!("Linux {release} on {machine}");
    if kernel_version(release).is_none_or(|version| version < OLDEST_KERNEL) {
        return Check::problem("platform", found, "use Linux 5.10 or newer");
    }
    if !["x86_64", "aarch64"].contains(&machine) {
        return Check::problem("platform", found, "use an x86-64 or aarch64 machine");
    }
    Check::ok("platform", found)
}

fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// What the kernel must allow.
pub(super) fn kernel(kernel: &Kernel) -> Vec<Check> {
    let check = |name, allowed, found: &str, missing: &str, remedy: &str| match allowed {
        true => Check::ok(name, found),
        false => Check::problem(name, missing, remedy),
    };
    vec![
        check(
            "proc",
            kernel.proc,
            "/proc is mounted",
            "/proc is not mounted, or hides this process",
            "mount it: `mount -t proc proc /proc`, or run the container without a masked /proc",
        ),
        check(
            "pidfd",
            kernel.pidfd,
            "processes can be held by descriptor",
            "pidfd_open is refused",
            "allow pidfd_open and pidfd_send_signal in the container's seccomp profile",
        ),
        check(
            "memfd",
            kernel.memfd,
            "memory can be shared by descriptor",
            "memfd_create is refused",
            "allow memfd_create in the container's seccomp profile",
        ),
        match kernel.children_lists {
            true => Check::ok("children_lists", "/proc lists the children of a process"),
            false => Check::note(
                "children_lists",
                "/proc does not list the children of a process",
                "nothing to do: the reaper looks at every process instead, which takes it some \
                 milliseconds more after a death; a kernel with CONFIG_PROC_CHILDREN has the lists",
            ),
        },
    ]
}

/// The descriptors that this process may have.
pub(super) fn these_descriptors() -> Check {
    let limit = getrlimit(Resource::Nofile);
    descriptors(limit.maximum.unwrap_or(u64::MAX))
}

/// `up` raises the soft limit to the hard one by itself.
fn descriptors(hard: u64) -> Check {
    let found = match hard {
        u64::MAX => "no limit".to_owned(),
        hard => format!("{hard} at most"),
    };
    let remedy = format!(
        "raise the hard limit: `ulimit -Hn {MANY_DESCRIPTORS}` as root, LimitNOFILE= in a unit file, \
         or --ulimit nofile={MANY_DESCRIPTORS} for a container"
    );
    match hard {
        ..FEW_DESCRIPTORS => Check::problem("descriptors", found, remedy),
        FEW_DESCRIPTORS..MANY_DESCRIPTORS => Check::note("descriptors", found, remedy),
        _ => Check::ok("descriptors", found),
    }
}

/// Whether state can be kept.
pub(super) fn state_directory(root: &Path) -> Check {
    let probe = || -> Result<(), CliError> {
        Home::open(root)?;
        write_in(root)
    };
    match probe() {
        Ok(()) => Check::ok("state_directory", root.display().to_string()),
        Err(error) => {
            Check::problem("state_directory", error.to_string(), error.hint().unwrap_or_default())
        }
    }
}

fn write_in(directory: &Path) -> Result<(), CliError> {
    let file = directory.join(".doctor");
    fs::write(&file, b"probe")
        .and_then(|()| fs::remove_file(&file))
        .map_err(|error| not_writable(&file, &error))
}

/// Where the Python package is extracted to.
pub(super) fn this_cache() -> Check {
    let named = std::env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty());
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
    cache(named.map(PathBuf::from).or_else(home))
}

fn cache(above: Option<PathBuf>) -> Check {
    let remedy = "make it writable for this user, or name another one with XDG_CACHE_HOME";
    let Some(above) = above else {
        return Check::problem("cache", "neither HOME nor XDG_CACHE_HOME is set", remedy);
    };
    let directory = above.join("snakehouse");
    match fs::create_dir_all(&directory).map_err(|e| not_writable(&directory, &e)) {
        Ok(()) => match write_in(&directory) {
            Ok(()) => Check::ok("cache", directory.display().to_string()),
            Err(error) => Check::problem("cache", error.to_string(), remedy),
        },
        Err(error) => Check::problem("cache", error.to_string(), remedy),
    }
}

/// Room for checkpoints.
pub(super) fn space(root: &Path) -> Check {
    match rustix::fs::statvfs(root) {
        Ok(stat) => enough(stat.f_bavail.saturating_mul(stat.f_frsize)),
        Err(error) => Check::note(
            "disk_space",
            format!("cannot be read: {error}"),
            "mend the state directory first",
        ),
    }
}

fn enough(free: u64) -> Check {
    let found = format!("{} free", ByteSize(free));
    match free {
        ..LITTLE_SPACE => {
            Check::note("disk_space", found, "free some space: checkpoints are kept on disk")
        }
        _ => Check::ok("disk_space", found),
    }
}

/// Whether `up` could listen, or does.
pub(super) fn port(port: u16, up: Option<String>) -> Check {
    if let Some(up) = up {
        return Check::ok("port", up);
    }
    match TcpListener::bind(("127.0.0.1", port)) {
        Ok(_) => Check::ok("port", format!("127.0.0.1:{port} is free")),
        Err(error) => Check::problem(
            "port",
            format!("127.0.0.1:{port} cannot be used: {error}"),
            "stop what listens there, or choose another with --port or SNAKEHOUSE_PORT",
        ),
    }
}

/// What is not needed, and makes limits or the end of everything stronger.
pub(super) fn stronger_tiers(kernel: &Kernel) -> Vec<Check> {
    let ended_later = "nothing to do: if host and reaper are killed in the same instant, processes \
                       that a tool moved to a session of its own are ended by the next start";
    let limits = match (&kernel.limits.memory, &kernel.limits.tasks) {
        (Some(memory), Some(_)) => {
            Check::ok("cgroup_limits", format!("groups can be made below {}", memory.display()))
        }
        (memory, tasks) => {
            let missing = match (memory, tasks) {
                (None, None) => "memory and tasks of workers cannot be limited as a group",
                (None, _) => "memory of workers cannot be limited as a group",
                _ => "tasks of workers cannot be limited as a group",
            };
            Check::note(
                "cgroup_limits",
                missing,
                "only needed for Limits::memory and Limits::tasks: run in a unit with Delegate=yes \
                 and name its group with SNAKEHOUSE_CGROUP; address_space, cpu and open_files work \
                 without",
            )
        }
    };
    vec![
        limits,
        match &kernel.cgroup_kill {
            Some(path) => Check::ok("cgroup_kill", format!("{} is writable", path.display())),
            None => Check::note("cgroup_kill", "no writable cgroup.kill", ended_later),
        },
        match kernel.pid_namespace {
            true => Check::ok("pid_namespace", "may be made without being root"),
            false => Check::note("pid_namespace", "may not be made here", ended_later),
        },
    ]
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use snakehouse_pool::LimitSupport;

    use super::super::Status;
    use super::*;

    fn remedy(check: &Check) -> &str {
        check.remedy.as_deref().unwrap()
    }

    #[test]
    fn an_old_kernel_or_another_machine_is_refused() {
        let old = platform("5.9.16-1", "x86_64");
        assert_eq!(old.status, Status::Problem);
        assert!(remedy(&old).contains("5.10"));
        assert_eq!(platform("5.10.0", "x86_64").status, Status::Ok, "what it says to use");
        let other = platform("6.18.44-fc", "riscv64");
        assert_eq!(other.status, Status::Problem);
        assert!(remedy(&other).contains("aarch64"));
        assert_eq!(platform("6.18.44-fc", "aarch64").status, Status::Ok);
        assert_eq!(platform("odd", "x86_64").status, Status::Problem);
        assert_eq!(this_platform().status, Status::Ok);
    }

    #[test]
    fn each_thing_that_the_kernel_refuses_has_its_own_check() {
        let good = Kernel::look();
        let refused = |kernel: &Kernel| {
            let found = super::kernel(kernel).into_iter();
            found.filter(|check| check.status != Status::Ok).map(|c| c.name).collect::<Vec<_>>()
        };
        assert_eq!(refused(&good), Vec::<&str>::new(), "this machine runs the tests");
        for name in ["proc", "pidfd", "memfd", "children_lists"] {
            let mut kernel = good.clone();
            match name {
                "proc" => kernel.proc = false,
                "pidfd" => kernel.pidfd = false,
                "memfd" => kernel.memfd = false,
                _ => kernel.children_lists = false,
            }
            assert_eq!(refused(&kernel), [name]);
        }
    }

    #[test]
    fn few_descriptors_are_a_problem_until_the_limit_is_raised_as_told() {
        assert_eq!(descriptors(64).status, Status::Problem);
        let note = descriptors(1024);
        assert_eq!(note.status, Status::Note);
        assert!(remedy(&note).contains("ulimit -Hn 4096"));
        assert_eq!(descriptors(4096).status, Status::Ok);
        assert_eq!(descriptors(u64::MAX).found, "no limit");
    }

    #[test]
    fn a_state_directory_that_cannot_be_written_is_replaced_as_told() {
        let above = tempfile::tempdir().unwrap();
        let file = above.path().join("file");
        fs::write(&file, "in the way").unwrap();
        let bad = state_directory(&file.join("home"));
        assert_eq!(bad.status, Status::Problem);
        assert!(remedy(&bad).contains("--home"), "{bad:?}");
        assert_eq!(state_directory(&above.path().join("home")).status, Status::Ok);
    }

    #[test]
    fn a_cache_that_cannot_be_written_is_replaced_as_told() {
        let above = tempfile::tempdir().unwrap();
        let file = above.path().join("file");
        fs::write(&file, "in the way").unwrap();
        let bad = cache(Some(file));
        assert_eq!(bad.status, Status::Problem);
        assert!(remedy(&bad).contains("XDG_CACHE_HOME"));
        assert_eq!(cache(Some(above.path().join("other"))).status, Status::Ok);
        assert_eq!(cache(None).status, Status::Problem);
        // The other half of the remedy. Root may write everywhere.
        if !rustix::process::geteuid().is_root() {
            let closed = above.path().join("closed");
            fs::create_dir(&closed).unwrap();
            let set =
                |mode| fs::set_permissions(&closed, fs::Permissions::from_mode(mode)).unwrap();
            set(0o500);
            assert_eq!(cache(Some(closed.clone())).status, Status::Problem);
            set(0o700);
            assert_eq!(cache(Some(closed.clone())).status, Status::Ok);
        }
    }

    #[test]
    fn a_port_that_is_taken_is_exchanged_or_freed_as_told() {
        let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let number = taken.local_addr().unwrap().port();
        let bad = port(number, None);
        assert_eq!(bad.status, Status::Problem);
        assert!(remedy(&bad).contains("--port"));
        assert_eq!(port(0, None).status, Status::Ok, "another one");
        assert_eq!(port(number, Some("`up` runs".to_owned())).status, Status::Ok, "ours");
        drop(taken);
        assert_eq!(port(number, None).status, Status::Ok, "it was stopped");
    }

    #[test]
    fn little_space_is_a_note() {
        assert_eq!(enough(1 << 20).status, Status::Note);
        assert_eq!(enough(1 << 40).status, Status::Ok);
        assert_eq!(space(Path::new("/no/such/place")).status, Status::Note);
    }

    #[test]
    fn a_machine_without_stronger_tiers_has_notes_and_no_problem() {
        let mut kernel = Kernel::look();
        kernel.limits = LimitSupport::none();
        kernel.cgroup_kill = None;
        kernel.pid_namespace = false;
        let checks = stronger_tiers(&kernel);
        assert!(checks.iter().all(|check| check.status == Status::Note), "{checks:?}");
        assert!(remedy(&checks[0]).contains("SNAKEHOUSE_CGROUP"));
        kernel.limits = LimitSupport { memory: Some("/g".into()), tasks: Some("/g".into()) };
        kernel.cgroup_kill = Some("/g/cgroup.kill".into());
        kernel.pid_namespace = true;
        let checks = stronger_tiers(&kernel);
        assert!(checks.iter().all(|check| check.status == Status::Ok), "{checks:?}");
    }
}
