//! The worker's first words.
//!
//! A MessagePack map with string keys. Readers ignore keys they do not know, so that a newer worker
//! can say more; what both sides must agree on is the protocol number.
//!
//! | key | value |
//! |---|---|
//! | `protocol` | int, [`PROTOCOL_VERSION`] |
//! | `language` | str: `python`, `rust` |
//! | `version` | str: version of the worker package |
//! | `runtime` | str, for people: `cpython 3.11.7` |
//! | `pid` | int, as the worker sees it |
//! | `codec` | str: `msgpack` (C), `python` (pure), `opaque` (the tool reads its own bytes) |
//! | `capabilities` | list of str, see [`Hello::can`] |
//! | `capacity` | int, how many calls it runs at once; absent: 1 |
//! | `tools` | list of maps: `name` str, `number` int, `signature` str, `doc` str, `kind` str, see [`ToolKind`] (absent: a function), `parameters` and `result`, JSON Schemas as values (absent or None: not known) |
//! | `failure` | None, or a [`Failure`] map: why this worker cannot serve |

use bytes::Bytes;
use snakehouse_base::{Coded, Kind};

use crate::failure::Failure;
use crate::frame::PROTOCOL_VERSION;
use crate::value::{Value, ValueError};

/// What a worker says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// `python`, `rust`, ...
    pub language: String,
    /// Version of the worker package.
    pub version: String,
    /// The runtime, for people.
    pub runtime: String,
    /// The process id as the worker sees it.
    pub pid: u32,
    /// How bodies are encoded: `msgpack`, `python` or `opaque`.
    pub codec: String,
    /// What the worker can do; see [`can`](Hello::can).
    pub capabilities: Vec<String>,
    /// How many calls it runs at once; at least 1.
    pub capacity: u32,
    /// The tools it serves.
    pub tools: Vec<ToolInfo>,
    /// Why it cannot serve, if it cannot: an import that failed, say. It exits after saying so.
    pub failure: Option<Failure>,
}

/// A tool as the worker announces it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolInfo {
    /// Its name, unique in the worker.
    pub name: String,
    /// What stands for the name in [`OpenHead`](crate::OpenHead).
    pub number: u16,
    /// Its parameters, for people: `(text: str, times: int = 1) -> str`. May be empty.
    pub signature: String,
    /// Its description, for people. May be empty.
    pub doc: String,
    /// How it runs.
    pub kind: ToolKind,
    /// A JSON Schema of the object whose keys are its parameters; `Value::None` if not known. Types
    /// that JSON does not tell apart carry `pythonType`.
    pub parameters: Value,
    /// A JSON Schema of its result, or of each item of a generator; `Value::None` if not known.
    pub result: Value,
}

/// How a tool runs, and whether it gives items.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ToolKind {
    /// `function`: takes arguments, gives a result.
    #[default]
    Function,
    /// `generator`: gives items, then a result. Must be opened as a stream.
    Generator,
    /// `async_function`: a function that runs on the worker's event loop.
    AsyncFunction,
    /// `async_generator`: a generator that runs on the worker's event loop.
    AsyncGenerator,
}

impl ToolKind {
    /// Every kind.
    pub const ALL: [Self; 4] =
        [Self::Function, Self::Generator, Self::AsyncFunction, Self::AsyncGenerator];

    /// The name in the hello.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Function => "function",
            Self::Generator => "generator",
            Self::AsyncFunction => "async_function",
            Self::AsyncGenerator => "async_generator",
        }
    }

    /// Whether it gives items, so that it must be opened as a stream.
    pub const fn is_generator(self) -> bool {
        matches!(self, Self::Generator | Self::AsyncGenerator)
    }
}

/// Why a hello is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HelloError {
    /// The worker speaks another version.
    #[error("worker speaks protocol {theirs}, this host speaks {PROTOCOL_VERSION}")]
    Version {
        /// What the worker says.
        theirs: u32,
    },
    /// The map lacks a field, or a field has another type.
    #[error("hello has no valid field {0:?}")]
    Field(&'static str),
    /// The payload is no value at all.
    #[error("hello is not a MessagePack value")]
    Malformed(#[from] ValueError),
}

impl Coded for HelloError {
    fn kind(&self) -> Kind {
        match self {
            Self::Version { .. } => Kind::Environment,
            _ => Kind::Corrupt,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Version { .. } => "protocol_mismatch",
            _ => "hello_malformed",
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Version { .. } => {
                "use host and worker of one release; is an old snakehouse package on sys.path?"
                    .to_owned()
            }
            _ => "the program is not a Snakehouse worker".to_owned(),
        })
    }
}

