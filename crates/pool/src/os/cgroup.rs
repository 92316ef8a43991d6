//! Control groups: where this process may make them, one for a worker, and their counters.
//!
//! Version 1 has a tree for each controller, and a group may be made below the one this process is
//! in. Version 2 has one tree, where a group that holds processes cannot give controllers to groups
//! below it: there the groups are made beside this process's own, in its parent, if that parent
//! was handed to this user (who is not root: root could write everywhere and was handed nothing),
//! or in the directory that [`GROUP_ENV`] names.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

/// Names the directory of a version 2 tree in which workers' groups are made.
pub(crate) const GROUP_ENV: &str = "SNAKEHOUSE_CGROUP";

/// Begins the name of every group that is made here; the run token follows.
const PREFIX: &str = "snakehouse-";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// A place in a tree that has a certain controller.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    version: Version,
    dir: PathBuf,
}

/// Where groups can be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ControlGroups {
    memory: Option<Place>,
    tasks: Option<Place>,
}

impl ControlGroups {
    /// Looks where this process is, and what it may do there.
    pub(crate) fn find() -> Self {
        let own = Own::read();
        let named = std::env::var_os(GROUP_ENV).map(PathBuf::from);
        let find = |controller: &str| {
            let first = own.first(controller).filter(|place| may_make(&place.dir));
            let second = || {
                let dir = named.clone().or_else(|| own.handed_over())?;
                gives(&dir, controller).then_some(Place { version: Version::Two, dir })
            };
            first.or_else(second)
        };
        Self { memory: find("memory"), tasks: find("pids") }
    }

    /// Where memory can be limited.
    pub(crate) fn memory(&self) -> Option<PathBuf> {
        self.memory.as_ref().map(|place| place.dir.clone())
    }

    /// Where threads and processes can be limited.
    pub(crate) fn tasks(&self) -> Option<PathBuf> {
        self.tasks.as_ref().map(|place| place.dir.clone())
    }

    /// Makes a group with these limits, each of which is kept or an error.
    pub(crate) fn make(
        &self,
        name: &str,
        memory: Option<u64>,
        tasks: Option<u64>,
    ) -> io::Result<Group> {
        let mut group = Group { dirs: Vec::new(), oom: None };
        if let Some(bytes) = memory {
            let (version, dir) = group.add(self.memory.as_ref(), name, "memory")?;
            let (limit, swap) = match version {
                Version::One => ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
                Version::Two => ("memory.max", "memory.swap.max"),
            };
            fs::write(dir.join(limit), bytes.to_string())?;
            // Where swap is not accounted for there is no such file, and the limit above stands.
            let most = if version == Version::One { bytes } else { 0 };
            let _ = fs::write(dir.join(swap), most.to_string());
            if version == Version::Two {
                // A group that has lost a member at random is of no use. Older kernels have it not.
                let _ = fs::write(dir.join("memory.oom.group"), "1");
            }
            group.oom = Some(dir.join(counter_file(version)));
        }
        if let Some(count) = tasks {
            let (_, dir) = group.add(self.tasks.as_ref(), name, "pids")?;
            fs::write(dir.join("pids.max"), count.to_string())?;
        }
        Ok(group)
    }

    /// Removes the empty groups of a run. Those that still hold a process stay.
    pub(crate) fn remove_of_run(&self, run: &str) {
        let start = format!("{PREFIX}{run}-");
        for place in [&self.memory, &self.tasks].into_iter().flatten() {
            for entry in fs::read_dir(&place.dir).into_iter().flatten().flatten() {
                if entry.file_name().to_string_lossy().starts_with(&start) {
                    // Not empty: the next sweep finds it again.
                    let _ = fs::remove_dir(entry.path());
                }
            }
        }
    }
}

/// The name of a worker's group.
pub(crate) fn group_name(run: &str, number: u64) -> String {
    format!("{PREFIX}{run}-{number}")
}

/// A control group of one worker. Dropping it removes it, if nothing is left in it.
#[derive(Debug)]
pub(crate) struct Group {
    dirs: Vec<PathBuf>,
    /// Counts the processes in it that were killed for want of memory.
    oom: Option<PathBuf>,
}

