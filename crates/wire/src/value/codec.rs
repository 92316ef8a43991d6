//! Values as MessagePack.
//!
//! Plain MessagePack, the shortest form of everything, floats always as 64 bits, and the extension
//! types of the table in `ext`. The decoder takes any MessagePack of these types, also longer forms,
//! sets in any order, and 32-bit floats (whose NaNs come out quiet).

use bytes::Bytes;

use super::extent::{extent, extent_of_call};
use super::{Int, Value, ValueError, ext, keys};
use crate::buffer::{SharedBuffer, split};

const EXT_BIG_INT: i8 = 1;
const EXT_TUPLE: i8 = 2;
const EXT_SET: i8 = 3;
const EXT_FROZENSET: i8 = 4;

/// Room that is made for a list or dict before its items are seen. A count may lie.
const FIRST_ITEMS: usize = 32;

pub(super) fn encode(value: &Value) -> Result<Vec<u8>, ValueError> {
    let mut out = Vec::with_capacity(extent(value, 1));
    put(value, &mut out, 1, &mut Tally { items: 0, shared: None })?;
    Ok(out)
}

/// The body of a call. `by_name`: shared buffers are named, not copied, and given beside it.
pub(super) fn encode_call(
    args: &[Value],
    kwargs: &[(String, Value)],
    by_name: bool,
) -> Result<(Vec<u8>, Vec<SharedBuffer>), ValueError> {
    let mut out = Vec::with_capacity(extent_of_call(args, kwargs));
    let mut tally = Tally { items: 0, shared: by_name.then(Vec::new) };
    // The two containers, and what holds them.
    tally.add(3)?;
    put_array_len(&mut out, 2)?;
    put_array_len(&mut out, args.len())?;
    args.iter().try_for_each(|arg| put(arg, &mut out, 3, &mut tally))?;
    keys::check_texts(kwargs.iter().map(|(name, _)| name.as_str()))?;
    put_len(&mut out, kwargs.len(), Some((0x80, 16)), [None, Some(0xde), Some(0xdf)])?;
    for (name, value) in kwargs {
        tally.add(1)?;
        put_text(&mut out, name)?;
        put(value, &mut out, 3, &mut tally)?;
    }
    Ok((out, tally.shared.unwrap_or_default()))
}

struct Tally {
    items: usize,
    /// Those that were named, if they are to be.
    shared: Option<Vec<SharedBuffer>>,
}

impl Tally {
    fn add(&mut self, items: usize) -> Result<(), ValueError> {
        self.items += items;
        if self.items > Value::MAX_ITEMS { Err(ValueError::TooManyItems) } else { Ok(()) }
    }
}

fn put(
    value: &Value,
    out: &mut Vec<u8>,
    depth: usize,
    tally: &mut Tally,
) -> Result<(), ValueError> {
    if depth > Value::MAX_DEPTH {
        return Err(ValueError::TooDeep);
    }
    tally.add(1)?;
    match value {
        Value::None => out.push(0xc0),
        Value::Bool(false) => out.push(0xc2),
        Value::Bool(true) => out.push(0xc3),
        Value::Int(int) => put_int(int, out)?,
        Value::Float(x) => {
            out.push(0xcb);
            out.extend_from_slice(&x.to_bits().to_be_bytes());
        }
        Value::Str(text) => put_text(out, text)?,
        Value::Bytes(bytes) => {
            put_len(out, bytes.len(), None, [Some(0xc4), Some(0xc5), Some(0xc6)])?;
            put_raw(out, bytes)?;
        }
        Value::List(list) => put_array(list, out, depth, tally)?,
        Value::Tuple(list) => {
            let mut inner = Vec::new();
            put_array(list, &mut inner, depth, tally)?;
            put_ext(out, EXT_TUPLE, &inner)?;
        }
        Value::Set(list) => put_set(EXT_SET, list, out, depth, tally)?,
        Value::FrozenSet(list) => put_set(EXT_FROZENSET, list, out, depth, tally)?,
        Value::Dict(pairs) => {
            keys::check(pairs.iter().map(|(key, _)| key))?;
            put_len(out, pairs.len(), Some((0x80, 16)), [None, Some(0xde), Some(0xdf)])?;
            for (key, item) in pairs {
                put(key, out, depth + 1, tally)?;
                put(item, out, depth + 1, tally)?;
            }
        }
        Value::Shared(shared) if tally.shared.is_none() => {
            tally.items -= 1;
            put(&shared.copied()?, out, depth, tally)?;
        }
        other => {
            if let (Value::Shared(shared), Some(named)) = (other, &mut tally.shared)
                && !named.contains(&shared.buffer)
            {
                named.push(shared.buffer.clone());
            }
            let mut head = Vec::new();
            if let Some((kind, tail)) = ext::parts(other, &mut head) {
                put_ext_head(out, kind, head.len() + tail.len())?;
                put_raw(out, &head)?;
                put_raw(out, &tail)?;
            }
        }
    }
    if out.len() > Value::MAX_BYTES {
        return Err(ValueError::TooLarge);
    }
    Ok(())
}

