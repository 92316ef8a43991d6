//! Messages survive any cut of the byte stream; broken ones are refused, and nothing panics.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;
use snakehouse_base::{Coded, Kind};
use snakehouse_wire::{
    Assembler, Failure, Frame, FrameError, FrameKind, HEAD_LEN, Hello, HelloError, MAX_CHUNK,
    MAX_PAYLOAD, Message, OpenHead, Related, ToolInfo, ToolKind, TraceContext, TraceFrame, Value,
};

fn body() -> impl Strategy<Value = Bytes> {
    // Content does not matter to the frame layer; lengths around the chunk size do.
    prop_oneof![
        0usize..300,
        Just(MAX_CHUNK - 1),
        Just(MAX_CHUNK),
        Just(MAX_CHUNK + 1),
        Just(2 * MAX_CHUNK),
        Just(2 * MAX_CHUNK + 7),
    ]
    .prop_map(|len| (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect::<Vec<_>>().into())
}

fn open_head() -> impl Strategy<Value = OpenHead> {
    let trace = (any::<[u8; 16]>(), any::<u64>(), any::<bool>())
        .prop_map(|(trace, span, sampled)| TraceContext { trace, span, sampled });
    (any::<u16>(), any::<u64>(), any::<u64>(), trace, any::<u8>()).prop_map(
        |(tool, deadline_micros, session, trace, depth)| OpenHead {
            tool,
            deadline_micros,
            session,
            trace,
            depth,
            is_stream: tool % 2 == 1,
            is_nested: tool % 3 == 1,
        },
    )
}

/// One that a callback may have: it names a call and has no flags.
fn callback_head() -> impl Strategy<Value = OpenHead> {
    (open_head(), 1..=u64::from(u32::MAX)).prop_map(|(head, session)| OpenHead {
        session,
        is_stream: false,
        is_nested: false,
        ..head
    })
}

/// Opened as a stream before everything else.
const STREAM: u32 = 1;

fn stream() -> impl Strategy<Value = u32> {
    2..=u32::MAX
}

fn open_stream() -> Message {
    let head = OpenHead { is_stream: true, ..OpenHead::new(0) };
    Message::Open { stream: STREAM, head, body: Bytes::new() }
}

fn to_worker() -> impl Strategy<Value = Message> {
    prop_oneof![
        (stream(), open_head(), body()).prop_map(|(stream, head, body)| Message::Open {
            stream,
            head,
            body
        }),
        stream().prop_map(|stream| Message::Cancel { stream }),
        (stream(), any::<u32>()).prop_map(|(stream, amount)| Message::Credit { stream, amount }),
        // Always of a stream that is open.
        body().prop_map(|body| Message::Item { stream: STREAM, body }),
        Just(Message::End { stream: STREAM }),
        any::<[u8; 9]>().prop_map(|bytes| Message::Settings(bytes.to_vec().into())),
        (stream(), body()).prop_map(|(callback, body)| Message::CallbackReply { callback, body }),
        (stream(), any::<u8>()).prop_map(|(callback, byte)| Message::CallbackError {
            callback,
            body: vec![byte; 40].into()
        }),
        any::<u64>().prop_map(|token| Message::Ping { token }),
        any::<[u8; 9]>().prop_map(|bytes| Message::Settings(bytes.to_vec().into())),
        any::<u64>().prop_map(|token| Message::Pong { token }),
        ".*".prop_map(|reason| Message::Goaway { reason }),
    ]
}

fn to_host() -> impl Strategy<Value = Message> {
    prop_oneof![
        (stream(), body()).prop_map(|(stream, body)| Message::Reply { stream, body }),
        (stream(), body()).prop_map(|(stream, body)| Message::Item { stream, body }),
        (stream(), any::<u8>())
            .prop_map(|(stream, byte)| Message::Error { stream, body: vec![byte; 40].into() }),
        any::<[u8; 9]>().prop_map(|bytes| Message::Hello(bytes.to_vec().into())),
        any::<[u8; 9]>().prop_map(|bytes| Message::Telemetry(bytes.to_vec().into())),
        (stream(), callback_head(), body())
            .prop_map(|(callback, head, body)| Message::CallbackOpen { callback, head, body }),
        stream().prop_map(|callback| Message::CallbackCancel { callback }),
        any::<u64>().prop_map(|token| Message::Pong { token }),
    ]
}

/// Feeds the bytes in pieces of these sizes and gives the messages that come out.
fn receive(
    mut assembler: Assembler,
    mut bytes: &[u8],
    cuts: &[usize],
) -> Result<Vec<Message>, FrameError> {
    let mut buf = BytesMut::new();
    let mut got = Vec::new();
    let mut cuts = cuts.iter().cycle();
    while !bytes.is_empty() {
        let (now, rest) = bytes.split_at((*cuts.next().unwrap_or(&1)).clamp(1, bytes.len()));
        bytes = rest;
        buf.put_slice(now);
        while let Some(frame) = Frame::decode(&mut buf)? {
            got.extend(assembler.push(frame)?);
        }
    }
    assert!(buf.is_empty());
    assert_eq!(assembler.held(), 0);
    Ok(got)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn messages_survive_any_cut(
        calls in prop::collection::vec(to_worker(), 1..6),
        answers in prop::collection::vec(to_host(), 1..6),
        cuts in prop::collection::vec(prop_oneof![1usize..64, 60_000usize..3_000_000], 1..5),
    ) {
        let calls = std::iter::once(open_stream()).chain(calls).collect::<Vec<_>>();
        for (messages, assembler) in [
            (calls, Assembler::worker(Assembler::DEFAULT_CAP)),
            (answers, Assembler::host(Assembler::DEFAULT_CAP)),
        ] {
            let mut bytes = BytesMut::new();
            let mut vectored = Vec::new();
            for message in &messages {
                message.clone().encode(&mut bytes);
                for segment in message.clone().segments() {
                    prop_assert!(segment.head().len() + segment.body().len() <= HEAD_LEN + MAX_PAYLOAD);
                    vectored.extend_from_slice(segment.head());
                    vectored.extend_from_slice(segment.body());
                }
            }
            prop_assert!(bytes == vectored);
            let got = receive(assembler, &bytes, &cuts);
            prop_assert!(got == Ok(messages));
        }
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut buf = BytesMut::from(&bytes[..]);
        let mut assembler = Assembler::worker(1 << 20);
        while let Ok(Some(frame)) = Frame::decode(&mut buf) {
            if assembler.push(frame).is_err() {
                break;
            }
        }
        prop_assert!(buf.capacity() <= HEAD_LEN + MAX_PAYLOAD + 4096);
    }

    #[test]
    fn mangled_messages_never_panic(
        message in to_worker(), at: prop::sample::Index, with: u8, cut: prop::sample::Index,
    ) {
        let mut bytes = BytesMut::new();
        message.encode(&mut bytes);
        let at = at.index(bytes.len().min(60));
        bytes[at] = with;
        bytes.truncate(cut.index(bytes.len()) + 1);
        let mut assembler = Assembler::worker(1 << 20);
        while let Ok(Some(frame)) = Frame::decode(&mut bytes) {
            if assembler.push(frame).is_err() {
                break;
            }
        }
    }

    #[test]
    fn hello_and_failure_decoders_take_any_value(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let bytes = Bytes::from(bytes);
        let failure = Failure::decode(&bytes);
        prop_assert!(Kind::ALL.contains(&failure.kind));
        prop_assert!(Hello::decode(&bytes).is_err());
    }
}

fn frames(message: Message) -> Vec<Frame> {
    let mut bytes = BytesMut::new();
    message.encode(&mut bytes);
    std::iter::from_fn(|| Frame::decode(&mut bytes).unwrap()).collect()
}

#[test]
fn a_body_over_the_cap_is_refused_once_and_the_rest_goes_on() {
    let mut assembler = Assembler::worker(3 << 20);
    let big = Message::Open { stream: 1, head: OpenHead::new(0), body: vec![0; 4 << 20].into() };
    let outcomes: Vec<_> = frames(big).into_iter().map(|f| assembler.push(f)).collect();
    let (last, before) = outcomes.split_last().unwrap();
    assert!(before.iter().all(|outcome| *outcome == Ok(None)));
    assert_eq!(*last, Err(FrameError::BodyTooLarge { stream: 1, cap: 3 << 20 }));
    assert_eq!(assembler.held(), 0);

    let good = Message::Open { stream: 2, head: OpenHead::new(0), body: vec![1; 3 << 20].into() };
    let got: Vec<_> =
        frames(good.clone()).into_iter().filter_map(|f| assembler.push(f).unwrap()).collect();
    assert_eq!(got, [good]);
}

#[test]
fn what_comes_for_a_stream_that_is_over_is_late_and_not_an_error() {
    let mut assembler = Assembler::worker(3 << 20);
    let mut push = |message: Message| {
        let outcomes = frames(message).into_iter().map(|frame| assembler.push(frame));
        let last = outcomes.last().unwrap();
        (last, assembler.late(), assembler.held())
    };
    let item = |stream, len| Message::Item { stream, body: vec![7; len].into() };
    push(open_stream()).0.unwrap();
    assert_eq!(push(item(STREAM, 9)).0, Ok(Some(item(STREAM, 9))));
    let too_large = FrameError::ItemTooLarge { stream: STREAM, cap: 3 << 20 };
    assert_eq!(push(item(STREAM, 4 << 20)), (Err(too_large), 0, 0));
    // Never opened.
    assert!(push(item(STREAM + 1, 9)).0.is_err());
    assert!(push(item(STREAM + 1, 2 << 20)).0.is_err());
    assert!(push(Message::End { stream: STREAM + 1 }).0.is_err());

    assembler.close(STREAM);
    let mut push = |message: Message| {
        let outcomes = frames(message).into_iter().map(|frame| assembler.push(frame));
        let last = outcomes.last().unwrap();
        (last, assembler.late(), assembler.held())
    };
    assert_eq!(push(item(STREAM, 2 << 20)), (Ok(None), 1, 0));
    assert_eq!(push(item(STREAM, 0)), (Ok(None), 2, 0));
    assert_eq!(push(Message::End { stream: STREAM }), (Ok(None), 2, 0));
}

#[test]
fn an_end_in_the_middle_of_an_item_is_out_of_place() {
    let mut assembler = Assembler::worker(3 << 20);
    for frame in frames(open_stream()) {
        assembler.push(frame).unwrap();
    }
    let item = Message::Item { stream: STREAM, body: vec![0; 2 << 20].into() };
    assert_eq!(assembler.push(frames(item).remove(0)), Ok(None));
    let end = frames(Message::End { stream: STREAM }).remove(0);
    let error = assembler.push(end).unwrap_err();
    assert_eq!(error, FrameError::OutOfPlace { kind: FrameKind::End, stream: STREAM });
}

#[test]
fn unfinished_bodies_share_one_cap() {
    let mut assembler = Assembler::host(3 << 20);
    for stream in [1, 2] {
        let reply = Message::Reply { stream, body: vec![0; (1 << 20) + 1].into() };
        let first = frames(reply).remove(0);
        assert_eq!(assembler.push(first), Ok(None));
    }
    assert_eq!(assembler.held(), 2 << 20);
    assert!(assembler.forget(1));
    assert!(!assembler.forget(1));
    assert_eq!(assembler.held(), 1 << 20);
}

#[test]
fn callbacks_have_numbers_and_bounds_of_their_own() {
    let mut assembler = Assembler::host(3 << 20);
    let head = OpenHead { session: 1, ..OpenHead::new(0) };
    let open = |callback, len| Message::CallbackOpen { callback, head, body: vec![1; len].into() };
    // A reply and a callback of one number, in pieces that mix.
    let reply = Message::Reply { stream: 5, body: vec![2; (1 << 20) + 1].into() };
    let (callback, reply) = (frames(open(5, (1 << 20) + 1)), frames(reply));
    let mixed = callback.into_iter().zip(reply).flat_map(|(a, b)| [a, b]);
    let got: Vec<_> = mixed.filter_map(|frame| assembler.push(frame).unwrap()).collect();
    assert!(matches!(&got[0], Message::CallbackOpen { callback: 5, body, .. } if body[0] == 1));
    assert!(matches!(&got[1], Message::Reply { stream: 5, body } if body[0] == 2));

    let too_large = FrameError::CallbackTooLarge { callback: 6, cap: 3 << 20 };
    let outcomes: Vec<_> =
        frames(open(6, 4 << 20)).into_iter().map(|frame| assembler.push(frame)).collect();
    assert_eq!(outcomes.last(), Some(&Err(too_large.clone())));
    assert_eq!((too_large.code(), assembler.held()), ("body_too_large", 0));

    // Of a call that is none, as a stream, within a call, twice, and a piece out of nowhere.
    let mut refused = |message| assembler.push(frames(message).remove(0)).unwrap_err().code();
    for (session, is_stream, is_nested) in [(0, false, false), (1, true, false), (1, false, true)] {
        let head = OpenHead { session, is_stream, is_nested, ..head };
        let message = Message::CallbackOpen { callback: 7, head, body: Bytes::new() };
        assert_eq!(refused(message), "frame_bad_payload");
    }
    let piece = frames(open(8, 2 << 20)).remove(0);
    assert_eq!(assembler.push(piece.clone()), Ok(None));
    assert_eq!(assembler.push(piece).unwrap_err().code(), "frame_out_of_place");
    let last = frames(Message::CallbackReply { callback: 9, body: Bytes::new() }).remove(0);
    assert_eq!(assembler.push(last).unwrap_err().code(), "frame_out_of_place");

    let mut assembler = Assembler::host(3 << 20);
    let begun = |callback| Frame {
        kind: FrameKind::CallbackOpen,
        stream: callback,
        payload: frames(open(1, 2 << 20)).remove(0).payload.slice(..OpenHead::LEN),
    };
    let most = u32::try_from(Assembler::MAX_PARTIAL_CALLBACKS).unwrap();
    assert!((1..=most).all(|callback| assembler.push(begun(callback)) == Ok(None)));
    assert_eq!(assembler.push(begun(most + 1)).unwrap_err().code(), "frame_out_of_place");
}

#[test]
fn an_error_in_the_middle_of_an_answer_to_a_callback_replaces_it() {
    let mut assembler = Assembler::worker(Assembler::DEFAULT_CAP);
    let reply = Message::CallbackReply { callback: 1, body: vec![0; 2 << 20].into() };
    assert_eq!(assembler.push(frames(reply).remove(0)), Ok(None));
    let error = Message::CallbackError { callback: 1, body: Bytes::from_static(b"e") };
    assert_eq!(assembler.push(frames(error.clone()).remove(0)), Ok(Some(error)));
    assert_eq!(assembler.held(), 0);
}

#[test]
fn an_error_in_the_middle_of_a_reply_replaces_it() {
    let mut assembler = Assembler::host(Assembler::DEFAULT_CAP);
    let reply = Message::Reply { stream: 1, body: vec![0; 2 << 20].into() };
    assert_eq!(assembler.push(frames(reply).remove(0)), Ok(None));
    let error = Message::Error { stream: 1, body: Bytes::from_static(b"e") };
    assert_eq!(assembler.push(frames(error.clone()).remove(0)), Ok(Some(error)));
    assert_eq!(assembler.held(), 0);
}

#[test]
fn what_a_frame_still_needs_is_known_from_its_head() {
    let mut bytes = BytesMut::new();
    Message::Reply { stream: 1, body: vec![7; 100].into() }.encode(&mut bytes);
    let whole = HEAD_LEN + 100;
    for len in 0..=whole {
        let known = if len < HEAD_LEN { 0 } else { whole - len };
        assert_eq!(Frame::missing(&bytes[..len]), known);
    }
    assert_eq!(Frame::missing(&[0xff; HEAD_LEN]), 0, "over the cap");
}

#[test]
fn a_single_frame_body_is_not_copied() {
    let message = Message::Reply { stream: 1, body: vec![7; 64 << 10].into() };
    let mut bytes = BytesMut::new();
    message.encode(&mut bytes);
    let range = bytes.as_ptr() as usize..bytes.as_ptr() as usize + bytes.len();
    let frame = Frame::decode(&mut bytes).unwrap().unwrap();
    let Ok(Some(Message::Reply { body, .. })) = Assembler::host(1 << 20).push(frame) else {
        panic!("a reply")
    };
    assert!(range.contains(&(body.as_ptr() as usize)));
}

fn hello() -> Hello {
    Hello {
        language: "python".into(),
        version: "0.1.0".into(),
        runtime: "cpython 3.11.7".into(),
        pid: 7,
        codec: "msgpack".into(),
        capabilities: vec![Hello::CANCEL.into()],
        capacity: 4,
        tools: vec![ToolInfo {
            name: "shout".into(),
            number: 3,
            signature: "(text: str) -> str".into(),
            doc: "Shouts.".into(),
            kind: ToolKind::AsyncGenerator,
            parameters: Value::from_iter([("type", Value::from("object"))]),
            result: Value::from_iter([("type", Value::from("string"))]),
        }],
        failure: Some(Failure::new(Kind::Tool, "import_failed", "no").with_hint("look")),
    }
}

#[test]
fn hello_round_trips() {
    let hello = hello();
    assert_eq!(Hello::decode(&hello.encode().unwrap()), Ok(hello.clone()));
    assert!(hello.can(Hello::CANCEL) && !hello.can(Hello::STARTED));
    assert_eq!((hello.tools[0].name.as_str(), hello.tools[0].number), ("shout", 3));
}

#[test]
fn a_hello_without_kinds_and_capacity_is_of_functions_one_at_a_time() {
    let bytes = hello().encode().unwrap();
    let Value::Dict(mut map) = Value::decode(&bytes).unwrap() else { panic!("a map") };
    map.retain(|(key, _)| key.as_str() != Some("capacity"));
    for (key, value) in &mut map {
        if let (Some("tools"), Value::List(tools)) = (key.as_str(), value) {
            let Value::Dict(tool) = &mut tools[0] else { panic!("a map") };
            tool.retain(|(key, _)| key.as_str() != Some("kind"));
        }
    }
    let plain = Hello::decode(&Value::Dict(map.clone()).encode().unwrap()).unwrap();
    assert_eq!((plain.capacity, plain.tools[0].kind), (1, ToolKind::Function));
    let mut named = map.clone();
    for (key, value) in &mut named {
        if let (Some("tools"), Value::List(tools)) = (key.as_str(), value) {
            let Value::Dict(tool) = &mut tools[0] else { panic!("a map") };
            tool.iter_mut().filter(|(key, _)| key.as_str() == Some("name")).for_each(
                |(_, name)| {
                    *name = "n".repeat(ToolInfo::MAX_NAME + 1).into();
                },
            );
        }
    }
    let endless = Hello::decode(&Value::Dict(named).encode().unwrap());
    assert_eq!(endless, Err(HelloError::Field("name")));
    map.push(("capacity".into(), 0.into()));
    let none = Hello::decode(&Value::Dict(map).encode().unwrap());
    assert_eq!(none, Err(HelloError::Field("capacity")));
}

#[test]
fn another_version_is_told_apart_from_a_broken_hello() {
    let later = Value::from_iter([("protocol", 2)]).encode().unwrap();
    let error = Hello::decode(&later).unwrap_err();
    assert_eq!(error, HelloError::Version { theirs: 2 });
    assert_eq!((error.kind(), error.code()), (Kind::Environment, "protocol_mismatch"));
    let lacking = Value::from_iter([("protocol", 1)]).encode().unwrap();
    assert_eq!(Hello::decode(&lacking), Err(HelloError::Field("language")));
}

#[test]
fn a_failure_keeps_its_causes_and_places() {
    let mut failure = Failure::new(Kind::Tool, "tool_raised", "outer");
    failure.type_name = "KeyError".into();
    failure.traceback = Box::new([TraceFrame {
        file: "/t.py".into(),
        line: 3,
        function: "f".into(),
        source: "x()".into(),
    }]);
    let inner = Failure::new(Kind::Tool, "tool_raised", "inner");
    let mut related = Related { cause: Some(inner.clone()), ..Related::default() };
    failure.related = Some(Box::new(related.clone()));
    assert_eq!(Failure::decode(&failure.encode()), failure);
    related.members = vec![failure.clone(), Failure::new(Kind::Cancelled, "cancelled", "")];
    (related.implicit, related.left_out) = (true, 3);
    related.notes = vec!["a note".to_owned()];
    failure.related = Some(Box::new(related));
    assert_eq!(Failure::decode(&failure.encode()), failure);
    assert_eq!((failure.cause(), failure.members().len()), (Some(&inner), 2));
    assert_eq!(failure.to_string(), "KeyError: outer\na note");
    assert_eq!(std::error::Error::source(&failure).unwrap().to_string(), "inner");
}

#[test]
fn a_huge_failure_is_cut_to_one_frame() {
    let failure = Failure::new(Kind::Tool, "tool_raised", "é".repeat(2 << 20));
    let bytes = failure.encode();
    assert!(bytes.len() <= MAX_CHUNK);
    assert!(Failure::decode(&bytes).message.starts_with("éé"));
}