impl Group {
    /// What a process writes `0` to in order to be in it.
    pub(crate) fn doors(&self) -> io::Result<Vec<String>> {
        let text = |dir: &PathBuf| {
            let path = dir.join("cgroup.procs").into_os_string();
            path.into_string().map_err(|_| io::Error::other("a group's path is not UTF-8"))
        };
        self.dirs.iter().map(text).collect()
    }

    /// Whether any process in it was killed for want of memory.
    pub(crate) fn was_out_of_memory(&self) -> bool {
        self.oom.as_deref().and_then(oom_kills).is_some_and(|kills| kills > 0)
    }

    /// Removes it; whether it is gone. It cannot be while a process is in it.
    pub(crate) fn remove(&mut self) -> bool {
        self.dirs.retain(|dir| match fs::remove_dir(dir) {
            Ok(()) => false,
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        });
        self.dirs.is_empty()
    }

    fn add(
        &mut self,
        place: Option<&Place>,
        name: &str,
        controller: &str,
    ) -> io::Result<(Version, PathBuf)> {
        let Some(place) = place else {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("no control group with the {controller} controller may be made here"),
            ));
        };
        let dir = place.dir.join(name);
        if !self.dirs.contains(&dir) {
            fs::create_dir(&dir)?;
            self.dirs.push(dir.clone());
        }
        Ok((place.version, dir))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // What is not empty yet is removed by the sweep of this run.
        self.remove();
    }
}

/// The file of the kernel's counter for the group that this process is in; the machine's where
/// there is none.
pub(crate) fn own_oom_counter() -> PathBuf {
    let own = Own::read();
    let first = own.first("memory").map(|place| place.dir.join(counter_file(Version::One)));
    let second = own.second.map(|dir| dir.join(counter_file(Version::Two)));
    let counts = |path: &PathBuf| oom_kills(path).is_some();
    let own = [first, second].into_iter().flatten().find(counts);
    own.unwrap_or_else(|| PathBuf::from("/proc/vmstat"))
}

/// What a counter file says.
pub(crate) fn oom_kills(path: &Path) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

fn counter_file(version: Version) -> &'static str {
    match version {
        Version::One => "memory.oom_control",
        Version::Two => "memory.events",
    }
}

/// The groups that this process is in.
#[derive(Debug, Default, PartialEq, Eq)]
struct Own {
    /// Directories of version 1, with their controllers.
    firsts: Vec<(String, PathBuf)>,
    /// The directory of version 2.
    second: Option<PathBuf>,
}

impl Own {
    fn read() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self::parse(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"))
    }

    fn parse(groups: &str, mounts: &str) -> Self {
        let mut own = Self::default();
        for mount in mounts.lines().filter_map(Mount::parse) {
            for line in groups.lines() {
                let mut parts = line.splitn(3, ':').skip(1);
                let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
                    continue;
                };
                match mount.kind {
                    "cgroup2" if controllers.is_empty() && own.second.is_none() => {
                        own.second = Some(mount.dir(path));
                    }
                    "cgroup" if !controllers.is_empty() => {
                        let mounted = |name: &&str| mount.options.split(',').any(|o| o == *name);
                        for controller in controllers.split(',').filter(mounted) {
                            own.firsts.push((controller.to_owned(), mount.dir(path)));
                        }
                    }
                    _ => {}
                }
            }
        }
        own
    }

    fn first(&self, controller: &str) -> Option<Place> {
        let (_, dir) = self.firsts.iter().find(|(name, _)| name == controller)?;
        Some(Place { version: Version::One, dir: dir.clone() })
    }

    /// The parent of the own group in version 2, if it was handed to this user.
    fn handed_over(&self) -> Option<PathBuf> {
        use std::os::unix::fs::MetadataExt;
        let parent = self.second.as_ref()?.parent()?.to_path_buf();
        let user = super::effective_user();
        let owner = fs::metadata(&parent).ok()?.uid();
        (user != 0 && owner == user).then_some(parent)
    }
}

