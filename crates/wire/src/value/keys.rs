//! Which dict keys are one key in Python.
//!
//! A Rust caller can build a dict that Python cannot hold: `{1: a, True: b}` would silently lose a
//! pair over there. So such dicts, and such sets, are refused before they travel and when they
//! arrive.

use std::collections::HashSet;

use num_bigint::BigInt;

use super::{Value, ValueError};

/// So few texts are compared with each other sooner than hashed.
const FEW: usize = 8;

/// Refuses repeated texts, such as names of arguments.
pub(super) fn check_texts<'a, I>(texts: I) -> Result<(), ValueError>
where
    I: ExactSizeIterator<Item = &'a str> + Clone,
{
    let few = texts.len() <= FEW;
    let mut seen = HashSet::new();
    for (at, text) in texts.clone().enumerate() {
        let fresh = match few {
            true => texts.clone().take(at).all(|before| before != text),
            false => seen.insert(text),
        };
        if !fresh {
            return Err(ValueError::DuplicateKey(shown(format!("{text:?}"))));
        }
    }
    Ok(())
}

/// Refuses unhashable and repeated keys.
pub(super) fn check<'a, I>(keys: I) -> Result<(), ValueError>
where
    I: ExactSizeIterator<Item = &'a Value> + Clone,
{
    if keys.clone().all(|key| matches!(key, Value::Str(_))) {
        return check_texts(keys.map(|key| key.as_str().unwrap_or_default()));
    }
    let mut seen = HashSet::new();
    for key in keys {
        let mut form = Vec::new();
        let fresh = match canonical(key, &mut form, 0)? {
            Identity::Shared => seen.insert(form),
            Identity::Own => true,
        };
        if !fresh {
            let text = match key {
                Value::Str(text) => format!("{text:?}"),
                other => format!("{other:?}"),
            };
            return Err(ValueError::DuplicateKey(shown(text)));
        }
    }
    Ok(())
}

/// Puts items into the order in which a set travels. Equal sets come out equal.
pub(super) fn sort(items: &mut [Value]) {
    // The items were decoded, so they have an encoding.
    items.sort_by_cached_key(|item| item.encode().unwrap_or_default());
}

/// Whether another object can equal this one.
#[derive(PartialEq)]
enum Identity {
    Shared,
    /// A NaN equals nothing, nor does a tuple with one.
    Own,
}

/// Appends a form that two keys share exactly if Python finds them equal.
fn canonical(key: &Value, out: &mut Vec<u8>, depth: usize) -> Result<Identity, ValueError> {
    if depth > Value::MAX_DEPTH {
        return Err(ValueError::TooDeep);
    }
    match key {
        Value::None => out.push(b'n'),
        Value::Bool(b) => number(&BigInt::from(i64::from(*b)), out),
        Value::Int(int) => number(&int.to_bigint(), out),
        Value::Float(x) if x.is_nan() => return Ok(Identity::Own),
        Value::Float(x) => match whole(*x) {
            Some(int) => number(&int, out),
            None => tagged(b'f', &x.to_bits().to_be_bytes(), out),
        },
        Value::Str(text) => tagged(b's', text.as_bytes(), out),
        Value::Bytes(bytes) => tagged(b'b', bytes, out),
        Value::Tuple(items) => {
            tagged(b't', &items.len().to_be_bytes(), out);
            for item in items {
                if canonical(item, out, depth + 1)? == Identity::Own {
                    return Ok(Identity::Own);
                }
            }
        }
        Value::FrozenSet(items) => {
            // Equal in any order, so the forms of the items are sorted.
            let mut forms = Vec::with_capacity(items.len());
            for item in items {
                let mut form = Vec::new();
                if canonical(item, &mut form, depth + 1)? == Identity::Own {
                    return Ok(Identity::Own);
                }
                forms.push(form);
            }
            forms.sort_unstable();
            tagged(b'z', &forms.concat(), out);
        }
        Value::Complex(real, imaginary) if *imaginary == 0.0 => {
            return canonical(&Value::Float(*real), out, depth);
        }
        Value::Complex(real, imaginary) if real.is_nan() || imaginary.is_nan() => {
            return Ok(Identity::Own);
        }
        Value::Complex(real, imaginary) => {
            // Adding zero makes one of both zeros.
            tagged(b'c', &(real + 0.0).to_bits().to_be_bytes(), out);
            tagged(b'c', &imaginary.to_bits().to_be_bytes(), out);
        }
        Value::Date(date) => {
            let mut form = Vec::new();
            date.put(&mut form);
            tagged(b'd', &form, out);
        }
        Value::Time(time) => {
            let (seconds, micros) = time.compared();
            let tag = if time.offset().is_none() { b'h' } else { b'H' };
            tagged(tag, &seconds.to_be_bytes(), out);
            tagged(tag, &micros.to_be_bytes(), out);
        }
        Value::DateTime(moment) => {
            let (naive, micros) = moment.compared();
            tagged(if naive { b'm' } else { b'M' }, &micros.to_be_bytes(), out);
        }
        Value::TimeDelta(delta) => tagged(b'l', &delta.micros().to_be_bytes(), out),
        Value::Reference(reference) => {
            tagged(b'r', &reference.life.to_be_bytes(), out);
            tagged(b'r', &reference.number.to_be_bytes(), out);
        }
        Value::Unsupported(mark) => tagged(b'u', mark.type_name().as_bytes(), out),
        Value::List(_)
        | Value::Dict(_)
        | Value::Set(_)
        | Value::ByteArray(_)
        | Value::Array(_)
        | Value::Arrow(_)
        | Value::Shared(_) => {
            return Err(ValueError::UnhashableKey(key.type_name()));
        }
    }
    Ok(Identity::Shared)
}

