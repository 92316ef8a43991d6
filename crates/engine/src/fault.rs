//! A test instrument: the process kills itself at a named point.
//!
//! Crash tests need deaths at exact places. A worker started with a [`Fault`] sends itself SIGKILL
//! when it reaches that point for the given time. Off unless asked for; it cannot be asked for by
//! a request, only by whoever starts the process.

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where a process can be told to die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// After a datum of a forward_backward, before anything of it is kept.
    MidKernel,
    /// Between the files of a snapshot.
    MidSnapshot,
    /// After a snapshot is in its place, before the reply.
    AfterSnapshot,
    /// Between the files of a save.
    MidSave,
}

impl Point {
    const ALL: [(Self, &'static str); 4] = [
        (Self::MidKernel, "mid_kernel"),
        (Self::MidSnapshot, "mid_snapshot"),
        (Self::AfterSnapshot, "after_snapshot"),
        (Self::MidSave, "mid_save"),
    ];
}

/// When to die: `POINT:COUNT` or `POINT:COUNT:MARKER`.
///
/// Counting starts at 1 in each process. With a marker (a path), only the process that manages to
/// create that file dies, so a restarted worker lives on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    point: Point,
    count: u64,
    marker: Option<PathBuf>,
}

/// A fault that is not written as it must be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "fault `{0}` is not POINT:COUNT[:MARKER] with one of mid_kernel, mid_snapshot, \
     after_snapshot, mid_save"
)]
pub struct BadFault(String);

impl FromStr for Fault {
    type Err = BadFault;

    fn from_str(text: &str) -> Result<Self, BadFault> {
        let bad = || BadFault(text.to_owned());
        let mut parts = text.splitn(3, ':');
        let name = parts.next().unwrap_or_default();
        let (point, _) = Point::ALL.into_iter().find(|(_, n)| *n == name).ok_or_else(bad)?;
        let count = parts.next().and_then(|n| n.parse().ok()).filter(|&n| n > 0).ok_or_else(bad)?;
        Ok(Self { point, count, marker: parts.next().map(PathBuf::from) })
    }
}

/// Counts the points that are reached.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    planned: Option<Fault>,
    reached: AtomicU64,
}

impl Faults {
    /// Dies as planned, or never.
    pub(crate) fn new(planned: Option<Fault>) -> Self {
        Self { planned, reached: AtomicU64::new(0) }
    }

    /// Says that this point is reached. Does not return if the plan says so.
    pub(crate) fn reached(&self, point: Point) {
        let Some(fault) = self.planned.as_ref().filter(|f| f.point == point) else { return };
        let times = self.reached.fetch_add(1, Ordering::Relaxed) + 1;
        if times < fault.count || (times > fault.count && fault.marker.is_none()) {
            return;
        }
        let mine = fault.marker.as_ref().is_none_or(|marker| {
            OpenOptions::new().write(true).create_new(true).open(marker).is_ok()
        });
        if mine {
            // SIGKILL to oneself cannot fail and does not return.
            let _ = rustix::process::kill_process(
                rustix::process::getpid(),
                rustix::process::Signal::KILL,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_are_read() {
        let fault: Fault = "mid_save:3".parse().unwrap();
        assert_eq!(fault, Fault { point: Point::MidSave, count: 3, marker: None });
        let fault: Fault = "mid_kernel:1:/tmp/a:b".parse().unwrap();
        assert_eq!(fault.marker, Some(PathBuf::from("/tmp/a:b")));
        for bad in ["", "mid_kernel", "mid_kernel:0", "mid_kernel:x", "nowhere:1"] {
            assert!(bad.parse::<Fault>().is_err(), "{bad}");
        }
    }

    #[test]
    fn another_point_and_an_earlier_time_are_survived() {
        let faults = Faults::new(Some("mid_save:3".parse().unwrap()));
        faults.reached(Point::MidSnapshot);
        faults.reached(Point::MidSave);
        faults.reached(Point::MidSave);
        Faults::default().reached(Point::MidKernel);
    }
}
