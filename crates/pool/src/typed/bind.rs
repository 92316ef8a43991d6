//! A pool whose workers were held against declared signatures.

use std::time::Duration;

use snakehouse_base::{Coded, Deadline, Kind};

use super::items::Items;
use super::python_type::PythonType;
use super::signature::Signature;
use crate::call::{Args, CallError, CallOptions};
use crate::pool::Pool;

/// A declared function that the workers do not have so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ToolMismatch {
    /// The workers have no such tool.
    #[error("there is no tool {name}; Rust declares `{declared}`")]
    Missing {
        /// The tool.
        name: &'static str,
        /// What Rust declares.
        declared: &'static str,
        /// The tools that there are.
        known: Vec<String>,
    },
    /// They have one that does not fit.
    #[error("tool {name} does not fit: {reason}; Rust declares `{declared}`, Python has `{found}`")]
    Different {
        /// The tool.
        name: &'static str,
        /// What is different.
        reason: String,
        /// What Rust declares.
        declared: &'static str,
        /// What Python has.
        found: String,
    },
    /// No worker served to ask.
    #[error("no worker could be asked for its tools: {0}")]
    NoWorker(CallError),
}

impl Coded for ToolMismatch {
    fn kind(&self) -> Kind {
        match self {
            Self::Missing { .. } => Kind::NotFound,
            Self::Different { .. } => Kind::InvalidInput,
            Self::NoWorker(error) => error.kind(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "tool_missing",
            Self::Different { .. } => "tool_mismatch",
            Self::NoWorker(error) => error.code(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Missing { known, .. } => Some(format!("there are: {}", known.join(", "))),
            Self::Different { .. } => {
                Some("copy the signature from the Python file into `tools!`".to_owned())
            }
            Self::NoWorker(error) => error.hint(),
        }
    }
}

/// What the structs that [`tools!`](crate::tools) makes are made of: a pool whose tools fit.
#[derive(Clone, Debug)]
pub struct Bound {
    pool: Pool,
    within: Option<Duration>,
}

impl Bound {
    /// Holds the signatures against the tools of the pool. A lazy pool starts its first worker.
    ///
    /// # Errors
    /// [`ToolMismatch`] of the first that does not fit.
    pub async fn new(pool: &Pool, signatures: &[Signature]) -> Result<Self, ToolMismatch> {
        if pool.tools().is_empty() {
            let deadline = CallOptions::default().deadline;
            drop(pool.session(deadline).await.map_err(ToolMismatch::NoWorker)?);
        }
        let tools = pool.tools();
        for declared in signatures {
            let Some(tool) = tools.iter().find(|tool| tool.name == declared.name) else {
                return Err(ToolMismatch::Missing {
                    name: declared.name,
                    declared: declared.written,
                    known: tools.iter().map(|tool| tool.name.clone()).collect(),
                });
            };
            if let Some(reason) = declared.mismatch(tool) {
                return Err(ToolMismatch::Different {
                    name: declared.name,
                    reason,
                    declared: declared.written,
                    found: format!("{}{}", tool.name, tool.signature),
                });
            }
        }
        Ok(Self { pool: pool.clone(), within: None })
    }

    /// The same with another deadline for each call: so long after its beginning.
    #[must_use]
    pub fn within(&self, duration: Duration) -> Self {
        Self { pool: self.pool.clone(), within: Some(duration) }
    }

    /// Calls a function. Dropping the future cancels the call.
    ///
    /// # Errors
    /// As [`Pool::call`], and [`CallError::ResultType`] if the result is of another type.
    pub async fn call<R: PythonType>(&self, tool: &str, args: Args) -> Result<R, CallError> {
        let value = self.pool.call(tool, args, self.options(Deadline::CALL)).await?;
        R::from_value(value).map_err(|error| CallError::ResultType { tool: tool.to_owned(), error })
    }

    /// Opens the stream of a generator.
    ///
    /// # Errors
    /// As [`Pool::stream`].
    pub async fn stream<T: PythonType>(
        &self,
        tool: &str,
        args: Args,
    ) -> Result<Items<T>, CallError> {
        let stream = self.pool.stream(tool, args, self.options(Deadline::STREAM)).await?;
        Ok(Items::new(stream, tool))
    }

    fn options(&self, default: Duration) -> CallOptions {
        CallOptions::within(self.within.unwrap_or(default))
    }
}
