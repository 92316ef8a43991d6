//! A named closure, and the list of them that a pool's workers are told.

use std::collections::HashSet;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use snakehouse_wire::{MAX_CHUNK, Value};

use super::convert::{self, Answer};
use super::{HostCall, HostError};
use crate::call::Args;
use crate::json::from_json;

/// Longest name of a host tool.
const MAX_NAME: usize = 64;

type Answering = Pin<Box<dyn Future<Output = Result<Answer, HostError>> + Send>>;
type Run = dyn Fn(HostCall, Bytes) -> Answering + Send + Sync;

/// A Rust closure that Python tools can call.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use snakehouse_base::Kind;
/// use snakehouse_pool::{HostCall, HostError, HostTool};
///
/// #[derive(Deserialize)]
/// struct Query {
///     key: String,
///     #[serde(default)]
///     limit: Option<usize>,
/// }
///
/// #[derive(Serialize)]
/// struct Found {
///     rows: Vec<String>,
/// }
///
/// let lookup = HostTool::new("lookup", |_call: HostCall, query: Query| async move {
///     match query.key.as_str() {
///         "" => Err(HostError::new(Kind::InvalidInput, "empty_key", "a key has at least one letter")),
///         key => Ok(Found { rows: vec![key.to_owned(); query.limit.unwrap_or(1)] }),
///     }
/// })
/// .doc("Rows under a key.");
/// assert_eq!(lookup.name(), "lookup");
/// ```
///
/// In Python: `snakehouse.host.lookup(key="a", limit=2)` gives `{"rows": ["a", "a"]}`.
#[derive(Clone)]
pub struct HostTool {
    name: Arc<str>,
    doc: String,
    parameters: Value,
    result: Value,
    run: Arc<Run>,
}

impl HostTool {
    /// A tool whose arguments and result are Rust types.
    ///
    /// A struct takes arguments by the names of its fields, and those given by position in the order of
    /// its fields; see [`Value::args_to_serde`] for other types. Errors of the closure arrive in Python
    /// as `snakehouse.HostToolError`; so do arguments that do not fit (`bad_arguments`), and a panic
    /// (`panic`). The future is dropped when nobody waits for it any more.
    ///
    /// Arguments and results of more than 32 KiB are converted in a thread of the pool, a result after
    /// what was seen of it before; so they are `Send`, and a `Serialize` may be asked twice. Large
    /// results of one worker are encoded one after the other, while it has no more than 64 MiB of them
    /// to read.
    ///
    /// The name is 1 to 64 of letters, digits, `_`, `-` and `.`; [`Pool::start`](crate::Pool::start)
    /// refuses others.
    pub fn new<A, R, F, Fut>(name: impl Into<String>, function: F) -> Self
    where
        A: DeserializeOwned + Send + 'static,
        R: Serialize + Send + 'static,
        F: Fn(HostCall, A) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, HostError>> + Send + 'static,
    {
        let function = Arc::new(function);
        Self::from_run(name, move |call, body| {
            let function = function.clone();
            Box::pin(async move {
                let args = convert::arguments(&call, body, convert::typed).await?;
                let result = function(call.clone(), args).await?;
                convert::typed_result(&call, result).await
            })
        })
    }

    /// A tool whose arguments and result are values as Python has them.
    ///
    /// As [`new`](Self::new) in all else.
    pub fn raw<F, Fut>(name: impl Into<String>, function: F) -> Self
    where
        F: Fn(HostCall, Args) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Value, HostError>> + Send + 'static,
    {
        let function = Arc::new(function);
        Self::from_run(name, move |call, body| {
            let function = function.clone();
            Box::pin(async move {
                let args = convert::arguments(&call, body, Ok).await?;
                let result = function(call.clone(), args).await?;
                convert::raw_result(&call, result).await
            })
        })
    }

