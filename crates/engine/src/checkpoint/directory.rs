//! A directory that appears whole or not at all.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::EngineError;

/// A directory being written beside its final place.
///
/// Dropped before [`finish`](Self::finish) it takes its files with it; killed before, it leaves a
/// hidden directory that the next attempt at the same place removes.
#[derive(Debug)]
pub(crate) struct NewDirectory {
    target: PathBuf,
    partial: PathBuf,
    finished: bool,
    /// Whether something damaged stands at the target, to be replaced.
    replaces: bool,
}

impl NewDirectory {
    /// Starts a directory, or `None` if `target` is already there.
    pub(crate) fn begin(target: &Path) -> Result<Option<Self>, EngineError> {
        if target.exists() {
            return Ok(None);
        }
        Self::open(target, false).map(Some)
    }

    /// Starts a directory that takes the place of what stands at `target`, once it is complete.
    pub(crate) fn replace(target: &Path) -> Result<Self, EngineError> {
        Self::open(target, true)
    }

    fn open(target: &Path, replaces: bool) -> Result<Self, EngineError> {
        let name = target.file_name().and_then(|n| n.to_str());
        let name = name.ok_or_else(|| EngineError::directory(target, "its name is not usable"))?;
        let parent = target.parent().filter(|p| !p.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        let prefix = format!(".{name}.partial-");
        remove_abandoned(parent, &prefix);
        let partial = parent.join(format!("{prefix}{}", std::process::id()));
        fs::create_dir(&partial).map_err(EngineError::io("creating", &partial))?;
        Ok(Self { target: target.to_owned(), partial, finished: false, replaces })
    }

    /// Writes and syncs a file.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), EngineError> {
        let path = self.partial.join(name);
        let put = || {
            let mut file = File::create_new(&path)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        put().map_err(EngineError::io("writing", &path))
    }

    /// Puts the directory in its place, durably.
    pub(crate) fn finish(mut self) -> Result<(), EngineError> {
        sync_directory(&self.partial)?;
        let mut damaged = None;
        if self.replaces {
            let mut aside = self.partial.clone().into_os_string();
            aside.push("-damaged");
            let aside = PathBuf::from(aside);
            // Dying between the two renames leaves nothing, which is what the target was worth.
            fs::rename(&self.target, &aside).map_err(EngineError::io("renaming", &self.target))?;
            damaged = Some(aside);
        }
        match fs::rename(&self.partial, &self.target) {
            Ok(()) => self.finished = true,
            // Somebody else was faster, and wrote the same.
            Err(_) if self.target.is_dir() => return Ok(()),
            Err(e) => return Err(EngineError::io("renaming to", &self.target)(e)),
        }
        if let Some(damaged) = damaged {
            // Best effort: what stays is removed by the next attempt.
            let _ = fs::remove_dir_all(damaged);
        }
        match self.target.parent().filter(|p| !p.as_os_str().is_empty()) {
            Some(parent) => sync_directory(parent),
            None => sync_directory(Path::new(".")),
        }
    }
}

impl Drop for NewDirectory {
    fn drop(&mut self) {
        if !self.finished {
            // Best effort: what stays is removed by the next attempt.
            let _ = fs::remove_dir_all(&self.partial);
        }
    }
}

fn sync_directory(dir: &Path) -> Result<(), EngineError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(EngineError::io("syncing", dir))
}

/// Removes what killed processes left of earlier attempts at the same place.
fn remove_abandoned(parent: &Path, prefix: &str) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.strip_prefix(prefix)) else { continue };
        let alive = pid != std::process::id().to_string() && Path::new("/proc").join(pid).exists();
        if !alive {
            // Best effort: what stays costs room, nothing else.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_appears_whole_and_stays() {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("save");
        let new = NewDirectory::begin(&target).unwrap().unwrap();
        new.write("a", b"1").unwrap();
        assert!(!target.exists());
        new.finish().unwrap();
        assert_eq!(fs::read(target.join("a")).unwrap(), b"1");
        assert!(NewDirectory::begin(&target).unwrap().is_none());
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_unfinished_one_leaves_nothing() {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("save");
        let new = NewDirectory::begin(&target).unwrap().unwrap();
        new.write("a", b"1").unwrap();
        drop(new);
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    }

    #[test]
    fn leftovers_of_the_dead_are_removed() {
        let home = tempfile::tempdir().unwrap();
        // No process has this number: it is above the kernel's limit.
        let left = home.path().join(".save.partial-99999999");
        fs::create_dir(&left).unwrap();
        NewDirectory::begin(&home.path().join("save")).unwrap().unwrap().finish().unwrap();
        assert!(!left.exists());
    }

    #[test]
    fn a_replacement_leaves_nothing_of_what_was_there() {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("save");
        fs::create_dir(&target).unwrap();
        fs::write(target.join("old"), b"0").unwrap();
        let new = NewDirectory::replace(&target).unwrap();
        new.write("a", b"1").unwrap();
        assert!(target.join("old").exists());
        new.finish().unwrap();
        assert_eq!(fs::read(target.join("a")).unwrap(), b"1");
        assert!(!target.join("old").exists());
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_parent_is_an_error() {
        let home = tempfile::tempdir().unwrap();
        assert!(NewDirectory::begin(&home.path().join("no/save")).is_err());
    }
}
