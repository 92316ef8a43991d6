//! The worker's side of the connection, for workers written in Rust.
//!
//! A worker is a program that a host starts with a control socket and a [`page`](crate::page): it
//! implements [`Handler`] and calls [`serve`]. One thread, one call at a time: reads what is there,
//! runs the calls of it in order, writes the answers. What is finished is written before the next
//! call runs: a handler's code cannot be interrupted, so nothing may wait for it. Answers of calls
//! that do not run (cancelled, late, unknown) leave together. A handler may call tools of its [`Host`];
//! while it waits for that, calls that come out of it run on top.
//!
//! A handler that panics has failed one call ([`Failure`] with code `panic`), nothing else. The loop
//! ends at end of file, at a goaway, or with a [`WorkerError`]. Tested over socket pairs, and as a
//! real process by `pool`.

mod cancel;
mod context;
mod host;
mod serve;
mod setup;

use bytes::Bytes;
use snakehouse_base::{Coded, Kind};

use crate::failure::Failure;
use crate::frame::FrameError;
use crate::value::ValueError;

pub use context::CallContext;
pub use host::Host;
pub use serve::{serve, serve_on};

/// What a worker does.
pub trait Handler {
    /// The names of the tools it serves. Asked once; the number of a tool is its position.
    fn tools(&self) -> Vec<String>;

    /// Runs one call. The body is whatever the tool takes: this layer does not look into it.
    ///
    /// # Errors
    /// A [`Failure`] becomes the caller's error.
    fn call(&mut self, tool: &str, body: Bytes, context: &CallContext) -> Result<Bytes, Failure>;

    /// The same for a handler that calls tools of the host: `host.call(self, name, body)`. The default
    /// is [`call`](Self::call). While it waits for the host, other calls that come out of that run on
    /// this very handler.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    fn call_with_host(
        &mut self,
        tool: &str,
        body: Bytes,
        context: &CallContext,
        host: &mut Host<'_>,
    ) -> Result<Bytes, Failure> {
        let _nothing_asked = host;
        self.call(tool, body, context)
    }
}

/// Why a worker stopped before its host hung up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// The environment does not name a usable control socket or page.
    #[error("{variable} does not name an inherited descriptor: {reason}")]
    Environment {
        /// Which variable.
        variable: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The socket failed.
    #[error("control socket failed")]
    Socket(#[source] std::io::Error),
    /// The page failed.
    #[error("shared page failed")]
    Page(#[source] std::io::Error),
    /// The host broke the protocol.
    #[error("host broke the protocol: {0}")]
    Protocol(#[from] FrameError),
    /// The handler's tools do not fit into a hello.
    #[error("tools cannot be announced")]
    Hello(#[from] ValueError),
}

impl WorkerError {
    /// What the program should exit with: 76, 78 or 1.
    pub const fn exit_status(&self) -> u8 {
        match self {
            Self::Environment { .. } => 78,
            Self::Protocol(_) => 76,
            _ => 1,
        }
    }
}

impl Coded for WorkerError {
    fn kind(&self) -> Kind {
        match self {
            Self::Environment { .. } => Kind::Environment,
            Self::Protocol(_) => Kind::Corrupt,
            _ => Kind::Internal,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Environment { .. } => "worker_environment",
            Self::Socket(_) => "worker_socket",
            Self::Page(_) => "worker_page",
            Self::Protocol(error) => error.code(),
            Self::Hello(_) => "worker_hello",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Environment { .. } => {
                Some("this program is a worker; a Snakehouse host starts it".to_owned())
            }
            _ => None,
        }
    }
}