fn number(int: &BigInt, out: &mut Vec<u8>) {
    tagged(b'i', &int.to_signed_bytes_be(), out);
}

fn tagged(tag: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(tag);
    out.extend_from_slice(&bytes.len().to_be_bytes());
    out.extend_from_slice(bytes);
}

/// The integer that a float equals, if it is one.
fn whole(x: f64) -> Option<BigInt> {
    if !x.is_finite() || x.fract() != 0.0 {
        return None;
    }
    let bits = x.to_bits();
    let exponent = i64::try_from((bits >> 52) & 0x7ff).ok()? - 1075;
    let mantissa = (bits & ((1 << 52) - 1)) | (1 << 52);
    let magnitude = match u32::try_from(exponent) {
        Ok(left) => BigInt::from(mantissa) << left,
        Err(_) if x == 0.0 => BigInt::from(0),
        Err(_) => BigInt::from(mantissa >> exponent.unsigned_abs().min(63)),
    };
    Some(if x < 0.0 { -magnitude } else { magnitude })
}

/// A key in an error message, cut short.
fn shown(mut text: String) -> String {
    if let Some((at, _)) = text.char_indices().nth(80) {
        text.truncate(at);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dict(keys: &[Value]) -> Result<(), ValueError> {
        check(keys.iter())
    }

    #[test]
    fn keys_that_python_finds_equal_are_one() {
        for (a, b) in [
            (Value::from(1), Value::Bool(true)),
            (Value::from(0), Value::Float(-0.0)),
            (Value::from(-3), Value::Float(-3.0)),
            (Value::from(1i128 << 80), Value::Float((1i128 << 80) as f64)),
            (
                Value::Tuple(vec![Value::from(1), Value::from("x")]),
                Value::Tuple(vec![Value::Float(1.0), Value::from("x")]),
            ),
            (Value::from("a"), Value::from("a")),
        ] {
            assert!(matches!(dict(&[a, b]), Err(ValueError::DuplicateKey(_))));
        }
    }

    #[test]
    fn keys_that_python_tells_apart_are_two() {
        let keys = [
            Value::None,
            Value::from(1),
            Value::from("1"),
            Value::from(&b"1"[..]),
            Value::Float(1.5),
            Value::Float(f64::NAN),
            Value::Float(f64::NAN),
            Value::Float(f64::INFINITY),
            Value::Tuple(vec![Value::from(1)]),
            Value::Tuple(vec![Value::Tuple(vec![Value::from(1)])]),
        ];
        assert_eq!(dict(&keys), Ok(()));
    }

    #[test]
    fn a_list_is_no_key() {
        assert_eq!(dict(&[Value::List(vec![])]), Err(ValueError::UnhashableKey("list")));
    }
}
