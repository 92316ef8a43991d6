//! Configuration: `snakehouse.toml`, then the environment, then flags; each value knows its origin.

use std::collections::BTreeMap;
use std::fmt;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use snakehouse_base::Kind;
use snakehouse_base::redact::redact;

use crate::error::CliError;
use crate::telemetry::CollectorUrl;

/// Name of the configuration file, looked for in the state directory.
pub(crate) const FILE: &str = "snakehouse.toml";
/// Environment: the state directory.
pub(crate) const ENV_HOME: &str = "SNAKEHOUSE_HOME";
/// Environment: the port of `up`.
pub(crate) const ENV_PORT: &str = "SNAKEHOUSE_PORT";
/// Environment: the Python interpreter.
pub(crate) const ENV_REQUIREMENTS: &str = "SNAKEHOUSE_REQUIREMENTS";
pub(crate) const ENV_PYTHON: &str = "SNAKEHOUSE_PYTHON";
/// Environment: the collector of the tools' telemetry.
pub(crate) const ENV_OTLP: &str = "SNAKEHOUSE_OTLP";
/// Environment: where the page of the tools' numbers is.
pub(crate) const ENV_METRICS: &str = "SNAKEHOUSE_METRICS";
/// The port of `up` when nobody says otherwise.
pub(crate) const DEFAULT_PORT: u16 = 8400;

/// Where a value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Origin {
    Default,
    File,
    Environment,
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Origin::Default => "default",
            Origin::File => "file",
            Origin::Environment => "environment",
            Origin::Flag => "flag",
        })
    }
}

/// A value and its origin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Setting<T> {
    pub value: T,
    pub origin: Origin,
}

impl<T> Setting<T> {
    fn layered(default: T, file: Option<T>, environment: Option<T>, flag: Option<T>) -> Self {
        let layers = [
            (flag, Origin::Flag),
            (environment, Origin::Environment),
            (file, Origin::File),
            (Some(default), Origin::Default),
        ];
        for (value, origin) in layers {
            if let Some(value) = value {
                return Self { value, origin };
            }
        }
        unreachable!("the default layer always has a value")
    }
}

/// The file as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    port: Option<u16>,
    python: Option<PathBuf>,
    requirements: Option<PathBuf>,
    otlp: Option<CollectorUrl>,
    metrics: Option<SocketAddr>,
    #[serde(default)]
    models: BTreeMap<String, PathBuf>,
}

/// What the flags say.
#[derive(Debug, Default)]
pub(crate) struct Flags {
    pub home: Option<PathBuf>,
    pub port: Option<u16>,
    pub python: Option<PathBuf>,
    pub requirements: Option<PathBuf>,
    pub otlp: Option<String>,
    pub metrics: Option<SocketAddr>,
}

/// The merged configuration.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Config {
    pub home: Setting<PathBuf>,
    pub port: Setting<u16>,
    pub python: Setting<Option<PathBuf>>,
    pub requirements: Setting<Option<PathBuf>>,
    pub otlp: Setting<Option<CollectorUrl>>,
    pub metrics: Setting<Option<SocketAddr>>,
    pub models: Setting<BTreeMap<String, PathBuf>>,
}

impl Config {
    /// Merges all layers. `env` looks a variable up; an empty value counts as unset.
    pub(crate) fn load(
        flags: Flags,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, CliError> {
        let env = |name: &str| env(name).filter(|value| !value.is_empty());
        let home = Setting::layered(
            default_home(&env),
            None,
            env(ENV_HOME).map(PathBuf::from),
            flags.home,
        );
        let file = read_file(&home.value.join(FILE))?;
        let env_port = env(ENV_PORT)
            .map(|text| {
                text.parse()
                    .map_err(|_| invalid(format!("{ENV_PORT} is not a port number: {text:?}")))
            })
            .transpose()?;
        let env_metrics = env(ENV_METRICS)
            .map(|text| {
                text.parse()
                    .map_err(|_| invalid(format!("{ENV_METRICS} is not an address and a port")))
            })
            .transpose()?;
        let models_origin = if file.models.is_empty() { Origin::Default } else { Origin::File };
        Ok(Self {
            port: Setting::layered(DEFAULT_PORT, file.port, env_port, flags.port),
            python: Setting::layered(
                None,
                file.python.map(Some),
                env(ENV_PYTHON).map(|path| Some(path.into())),
                flags.python.map(Some),
            ),
            requirements: Setting::layered(
                None,
                file.requirements.map(Some),
                env(ENV_REQUIREMENTS).map(|path| Some(path.into())),
                flags.requirements.map(Some),
            ),
            otlp: Setting::layered(
                None,
                file.otlp.map(Some),
                env(ENV_OTLP).map(|url| Some(url.into())),
                flags.otlp.map(|url| Some(url.into())),
            ),
            metrics: Setting::layered(
                None,
                file.metrics.map(Some),
                env_metrics.map(Some),
                flags.metrics.map(Some),
            ),
            models: Setting { value: file.models, origin: models_origin },
            home,
        })
    }
}

fn read_file(path: &Path) -> Result<File, CliError> {
    match std::fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text).map_err(|error: toml::de::Error| {
            // Its whole text quotes the line, which may hold anything.
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            invalid(format!("{}, line {line}: {}", path.display(), redact(error.message())))
        }),
        // A home that is no directory is told by whoever wants to write there.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(File::default())
        }
        Err(error) => Err(CliError::new(
            Kind::Environment,
            "config_unreadable",
            format!("cannot read {}: {error}", path.display()),
        )),
    }
}

