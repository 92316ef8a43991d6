//! The embedded CPU engine: LoRA training and sampling of Qwen3-family models.
