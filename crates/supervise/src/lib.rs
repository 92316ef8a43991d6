//! Supervision trees: every task, thread and blocking job has an owner that stops and joins it.
//!
//! **What for.** A program made of many concurrent parts must know, at any moment, what runs, why
//! it runs, who restarts it and who ends it. This crate is the only one that starts anything.
//!
//! **What it owns.** [`Root`] is one tree; a [`Scope`] is a branch of it and owns
//! [supervised children](Scope::child), [groups](Scope::group) of them, one-shot
//! [tasks](Scope::task), [periodic work](Scope::every), [lanes](Lane) for blocking work and
//! [permanent threads](thread). [`accept`] is the loop of a
//! server, [`Team`] is for CPU work and [`run`] makes the runtime of a
//! process. Nothing here is process-wide: two trees never meet.
//!
//! **How it fails.** A panic or an error of a child is an [`Exit`]: it is logged, it stands in the
//! [tree](Node) and it reaches the supervisor, which restarts the child with jittered back-off or,
//! when restarts come too often, [fails the scope](Scope::failed). A failed scope stops its
//! members in order and fails the scope around it, up to a child whose restart repairs the branch
//! or to the root.
//!
//! **How it is tested.** The decisions (intensity, group strategies) are pure values compared with
//! naive references by property tests; trees run on a virtual clock; lanes and threads run for
//! real.
//!
//! ```
//! use std::time::Duration;
//! use snakehouse_supervise::{BoxError, ChildSpec, Root};
//!
//! snakehouse_supervise::run(async {
//!     let root = Root::new("example");
//!     let ticker = root.scope().child(ChildSpec::new("ticker", |ctx| async move {
//!         ctx.ready();
//!         ctx.cancelled().cancelled().await;
//!         Ok::<(), BoxError>(())
//!     }));
//!     ticker.wait_ready().await.expect("it reports readiness at once");
//!     assert_eq!(root.scope().tree().children[0].name, "ticker");
//!     assert!(root.stop().await.is_clean());
//! });
//! ```

mod accept;
mod child;
mod event;
mod exit;
mod group;
mod intensity;
mod lane;
mod member;
mod os_thread;
mod plan;
mod root;
mod runner;
mod runtime;
mod scope;
mod spawn;
mod spec;
mod stop;
mod task;
mod team;
mod tree;

pub use accept::accept;
pub use child::{Child, ChildCtx, ChildError};
pub use event::{Event, Happening};
pub use exit::{BoxError, Exit, ScopeFailure};
pub use group::{Group, GroupSpec};
pub use intensity::Intensity;
pub use lane::{Lane, LaneError};
pub use os_thread::{OsThread, thread};
pub use plan::Strategy;
pub use root::Root;
pub use runtime::run;
pub use scope::Scope;
pub use spec::{ChildSpec, Restart};
pub use stop::{StopReport, Stopped};
pub use task::{Task, TaskError};
pub use team::Team;
pub use tokio_util::sync::CancellationToken;
pub use tree::{Node, NodeKind, NodeState};
