//! Waiting for a change of Python files: by inotify, without looking.
//!
//! It watches a directory and what is below it, except hidden directories, caches and virtual
//! environments; the first 1,024 of them. A burst of changes is one change, over when nothing has
//! happened for 50 ms. Tested with real commands (`system-tests/tests/it/pool_author.rs`).

use std::ffi::CStr;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use snakehouse_base::Kind;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::error::CliError;

const MOST: usize = 1024;
const QUIET: Duration = Duration::from_millis(50);

/// The Python files below a directory.
#[derive(Debug)]
pub(crate) struct Watch {
    root: PathBuf,
    events: AsyncFd<OwnedFd>,
}

impl Watch {
    /// What changes from now on is seen.
    pub(crate) fn below(root: PathBuf) -> Result<Self, CliError> {
        let events = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC);
        let events = events.map_err(io::Error::from).and_then(adopt).map_err(failed)?;
        let watch = Self { root, events };
        watch.add_all().map_err(failed)?;
        Ok(watch)
    }

    /// Returns when a file has changed and all is quiet again. Cancel safe, but for the change that
    /// it was cancelled in.
    pub(crate) async fn changed(&mut self) -> Result<(), CliError> {
        let mut changed = false;
        loop {
            let seen = match changed {
                false => self.seen().await.map_err(failed)?,
                true => match tokio::time::timeout(QUIET, self.seen()).await {
                    Ok(seen) => seen.map_err(failed)?,
                    Err(_) => return Ok(()),
                },
            };
            if seen.a_directory {
                self.add_all().map_err(failed)?;
            }
            changed |= seen.a_file || seen.a_directory;
        }
    }

    async fn seen(&self) -> io::Result<Seen> {
        loop {
            let mut ready = self.events.readable().await?;
            if let Ok(seen) = ready.try_io(|events| read(events.get_ref())) {
                return seen;
            }
        }
    }

    fn add_all(&self) -> io::Result<()> {
        let flags = WatchFlags::CLOSE_WRITE
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::ONLYDIR;
        let mut found = vec![self.root.clone()];
        let mut next = 0;
        while let Some(directory) = found.get(next).cloned() {
            next += 1;
            match inotify::add_watch(self.events.get_ref(), &directory, flags) {
                Ok(_) => {}
                // It went while we looked.
                Err(Errno::NOENT | Errno::NOTDIR) if next > 1 => continue,
                Err(error) => return Err(error.into()),
            }
            let Ok(inside) = fs::read_dir(&directory) else { continue };
            for entry in inside.flatten() {
                let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
                if is_directory && found.len() < MOST && is_code(&entry.path()) {
                    found.push(entry.path());
                }
            }
        }
        Ok(())
    }
}

#[expect(
    deprecated,
    reason = "the other way is unsafe, for types that may close what they lend; an OwnedFd does not"
)]
fn adopt(events: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(events, Interest::READABLE)
}

/// What a read told.
#[derive(Debug, Default)]
struct Seen {
    a_file: bool,
    a_directory: bool,
}

/// `WouldBlock` if there is nothing.
fn read(events: &OwnedFd) -> io::Result<Seen> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = Reader::new(events, &mut buffer);
    let mut seen = Seen::default();
    let mut some = false;
    loop {
        match reader.next() {
            Ok(event) => {
                some = true;
                let (flags, name) = (event.events(), event.file_name());
                let is_directory = flags.contains(ReadFlags::ISDIR);
                // What is written to is told when it is closed.
                let is_change = flags != ReadFlags::CREATE;
                seen.a_file |= flags.contains(ReadFlags::QUEUE_OVERFLOW)
                    || (!is_directory && is_change && name.is_some_and(is_python));
                seen.a_directory |= is_directory && name.is_some_and(is_wanted);
            }
            Err(Errno::AGAIN) if some => return Ok(seen),
            Err(error) => return Err(error.into()),
        }
    }
}

fn is_python(name: &CStr) -> bool {
    name.to_bytes().ends_with(b".py")
}

fn is_wanted(name: &CStr) -> bool {
    !name.to_bytes().starts_with(b".") && name.to_bytes() != b"__pycache__"
}

/// Whether a directory may hold code of the tools' author.
fn is_code(directory: &Path) -> bool {
    let name = directory.file_name().unwrap_or_default().as_encoded_bytes();
    !name.starts_with(b".") && name != b"__pycache__" && !directory.join("pyvenv.cfg").exists()
}

fn failed(error: io::Error) -> CliError {
    CliError::new(Kind::Environment, "cannot_watch", format!("cannot watch the tools: {error}"))
        .with_hint("fs.inotify.max_user_watches or max_user_instances may be used up")
}
