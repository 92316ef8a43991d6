//! n-dimensional arrays: numpy's, as a type, a shape, an order and bytes.

use bytes::{BufMut, Bytes, BytesMut};

use super::ValueError;

/// Which index runs fastest in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// The last: C's, and the one that an array has that is contiguous both ways.
    C,
    /// The first: Fortran's.
    F,
}

/// An n-dimensional array of numbers, dates or fixed-length texts.
///
/// It arrives in Python as a read-only `numpy.ndarray` on the received bytes, or as a
/// `snakehouse.Array` in a process that has not imported numpy. Arrays that are not contiguous are
/// sent in C order; subclasses of `ndarray`, objects and structured types do not travel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Array(Box<Parts>);

/// Apart, so that arrays do not make every value as large as they are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Parts {
    layout: Layout,
    data: Bytes,
}

/// What an array is besides its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Layout {
    dtype: Box<str>,
    shape: Box<[u64]>,
    order: Order,
}

impl Array {
    /// Most dimensions.
    pub const MAX_DIMENSIONS: usize = 32;

    /// An array of these bytes.
    ///
    /// `dtype` is numpy's `dtype.str`: byte order (`<`, `>`, or `|` where there is none), kind and
    /// size in bytes, such as `<f4`, `|u1`, `<M8[ns]`.
    ///
    /// # Errors
    /// [`ValueError::BadArray`] if the type does not travel, or the bytes are not as many as type
    /// and shape say.
    pub fn new(
        dtype: &str,
        shape: &[u64],
        order: Order,
        data: impl Into<Bytes>,
    ) -> Result<Self, ValueError> {
        let data = data.into();
        let layout = Layout::new(dtype, shape, order, data.len() as u64)?;
        Ok(Self::with_layout(layout, data))
    }

    /// An array in C order of these numbers.
    ///
    /// # Errors
    /// [`ValueError::BadArray`] if there are not as many as the shape says.
    pub fn of<T: Element>(shape: &[u64], items: &[T]) -> Result<Self, ValueError> {
        let mut data = BytesMut::with_capacity(size_of_val(items));
        items.iter().for_each(|item| item.put(&mut data));
        Self::new(T::DTYPE, shape, Order::C, data)
    }

    /// numpy's `dtype.str`.
    pub fn dtype(&self) -> &str {
        &self.0.layout.dtype
    }

    /// Items in each dimension. Empty for a single item.
    pub fn shape(&self) -> &[u64] {
        &self.0.layout.shape
    }

    /// The order of the bytes.
    pub fn order(&self) -> Order {
        self.0.layout.order
    }

    /// The bytes of the items.
    pub fn data(&self) -> &Bytes {
        &self.0.data
    }

    /// The items in the order of the bytes; none if they are not of this type.
    pub fn items<T: Element>(&self) -> Option<Vec<T>> {
        let size = usize::try_from(item_size(T::DTYPE)?).ok()?;
        (self.dtype() == T::DTYPE).then(|| self.0.data.chunks_exact(size).map(T::take).collect())
    }

    pub(super) fn with_layout(layout: Layout, data: Bytes) -> Self {
        Self(Box::new(Parts { layout, data }))
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.0.layout
    }
}

impl Layout {
    /// Of an array of so many bytes.
    ///
    /// # Errors
    /// As [`Array::new`].
    pub(crate) fn new(
        dtype: &str,
        shape: &[u64],
        order: Order,
        bytes: u64,
    ) -> Result<Self, ValueError> {
        let size = item_size(dtype).ok_or(ValueError::BadArray("has an unknown dtype"))?;
        if shape.len() > Array::MAX_DIMENSIONS {
            return Err(ValueError::BadArray("has more than 32 dimensions"));
        }
        if count(shape).and_then(|n| n.checked_mul(size)) != Some(bytes) {
            return Err(ValueError::BadArray("has not the bytes that dtype and shape ask for"));
        }
        let both = shape.contains(&0) || shape.iter().filter(|n| **n != 1).count() < 2;
        let order = if both { Order::C } else { order };
        Ok(Self { dtype: dtype.into(), shape: shape.into(), order })
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        let short = |n: usize| u8::try_from(n).unwrap_or(u8::MAX);
        out.push(short(self.dtype.len()));
        out.extend_from_slice(self.dtype.as_bytes());
        out.push(match self.order {
            Order::C => b'C',
            Order::F => b'F',
        });
        out.push(short(self.shape.len()));
        self.shape.iter().for_each(|n| out.extend_from_slice(&n.to_be_bytes()));
    }

    /// Reads a head; the rest of the bytes are the data.
    pub(super) fn take(bytes: &[u8]) -> Option<(&str, Order, Vec<u64>, &[u8])> {
        let (len, rest) = bytes.split_first()?;
        let (dtype, rest) = rest.split_at_checked(usize::from(*len))?;
        let (&[order, dimensions], rest) = rest.split_first_chunk()?;
        let (shape, data) = rest.split_at_checked(8 * usize::from(dimensions))?;
        let order = match order {
            b'C' => Order::C,
            b'F' => Order::F,
            _ => return None,
        };
        let (shape, _) = shape.as_chunks::<8>();
        let shape = shape.iter().map(|n| u64::from_be_bytes(*n)).collect();
        Some((std::str::from_utf8(dtype).ok()?, order, shape, data))
    }
}

