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

/// Cancels that arrived, by page or frame, for the calls that run and for those that wait.
#[derive(Debug)]
pub(super) struct Cancels {
    page: Option<WorkerPage>,
    /// The call that was started last, nested ones apart.
    started: u32,
    /// Calls that run, each in the middle of the one before.
    running: Vec<u32>,
    /// Calls not yet started, and running ones.
    wanted: HashSet<u32>,
}

impl Cancels {
    pub(super) fn new(page: Option<WorkerPage>) -> Self {
        Self { page, started: 0, running: Vec::new(), wanted: HashSet::new() }
    }

    /// A cancel came. One for a call that has already been answered is ignored.
    pub(super) fn ask(&mut self, stream: u32) {
        let may_be_wanted = self.running.contains(&stream) || !self.is_over(stream);
        // A host that keeps the rules never has so many open calls: the set is bounded all the same.
        if may_be_wanted && self.wanted.len() < 16 * CANCEL_SLOTS as usize {
            self.wanted.insert(stream);
        }
    }

    fn is_over(&self, stream: u32) -> bool {
        self.started.wrapping_sub(stream) < u32::MAX / 2
    }

    /// Publishes that `stream` starts now; says whether it may.
    pub(super) fn start(&mut self, stream: u32) -> io::Result<Start> {
        self.look()?;
        self.started = stream;
        self.running.push(stream);
        if let Some(page) = &self.page {
            page.start(stream)?;
            if page.is_recalled(stream)? {
                self.wanted.remove(&stream);
                return Ok(Start::Recalled);
            }
        }
        let start = self.begin(stream);
        if !self.wanted.is_empty() {
            // Those of nested calls came too late.
            let mut wanted = std::mem::take(&mut self.wanted);
            wanted.retain(|stream| !self.is_over(*stream) || self.running.contains(stream));
            self.wanted = wanted;
        }
        Ok(start)
    }

    /// A call starts in the middle of another one, which nobody is told of; says whether it may.
    pub(super) fn start_nested(&mut self, stream: u32) -> io::Result<Start> {
        self.look()?;
        self.running.push(stream);
        Ok(self.begin(stream))
    }

    fn begin(&mut self, stream: u32) -> Start {
        match self.wanted.remove(&stream) {
            true => Start::Cancelled,
            false => Start::Runs,
        }
    }

    /// Whether a running call is cancelled.
    pub(super) fn is_cancelled(&mut self, stream: u32) -> io::Result<bool> {
        self.look()?;
        Ok(self.wanted.contains(&stream))
    }

    /// Whether no call runs.
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// The call that was started last of those that run is over.
    pub(super) fn end(&mut self) {
        if let Some(stream) = self.running.pop() {
            self.wanted.remove(&stream);
        }
    }

    fn look(&mut self) -> io::Result<()> {
        let Some(page) = &mut self.page else { return Ok(()) };
        for stream in page.take_cancels()? {
            self.ask(stream);
        }
        Ok(())
    }
}
