//! Every statement that reads or changes the database.
//!
//! Functions that change something take the connection of a transaction; those that read take any
//! connection. Numbers are checked at admission, so conversions here do not lose anything.

mod accept;
mod clients;
mod finish;
mod keep;
mod load;

pub(super) use accept::{Inserted, NewModel, NewOp, find, insert};
pub(super) use clients::{
    ModelRow, ModelState, SamplerRow, SaveRow, add_sampler, add_session, checkpoint, find_model,
    find_sampler, finish_session, open_models, open_sessions, session_finished,
};
pub(super) use finish::{Extra, Finish, add_death, finish, stop_model};
pub(super) use keep::{
    SnapshotRow, add_snapshot, all_saves, doomed_saves, drop_old_bodies, drop_saves,
    drop_snapshots, let_go, log_holders, referenced_segments, snapshots_of, trim, unsnapshotted,
};
pub(super) use load::{
    StoredOutcome, accepted, effects_after, highest_op, op_row, outcome, used_up,
};
