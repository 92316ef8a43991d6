//! The runtime of a process.

use std::future::Future;

use crate::spawn;

/// Runs a program: makes the process's runtime, blocks until `future` is done, and takes the
/// runtime down.
///
/// The runtime is multi-threaded with as many workers as cores, two at least. Call it once, at the
/// top of `main`; build one [`Root`](crate::Root) inside and stop it before returning.
///
/// # Panics
/// When the operating system refuses threads or an epoll descriptor, or when called from inside
/// another runtime.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    spawn::runtime(cores.max(2))
        .expect("a process gets at least two threads and an epoll descriptor")
        .block_on(future)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_program_returns_its_value() {
        assert_eq!(super::run(async { 6 * 7 }), 42);
    }
}
