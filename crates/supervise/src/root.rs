//! The root of one tree.

use std::sync::Arc;

use snakehouse_base::Chance;
use tokio::runtime::Handle;

use crate::event::Events;
use crate::scope::{Owner, Scope, ScopeInner};
use crate::stop::StopReport;

/// One supervision tree. Programs build one; tests build one each.
///
/// End it with [`stop`](Root::stop). A root that is dropped instead drops everything below it
/// without grace and without waiting: right for a test that failed, wrong for a program.
#[derive(Debug)]
pub struct Root {
    scope: Scope,
}

impl Root {
    /// A tree on the current runtime; jitter draws from the operating system's entropy.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(name: &str) -> Self {
        Self::with_chance(name, Chance::from_entropy())
    }

    /// A tree whose jitter draws from `chance`, for replayable tests.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn with_chance(name: &str, chance: Chance) -> Self {
        let (runtime, chance) = (Handle::current(), Arc::new(chance));
        let inner = ScopeInner::new(name, name, runtime, chance, Events::new(), Owner::Nobody);
        Self { scope: Scope::from(inner) }
    }

    /// The outermost scope.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Stops everything in reverse start order; see [`Scope::stop`].
    pub async fn stop(self) -> StopReport {
        self.scope.stop().await
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        self.scope.abort();
    }
}
