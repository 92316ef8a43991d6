//! Whole frames of a stream of bytes, without a look at what they say: for whoever passes them on.
//!
//! What passes frames on may be older than both ends, so that it knows nothing of a frame but its
//! head: the length, which it holds to the cap, the kind and the stream.

use bytes::{Bytes, BytesMut};

use crate::frame::{FrameError, HEAD_LEN, MAX_PAYLOAD};

/// Most bytes that [`whole_frames`] takes at once, unless a single frame is longer.
const AT_ONCE: usize = 64 * 1024;

/// Most bytes that [`whole_frames`] gives.
pub const MAX_FRAMES: usize =
    if AT_ONCE > HEAD_LEN + MAX_PAYLOAD { AT_ONCE } else { HEAD_LEN + MAX_PAYLOAD };

/// What a frame's head says beside its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHead {
    /// The kind, known or not.
    pub kind: u8,
    /// The stream; 0 is the connection.
    pub stream: u32,
}

/// Takes one or more complete frames off the front of `buf`; `None` if more bytes are needed.
///
/// At most [`MAX_FRAMES`] bytes. When the first frame is incomplete, room for the rest of it is
/// reserved.
///
/// # Errors
/// [`FrameError::Oversized`] once a frame over the cap is first. Nothing is consumed then.
pub fn whole_frames(buf: &mut BytesMut) -> Result<Option<Bytes>, FrameError> {
    let mut end = 0;
    loop {
        let next = match frame_end(buf, end) {
            Ok(Some(next)) => next,
            Ok(None) => break,
            Err(error) if end == 0 => return Err(error),
            // What is before it goes out first.
            Err(_) => break,
        };
        if next > buf.len() {
            if end == 0 {
                buf.reserve(next - buf.len());
            }
            break;
        }
        if end > 0 && next > AT_ONCE {
            break;
        }
        end = next;
    }
    Ok((end > 0).then(|| buf.split_to(end).freeze()))
}

/// Looks at the heads of bytes that must be whole frames.
///
/// # Errors
/// [`FrameError::Oversized`], or [`FrameError::Truncated`] if the bytes end within a frame. What was
/// before it has been seen then.
pub fn frame_heads(frames: &[u8], mut seen: impl FnMut(FrameHead)) -> Result<(), FrameError> {
    let mut at = 0;
    while at < frames.len() {
        let end = frame_end(frames, at)?.filter(|end| *end <= frames.len());
        let (Some(end), [_, _, _, _, kind, a, b, c, d, ..]) = (end, &frames[at..]) else {
            return Err(FrameError::Truncated);
        };
        seen(FrameHead { kind: *kind, stream: u32::from_le_bytes([*a, *b, *c, *d]) });
        at = end;
    }
    Ok(())
}

/// Where the frame that begins at `at` ends; `None` if its head is not there yet.
fn frame_end(bytes: &[u8], at: usize) -> Result<Option<usize>, FrameError> {
    let Some(&[a, b, c, d, ..]) = bytes[at..].first_chunk::<HEAD_LEN>() else { return Ok(None) };
    let len = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    if len > MAX_PAYLOAD {
        return Err(FrameError::Oversized { len });
    }
    Ok(Some(at + HEAD_LEN + len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Message;

    fn frames() -> (BytesMut, Vec<FrameHead>) {
        let mut bytes = BytesMut::new();
        Message::Ping { token: 7 }.encode(&mut bytes);
        Message::Cancel { stream: 9 }.encode(&mut bytes);
        let heads = vec![FrameHead { kind: 8, stream: 0 }, FrameHead { kind: 6, stream: 9 }];
        (bytes, heads)
    }

    #[test]
    fn whatever_the_pieces_the_frames_are_whole() {
        let (all, heads) = frames();
        for cut in 0..=all.len() {
            let (mut buf, mut seen, mut out) = (BytesMut::new(), Vec::new(), BytesMut::new());
            for piece in [&all[..cut], &all[cut..]] {
                buf.extend_from_slice(piece);
                while let Some(frames) = whole_frames(&mut buf).unwrap() {
                    frame_heads(&frames, |head| seen.push(head)).unwrap();
                    out.extend_from_slice(&frames);
                }
            }
            assert_eq!((&out, &seen), (&all, &heads), "cut at {cut}");
        }
    }

    #[test]
    fn a_kind_that_nobody_knows_passes() {
        let mut buf = BytesMut::from(&[0, 0, 0, 0, 200, 1, 0, 0, 0][..]);
        let frames = whole_frames(&mut buf).unwrap().unwrap();
        let mut kinds = Vec::new();
        frame_heads(&frames, |head| kinds.push(head.kind)).unwrap();
        assert_eq!(kinds, [200]);
    }

    #[test]
    fn what_is_before_a_frame_over_the_cap_still_goes_out() {
        let (mut buf, _) = frames();
        let sound = buf.len();
        buf.extend_from_slice(&[255; 9]);
        assert_eq!(whole_frames(&mut buf).unwrap().unwrap().len(), sound);
        assert!(matches!(whole_frames(&mut buf), Err(FrameError::Oversized { .. })));
        assert!(matches!(frame_heads(&buf, |_| ()), Err(FrameError::Oversized { .. })));
    }

    #[test]
    fn what_ends_within_a_frame_is_refused() {
        let (all, _) = frames();
        for cut in [1, 8, 9, all.len() - 1] {
            let error = frame_heads(&all[..cut], |_| ()).unwrap_err();
            assert_eq!(error, FrameError::Truncated);
            assert_eq!(snakehouse_base::Coded::code(&error), "frame_truncated");
        }
    }

    #[test]
    fn many_small_frames_go_together_up_to_a_bound_and_a_long_one_alone() {
        let mut buf = BytesMut::new();
        for _ in 0..10_000 {
            Message::Ping { token: 1 }.encode(&mut buf);
        }
        crate::frame::put(&mut buf, crate::FrameKind::Data, 1, &vec![0; crate::MAX_CHUNK]);
        let mut sizes = Vec::new();
        while let Some(frames) = whole_frames(&mut buf).unwrap() {
            sizes.push(frames.len());
        }
        assert_eq!(sizes.iter().sum::<usize>(), 10_000 * 17 + HEAD_LEN + crate::MAX_CHUNK);
        let (last, before) = sizes.split_last().unwrap();
        assert!(before.iter().all(|size| *size <= AT_ONCE));
        assert_eq!(*last, HEAD_LEN + crate::MAX_CHUNK);
    }
}
