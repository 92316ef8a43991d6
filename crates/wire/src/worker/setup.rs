//! From the environment to an owned socket and page, without `unsafe`.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use rustix::stdio::dup2_stdin;

use super::WorkerError;
use crate::page::WorkerPage;
use crate::{FD_VARIABLE, PAGE_FD_VARIABLE};

/// The control socket that the environment names.
pub(super) fn socket(lookup: &dyn Fn(&str) -> Option<String>) -> Result<UnixStream, WorkerError> {
    let number = number(lookup, FD_VARIABLE)?.ok_or_else(|| WorkerError::Environment {
        variable: FD_VARIABLE,
        reason: "it is not set".to_owned(),
    })?;
    let unusable = |error: io::Error| WorkerError::Environment {
        variable: FD_VARIABLE,
        reason: format!("descriptor {number}: {error}"),
    };
    let fd = if number == 0 { take_stdin() } else { duplicate(number) }.map_err(unusable)?;
    let socket = UnixStream::from(fd);
    socket.peer_addr().map_err(unusable)?;
    socket.set_nonblocking(false).map_err(unusable)?;
    Ok(socket)
}

/// The shared page, if the environment names one.
pub(super) fn page(
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<WorkerPage>, WorkerError> {
    let Some(number) = number(lookup, PAGE_FD_VARIABLE)? else { return Ok(None) };
    let unusable = |error: io::Error| WorkerError::Environment {
        variable: PAGE_FD_VARIABLE,
        reason: format!("descriptor {number}: {error}"),
    };
    WorkerPage::open(number).map(Some).map_err(unusable)
}

fn number(
    lookup: &dyn Fn(&str) -> Option<String>,
    variable: &'static str,
) -> Result<Option<u32>, WorkerError> {
    let Some(text) = lookup(variable) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| WorkerError::Environment {
        variable,
        reason: format!("{text:?} is not a number"),
    })
}

/// Standard input becomes ours; what reads standard input afterwards finds the end of a file.
fn take_stdin() -> io::Result<OwnedFd> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    dup2_stdin(File::open("/dev/null")?)?;
    Ok(socket)
}

/// A descriptor of our own for an inherited number: the kernel copies it out of this very process.
/// The inherited one stays open as well.
fn duplicate(number: u32) -> io::Result<OwnedFd> {
    let raw = i32::try_from(number).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let this = pidfd_open(getpid(), PidfdFlags::empty())?;
    Ok(pidfd_getfd(this, raw, PidfdGetfdFlags::empty())?)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use snakehouse_base::Coded as _;

    use super::*;

    fn reason(result: Result<UnixStream, WorkerError>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn a_wrong_environment_is_named() {
        assert!(reason(socket(&|_| None)).contains("SNAKEHOUSE_FD"));
        assert!(reason(socket(&|_| Some("x".into()))).contains("\"x\" is not a number"));
        assert!(reason(socket(&|_| Some("1000000".into()))).contains("descriptor 1000000"));
        let file = File::open("/dev/null").unwrap();
        let number = file.as_raw_fd().to_string();
        let named = format!("descriptor {number}: ");
        assert!(reason(socket(&|_| Some(number.clone()))).contains(&named));
        assert!(page(&|_| None).unwrap().is_none());
        let error = page(&|_| Some(number.clone())).unwrap_err();
        assert_eq!((error.code(), error.exit_status()), ("worker_environment", 78));
    }

    #[test]
    fn an_inherited_number_becomes_a_socket() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let number = ours.as_raw_fd().to_string();
        // A sandbox may forbid the duplication; workers there get their socket as number 0.
        match socket(&|_| Some(number.clone())) {
            Ok(copy) => assert_ne!(copy.as_raw_fd(), ours.as_raw_fd()),
            Err(error) => assert!(error.to_string().contains("ermitted"), "{error}"),
        }
    }
}
