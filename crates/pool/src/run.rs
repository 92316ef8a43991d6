//! A run of a host, known to later ones: who may be ended, and who not.
//!
//! A run owns a file named after its token in a directory that hosts share, locked for as long as
//! the host's process lives. A file that nobody locks belongs to a run that could not clean up:
//! whoever begins next ends the processes that still carry its token. Runs that overlap never touch
//! each other. Nothing else is written, so there is nothing to repair: a host that is killed between
//! any two steps leaves a file that the next one clears.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use snakehouse_base::id::RunToken;

use crate::error::PoolError;
use crate::sweep::{Ended, sweep};

/// Begins the name of a record that is not locked yet.
const UNFINISHED: char = '.';

/// A host that begins meets others that clear at the same moment no more often than this.
const ATTEMPTS: usize = 100;

/// A run that is recorded. Dropping it without [`end`](Self::end) leaves the record to the next run,
/// as the death of the process does.
#[derive(Debug)]
pub struct Run {
    token: RunToken,
    path: PathBuf,
    _lock: File,
    found: Vec<Ended>,
}

impl Run {
    /// Records a new run in this directory, which is made with mode 0700 if it is absent, and ends
    /// what dead runs left.
    ///
    /// Call it before anything is started. Blocks: as [`sweep`] does, for each dead run.
    ///
    /// # Errors
    /// [`PoolError::RunRecord`] if the directory cannot be written.
    pub fn begin(directory: &Path) -> Result<Self, PoolError> {
        let token = RunToken::fresh();
        let path = directory.join(token.as_str());
        let failed = |source| PoolError::RunRecord { path: path.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        let lock = record(directory, &path, token.as_str()).map_err(failed)?;
        let found = end_dead_runs(directory, &token);
        for process in &found {
            tracing::warn!(
                pid = process.pid, command = %process.command, "left behind by an earlier run, ended"
            );
        }
        Ok(Self { token, path, _lock: lock, found })
    }

    /// What marks every process of this run; for [`ReaperConfig`](crate::ReaperConfig).
    pub fn token(&self) -> &RunToken {
        &self.token
    }

    /// Processes of earlier runs that the beginning ended. Empty unless an earlier host died
    /// together with its reaper.
    pub fn found(&self) -> &[Ended] {
        &self.found
    }

    /// Says that this run left nothing. Call it when everything it started is gone.
    pub fn end(self) {
        // A record that stays costs the next start one look at /proc, nothing else.
        let _ = fs::remove_file(&self.path);
    }
}

/// Makes the record, locked from the first moment that it has its name.
fn record(directory: &Path, path: &Path, token: &str) -> io::Result<File> {
    let unfinished = directory.join(format!("{UNFINISHED}{token}"));
    let mut last = io::Error::from(io::ErrorKind::WouldBlock);
    for _ in 0..ATTEMPTS {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        // Somebody who clears may have locked it first, and removes it then: it is made again.
        let named = flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(io::Error::from)
            .and_then(|()| fs::rename(&unfinished, path));
        match named {
            Ok(()) => return Ok(file),
            Err(error) => last = error,
        }
        if let Err(error) = fs::remove_file(&unfinished)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
    }
    Err(last)
}

fn end_dead_runs(directory: &Path, own: &RunToken) -> Vec<Ended> {
    let mut ended = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| *name != own.as_str()) else { continue };
        // A record that cannot be opened is somebody else's business.
        let Ok(record) = File::open(entry.path()) else { continue };
        if flock(&record, FlockOperation::NonBlockingLockExclusive).is_ok() {
            if !name.starts_with(UNFINISHED) {
                ended.extend(sweep(&RunToken::new(name)));
            }
            // As at the end of a run: it costs the next start a look.
            let _ = fs::remove_file(entry.path());
        }
    }
    ended
}

#[cfg(test)]
mod tests {
    use snakehouse_supervise::{Lane, Root};

    use super::*;

    fn records(dir: &tempfile::TempDir) -> usize {
        fs::read_dir(dir.path()).unwrap().count()
    }

    #[test]
    fn a_living_run_is_left_alone_and_a_dead_one_is_cleared() {
        let dir = tempfile::tempdir().unwrap();
        let first = Run::begin(dir.path()).unwrap();
        let second = Run::begin(dir.path()).unwrap();
        assert_eq!(records(&dir), 2, "both live");
        second.end();
        drop(first);
        assert_eq!(records(&dir), 1, "a run that did not end keeps its record");
        let third = Run::begin(dir.path()).unwrap();
        assert!(third.found().is_empty());
        assert_eq!(records(&dir), 1, "the dead one is gone");
        third.end();
        assert_eq!(records(&dir), 0);
    }

    #[test]
    fn what_a_host_leaves_that_is_killed_while_it_begins_is_cleared() {
        let dir = tempfile::tempdir().unwrap();
        let unfinished = dir.path().join(".0123");
        File::create(&unfinished).unwrap();
        File::create(dir.path().join("4567")).unwrap();
        let beginning = File::create(dir.path().join(".89ab")).unwrap();
        flock(&beginning, FlockOperation::NonBlockingLockExclusive).unwrap();
        Run::begin(dir.path()).unwrap().end();
        let left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, [".89ab"], "that one is still at it");
    }

    #[test]
    fn hosts_that_begin_at_the_same_moment_all_get_a_record() {
        let dir = tempfile::tempdir().unwrap();
        let runs = snakehouse_supervise::run(async {
            let root = Root::new("test");
            let lane = Lane::new(root.scope(), "hosts", 4, 4);
            let begin = |path: PathBuf| {
                move || (0..50).map(|_| Run::begin(&path).unwrap()).collect::<Vec<_>>()
            };
            let host = || lane.run(begin(dir.path().to_owned()));
            let (a, b, c, d) = tokio::join!(host(), host(), host(), host());
            let runs: Vec<Run> = [a, b, c, d].into_iter().flat_map(Result::unwrap).collect();
            root.stop().await;
            runs
        });
        assert_eq!((runs.len(), records(&dir)), (200, 200));
        for run in &runs {
            assert!(run.path.exists(), "nobody else cleared it");
        }
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Run::begin(&file.path().join("runs")).unwrap_err();
        assert_eq!(snakehouse_base::Coded::code(&error), "run_not_recorded");
        assert!(error.to_string().contains("runs"), "{error}");
    }
}