fn put_array(
    list: &[Value],
    out: &mut Vec<u8>,
    depth: usize,
    tally: &mut Tally,
) -> Result<(), ValueError> {
    put_array_len(out, list.len())?;
    list.iter().try_for_each(|item| put(item, out, depth + 1, tally))
}

fn put_array_len(out: &mut Vec<u8>, len: usize) -> Result<(), ValueError> {
    put_len(out, len, Some((0x90, 16)), [None, Some(0xdc), Some(0xdd)])
}

fn put_text(out: &mut Vec<u8>, text: &str) -> Result<(), ValueError> {
    put_len(out, text.len(), Some((0xa0, 32)), [Some(0xd9), Some(0xda), Some(0xdb)])?;
    put_raw(out, text.as_bytes())
}

/// Sorted, so that equal sets have equal bytes whatever order Python finds their items in.
fn put_set(
    kind: i8,
    list: &[Value],
    out: &mut Vec<u8>,
    depth: usize,
    tally: &mut Tally,
) -> Result<(), ValueError> {
    keys::check(list.iter())?;
    let mut parts = Vec::with_capacity(list.len());
    for item in list {
        let mut part = Vec::new();
        put(item, &mut part, depth + 1, tally)?;
        parts.push(part);
    }
    parts.sort_unstable();
    let mut inner = Vec::new();
    put_array_len(&mut inner, list.len())?;
    parts.iter().try_for_each(|part| put_raw(&mut inner, part))?;
    put_ext(out, kind, &inner)
}

fn put_int(int: &Int, out: &mut Vec<u8>) -> Result<(), ValueError> {
    let Some(n) = int.as_i64() else {
        return match int.as_u64() {
            Some(n) => {
                out.push(0xcf);
                out.extend_from_slice(&n.to_be_bytes());
                Ok(())
            }
            None => put_ext(out, EXT_BIG_INT, &int.to_signed_bytes()),
        };
    };
    let [.., e, f, g, h] = n.to_be_bytes();
    match n {
        -32..=0x7f => out.push(h),
        0x80..=0xff => out.extend_from_slice(&[0xcc, h]),
        0x100..=0xffff => out.extend_from_slice(&[0xcd, g, h]),
        0x1_0000..=0xffff_ffff => out.extend_from_slice(&[0xce, e, f, g, h]),
        0x1_0000_0000.. => {
            out.push(0xcf);
            out.extend_from_slice(&n.to_be_bytes());
        }
        -0x80..=-33 => out.extend_from_slice(&[0xd0, h]),
        -0x8000..=-0x81 => out.extend_from_slice(&[0xd1, g, h]),
        -0x8000_0000..=-0x8001 => out.extend_from_slice(&[0xd2, e, f, g, h]),
        _ => {
            out.push(0xd3);
            out.extend_from_slice(&n.to_be_bytes());
        }
    }
    Ok(())
}

/// Writes a length in its shortest form: inside of the marker if it is below the fix limit, else
/// behind the marker for 1, 2 or 4 bytes.
fn put_len(
    out: &mut Vec<u8>,
    len: usize,
    fix: Option<(u8, u8)>,
    [one, two, four]: [Option<u8>; 3],
) -> Result<(), ValueError> {
    let len = u32::try_from(len).map_err(|_| ValueError::TooLarge)?;
    let [a, b, c, d] = len.to_be_bytes();
    match (fix, one, two, four) {
        (Some((marker, limit)), ..) if len < u32::from(limit) => out.push(marker | d),
        (_, Some(marker), ..) if len <= 0xff => out.extend_from_slice(&[marker, d]),
        (_, _, Some(marker), _) if len <= 0xffff => out.extend_from_slice(&[marker, c, d]),
        (.., Some(marker)) => out.extend_from_slice(&[marker, a, b, c, d]),
        _ => return Err(ValueError::TooLarge),
    }
    Ok(())
}