/// One line of `mountinfo`.
struct Mount<'a> {
    root: &'a str,
    point: &'a str,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (front, back) = line.split_once(" - ")?;
        let mut front = front.split(' ').skip(3);
        let mut back = back.split(' ');
        let (root, point) = (front.next()?, front.next()?);
        let kind = back.next()?;
        Some(Self { root, point, kind, options: back.nth(1)? })
    }

    /// Where a group of this tree is in the file system.
    fn dir(&self, group: &str) -> PathBuf {
        let below = group.strip_prefix(self.root.trim_end_matches('/')).unwrap_or_default();
        Path::new(self.point).join(below.trim_start_matches('/'))
    }
}

/// Whether a group may be made in a directory.
fn may_make(dir: &Path) -> bool {
    access(dir, Access::WRITE_OK | Access::EXEC_OK).is_ok()
}

/// Whether groups made in a directory of version 2 have this controller.
fn gives(dir: &Path, controller: &str) -> bool {
    let given = fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
    may_make(dir) && given.split_whitespace().any(|name| name == controller)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
30 23 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:5 - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 30 0:29 /user /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
34 23 0:30 / /home rw - ext4 /dev/sda1 rw,memory";

    #[test]
    fn the_own_groups_are_found_in_both_versions() {
        let groups = "9:name=systemd:/\n4:memory:/job/7\n2:cpu,cpuacct:/\n0::/user/1000/app";
        let own = Own::parse(groups, MOUNTS);
        assert_eq!(own.second, Some("/sys/fs/cgroup/unified/1000/app".into()));
        let memory = own.first("memory").unwrap();
        assert_eq!(memory.dir, Path::new("/sys/fs/cgroup/memory/job/7"));
        assert_eq!(own.first("cpu").unwrap().dir, Path::new("/sys/fs/cgroup/cpu,cpuacct/"));
        assert_eq!(own.first("pids"), None);
        assert_eq!(Own::parse("", ""), Own::default());
        assert_eq!(Own::parse("rubbish\n0:", "also rubbish - "), Own::default());
    }

    #[test]
    fn a_group_of_version_2_is_made_limited_and_removed() {
        let tree = tempfile::tempdir().unwrap();
        let place = Place { version: Version::Two, dir: tree.path().to_owned() };
        let groups = ControlGroups { memory: Some(place.clone()), tasks: Some(place) };
        let name = group_name("token", 3);
        let group = groups.make(&name, Some(1 << 20), Some(9)).unwrap();
        let dir = tree.path().join("snakehouse-token-3");
        let read = |file: &str| fs::read_to_string(dir.join(file)).unwrap();
        assert_eq!((read("memory.max"), read("pids.max")), ("1048576".to_owned(), "9".to_owned()));
        assert_eq!(read("memory.swap.max"), "0");
        assert_eq!(group.doors().unwrap(), [dir.join("cgroup.procs").to_str().unwrap()]);
        assert!(!group.was_out_of_memory(), "no counter, no kill");
        fs::write(dir.join("memory.events"), "low 0\noom 3\noom_kill 2\noom_group_kill 1\n")
            .unwrap();
        assert!(group.was_out_of_memory());

        // A real group's files go with it; these are in the way, as processes would be.
        drop(group);
        assert!(dir.exists(), "it is not empty");
        for file in fs::read_dir(&dir).unwrap() {
            fs::remove_file(file.unwrap().path()).unwrap();
        }
        groups.remove_of_run("other");
        assert!(dir.exists(), "another run's");
        groups.remove_of_run("token");
        assert!(!dir.exists());
    }

    #[test]
    fn a_limit_that_cannot_be_kept_is_an_error() {
        let none = ControlGroups::default();
        let error = none.make("x", Some(1), None).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        assert!(error.to_string().contains("memory"), "{error}");
        assert!(none.make("x", None, Some(1)).unwrap_err().to_string().contains("pids"));
    }

    #[test]
    fn a_directory_gives_what_its_file_lists() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!gives(dir.path(), "memory"));
        fs::write(dir.path().join("cgroup.subtree_control"), "cpu memory\n").unwrap();
        assert!(gives(dir.path(), "memory"));
        assert!(!gives(dir.path(), "pids"));
    }
}
