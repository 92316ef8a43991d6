//! A directory that one process owns at a time.

use std::fmt;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::StoreError;
use crate::real_disk::create_dir_durably;

/// The state directory, locked for this process until the value is dropped.
///
/// The lock is a kernel lock on the file `lock`, so it ends with the process however the process
/// ends. The file names the holder for people; it proves nothing.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    lock: File,
}

/// Who holds a state directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    /// Its process; 0 if it has not said yet.
    pub pid: u32,
    /// The port it serves, once it serves.
    pub port: Option<u16>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}", self.pid)?;
        match self.port {
            Some(port) => write!(f, " (port {port})"),
            None => Ok(()),
        }
    }
}

impl StateDir {
    const LOCK: &str = "lock";

    /// Makes the directory if absent (mode 0700, as every directory made in it) and locks it.
    ///
    /// Blocks for a few file operations; call it at start.
    ///
    /// # Errors
    /// [`StoreError::Held`] with the holder's process and port if another process has it;
    /// [`StoreError::NotWritable`] if it cannot be made or written.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let path = path.into();
        let refused = |source| StoreError::NotWritable { dir: path.clone(), source };
        create_dir_durably(&path).map_err(refused)?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o700)).map_err(refused)?;
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join(Self::LOCK))
            .map_err(refused)?;
        match take(&lock) {
            Ok(true) => {}
            Ok(false) => {
                let holder = read_holder(&mut lock).unwrap_or_default();
                return Err(StoreError::Held { dir: path, holder });
            }
            Err(e) => return Err(refused(e.into())),
        }
        let mut dir = Self { path, lock };
        dir.say(None)?;
        Ok(dir)
    }

    /// Who holds the directory now, if anybody does. Takes nothing and changes nothing.
    pub fn holder(path: &Path) -> Option<Holder> {
        let mut lock = File::open(path.join(Self::LOCK)).ok()?;
        match flock(&lock, FlockOperation::NonBlockingLockShared) {
            Err(Errno::WOULDBLOCK) => read_holder(&mut lock),
            // Free, or on a file system without locks, where nobody can hold it.
            Ok(()) | Err(_) => None,
        }
    }

    /// Tells a second opener which port this process serves.
    ///
    /// # Errors
    /// [`StoreError::NotWritable`] if the lock file cannot be written.
    pub fn record_port(&mut self, port: u16) -> Result<(), StoreError> {
        self.say(Some(port))
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a directory inside, mode 0700, if absent, and returns its path.
    ///
    /// # Errors
    /// [`StoreError::NotWritable`] if it cannot be made.
    pub fn subdir(&self, name: &str) -> Result<PathBuf, StoreError> {
        let path = self.path.join(name);
        create_dir_durably(&path)
            .map_err(|source| StoreError::NotWritable { dir: path.clone(), source })?;
        Ok(path)
    }

    fn say(&mut self, port: Option<u16>) -> Result<(), StoreError> {
        let port = port.map(|p| p.to_string()).unwrap_or_default();
        let line = format!("{} {port}\n", std::process::id());
        let written = self
            .lock
            .set_len(0)
            .and_then(|()| self.lock.seek(SeekFrom::Start(0)))
            .and_then(|_| self.lock.write_all(line.as_bytes()));
        written.map_err(|source| StoreError::NotWritable { dir: self.path.clone(), source })
    }
}

/// Takes the lock; `false` if another process owns it.
///
/// Whoever only looks ([`StateDir::holder`]) has it shared for an instant, which must not look like
/// an owner: then a shared lock can be had, and it is worth another try.
fn take(lock: &File) -> Result<bool, Errno> {
    const TRIES: u32 = 10_000;
    for _ in 0..TRIES {
        match flock(lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) => {}
            Err(e) => return Err(e),
        }
        match flock(lock, FlockOperation::NonBlockingLockShared) {
            Ok(()) => std::thread::yield_now(),
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(e) => return Err(e),
        }
    }
    Ok(false)
}

fn read_holder(lock: &mut File) -> Option<Holder> {
    let mut text = String::new();
    lock.take(64).read_to_string(&mut text).ok()?;
    let mut words = text.split_whitespace();
    let pid = words.next()?.parse().ok()?;
    Some(Holder { pid, port: words.next().and_then(|w| w.parse().ok()) })
}

#[cfg(test)]
mod tests {
    use snakehouse_base::Coded;

    use super::*;

    #[test]
    fn a_second_opener_learns_who_holds_it() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a/state");
        let mut first = StateDir::open(&path).unwrap();
        first.record_port(8400).unwrap();
        let error = StateDir::open(&path).unwrap_err();
        let holder = Holder { pid: std::process::id(), port: Some(8400) };
        assert!(matches!(error, StoreError::Held { holder: h, .. } if h == holder), "{error}");
        assert!(error.hint().unwrap().contains("8400"));
        assert_eq!(StateDir::holder(&path), Some(holder));
        drop(first);
        assert_eq!(StateDir::holder(&path), None);
        StateDir::open(&path).unwrap();
    }

    #[test]
    fn whoever_only_looks_does_not_keep_an_owner_out() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("state");
        drop(StateDir::open(&path).unwrap());
        let team = snakehouse_supervise::Team::new("lookers", 3);
        let opened = team.map(3, &|n| {
            (0..300).all(|_| match n {
                0 => StateDir::open(&path).is_ok(),
                _ => StateDir::holder(&path).is_none_or(|holder| holder.pid == std::process::id()),
            })
        });
        assert_eq!(opened, [true, true, true]);
    }

    #[test]
    fn only_the_owner_may_look_inside() {
        let home = tempfile::tempdir().unwrap();
        let state = StateDir::open(home.path().join("state")).unwrap();
        let sub = state.subdir("log").unwrap();
        for dir in [state.path(), &sub] {
            assert_eq!(dir.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        }
    }

    #[test]
    fn a_path_that_cannot_be_a_directory_is_named() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("file");
        std::fs::write(&file, "x").unwrap();
        let error = StateDir::open(file.join("state")).unwrap_err();
        assert_eq!(error.code(), "state_dir_not_writable");
        assert!(error.hint().unwrap().contains("SNAKEHOUSE_HOME"));
    }
}