    fn from_run(
        name: impl Into<String>,
        run: impl Fn(HostCall, Bytes) -> Answering + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.into().into(),
            doc: String::new(),
            parameters: Value::None,
            result: Value::None,
            run: Arc::new(run),
        }
    }

    /// Says what it does, for people: `snakehouse.host_tools()` shows it. Default: nothing.
    #[must_use]
    pub fn doc(mut self, doc: impl Into<String>) -> Self {
        self.doc = doc.into();
        self
    }

    /// A JSON Schema of the object whose keys are its parameters, for people and programs that choose
    /// tools; nothing is checked against it. Default: not known.
    #[must_use]
    pub fn parameters(mut self, schema: serde_json::Value) -> Self {
        self.parameters = from_json(schema);
        self
    }

    /// A JSON Schema of its result. Default: not known.
    #[must_use]
    pub fn result(mut self, schema: serde_json::Value) -> Self {
        self.result = from_json(schema);
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn run(&self, call: HostCall, body: Bytes) -> Answering {
        (self.run)(call, body)
    }

    fn to_value(&self) -> Value {
        Value::from_iter([
            ("name", Value::from(&*self.name)),
            ("doc", self.doc.as_str().into()),
            ("parameters", self.parameters.clone()),
            ("result", self.result.clone()),
        ])
    }

    fn has_good_name(&self) -> bool {
        let is_good = |letter: char| letter.is_ascii_alphanumeric() || "_-.".contains(letter);
        !self.name.is_empty() && self.name.len() <= MAX_NAME && self.name.chars().all(is_good)
    }
}

impl fmt::Debug for HostTool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostTool").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What the workers of a pool can call. A tool's number is its place.
#[derive(Clone, Debug, Default)]
pub(crate) struct HostTools(Arc<[HostTool]>);

impl HostTools {
    pub(crate) fn push(&mut self, tool: HostTool) {
        self.0 = self.0.iter().cloned().chain([tool]).collect();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn get(&self, number: u16) -> Option<&HostTool> {
        self.0.get(usize::from(number))
    }

    /// Names the first rule that is broken.
    pub(crate) fn check(&self) -> Result<(), String> {
        let mut names = HashSet::new();
        for tool in self.0.iter() {
            let name = &*tool.name;
            if !tool.has_good_name() {
                return Err(format!(
                    "host tool {name:?} is not named by 1 to {MAX_NAME} letters, digits, _, - and ."
                ));
            }
            if !names.insert(name) {
                return Err(format!("there are two host tools named {name}"));
            }
        }
        let fits = self.0.len() <= usize::from(u16::MAX)
            && self.settings().is_some_and(|settings| settings.len() <= MAX_CHUNK);
        if fits { Ok(()) } else { Err("the host tools are too many to be told".to_owned()) }
    }

    /// What workers are told of them.
    pub(crate) fn to_value(&self) -> Value {
        Value::List(self.0.iter().map(HostTool::to_value).collect())
    }

    fn settings(&self) -> Option<Bytes> {
        self.to_value().encode().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> HostTool {
        HostTool::raw(name, |_, _| async { Ok(Value::None) })
    }

    fn check(tools: impl IntoIterator<Item = HostTool>) -> Result<(), String> {
        let mut list = HostTools::default();
        tools.into_iter().for_each(|tool| list.push(tool));
        list.check()
    }

    #[test]
    fn names_are_checked() {
        let longest = "n".repeat(MAX_NAME);
        assert_eq!(check(["a", "A-b_c.9", &longest].map(named)), Ok(()));
        for bad in ["", "a b", "ä", "a/b", &format!("{longest}n")] {
            assert!(check([named(bad)]).unwrap_err().contains("is not named by"), "{bad}");
        }
        assert!(check(["a", "b", "a"].map(named)).unwrap_err().contains("two host tools named a"));
        let wordy = named("a").doc("d".repeat(MAX_CHUNK));
        assert!(check([wordy]).unwrap_err().contains("too many"));
    }
}
