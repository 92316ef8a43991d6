//! What programs match on: the codes of refused input that no request of another test carries.

use snakehouse_base::{Coded, Kind};
use snakehouse_tinker_api::InvalidInput;

#[test]
fn every_refusal_is_invalid_input_with_its_code() {
    let key = || "key".to_owned();
    let table = [
        (InvalidInput::UnsupportedLoss { name: "ppo" }, "unsupported_loss"),
        (
            InvalidInput::UnknownLossSetting { loss: "cross_entropy", key: key() },
            "unknown_loss_setting",
        ),
        (InvalidInput::TooManyDatums { count: 9, most: 1 }, "too_many_datums"),
        (InvalidInput::MalformedTensor { reason: key() }, "malformed_tensor"),
        (InvalidInput::InconsistentFields { reason: "two at once" }, "inconsistent_fields"),
    ];
    for (error, code) in table {
        assert_eq!((error.kind(), error.code()), (Kind::InvalidInput, code), "{error}");
    }
}