fn put_ext(out: &mut Vec<u8>, kind: i8, content: &[u8]) -> Result<(), ValueError> {
    put_ext_head(out, kind, content.len())?;
    put_raw(out, content)
}

fn put_ext_head(out: &mut Vec<u8>, kind: i8, len: usize) -> Result<(), ValueError> {
    match len {
        1 => out.push(0xd4),
        2 => out.push(0xd5),
        4 => out.push(0xd6),
        8 => out.push(0xd7),
        16 => out.push(0xd8),
        len => put_len(out, len, None, [Some(0xc7), Some(0xc8), Some(0xc9)])?,
    }
    out.extend_from_slice(&kind.to_be_bytes());
    Ok(())
}

fn put_raw(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), ValueError> {
    if out.len() + bytes.len() > Value::MAX_BYTES {
        return Err(ValueError::TooLarge);
    }
    out.extend_from_slice(bytes);
    Ok(())
}

pub(super) fn decode(bytes: &Bytes) -> Result<Value, ValueError> {
    if bytes.len() > Value::MAX_BYTES {
        return Err(ValueError::TooLarge);
    }
    let mut items = 0;
    let (rest, attached) = split(bytes)?;
    let mut reader = Reader { whole: bytes, rest, attached: &attached, items: &mut items };
    let value = reader.value(1)?;
    match reader.rest.len() {
        0 => Ok(value),
        left => Err(ValueError::Trailing(left)),
    }
}

struct Reader<'a> {
    whole: &'a Bytes,
    rest: &'a [u8],
    attached: &'a [Bytes],
    items: &'a mut usize,
}

impl<'a> Reader<'a> {
    fn value(&mut self, depth: usize) -> Result<Value, ValueError> {
        if depth > Value::MAX_DEPTH {
            return Err(ValueError::TooDeep);
        }
        *self.items += 1;
        if *self.items > Value::MAX_ITEMS {
            return Err(ValueError::TooManyItems);
        }
        let [marker] = self.array::<1>()?;
        Ok(match marker {
            0x00..=0x7f => Value::Int(i64::from(marker).into()),
            0x80..=0x8f => self.dict(usize::from(marker & 0x0f), depth)?,
            0x90..=0x9f => Value::List(self.list(usize::from(marker & 0x0f), depth)?),
            0xa0..=0xbf => self.text(usize::from(marker & 0x1f))?,
            0xc0 => Value::None,
            0xc2 => Value::Bool(false),
            0xc3 => Value::Bool(true),
            0xc4..=0xc6 => {
                let len = self.len(marker - 0xc4)?;
                Value::Bytes(self.whole.slice_ref(self.take(len)?))
            }
            0xc7..=0xc9 => {
                let len = self.len(marker - 0xc7)?;
                self.ext(len, depth)?
            }
            0xca => Value::Float(widened(u32::from_be_bytes(self.array()?))),
            0xcb => Value::Float(f64::from_bits(u64::from_be_bytes(self.array()?))),
            0xcc => Value::Int(i64::from(u8::from_be_bytes(self.array()?)).into()),
            0xcd => Value::Int(i64::from(u16::from_be_bytes(self.array()?)).into()),
            0xce => Value::Int(i64::from(u32::from_be_bytes(self.array()?)).into()),
            0xcf => Value::Int(u64::from_be_bytes(self.array()?).into()),
            0xd0 => Value::Int(i64::from(i8::from_be_bytes(self.array()?)).into()),
            0xd1 => Value::Int(i64::from(i16::from_be_bytes(self.array()?)).into()),
            0xd2 => Value::Int(i64::from(i32::from_be_bytes(self.array()?)).into()),
            0xd3 => Value::Int(i64::from_be_bytes(self.array()?).into()),
            0xd4..=0xd8 => self.ext(1 << (marker - 0xd4), depth)?,
            0xd9..=0xdb => {
                let len = self.len(marker - 0xd9)?;
                self.text(len)?
            }
            0xdc | 0xdd => {
                let len = self.len(marker - 0xdc + 1)?;
                Value::List(self.list(len, depth)?)
            }
            0xde | 0xdf => {
                let len = self.len(marker - 0xde + 1)?;
                self.dict(len, depth)?
            }
            0xe0..=0xff => Value::Int(i64::from(i8::from_be_bytes([marker])).into()),
            0xc1 => return Err(ValueError::UnknownMarker(marker)),
        })
    }

