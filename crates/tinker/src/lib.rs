//! A client SDK for the Tinker fine-tuning API.
