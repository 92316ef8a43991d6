//! The only place of the system that starts a task, a thread or a runtime (law 1).
//!
//! Everything here is private to the crate: what is started has an owner in the tree.

use std::future::Future;
use std::thread::JoinHandle as ThreadHandle;

use tokio::runtime::{Handle, Runtime};
use tokio::task::JoinHandle;

/// Starts a task on a runtime.
#[expect(clippy::disallowed_methods, reason = "law 1: this is the one place that may")]
pub(crate) fn task<F>(runtime: &Handle, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    runtime.spawn(future)
}

/// Starts a named thread. Linux shows the first 15 bytes of the name.
#[expect(clippy::disallowed_methods, reason = "law 1: this is the one place that may")]
pub(crate) fn thread<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<ThreadHandle<T>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body)
}

/// The runtime of a process.
pub(crate) fn runtime(workers: usize) -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        // Only name look-ups of the standard resolver use these; our blocking work has lanes.
        .max_blocking_threads(4)
        .thread_name("async")
        .enable_all()
        .build()
}
