//! The caps on every input. All sizes are bytes unless the name says otherwise.

/// The largest JSON body of an ordinary request.
pub const JSON_BODY: usize = 1 << 20;
/// The largest body of `asample`: prompts are JSON numbers.
pub const SAMPLE_BODY: usize = 16 << 20;
/// The largest protobuf body of `forward_backward`. The official client splits at 5 MB.
pub const FORWARD_BACKWARD_BODY: usize = 64 << 20;
/// The most datums of one `forward_backward`, as the client configuration announces it.
pub const DATUMS: usize = 1024;
/// The most elements of one tensor after a sparse one is made dense.
pub const TENSOR_ELEMENTS: usize = 16 << 20;
/// The most dimensions of a tensor.
pub const TENSOR_DIMENSIONS: usize = 8;
/// The most sequences of one `asample`.
pub const SAMPLES: u32 = 128;
/// The most stop strings or stop tokens of one `asample`.
pub const STOPS: usize = 64;
/// The longest checkpoint name, in characters.
pub const CHECKPOINT_NAME: usize = 255;
/// The longest id of a training run inside a path, in characters.
pub const RUN_ID: usize = 255;
/// The highest LoRA rank.
pub const LORA_RANK: u32 = 256;
