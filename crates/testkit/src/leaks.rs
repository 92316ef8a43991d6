//! What a test left behind: descriptors, child processes, temporary files.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use snakehouse_base::{Clock as _, SystemClock};

use crate::process::Process;

/// How long things that are ending have to be gone.
const PATIENCE: Duration = Duration::from_secs(2);

/// A snapshot of the process before something runs; compares afterwards.
///
/// Descriptors and children belong to the process, so a test that uses this runs
/// [in a process of its own](crate::in_own_process). Tasks are watched by the runtimes of this
/// crate.
#[derive(Debug)]
pub struct LeakProbe {
    before: Snapshot,
    watched: Vec<PathBuf>,
}

/// What is there now and was not before. Empty if nothing leaked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leaks {
    /// Descriptors, as `number -> what it is`.
    pub descriptors: Vec<String>,
    /// Child processes, as `pid command`.
    pub children: Vec<String>,
    /// Files and directories in watched directories.
    pub files: Vec<PathBuf>,
}

#[derive(Debug)]
struct Snapshot {
    descriptors: BTreeSet<(u32, PathBuf)>,
    children: BTreeSet<Process>,
    files: BTreeSet<PathBuf>,
}

impl LeakProbe {
    /// Takes the snapshot; descriptors and children only.
    pub fn start() -> Self {
        Self::watching(&[])
    }

    /// Takes the snapshot and watches the contents of these directories as well.
    pub fn watching(directories: &[&Path]) -> Self {
        let watched: Vec<_> = directories.iter().map(|path| path.to_path_buf()).collect();
        Self { before: Snapshot::take(&watched), watched }
    }

    /// What is there now and was not before. Waits up to 2 s for what is just ending.
    pub fn leaks(&self) -> Leaks {
        let start = SystemClock.now();
        loop {
            let leaks = self.compare();
            if leaks.is_empty() || SystemClock.now() - start > PATIENCE {
                return leaks;
            }
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }

    /// Fails if anything leaked.
    ///
    /// # Panics
    /// With the list of what leaked.
    pub fn require_clean(&self) {
        let leaks = self.leaks();
        assert!(leaks.is_empty(), "left behind:\n{leaks}");
    }

    fn compare(&self) -> Leaks {
        let now = Snapshot::take(&self.watched);
        Leaks {
            descriptors: now
                .descriptors
                .difference(&self.before.descriptors)
                .map(|(number, target)| format!("{number} -> {}", target.display()))
                .collect(),
            children: now
                .children
                .difference(&self.before.children)
                .map(|child| format!("{} {}", child.pid, child.command()))
                .collect(),
            files: now.files.difference(&self.before.files).cloned().collect(),
        }
    }
}

impl Leaks {
    /// Whether nothing leaked.
    pub fn is_empty(&self) -> bool {
        self.descriptors.is_empty() && self.children.is_empty() && self.files.is_empty()
    }
}

impl fmt::Display for Leaks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for descriptor in &self.descriptors {
            writeln!(f, "descriptor {descriptor}")?;
        }
        for child in &self.children {
            writeln!(f, "process {child}")?;
        }
        for file in &self.files {
            writeln!(f, "file {}", file.display())?;
        }
        Ok(())
    }
}

impl Snapshot {
    fn take(watched: &[PathBuf]) -> Self {
        // The listing itself needs a descriptor, which is gone when its target is read.
        let descriptors = entries(Path::new("/proc/self/fd"))
            .filter_map(|path| {
                let number = path.file_name()?.to_str()?.parse().ok()?;
                Some((number, fs::read_link(&path).ok()?))
            })
            .filter(|(_, target)| !target.to_string_lossy().ends_with("/fd"))
            .collect();
        Self {
            descriptors,
            children: Process::current().children().into_iter().collect(),
            files: watched.iter().flat_map(|path| entries(path).collect::<Vec<_>>()).collect(),
        }
    }
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> {
    let listed: Vec<_> = fs::read_dir(directory).into_iter().flatten().flatten().collect();
    listed.into_iter().map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::process::Command;

    use super::*;

    #[test]
    fn each_kind_of_leak_is_found_and_named() {
        crate::in_own_process("leaks::tests::each_kind_of_leak_is_found_and_named", || {
            let directory = std::env::temp_dir().join(format!("leaks-{}", std::process::id()));
            fs::create_dir(&directory).unwrap();
            let probe = LeakProbe::watching(&[&directory]);
            probe.require_clean();

            let path = directory.join("left");
            let file = File::create(&path).unwrap();
            let mut child = Command::new("sleep").arg("600").spawn().unwrap();
            let leaks = probe.leaks();
            assert!(leaks.descriptors.iter().any(|d| d.ends_with("/left")), "{leaks}");
            assert!(leaks.children[0].starts_with(&child.id().to_string()), "{leaks}");
            assert_eq!(leaks.files, std::slice::from_ref(&path));

            drop(file);
            fs::remove_file(&path).unwrap();
            child.kill().unwrap();
            child.wait().unwrap();
            probe.require_clean();
            fs::remove_dir(&directory).unwrap();
        });
    }
}
