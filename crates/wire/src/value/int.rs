//! Integers of any size, small ones without an allocation.

use std::fmt;

use num_bigint::BigInt;

/// A Python `int`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Int(Repr);

/// Every number has one form: `Large` only if it does not fit `Small`.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Repr {
    Small(i64),
    Large(BigInt),
}

impl Int {
    /// The number, if it fits.
    pub fn as_i64(&self) -> Option<i64> {
        match &self.0 {
            Repr::Small(n) => Some(*n),
            Repr::Large(_) => None,
        }
    }

    /// The number, if it fits.
    pub fn as_u64(&self) -> Option<u64> {
        match &self.0 {
            Repr::Small(n) => u64::try_from(*n).ok(),
            Repr::Large(n) => u64::try_from(n).ok(),
        }
    }

    /// The number as an arbitrary-precision integer.
    pub fn to_bigint(&self) -> BigInt {
        match &self.0 {
            Repr::Small(n) => BigInt::from(*n),
            Repr::Large(n) => n.clone(),
        }
    }

    /// Two's complement, big-endian, as few bytes as possible.
    pub(crate) fn to_signed_bytes(&self) -> Vec<u8> {
        self.to_bigint().to_signed_bytes_be()
    }

    /// From two's complement, big-endian, of any length.
    pub(crate) fn from_signed_bytes(bytes: &[u8]) -> Self {
        BigInt::from_signed_bytes_be(bytes).into()
    }
}

impl From<i64> for Int {
    fn from(n: i64) -> Self {
        Self(Repr::Small(n))
    }
}

impl From<u64> for Int {
    fn from(n: u64) -> Self {
        match i64::try_from(n) {
            Ok(n) => n.into(),
            Err(_) => Self(Repr::Large(n.into())),
        }
    }
}

impl From<i128> for Int {
    fn from(n: i128) -> Self {
        match i64::try_from(n) {
            Ok(n) => n.into(),
            Err(_) => Self(Repr::Large(n.into())),
        }
    }
}

impl From<BigInt> for Int {
    fn from(n: BigInt) -> Self {
        match i64::try_from(&n) {
            Ok(n) => n.into(),
            Err(_) => Self(Repr::Large(n)),
        }
    }
}

impl fmt::Debug for Int {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Int {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Repr::Small(n) => n.fmt(f),
            Repr::Large(n) => n.fmt(f),
        }
    }
}
