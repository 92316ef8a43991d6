//! Why a server cannot listen, or cannot be reached.

use std::io;
use std::net::SocketAddr;

use snakehouse_base::{Coded, Kind};

/// A failure of the transport. What is refused to a request is a status, not this.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GrpcError {
    /// Beyond loopback everybody could call.
    #[error("listening on {listen}, beyond loopback, needs a token")]
    TokenNeeded {
        /// Where.
        listen: SocketAddr,
    },
    /// Without one, or with the clients', everybody could attach a worker, and read what others send.
    #[error(
        "taking in workers on {listen} needs a token of their own, beyond loopback and wherever clients \
         need one"
    )]
    WorkerTokenNeeded {
        /// Where.
        listen: SocketAddr,
    },
    /// The same.
    #[error("the token of the workers is the one of the clients")]
    OneTokenForBoth,
    /// Beyond loopback everybody could read along.
    #[error("listening on {listen}, beyond loopback, needs TLS")]
    TlsNeeded {
        /// Where.
        listen: SocketAddr,
    },
    /// It cannot be a token.
    #[error("the token cannot be used: {why}")]
    BadToken {
        /// Why not. Says nothing about what it is.
        why: &'static str,
    },
    /// A certificate or a key.
    #[error("the {what} cannot be used: {why}")]
    BadTls {
        /// Which part.
        what: &'static str,
        /// Why not.
        why: String,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {listen}: {source}")]
    NotBound {
        /// The address.
        listen: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// It names no server.
    #[error("{url} names no server: {why}")]
    BadUrl {
        /// What was given.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// No connection to the server.
    #[error("{url} is not reached: {why}")]
    NotReached {
        /// The server.
        url: String,
        /// What happened.
        why: String,
    },
    /// The worker cannot be started here, or says that it cannot serve.
    #[error("the worker for {url} does not get ready: {why}")]
    WorkerNotReady {
        /// The server that it was for, and that was told.
        url: String,
        /// The family of the reason.
        kind: Kind,
        /// The reason.
        why: String,
    },
    /// The server is there and does not let the worker in.
    #[error("{url} does not let the worker in: {message} ({reason})")]
    AttachRefused {
        /// The server.
        url: String,
        /// The family of its reason.
        kind: Kind,
        /// Its reason's stable name: `wrong_token`, `protocol_mismatch`, `too_many_attached`, ...
        reason: String,
        /// Its words.
        message: String,
    },
}

impl Coded for GrpcError {
    fn kind(&self) -> Kind {
        match self {
            Self::TokenNeeded { .. }
            | Self::WorkerTokenNeeded { .. }
            | Self::OneTokenForBoth
            | Self::TlsNeeded { .. }
            | Self::BadToken { .. }
            | Self::BadTls { .. }
            | Self::BadUrl { .. } => Kind::InvalidInput,
            Self::NotBound { .. } => Kind::Environment,
            Self::NotReached { .. } => Kind::Unavailable,
            Self::AttachRefused { kind, .. } | Self::WorkerNotReady { kind, .. } => *kind,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::TokenNeeded { .. } => "token_needed",
            Self::WorkerTokenNeeded { .. } => "worker_token_needed",
            Self::OneTokenForBoth => "one_token_for_both",
            Self::TlsNeeded { .. } => "tls_needed",
            Self::BadToken { .. } => "bad_token",
            Self::BadTls { .. } => "bad_tls",
            Self::NotBound { .. } => "not_bound",
            Self::BadUrl { .. } => "bad_url",
            Self::NotReached { .. } => "not_reached",
            Self::WorkerNotReady { .. } => "worker_not_ready",
            Self::AttachRefused { .. } => "attach_refused",
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::TokenNeeded { .. } => "give it a token, or listen on 127.0.0.1".to_owned(),
            Self::WorkerTokenNeeded { .. } => {
                "give the workers another token than the clients have: --worker-token-file".to_owned()
            }
            Self::OneTokenForBoth => {
                "take another one for the workers: whoever attaches a worker reads what clients send"
                    .to_owned()
            }
            Self::TlsNeeded { .. } => {
                "give it a certificate and a key, or allow plaintext where something else encrypts"
                    .to_owned()
            }
            Self::BadToken { .. } => {
                "take 16 or more letters and digits: `openssl rand -hex 32`".to_owned()
            }
            Self::BadTls { .. } => "certificates and keys are PEM files".to_owned(),
            Self::NotBound { .. } => "choose another port, or 0 for a free one".to_owned(),
            Self::BadUrl { .. } => "write http://HOST:PORT or https://HOST:PORT".to_owned(),
            Self::NotReached { .. } => "is it running, and is the address right?".to_owned(),
            Self::WorkerNotReady { .. } => {
                "`snakehouse worker check` says more about a program, `pool call --tools` about a file"
                    .to_owned()
            }
            Self::AttachRefused { reason, .. } => match reason.as_str() {
                "wrong_token" | "no_token" => "use the token of that server".to_owned(),
                "protocol_mismatch" => "use one release on both hosts".to_owned(),
                "too_many_attached" => "raise the pool's number of workers".to_owned(),
                _ => return None,
            },
        })
    }
}
