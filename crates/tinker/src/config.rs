//! How a client is set up.

use std::time::Duration;

use snakehouse_base::{Coded, Kind, Secret};

/// The environment variable of the key.
pub const ENV_API_KEY: &str = "TINKER_API_KEY";
/// The environment variable of the service's address.
pub const ENV_BASE_URL: &str = "TINKER_BASE_URL";
/// The environment variable of the project.
pub const ENV_PROJECT_ID: &str = "TINKER_PROJECT_ID";
/// The environment variable of the session's tags, a comma list.
pub const ENV_TAGS: &str = "TINKER_TAGS";

/// Where the service is and how long to put up with its absence.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientConfig {
    /// Address of the service, such as `http://127.0.0.1:8400`; may carry a path. Plain HTTP only.
    pub base_url: String,
    /// The key, `tml-...`. A local service takes any.
    pub api_key: Secret,
    /// Tags of the session. Default: none.
    pub tags: Vec<String>,
    /// The project the session belongs to. Default: none.
    pub project_id: Option<String>,
    /// A name of the session for people. Default: none.
    pub display_name: Option<String>,
    /// How long a service may be out of reach before a call gives up. Default: 10 minutes.
    pub patience: Duration,
    /// Deadline of each operation, from the call to its result. Default: none, which means for as
    /// long as the service keeps answering.
    pub within: Option<Duration>,
}

/// Why a client cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The address is no URL.
    #[error("{url:?} is not the address of a service: {reason}")]
    BadUrl {
        /// The address as it came.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The address needs an encrypted connection.
    #[error("{url} needs TLS, which this build of the client does not have")]
    TlsUnsupported {
        /// The address.
        url: String,
    },
    /// No key was given.
    #[error("there is no API key")]
    NoKey,
    /// The key cannot be one.
    #[error("the API key does not start with \"tml-\"")]
    BadKey,
    /// The HTTP client could not be made.
    #[error("the HTTP client cannot be set up: {reason}")]
    Http {
        /// What it said.
        reason: String,
    },
}

impl Coded for ConfigError {
    fn kind(&self) -> Kind {
        match self {
            Self::BadUrl { .. } | Self::TlsUnsupported { .. } | Self::BadKey => Kind::InvalidInput,
            Self::NoKey => Kind::Unauthenticated,
            Self::Http { .. } => Kind::Environment,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::BadUrl { .. } => "bad_base_url",
            Self::TlsUnsupported { .. } => "tls_unsupported",
            Self::NoKey => "no_api_key",
            Self::BadKey => "bad_api_key",
            Self::Http { .. } => "http_client",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::BadUrl { .. } => Some("a local service is at http://127.0.0.1:8400".to_owned()),
            Self::TlsUnsupported { .. } => Some(
                "use a local service (`snakehouse up`, http://127.0.0.1:8400); for the hosted one \
                 put a local proxy that ends TLS in between"
                    .to_owned(),
            ),
            Self::NoKey => Some(format!("set {ENV_API_KEY}; a local service takes tml-local")),
            Self::BadKey => Some("a local service takes any key such as tml-local".to_owned()),
            Self::Http { .. } => None,
        }
    }
}

impl ClientConfig {
    /// The defaults, for this address and key.
    pub fn new(base_url: impl Into<String>, api_key: Secret) -> Self {
        Self {
            base_url: base_url.into(),
            api_key,
            tags: Vec::new(),
            project_id: None,
            display_name: None,
            patience: Duration::from_secs(600),
            within: None,
        }
    }

    /// Reads the official environment names through `lookup`; an empty value counts as unset. The
    /// address defaults to the local service.
    ///
    /// # Errors
    /// [`ConfigError::NoKey`] when there is no key.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let get = |name| lookup(name).filter(|value| !value.is_empty());
        let key = get(ENV_API_KEY).ok_or(ConfigError::NoKey)?;
        let base_url = get(ENV_BASE_URL).unwrap_or_else(|| "http://127.0.0.1:8400".to_owned());
        let mut tags: Vec<String> = get(ENV_TAGS)
            .map(|list| list.split(',').map(|tag| tag.trim().to_owned()).collect())
            .unwrap_or_default();
        tags.retain(|tag| !tag.is_empty());
        tags.dedup();
        Ok(Self { tags, project_id: get(ENV_PROJECT_ID), ..Self::new(base_url, Secret::new(key)) })
    }

    /// The address without a trailing slash, checked together with the key.
    pub(crate) fn checked_base_url(&self) -> Result<String, ConfigError> {
        let bad = |reason: &str| ConfigError::BadUrl {
            url: self.base_url.clone(),
            reason: reason.to_owned(),
        };
        let url = reqwest::Url::parse(&self.base_url).map_err(|error| bad(&error.to_string()))?;
        match url.scheme() {
            "http" => {}
            "https" => return Err(ConfigError::TlsUnsupported { url: self.base_url.clone() }),
            _ => return Err(bad("it does not start with http://")),
        }
        if !url.has_host() {
            return Err(bad("it names no host"));
        }
        let key = self.api_key.expose();
        if key.is_empty() {
            return Err(ConfigError::NoKey);
        }
        if !(key.starts_with("tml-") && key.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(ConfigError::BadKey);
        }
        Ok(self.base_url.trim_end_matches('/').to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str, key: &str) -> Result<String, &'static str> {
        ClientConfig::new(url, Secret::new(key)).checked_base_url().map_err(|error| error.code())
    }

    #[test]
    fn an_address_is_plain_http_and_loses_its_trailing_slash() {
        assert_eq!(check("http://[::1]:1/", "tml-x").unwrap(), "http://[::1]:1");
        assert_eq!(check("http://h/a/b//", "tml-x").unwrap(), "http://h/a/b");
        assert_eq!(check("https://h", "tml-x"), Err("tls_unsupported"));
        assert_eq!(check("ftp://h", "tml-x"), Err("bad_base_url"));
        assert_eq!(check("nonsense", "tml-x"), Err("bad_base_url"));
    }

    #[test]
    fn a_key_is_checked_before_it_is_sent() {
        assert_eq!(check("http://h", ""), Err("no_api_key"));
        assert_eq!(check("http://h", "sk-1"), Err("bad_api_key"));
        assert_eq!(check("http://h", "tml-a\r\nX: y"), Err("bad_api_key"));
    }

    #[test]
    fn the_official_names_are_read_and_the_key_never_prints() {
        let config = ClientConfig::from_lookup(|name| match name {
            ENV_API_KEY => Some("tml-very-secret".to_owned()),
            ENV_TAGS => Some("a, ,b".to_owned()),
            ENV_BASE_URL => Some(String::new()),
            _ => None,
        })
        .unwrap();
        assert_eq!(config.base_url, "http://127.0.0.1:8400");
        assert_eq!(config.tags, ["a", "b"]);
        assert!(!format!("{config:?}").contains("very-secret"));
        assert_eq!(ClientConfig::from_lookup(|_| None).unwrap_err().code(), "no_api_key");
    }
}