impl Hello {
    /// Capability: a cancel reaches a call that is running (Python: the doorbell).
    pub const CANCEL: &'static str = "cancel";
    /// Capability: the worker does not start what the shared page says is taken back.
    pub const RECALL: &'static str = "recall";
    /// Capability: the worker publishes what it started in the shared page.
    pub const STARTED: &'static str = "started";
    /// Capability: calls can be opened as streams.
    pub const STREAMS: &'static str = "streams";
    /// Capability: the worker tells of its calls, if it is asked to.
    pub const TELEMETRY: &'static str = "telemetry";
    /// Capability: the worker is told of sessions and of the limits of their state.
    pub const SESSIONS: &'static str = "sessions";
    /// Capability: its tools call tools of the host, and while one waits for that the worker runs
    /// calls that are marked as nested.
    pub const CALLBACKS: &'static str = "callbacks";

    /// Whether the worker has a capability.
    pub fn can(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|c| c == capability)
    }

    /// The payload of the hello frame.
    ///
    /// # Errors
    /// [`ValueError`] if it is over a limit.
    pub fn encode(&self) -> Result<Bytes, ValueError> {
        let tools: Vec<Value> = self
            .tools
            .iter()
            .map(|tool| {
                Value::from_iter([
                    ("name", Value::from(tool.name.as_str())),
                    ("number", tool.number.into()),
                    ("signature", tool.signature.as_str().into()),
                    ("doc", tool.doc.as_str().into()),
                    ("kind", tool.kind.as_str().into()),
                    ("parameters", tool.parameters.clone()),
                    ("result", tool.result.clone()),
                ])
            })
            .collect();
        Value::from_iter([
            ("protocol", Value::from(PROTOCOL_VERSION)),
            ("language", self.language.as_str().into()),
            ("version", self.version.as_str().into()),
            ("runtime", self.runtime.as_str().into()),
            ("pid", self.pid.into()),
            ("codec", self.codec.as_str().into()),
            ("capabilities", self.capabilities.clone().into()),
            ("capacity", self.capacity.into()),
            ("tools", Value::List(tools)),
            ("failure", self.failure.as_ref().map(Failure::to_value).into()),
        ])
        .encode()
    }

    /// Reads the payload of a hello frame.
    ///
    /// # Errors
    /// [`HelloError`]; the version is looked at before anything else.
    pub fn decode(payload: &Bytes) -> Result<Self, HelloError> {
        let map = Value::decode(payload)?;
        let theirs = number(&map, "protocol")?;
        if theirs != PROTOCOL_VERSION {
            return Err(HelloError::Version { theirs });
        }
        let list = |key| map.get(key).and_then(Value::as_slice).ok_or(HelloError::Field(key));
        Ok(Self {
            language: text(&map, "language")?,
            version: text(&map, "version")?,
            runtime: text(&map, "runtime")?,
            pid: number(&map, "pid")?,
            codec: text(&map, "codec")?,
            capabilities: list("capabilities")?
                .iter()
                .map(|c| c.as_str().map(str::to_owned))
                .collect::<Option<_>>()
                .ok_or(HelloError::Field("capabilities"))?,
            capacity: match map.get("capacity") {
                None => 1,
                Some(_) => number::<u32>(&map, "capacity")
                    .ok()
                    .filter(|&capacity| capacity > 0)
                    .ok_or(HelloError::Field("capacity"))?,
            },
            tools: list("tools")?.iter().map(ToolInfo::from_value).collect::<Result<_, _>>()?,
            failure: match map.get("failure") {
                None | Some(Value::None) => None,
                Some(value) => Some(Failure::from_value(value)),
            },
        })
    }
}

impl ToolInfo {
    /// Longest name of a tool, in bytes.
    pub const MAX_NAME: usize = 1024;

    /// A tool of which nothing more is known.
    pub fn new(name: impl Into<String>, number: u16, kind: ToolKind) -> Self {
        Self {
            name: name.into(),
            number,
            signature: String::new(),
            doc: String::new(),
            kind,
            parameters: Value::None,
            result: Value::None,
        }
    }

    fn from_value(map: &Value) -> Result<Self, HelloError> {
        let name = text(map, "name")?;
        if name.len() > Self::MAX_NAME {
            return Err(HelloError::Field("name"));
        }
        Ok(Self {
            name,
            number: number(map, "number")?,
            signature: text(map, "signature")?,
            doc: text(map, "doc")?,
            kind: match map.get("kind") {
                None => ToolKind::Function,
                Some(name) => ToolKind::ALL
                    .into_iter()
                    .find(|kind| name.as_str() == Some(kind.as_str()))
                    .ok_or(HelloError::Field("kind"))?,
            },
            parameters: map.get("parameters").cloned().unwrap_or(Value::None),
            result: map.get("result").cloned().unwrap_or(Value::None),
        })
    }
}

fn text(map: &Value, key: &'static str) -> Result<String, HelloError> {
    map.get(key).and_then(Value::as_str).map(str::to_owned).ok_or(HelloError::Field(key))
}

fn number<T: TryFrom<i64>>(map: &Value, key: &'static str) -> Result<T, HelloError> {
    map.get(key)
        .and_then(Value::as_i64)
        .and_then(|n| T::try_from(n).ok())
        .ok_or(HelloError::Field(key))
}
