//! Bodies whose large parts lie behind the value instead of in it.

use std::ops::Range;

use bytes::{BufMut, Bytes};

use crate::value::ValueError;

/// Begins every body with attachments; no value begins with it.
const MARK: u8 = 0xc1;
const LENT: u8 = 1;
const CARRIED: u8 = 2;

/// Where a worker put an attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The slot.
    pub slot: u32,
    /// Bytes of the slot before it.
    pub offset: u32,
    /// Its bytes.
    pub len: u64,
}

/// Whether a body is one whose attachments are lent: its receiver must fetch them.
pub fn is_lent(body: &[u8]) -> bool {
    body.starts_with(&[MARK, LENT])
}

/// Whether a body has its attachments behind its value: only [`Value::decode`](crate::Value::decode)
/// reads it, and it is no MessagePack.
pub fn is_carried(body: &[u8]) -> bool {
    body.starts_with(&[MARK, CARRIED])
}

/// The attachments and the value of a lent body.
pub(super) fn lent(body: &Bytes) -> Option<(Vec<Attached>, Bytes)> {
    let (count, mut rest) = body.strip_prefix(&[MARK, LENT])?.split_first()?;
    let mut all = Vec::with_capacity(usize::from(*count));
    for _ in 0..*count {
        let (&[a, b, c, d, e, f, g, h, ref len @ ..], after) = rest.split_first_chunk::<16>()?;
        all.push(Attached {
            slot: u32::from_le_bytes([a, b, c, d]),
            offset: u32::from_le_bytes([e, f, g, h]),
            len: u64::from_le_bytes(*len),
        });
        rest = after;
    }
    Some((all, body.slice_ref(rest)))
}

/// The beginning of a carried body: everything but the attachments.
pub(super) fn carried_head(lens: &[u64], value: &[u8]) -> Vec<u8> {
    let attached = lens.iter().sum::<u64>();
    let room = 3 + 8 * lens.len() + value.len() + usize::try_from(attached).unwrap_or(0);
    let mut out = Vec::with_capacity(room);
    out.extend_from_slice(&[MARK, CARRIED, u8::try_from(lens.len()).unwrap_or(u8::MAX)]);
    lens.iter().for_each(|len| out.put_u64_le(*len));
    out.extend_from_slice(value);
    out
}

/// The value of a body, and its attachments.
pub(crate) fn split(body: &Bytes) -> Result<(&[u8], Vec<Bytes>), ValueError> {
    if body.first() != Some(&MARK) {
        return Ok((body, Vec::new()));
    }
    parts(body).ok_or(ValueError::UnknownMarker(MARK))
}

fn parts(body: &Bytes) -> Option<(&[u8], Vec<Bytes>)> {
    let (count, rest) = body.strip_prefix(&[MARK, CARRIED])?.split_first()?;
    let (lens, rest) = rest.split_at_checked(8 * usize::from(*count))?;
    let mut end = body.len();
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for len in lens.as_chunks::<8>().0.iter().rev() {
        let begin = end.checked_sub(usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
        ranges.push(begin..end);
        end = begin;
    }
    let begin = body.len() - rest.len();
    let value = body.get(begin..end)?;
    Some((value, ranges.into_iter().rev().map(|range| body.slice(range)).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_carried_body_comes_apart_again() {
        let mut body = carried_head(&[3, 0, 2], b"value");
        body.extend_from_slice(b"abcde");
        let body = Bytes::from(body);
        assert!(is_carried(&body) && !is_lent(&body));
        let (value, attached) = split(&body).unwrap();
        assert_eq!((value, attached), (&b"value"[..], vec!["abc".into(), "".into(), "de".into()]));
        for cut in 1..body.len() {
            // Whatever is cut off, nothing is read that is not there.
            let _ = split(&body.slice(..cut));
        }
        let huge = [&[MARK, CARRIED, 2][..], &[0xff; 16]].concat();
        assert!(split(&huge.into()).is_err());
        assert!(split(&vec![MARK, LENT, 0].into()).is_err());
    }
}
