//! Every Linux call that this crate makes, behind safe functions.
//!
//! Owns no state. Each function fails with the `io::Error` of its call. Nothing here is unsafe.
//! Tested by the modules that use it and, for the descriptor passing, here.

mod cgroup;
mod control;
mod memory;
mod pidfd;
mod procfs;
mod seqpacket;

use std::io;
use std::os::fd::OwnedFd;

pub(crate) use cgroup::{ControlGroups, Group, group_name, oom_kills, own_oom_counter};
pub(crate) use control::Control;
pub(crate) use memory::group_bytes;
pub(crate) use pidfd::{Pidfd, open as open_pidfd, signal_to};
pub(crate) use procfs::{Environ, command, environ, pids, resident_bytes, start_time, wanted_cpu};
pub(crate) use seqpacket::{Seqpacket, packet_pair, receive_packet, send_packet};

/// A close-on-exec pipe: read end, write end.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
}

/// The user this process acts as.
pub(crate) fn effective_user() -> u32 {
    rustix::process::geteuid().as_raw()
}
