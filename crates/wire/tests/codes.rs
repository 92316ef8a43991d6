//! What programs match on: kind and code of every error of the wire.

use snakehouse_base::{Coded, Kind};
use snakehouse_wire::{FrameError, FrameKind, HelloError, Value, ValueError};

#[test]
fn every_error_of_a_value_has_its_kind_and_its_code() {
    let table = [
        (ValueError::TooDeep, Kind::InvalidInput, "value_too_deep"),
        (ValueError::TooLarge, Kind::InvalidInput, "value_too_large"),
        (ValueError::TooManyItems, Kind::InvalidInput, "value_too_many_items"),
        (ValueError::TooManyBuffers, Kind::InvalidInput, "value_too_many_buffers"),
        (ValueError::DuplicateKey("k".into()), Kind::InvalidInput, "value_duplicate_key"),
        (ValueError::UnhashableKey("list"), Kind::InvalidInput, "value_unhashable_key"),
        (ValueError::BadArray("x"), Kind::InvalidInput, "value_bad_array"),
        (ValueError::Unreadable, Kind::Unavailable, "value_unreadable"),
        (ValueError::OutOfRange("x"), Kind::InvalidInput, "value_out_of_range"),
        (ValueError::Truncated, Kind::Corrupt, "value_malformed"),
        (ValueError::Trailing(3), Kind::Corrupt, "value_malformed"),
        (ValueError::BadUtf8, Kind::Corrupt, "value_malformed"),
        (ValueError::UnknownMarker(0xc1), Kind::Corrupt, "value_malformed"),
        (ValueError::UnknownExtension(9), Kind::Corrupt, "value_malformed"),
        (ValueError::BadExtension(9), Kind::Corrupt, "value_malformed"),
    ];
    for (error, kind, code) in table {
        assert_eq!((error.kind(), error.code()), (kind, code), "{error}");
    }
    let hello = HelloError::Field("pid");
    assert_eq!((hello.kind(), hello.code()), (Kind::Corrupt, "hello_malformed"));
}

#[test]
fn every_error_of_a_frame_has_its_kind_and_its_code() {
    let kind = FrameKind::Open;
    let table = [
        (FrameError::Oversized { len: 9 }, Kind::Corrupt, "frame_oversized"),
        (FrameError::UnknownKind(200), Kind::Corrupt, "frame_unknown_kind"),
        (FrameError::WrongStream { kind, stream: 0 }, Kind::Corrupt, "frame_wrong_stream"),
        (FrameError::BadPayload { kind, len: 1 }, Kind::Corrupt, "frame_bad_payload"),
        (FrameError::OutOfPlace { kind, stream: 1 }, Kind::Corrupt, "frame_out_of_place"),
        (FrameError::OverSent { stream: 1 }, Kind::Corrupt, "frame_over_sent"),
        (FrameError::BodyTooLarge { stream: 1, cap: 9 }, Kind::InvalidInput, "body_too_large"),
        (FrameError::ItemTooLarge { stream: 1, cap: 9 }, Kind::InvalidInput, "item_too_large"),
    ];
    for (error, kind, code) in table {
        assert_eq!((error.kind(), error.code()), (kind, code), "{error}");
        assert!(error.hint().is_some());
    }
}

#[test]
fn a_value_of_another_type_says_so() {
    let error = bool::try_from(Value::Float(1.0)).unwrap_err();
    assert_eq!((error.kind(), error.code()), (Kind::InvalidInput, "value_type_mismatch"));
}
