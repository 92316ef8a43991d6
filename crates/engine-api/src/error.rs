//! Stable codes of the failures an engine reports.

/// Codes carried by a failed engine call, next to its `Kind` and message.
pub mod code {
    /// The named base model is not loaded.
    pub const UNKNOWN_BASE: &str = "unknown_base_model";
    /// The named training model is not loaded.
    pub const UNKNOWN_MODEL: &str = "unknown_model";
    /// The named sampler is not loaded.
    pub const UNKNOWN_SAMPLER: &str = "unknown_sampler";
    /// A token id lies outside the vocabulary.
    pub const TOKEN_OUT_OF_RANGE: &str = "token_out_of_range";
    /// Inputs of one datum have different lengths.
    pub const LENGTH_MISMATCH: &str = "length_mismatch";
    /// More tokens than the model's context holds.
    pub const CONTEXT_EXCEEDED: &str = "context_exceeded";
    /// A number is NaN or infinite where it must not be.
    pub const NOT_FINITE: &str = "not_finite";
    /// A parameter is outside its range.
    pub const BAD_PARAMETER: &str = "bad_parameter";
    /// A model or checkpoint directory is incomplete or does not say what it must.
    pub const BAD_DIRECTORY: &str = "bad_model_directory";
    /// A checkpoint was written by an engine whose arithmetic differs.
    pub const FINGERPRINT_MISMATCH: &str = "fingerprint_mismatch";
    /// Writing or reading a file failed.
    pub const IO: &str = "io";
    /// The request does not decode.
    pub const BAD_REQUEST: &str = "bad_request";
}
