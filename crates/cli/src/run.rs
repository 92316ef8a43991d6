//! This run of the command, known to later ones.
//!
//! A run owns a file named after its token in `<home>/runs`, locked for as long as its process
//! lives. A file that nobody locks belongs to a run that could not clean up: whoever starts next
//! ends the processes that still carry its token. Runs that overlap never touch each other.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use snakehouse_base::id::RunToken;
use snakehouse_pool::{Ended, sweep};

use crate::error::CliError;
use crate::home::{Home, not_writable};

/// A run that is recorded. Dropping it without [`end`](Run::end) leaves the record to the next run.
#[derive(Debug)]
pub(crate) struct Run {
    token: RunToken,
    path: PathBuf,
    _lock: File,
}

impl Run {
    /// Records a new run, and ends and returns what dead runs left.
    ///
    /// Call it before anything is started. Blocks for as long as processes take to die.
    pub(crate) fn begin(home: &Home) -> Result<(Self, Vec<Ended>), CliError> {
        let dir = home.runs()?;
        let token = RunToken::fresh();
        let path = dir.join(token.as_str());
        let lock = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|file| {
                flock(&file, FlockOperation::NonBlockingLockExclusive)?;
                Ok(file)
            })
            .map_err(|error| not_writable(&path, &error))?;
        let ended = end_dead_runs(&dir, &token);
        Ok((Self { token, path, _lock: lock }, ended))
    }

    /// What marks every process of this run.
    pub(crate) fn token(&self) -> &RunToken {
        &self.token
    }

    /// Says that this run left nothing. Call it when everything it started is gone.
    pub(crate) fn end(self) {
        // A record that stays costs the next start one look at /proc, nothing else.
        let _ = fs::remove_file(&self.path);
    }
}

fn end_dead_runs(dir: &Path, own: &RunToken) -> Vec<Ended> {
    let mut ended = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| *name != own.as_str()) else { continue };
        // A record that cannot be opened is somebody else's business.
        let Ok(record) = File::open(entry.path()) else { continue };
        if flock(&record, FlockOperation::NonBlockingLockExclusive).is_ok() {
            ended.extend(sweep(&RunToken::new(name)));
            // As above: it costs the next start a look.
            let _ = fs::remove_file(entry.path());
        }
    }
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(home: &Home) -> usize {
        fs::read_dir(home.runs().unwrap()).unwrap().count()
    }

    #[test]
    fn a_living_run_is_left_alone_and_a_dead_one_is_cleared() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path()).unwrap();
        let (first, _) = Run::begin(&home).unwrap();
        let (second, _) = Run::begin(&home).unwrap();
        assert_eq!(records(&home), 2, "both live");
        second.end();
        drop(first);
        assert_eq!(records(&home), 1, "a run that did not end keeps its record");
        let (third, ended) = Run::begin(&home).unwrap();
        assert!(ended.is_empty());
        assert_eq!(records(&home), 1, "the dead one is gone");
        third.end();
        assert_eq!(records(&home), 0);
    }
}
