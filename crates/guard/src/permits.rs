//! A bound on what is in flight: how many, and how many bytes together.

use std::sync::Arc;

use snakehouse_base::{ByteSize, Deadline};

use crate::ConfigError;
use crate::admission::Limits;
use crate::by;
use crate::gate::{Gate, Permit};

/// Count and byte permits, granted together, first come first served.
///
/// A handle: clones share the same permits. A request larger than all bytes together runs alone
/// instead of never. Waiting costs no timer and no poll until the grant.
#[derive(Clone, Debug)]
pub struct Permits {
    gate: Arc<Gate>,
}

impl Permits {
    /// At most `count` at once.
    ///
    /// # Errors
    /// [`ConfigError`] if `count` is zero.
    pub fn counted(count: usize) -> Result<Self, ConfigError> {
        Self::new(count, ByteSize(u64::MAX))
    }

    /// At most `count` at once, with at most `bytes` together.
    ///
    /// # Errors
    /// [`ConfigError`] if either is zero.
    pub fn new(count: usize, bytes: ByteSize) -> Result<Self, ConfigError> {
        if count == 0 {
            return Err(ConfigError("the count of permits must be at least 1"));
        }
        if bytes.0 == 0 {
            return Err(ConfigError("the bytes of permits must be at least 1"));
        }
        Ok(Self { gate: Gate::new(Limits { count, bytes: bytes.0, scale: 1 }) })
    }

    /// Waits for a permit over `bytes`. Cancel safe: a waiter that is dropped leaves the queue.
    pub async fn acquire(&self, bytes: ByteSize) -> Permit {
        self.gate.enter(bytes.0).await
    }

    /// Waits for a permit, but not past `deadline`; `None` if there was none in time.
    pub async fn acquire_by(&self, bytes: ByteSize, deadline: Deadline) -> Option<Permit> {
        by(deadline, self.acquire(bytes)).await
    }

    /// A permit at once, if nobody waits and it fits.
    pub fn try_acquire(&self, bytes: ByteSize) -> Option<Permit> {
        self.gate.try_enter(bytes.0)
    }

    /// How many permits are held, and their bytes (an oversized request counts as all bytes).
    pub fn in_flight(&self) -> (usize, ByteSize) {
        let (count, bytes) = self.gate.in_flight();
        (count, ByteSize(bytes))
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.gate.waiting()
    }
}
