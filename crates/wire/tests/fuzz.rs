//! Mutated values and frames: nothing panics, hangs or grows, and what is accepted is stable.
//!
//! Inputs are the golden vectors and the kept corpus (`golden/corpus.txt`, a line of hex each),
//! changed by what breaks decoders: markers, lengths, splices, wrappers. Everything follows from a
//! seed, which a failure prints. `SNAKEHOUSE_FUZZ` says how many inputs (default 20,000 for each
//! target, some seconds; `.ci/run` 6,000,000, one to three minutes; soak 40,000,000),
//! `SNAKEHOUSE_TEST_SEED` from which seed.
//! `crates/pool/tests/it/fuzz.rs` asks a Python worker about such inputs too.

#[path = "mutate/mod.rs"]
mod mutate;

use bytes::{Bytes, BytesMut};
use mutate::{Mutator, corpus, count, seed};
use snakehouse_wire::{Assembler, Failure, Frame, Hello, Value};

/// Runs `check` on as many inputs as asked for; a failure names the input.
fn fuzz(section: &str, check: impl Fn(&Bytes)) {
    let mutator = Mutator::new(corpus(section), seed());
    for n in 0..count() {
        let input = Bytes::from(mutator.next());
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&input)));
        assert!(outcome.is_ok(), "seed {}, input {n}: {}", seed(), mutate::hex(&input));
    }
}

#[test]
fn a_value_that_is_accepted_is_stable() {
    fuzz("values", |input| {
        let Ok(value) = Value::decode(input) else { return };
        let encoded = value.encode().unwrap();
        let again = Value::decode(&encoded).unwrap();
        assert_eq!(again, value);
        assert_eq!(again.encode().unwrap(), encoded);
    });
}

#[test]
fn hellos_and_failures_take_whatever_comes() {
    fuzz("values", |input| {
        let failure = Failure::decode(input);
        assert_eq!(Failure::decode(&failure.encode()).code, failure.code);
        let _ = (failure.to_string(), Hello::decode(input));
    });
}

#[test]
fn frames_are_messages_or_the_end() {
    const CAP: usize = 1 << 16;
    fuzz("frames", |input| {
        for mut assembler in [Assembler::worker(CAP), Assembler::host(CAP)] {
            let mut rest = BytesMut::from(&input[..]);
            while let Ok(Some(frame)) = Frame::decode(&mut rest) {
                let Ok(message) = assembler.push(frame) else { break };
                assert!(assembler.held() <= CAP);
                if let Some(message) = message {
                    let mut out = BytesMut::new();
                    message.encode(&mut out);
                    assert!(!out.is_empty());
                }
            }
        }
    });
}
