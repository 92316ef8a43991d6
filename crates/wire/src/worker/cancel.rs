//! Which calls the host no longer wants.

use std::collections::HashSet;
use std::io;

use crate::page::{CANCEL_SLOTS, WorkerPage};

/// What becomes of a call whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    Runs,
    /// Its caller gave up.
    Cancelled,
    /// The host took it back.
    Recalled,
}

/// Cancels that arrived, by page or frame, for the call that runs and for those that wait.
#[derive(Debug)]
pub(super) struct Cancels {
    page: Option<WorkerPage>,
    started: u32,
    running: bool,
    /// Calls not yet started, and the running one.
    wanted: HashSet<u32>,
}

impl Cancels {
    pub(super) fn new(page: Option<WorkerPage>) -> Self {
        Self { page, started: 0, running: false, wanted: HashSet::new() }
    }

    /// A cancel frame came. One for a call that has already been answered is ignored.
    pub(super) fn ask(&mut self, stream: u32) {
        let is_over = self.started.wrapping_sub(stream) < u32::MAX / 2;
        // A host that keeps the rules never has so many open calls: the set is bounded all the same.
        if !is_over && self.wanted.len() < 16 * CANCEL_SLOTS as usize {
            self.wanted.insert(stream);
        }
    }

    /// Publishes that `stream` starts now; says whether it may.
    pub(super) fn start(&mut self, stream: u32) -> io::Result<Start> {
        self.look()?;
        self.started = stream;
        self.running = true;
        if let Some(page) = &self.page {
            page.start(stream)?;
            if page.is_recalled(stream)? {
                self.wanted.remove(&stream);
                return Ok(Start::Recalled);
            }
        }
        Ok(match self.wanted.remove(&stream) {
            true => Start::Cancelled,
            false => Start::Runs,
        })
    }

    /// Whether the running call is cancelled.
    pub(super) fn is_cancelled(&mut self) -> io::Result<bool> {
        self.look()?;
        Ok(self.wanted.contains(&self.started))
    }

    /// The running call is over.
    pub(super) fn end(&mut self) {
        self.running = false;
        self.wanted.remove(&self.started);
    }

    fn look(&mut self) -> io::Result<()> {
        let Some(page) = &mut self.page else { return Ok(()) };
        for stream in page.take_cancels()? {
            if self.running && stream == self.started {
                self.wanted.insert(stream);
            } else {
                self.ask(stream);
            }
        }
        Ok(())
    }
}
