//! Why telemetry cannot be set up, or was not taken.

use std::net::SocketAddr;

use snakehouse_base::{Coded, Kind};

/// Why telemetry cannot be set up, or was not taken. No message has a URL's password in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// The collector's URL is none that can be used.
    #[error("the collector's URL cannot be used: {reason}")]
    BadUrl {
        /// What is wrong with it.
        reason: String,
    },
    /// The collector is to be spoken to by something else than plain HTTP.
    #[error("telemetry is exported by OTLP over plain HTTP, not by {scheme}")]
    NotSpoken {
        /// What the URL begins with: `https`, `grpc`, `grpcs`, `unix` or `tcp`.
        scheme: String,
    },
    /// A rule of the configuration is broken.
    #[error("the configuration of telemetry is wrong: {rule}")]
    BadConfig {
        /// The rule.
        rule: &'static str,
    },
    /// The numbers are for this machine alone.
    #[error("{addr} is not a loopback address")]
    NotLoopback {
        /// What was asked for.
        addr: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {addr}: {error}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// What the system says.
        #[source]
        error: std::io::Error,
    },
    /// The collector cannot be reached.
    #[error("the collector cannot be reached: {reason}")]
    Unreachable {
        /// What the network says.
        reason: String,
    },
    /// The collector does not take it.
    #[error("the collector answered {status}")]
    Refused {
        /// The HTTP status.
        status: u16,
    },
}

impl Coded for TelemetryError {
    fn kind(&self) -> Kind {
        match self {
            Self::BadUrl { .. }
            | Self::NotSpoken { .. }
            | Self::BadConfig { .. }
            | Self::NotLoopback { .. } => Kind::InvalidInput,
            Self::Listen { .. } => Kind::Environment,
            Self::Unreachable { .. } => Kind::Unavailable,
            // What OTLP says may be repeated.
            Self::Refused { status: 429 | 502..=504 } => Kind::Unavailable,
            Self::Refused { .. } => Kind::InvalidInput,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::BadUrl { .. } => "bad_collector_url",
            Self::NotSpoken { .. } => "collector_not_http",
            Self::BadConfig { .. } => "bad_telemetry_config",
            Self::NotLoopback { .. } => "metrics_not_loopback",
            Self::Listen { .. } => "metrics_not_listening",
            Self::Unreachable { .. } => "collector_unreachable",
            Self::Refused { .. } => "collector_refused",
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::BadUrl { .. } => {
                "name the collector's HTTP address, such as http://127.0.0.1:4318".to_owned()
            }
            Self::NotSpoken { scheme } if scheme == "https" => {
                "run an agent on this machine that speaks TLS to the collector, and name its HTTP \
                 address, such as http://127.0.0.1:4318"
                    .to_owned()
            }
            Self::NotSpoken { .. } => {
                "name the collector's HTTP port, which is 4318 as a rule (4317 is gRPC), such as \
                 http://127.0.0.1:4318"
                    .to_owned()
            }
            Self::Unreachable { .. } => {
                "check that it runs, and that this is its HTTP port: 4318 as a rule, not 4317, which \
                 is gRPC"
                    .to_owned()
            }
            Self::NotLoopback { .. } => {
                "use 127.0.0.1 or ::1, and an agent on this machine for the way out".to_owned()
            }
            Self::Listen { .. } => "choose another port; 0 takes a free one".to_owned(),
            Self::BadConfig { .. } | Self::Refused { .. } => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use snakehouse_base::Retry;

    use super::*;

    #[test]
    fn what_otlp_allows_is_repeated_and_nothing_else() {
        let unreachable = TelemetryError::Unreachable { reason: String::new() };
        assert_eq!(
            (unreachable.code(), unreachable.kind()),
            ("collector_unreachable", Kind::Unavailable)
        );
        for (status, retry) in [
            (429, Retry::Later),
            (502, Retry::Later),
            (503, Retry::Later),
            (504, Retry::Later),
            (400, Retry::Never),
            (404, Retry::Never),
            (500, Retry::Never),
        ] {
            let refused = TelemetryError::Refused { status };
            assert_eq!((refused.code(), refused.kind().retry()), ("collector_refused", retry));
        }
    }
}