    /// A length of 1, 2 or 4 bytes for `width` 0, 1 or 2.
    fn len(&mut self, width: u8) -> Result<usize, ValueError> {
        let len = match width {
            0 => u32::from(u8::from_be_bytes(self.array()?)),
            1 => u32::from(u16::from_be_bytes(self.array()?)),
            _ => u32::from_be_bytes(self.array()?),
        };
        usize::try_from(len).map_err(|_| ValueError::TooLarge)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], ValueError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(ValueError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ValueError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(ValueError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn text(&mut self, len: usize) -> Result<Value, ValueError> {
        let text = std::str::from_utf8(self.take(len)?).map_err(|_| ValueError::BadUtf8)?;
        Ok(Value::Str(text.to_owned()))
    }

    fn list(&mut self, len: usize, depth: usize) -> Result<Vec<Value>, ValueError> {
        self.room_for(len)?;
        let mut list = Vec::with_capacity(len.min(FIRST_ITEMS));
        for _ in 0..len {
            list.push(self.value(depth + 1)?);
        }
        Ok(list)
    }

    fn dict(&mut self, len: usize, depth: usize) -> Result<Value, ValueError> {
        self.room_for(len.saturating_mul(2))?;
        let mut pairs = Vec::with_capacity(len.min(FIRST_ITEMS));
        for _ in 0..len {
            pairs.push((self.value(depth + 1)?, self.value(depth + 1)?));
        }
        keys::check(pairs.iter().map(|(key, _)| key))?;
        Ok(Value::Dict(pairs))
    }

    /// Refuses a count that cannot be true before anything is allocated for it.
    fn room_for(&self, len: usize) -> Result<(), ValueError> {
        if len > self.rest.len() {
            return Err(ValueError::Truncated);
        }
        if *self.items + len > Value::MAX_ITEMS {
            return Err(ValueError::TooManyItems);
        }
        Ok(())
    }

    fn ext(&mut self, len: usize, depth: usize) -> Result<Value, ValueError> {
        let kind = i8::from_be_bytes(self.array()?);
        let content = self.take(len)?;
        match kind {
            EXT_BIG_INT if content.is_empty() => Err(ValueError::BadExtension(kind)),
            EXT_BIG_INT => Ok(Value::Int(Int::from_signed_bytes(content))),
            EXT_TUPLE => self.content(kind, content, depth).map(Value::Tuple),
            EXT_SET | EXT_FROZENSET => {
                let mut list = self.content(kind, content, depth)?;
                keys::check(list.iter())?;
                keys::sort(&mut list);
                Ok(if kind == EXT_SET { Value::Set(list) } else { Value::FrozenSet(list) })
            }
            _ => ext::take(kind, content, self.whole, self.attached),
        }
    }

    /// The items of an extension that holds an array and nothing else.
    fn content(
        &mut self,
        kind: i8,
        content: &'a [u8],
        depth: usize,
    ) -> Result<Vec<Value>, ValueError> {
        let mut inner = Reader { rest: content, items: self.items, ..*self };
        let [marker] = inner.array::<1>()?;
        let count = match marker {
            0x90..=0x9f => usize::from(marker & 0x0f),
            0xdc | 0xdd => inner.len(marker - 0xdc + 1)?,
            _ => return Err(ValueError::BadExtension(kind)),
        };
        let list = inner.list(count, depth)?;
        if inner.rest.is_empty() { Ok(list) } else { Err(ValueError::BadExtension(kind)) }
    }
}

/// A 32-bit float as one of 64. Processors make a NaN quiet here; this does it everywhere.
fn widened(bits: u32) -> f64 {
    let x = f32::from_bits(bits);
    if !x.is_nan() {
        return x.into();
    }
    let sign = u64::from(bits >> 31) << 63;
    let payload = u64::from(bits & 0x007f_ffff) << 29;
    f64::from_bits(sign | 0x7ff8_0000_0000_0000 | payload)
}
