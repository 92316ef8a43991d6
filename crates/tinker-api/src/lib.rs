//! The wire types of the Tinker fine-tuning API: JSON, protobuf, tensors, validation.
