//! What can go wrong with the port and with a request as such.

use std::io;
use std::net::SocketAddr;

use snakehouse_base::{Coded, Kind};

use crate::core::CoreError;

/// Why the service cannot be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Somebody else listens there.
    #[error("port {} is in use", addr.port())]
    PortInUse {
        /// The address.
        addr: SocketAddr,
    },
    /// The address can be reached from other machines.
    #[error("{addr} is not a loopback address")]
    NotLoopback {
        /// The address.
        addr: SocketAddr,
    },
    /// The system refuses the address.
    #[error("cannot listen on {addr}")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The core cannot be started.
    #[error(transparent)]
    Core(#[from] CoreError),
}

impl Coded for ServeError {
    fn kind(&self) -> Kind {
        match self {
            Self::PortInUse { .. } | Self::Bind { .. } => Kind::Environment,
            Self::NotLoopback { .. } => Kind::Forbidden,
            Self::Core(error) => error.kind(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::PortInUse { .. } => "port_in_use",
            Self::NotLoopback { .. } => "not_loopback",
            Self::Bind { .. } => "cannot_listen",
            Self::Core(error) => error.code(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::PortInUse { .. } => {
                Some("choose another with --port N, or --port 0 for a free one".to_owned())
            }
            Self::NotLoopback { .. } => {
                Some("bind 127.0.0.1 and reach it through a tunnel such as ssh -L".to_owned())
            }
            Self::Bind { .. } => Some("use 127.0.0.1 and a port above 1023".to_owned()),
            Self::Core(error) => error.hint(),
        }
    }
}

/// Why a request is refused before anybody looks at what it asks for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The request is meant for another host, as in DNS rebinding.
    #[error("this service does not answer for host {host:?}")]
    ForeignHost {
        /// The `Host` header.
        host: String,
    },
    /// A web page of another origin sent it.
    #[error("requests from web pages of {origin:?} are not allowed")]
    ForeignOrigin {
        /// The `Origin` header.
        origin: String,
    },
    /// No key, or not one of this kind.
    #[error("the X-API-Key header does not hold a key")]
    BadKey,
    /// Nothing lives at this path.
    #[error("there is no {method} {path}")]
    UnknownRoute {
        /// The method.
        method: String,
        /// The path.
        path: String,
    },
    /// More bytes than this request may have.
    #[error("the body is larger than {most} bytes")]
    BodyTooLarge {
        /// The cap in bytes.
        most: usize,
    },
    /// The bodies of other requests fill the room for bodies.
    #[error("the bodies that are being read fill {most} bytes")]
    Saturated {
        /// The room in bytes.
        most: usize,
    },
    /// The body did not arrive.
    #[error("the body did not arrive: {reason}")]
    BodyLost {
        /// What the connection said.
        reason: String,
    },
    /// A content type that the route does not read.
    #[error("the body must be {expected}")]
    WrongContentType {
        /// What the route reads.
        expected: &'static str,
    },
    /// The body is compressed.
    #[error("the body must not be compressed")]
    Compressed,
    /// No tools are offered.
    #[error("this service offers no tools")]
    NoTools,
}

impl Coded for RequestError {
    fn kind(&self) -> Kind {
        match self {
            Self::ForeignHost { .. } | Self::ForeignOrigin { .. } => Kind::Forbidden,
            Self::BadKey => Kind::Unauthenticated,
            Self::UnknownRoute { .. } | Self::NoTools => Kind::NotFound,
            Self::Saturated { .. } => Kind::Saturated,
            Self::BodyTooLarge { .. }
            | Self::BodyLost { .. }
            | Self::WrongContentType { .. }
            | Self::Compressed => Kind::InvalidInput,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::ForeignHost { .. } => "foreign_host",
            Self::ForeignOrigin { .. } => "foreign_origin",
            Self::BadKey => "bad_key",
            Self::UnknownRoute { .. } => "unknown_route",
            Self::BodyTooLarge { .. } => "body_too_large",
            Self::Saturated { .. } => "saturated",
            Self::BodyLost { .. } => "body_lost",
            Self::WrongContentType { .. } => "wrong_content_type",
            Self::Compressed => "compressed_body",
            Self::NoTools => "no_tools",
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::ForeignHost { .. } => "use http://127.0.0.1 or http://localhost as the base URL",
            Self::ForeignOrigin { .. } => "allow the origin in the configuration of the service",
            Self::BadKey => "set TINKER_API_KEY to any value that starts with tml-",
            Self::UnknownRoute { .. } => "this service has the training and sampling routes only",
            Self::BodyTooLarge { .. } => "send smaller batches",
            Self::Saturated { .. } => "send fewer large requests at once, or try later",
            Self::WrongContentType { .. } => "use version 0.25 or newer of the official client",
            Self::Compressed => "leave proto_compress_fwdbwd off, as client/config says",
            Self::NoTools => "start it with: snakehouse up --tools FILE",
            Self::BodyLost { .. } => return None,
        };
        Some(hint.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_the_system_refuses_says_which_and_what_to_do() {
        let addr = SocketAddr::from(([127, 0, 0, 1], 80));
        let source = io::Error::from(io::ErrorKind::PermissionDenied);
        let error = ServeError::Bind { addr, source };
        assert_eq!((error.code(), error.kind()), ("cannot_listen", Kind::Environment));
        assert!(error.to_string().contains("127.0.0.1:80"), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("1023")));
    }
}
