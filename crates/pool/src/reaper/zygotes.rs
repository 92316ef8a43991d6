//! The zygotes of one reaper, as it reports them.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Most of either kind that are remembered; the reaper keeps fewer.
const MAX: usize = 256;

/// A process that has imported what workers need and forks them, or the reason why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZygoteInfo {
    /// What it imports beside the worker's own modules.
    pub preload: Vec<String>,
    /// What became of it.
    pub state: ZygoteState,
}

/// What became of a zygote.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ZygoteState {
    /// It has imported and forks workers.
    Serves {
        /// Its process.
        pid: u32,
    },
    /// A fork would not be safe: workers are started without it, which is slower and takes more
    /// memory.
    Unfit {
        /// Which import brought what: `numpy brought the thread 'x'`.
        why: String,
    },
}

/// What the reaper has reported and not taken back.
#[derive(Debug, Default)]
pub(super) struct Zygotes(Mutex<Vec<ZygoteInfo>>);

impl Zygotes {
    pub(super) fn all(&self) -> Vec<ZygoteInfo> {
        self.lock().clone()
    }

    pub(super) fn serves(&self, pid: u32, preload: Vec<String>) {
        self.add(ZygoteInfo { preload, state: ZygoteState::Serves { pid } });
    }

    pub(super) fn unfit(&self, preload: Vec<String>, why: String) {
        self.add(ZygoteInfo { preload, state: ZygoteState::Unfit { why } });
    }

    pub(super) fn exited(&self, pid: u32) {
        self.lock().retain(|zygote| zygote.state != ZygoteState::Serves { pid });
    }

    /// The reaper is gone, and they with it.
    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    fn add(&self, zygote: ZygoteInfo) {
        let mut all = self.lock();
        if all.len() == MAX {
            all.remove(0);
        }
        all.push(zygote);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<ZygoteInfo>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