fn invalid(message: String) -> CliError {
    CliError::new(Kind::InvalidInput, "bad_config", message)
        .with_hint("`snakehouse config show` prints every key with its value and origin")
}

fn default_home(env: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    match (env("XDG_DATA_HOME"), env("HOME")) {
        (Some(data), _) => PathBuf::from(data).join("snakehouse"),
        (None, Some(home)) => PathBuf::from(home).join(".local/share/snakehouse"),
        (None, None) => PathBuf::from("/var/tmp/snakehouse"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(vars: &[(&str, &str)], flags: Flags) -> Result<Config, CliError> {
        let vars: BTreeMap<_, _> =
            vars.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Config::load(flags, &|name| vars.get(name).cloned())
    }

    #[test]
    fn later_layers_win_and_say_so() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), "port = 1\n[models]\nm = \"/m\"\n").unwrap();
        let home = dir.path().to_str().unwrap();

        let config = load(&[(ENV_HOME, home)], Flags::default()).unwrap();
        assert_eq!(config.port, Setting { value: 1, origin: Origin::File });
        assert_eq!(config.home.origin, Origin::Environment);
        assert_eq!(config.models.value["m"], PathBuf::from("/m"));

        let config = load(&[(ENV_HOME, home), (ENV_PORT, "2")], Flags::default()).unwrap();
        assert_eq!(config.port, Setting { value: 2, origin: Origin::Environment });

        let flags = Flags { port: Some(3), ..Flags::default() };
        let config = load(&[(ENV_HOME, home), (ENV_PORT, "2")], flags).unwrap();
        assert_eq!(config.port, Setting { value: 3, origin: Origin::Flag });
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), "prot = 1\n").unwrap();
        let error =
            load(&[(ENV_HOME, dir.path().to_str().unwrap())], Flags::default()).unwrap_err();
        assert!(error.to_string().contains("prot"), "{error}");
    }

    #[test]
    fn no_secret_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().to_str().unwrap();
        let load = |text: &str| {
            std::fs::write(dir.path().join(FILE), text).unwrap();
            load(&[(ENV_HOME, home)], Flags::default())
        };
        let config = load("otlp = \"http://me:hunter2@127.0.0.1:4318\"\n").unwrap();
        let shown = serde_json::to_string(&config).unwrap();
        assert!(shown.contains("http://[redacted]@127.0.0.1:4318"), "{shown}");
        assert!(!format!("{config:?} {shown}").contains("hunter2"));
        for text in [
            "api_key = \"opaque-hunter2\"\n",
            "port = \"hunter2-is-no-port\"\n",
            "\n\nport = 1 hunter2\n",
            "metrics = \"http://me:hunter2@host\"\n",
        ] {
            let error = load(text).unwrap_err();
            let shown = format!("{error:?} {}", serde_json::to_string(&error.document()).unwrap());
            assert!(!shown.contains("opaque-hunter2") && shown.contains(FILE), "{shown}");
            assert!(!shown.contains("me:hunter2"), "{shown}");
        }
        assert!(load("\n\nport = 1 2\n").unwrap_err().to_string().contains("line 3"));
    }

    #[test]
    fn an_empty_variable_counts_as_unset() {
        let config = load(&[("HOME", "/h"), (ENV_HOME, ""), (ENV_PORT, "")], Flags::default());
        let config = config.unwrap();
        assert_eq!(config.home.value, PathBuf::from("/h/.local/share/snakehouse"));
        assert_eq!(config.port.origin, Origin::Default);
    }
}