fn count(shape: &[u64]) -> Option<u64> {
    if shape.contains(&0) {
        return Some(0);
    }
    shape.iter().try_fold(1u64, |all, n| all.checked_mul(*n))
}

/// Bytes of one item of such a type; none if it does not travel.
fn item_size(dtype: &str) -> Option<u64> {
    const UNITS: [&str; 13] =
        ["Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as"];
    let mut chars = dtype.chars();
    let (order, kind) = (chars.next()?, chars.next()?);
    let rest = chars.as_str();
    let ordered = matches!(order, '<' | '>');
    match (kind, rest) {
        ('b' | 'i' | 'u', "1") if order == '|' => Some(1),
        ('i' | 'u' | 'f', "2") if ordered => Some(2),
        ('i' | 'u' | 'f', "4") if ordered => Some(4),
        ('i' | 'u' | 'f' | 'c', "8") if ordered => Some(8),
        ('c', "16") if ordered => Some(16),
        ('S', len) if order == '|' => number(len),
        ('U', len) if ordered => number(len).map(|n| 4 * n),
        ('M' | 'm', "8") if ordered => Some(8),
        ('M' | 'm', unit) if ordered => {
            let unit = unit.strip_prefix("8[")?.strip_suffix(']')?;
            let name = unit.trim_start_matches(|c: char| c.is_ascii_digit());
            let times = &unit[..unit.len() - name.len()];
            let fits = times.is_empty() || number(times).is_some_and(|n| n > 1);
            (fits && UNITS.contains(&name)).then_some(8)
        }
        _ => None,
    }
}

/// A number from 1, of at most nine digits and without zeros before it.
fn number(text: &str) -> Option<u64> {
    let plain = text.len() <= 9 && !text.starts_with('0');
    (plain && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

/// Numbers that an array can be made of, and read as.
pub trait Element: Copy + private::Sealed {
    /// numpy's name of the type, little-endian.
    const DTYPE: &'static str;
    #[doc(hidden)]
    fn put(self, out: &mut BytesMut);
    #[doc(hidden)]
    fn take(bytes: &[u8]) -> Self;
}

mod private {
    pub trait Sealed {}
}

macro_rules! element {
    ($($t:ty: $dtype:literal),*) => {$(
        impl private::Sealed for $t {}
        impl Element for $t {
            const DTYPE: &'static str = $dtype;

            fn put(self, out: &mut BytesMut) {
                out.put_slice(&self.to_le_bytes());
            }

            fn take(bytes: &[u8]) -> Self {
                bytes.try_into().map(Self::from_le_bytes).unwrap_or_default()
            }
        }
    )*};
}

element!(
    i8: "|i1", u8: "|u1", i16: "<i2", u16: "<u2", i32: "<i4", u32: "<u4", i64: "<i8", u64: "<u8",
    f32: "<f4", f64: "<f8"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        let array = Array::of(&[2, 3], &[1.5f32, -0.0, 2.0, 3.0, 4.0, f32::MAX]).unwrap();
        assert_eq!((array.dtype(), array.shape(), array.data().len()), ("<f4", &[2, 3][..], 24));
        assert_eq!(array.items::<f32>().unwrap()[5], f32::MAX);
        assert_eq!(array.items::<f64>(), None);
    }

    #[test]
    fn only_types_that_travel_are_taken() {
        for (dtype, size) in [
            ("|b1", 1),
            ("<f2", 2),
            (">c16", 16),
            ("<M8", 8),
            ("<m8[25us]", 8),
            ("|S7", 7),
            ("<U3", 12),
        ] {
            assert_eq!(item_size(dtype), Some(size), "{dtype}");
        }
        for dtype in [
            "",
            "<",
            "<f",
            "|O8",
            "<V4",
            "<f16",
            "<i1",
            "|f8",
            "=f8",
            "<f08",
            "<U0",
            "|S01",
            "|S9999999999",
            "<M8[]",
            "<M8[1s]",
            "<M8[0s]",
            "<M8[x]",
            "<M8[s",
            "<c4",
            "é",
            "<u3",
        ] {
            assert_eq!(item_size(dtype), None, "{dtype}");
        }
    }

    #[test]
    fn shape_and_bytes_must_agree() {
        let bad = |shape: &[u64], len| Array::new("<f4", shape, Order::C, vec![0; len]).is_err();
        assert!(bad(&[3], 11) && bad(&[], 0) && bad(&[u64::MAX, u64::MAX], 0));
        assert!(bad(&[1; 33], 4) && bad(&[1 << 63, 2], 0));
        assert!(!bad(&[], 4) && !bad(&[u64::MAX, 0], 0));
    }

    #[test]
    fn an_array_with_one_long_side_has_one_order() {
        let order = |shape: &[u64], len: usize| {
            Array::new("|u1", shape, Order::F, vec![0; len]).unwrap().order()
        };
        assert_eq!(order(&[1, 5, 1], 5), Order::C);
        assert_eq!(order(&[0, 5], 0), Order::C);
        assert_eq!(order(&[2, 3], 6), Order::F);
    }
}
