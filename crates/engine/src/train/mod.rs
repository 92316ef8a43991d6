//! Training: the state of a model and the operations on it.

mod adamw;
mod batch;
mod trainee;

use batch::WAVE;
pub(crate) use batch::{Batch, ids};
pub(crate) use trainee::{Machine, Trainee};
