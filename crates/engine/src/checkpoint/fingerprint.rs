//! Which arithmetic wrote a snapshot.

use sha2::{Digest, Sha256};

use super::{hash_numbers, hex};
use crate::kernel::{Cpu, Into, Packed, log_sum_exp, matmul, rms_norm, swiglu};

/// Raised when the order of any computation changes on purpose.
const ARITHMETIC: u32 = 1;

/// What stands before the arithmetic, and before it the name of the program in older manifests.
const NAME: &str = "arithmetic ";

/// Names this build's arithmetic: its revision, and a digest of what it computes on fixed numbers.
///
/// The digest is behaviour, not a list of processor flags or a version: two machines or releases
/// that compute the same bits have the same fingerprint and may restore each other's snapshots.
pub(crate) fn fingerprint(cpu: Cpu) -> String {
    #[expect(clippy::cast_precision_loss, reason = "small")]
    let numbers = |count: usize, step: usize| -> Vec<f32> {
        (0..count).map(|i| ((i * step) % 2003) as f32 / 700.0 - 1.4).collect()
    };
    let (m, k, n) = (19, 70, 45);
    let (a, b) = (numbers(m * k, 7919), Packed::of(&numbers(k * n, 6007), k, n));
    let mut c = vec![0.0; m * n];
    matmul(cpu, (m, k, n), &a, k, &b, &mut c, n, Into::Set);
    let (mut normed, mut factors) = (vec![0.0; m * n], vec![0.0; m]);
    rms_norm(cpu, &c, &numbers(n, 131), 1e-6, &mut normed, &mut factors);
    let mut gated = vec![0.0; m * n];
    swiglu(cpu, &normed, &c, &mut gated);
    let mut hash = Sha256::new();
    hash_numbers(&mut hash, &gated);
    let (top, sum, log) = log_sum_exp(cpu, &mut normed);
    hash_numbers(&mut hash, &normed);
    hash_numbers(&mut hash, &[top, sum, log]);
    let digest = hex(hash);
    format!("{NAME}{ARITHMETIC}-{}", &digest[..16])
}

/// Whether two fingerprints stand for the same bits. Who wrote them does not matter.
pub(super) fn agrees(found: &str, expected: &str) -> bool {
    let arithmetic = |print: &str| print.rsplit_once(NAME).map(|(_, name)| name.to_owned());
    arithmetic(found).is_some_and(|found| arithmetic(expected) == Some(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_that_computes_the_same_may_go_on() {
        let own = fingerprint(Cpu::detect());
        assert!(!own.contains(env!("CARGO_PKG_VERSION")), "{own}");
        assert!(agrees(&own, &own));
        assert!(agrees(&format!("snakehouse-engine 0.0.9 {own}"), &own));
        assert!(!agrees("arithmetic 0-0123456789abcdef", &own));
        assert!(!agrees("", &own));
    }
}
