//! What a training service may ask of an engine, and what it gets back.
//!
//! Each operation is a pair of types: a [`Request`] with a tool name and its reply. Both travel as
//! MessagePack maps in the body of one worker call, so any engine that speaks the worker frames
//! can serve them; no tensor library is named here. Arrays of numbers are little-endian bytes.
//!
//! Rules every engine keeps (a test suite of the embedded engine holds it to them):
//! * An operation is atomic: it takes effect completely or, on error, not at all.
//! * A result is a pure function of (weights, operation): equal bytes after any restart, for any
//!   number of threads, alone or beside other models.
//! * A directory is complete or absent: files are written beside it, synced, then renamed.

mod codec;
mod error;
mod manage;
mod sample;
mod train;

pub use codec::{CodecError, Request};
pub use error::code;
pub use manage::{
    BaseInfo, CreateModel, Digest, LoadBase, LoadModel, LoadSampler, Loaded, LoraSpec, Restore,
    Restored, Save, SaveKind, Saved, Snapshot, StateDigest, Unload, UnloadSampler,
};
pub use sample::{Sample, SampleParams, Sampled, SampledSequence, Stop, StopReason};
pub use train::{
    Adam, Datum, DatumOutput, ForwardBackward, ForwardBackwardOutput, Loss, Optimize,
    OptimizeOutput,
};

/// The version of this contract. Service and engine must agree exactly.
pub const VERSION: u32 = 1;
