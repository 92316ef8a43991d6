//! What programs match on: kind and code of the store's errors that need a failing disk.

use snakehouse_base::{ByteSize, Coded, Kind};
use snakehouse_store::StoreError;

#[test]
fn every_error_has_its_kind_and_its_code() {
    let io = StoreError::Io {
        what: "write",
        path: "blobs".into(),
        source: std::io::ErrorKind::StorageFull.into(),
    };
    let size = ByteSize(9);
    let table = [
        (StoreError::NewerSchema { found: 9, known: 1 }, Kind::Environment, "newer_schema"),
        (StoreError::TooLarge { size, limit: size }, Kind::InvalidInput, "record_too_large"),
        (StoreError::Full { limit: size }, Kind::Saturated, "log_full"),
        (io, Kind::Environment, "io"),
        (StoreError::NotDurable("disk".into()), Kind::Environment, "not_durable"),
        (StoreError::NotCommitted("disk".into()), Kind::Environment, "not_committed"),
        (StoreError::Panicked("bug".into()), Kind::Internal, "internal"),
        (StoreError::Closed, Kind::Unavailable, "store_closed"),
    ];
    for (error, kind, code) in table {
        assert_eq!((error.kind(), error.code()), (kind, code), "{error}");
    }
}
