//! The chain of calls that running code is part of: a call, the host tool that it called, the call
//! which that one made, and so on.
//!
//! A chain is a task-local of the task that a host tool runs in, so that a plain `pool.call` inside of
//! it belongs to the chain. It says how deep the chain is, when its first caller stops waiting, and
//! which workers wait in it: one of those can run the chain's next call, in the middle of what it
//! waits with.

use std::sync::Arc;

use snakehouse_base::Deadline;
use snakehouse_base::id::Incarnation;
use snakehouse_wire::TraceContext;

use crate::call::{CallError, CallOptions};
use crate::pool::Shared;

tokio::task_local! {
    static CURRENT: Chain;
}

/// One callback, and what it came out of.
#[derive(Clone)]
pub(crate) struct Chain(Arc<Link>);

struct Link {
    /// The pool, place and life of the worker that waits.
    shared: Arc<Shared>,
    place: usize,
    incarnation: Incarnation,
    /// How many callbacks there are up to this one.
    depth: u8,
    deadline: Deadline,
    trace: TraceContext,
    outer: Option<Chain>,
}

/// What a call is told about the chain that it belongs to. The default is none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    /// Through how many callbacks it came.
    pub(crate) depth: u8,
    /// The chain's workers in this pool, the innermost first.
    pub(crate) own: Vec<(usize, Incarnation)>,
    /// It was given to a worker that waits, to be run in the middle of that.
    pub(crate) is_nested: bool,
}

impl Chain {
    /// Most callbacks in a chain. One more is [`CallError::TooDeep`].
    pub(crate) const MAX_DEPTH: u8 = 16;

    /// A callback of a call that came through `depth` others, in the chain that is `outer`.
    pub(crate) fn new(
        shared: Arc<Shared>,
        place: usize,
        incarnation: Incarnation,
        depth: u8,
        deadline: Deadline,
        trace: TraceContext,
        outer: Option<Self>,
    ) -> Self {
        let depth = depth.saturating_add(1);
        Self(Arc::new(Link { shared, place, incarnation, depth, deadline, trace, outer }))
    }

    /// That of the running code, if it is a host tool's.
    pub(crate) fn current() -> Option<Self> {
        CURRENT.try_with(Clone::clone).ok()
    }

    /// Runs a future as a part of the chain.
    pub(crate) async fn within<F: Future>(self, future: F) -> F::Output {
        CURRENT.scope(self, future).await
    }

    /// Whether a call may have come through so many callbacks.
    pub(crate) fn check_depth(depth: u8) -> Result<(), CallError> {
        match depth {
            0..=Self::MAX_DEPTH => Ok(()),
            _ => Err(CallError::TooDeep { limit: Self::MAX_DEPTH }),
        }
    }

    pub(crate) fn depth(&self) -> u8 {
        self.0.depth
    }

    pub(crate) fn deadline(&self) -> Deadline {
        self.0.deadline
    }

    /// The deadline and the trace of what the running code calls, and its place in the chain.
    pub(crate) fn enter(
        shared: &Shared,
        options: &mut CallOptions,
    ) -> Result<(Place, Option<Self>), CallError> {
        let Some(chain) = Self::current() else { return Ok((Place::default(), None)) };
        Self::check_depth(chain.0.depth)?;
        options.deadline = options.deadline.min(chain.0.deadline);
        if options.trace.is_none() {
            options.trace = chain.0.trace;
        }
        let links = std::iter::successors(Some(&chain), |chain| chain.0.outer.as_ref());
        let here = links.filter(|chain| std::ptr::eq(Arc::as_ptr(&chain.0.shared), shared));
        let own = here.map(|chain| (chain.0.place, chain.0.incarnation)).collect();
        let place = Place { depth: chain.0.depth, own, is_nested: false };
        Ok((place, Some(chain)))
    }
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chain").field("depth", &self.0.depth).finish_non_exhaustive()
    }
}
