//! Values through a real worker and back: equal, of the same type, bit by bit.
//!
//! `SNAKEHOUSE_VALUES` chooses how many random values go each way with each codec (default 100,000;
//! soak 1,000,000), `SNAKEHOUSE_TEST_SEED` with which seed. The C codec takes part if
//! `SNAKEHOUSE_MSGPACK_PYTHON` names an interpreter that has msgpack; else the test says that it
//! does not.

use std::path::PathBuf;

use snakehouse_base::Chance;
use snakehouse_pool::{
    Args, Array, Arrow, ArrowKind, CallError, CallOptions, Date, DateTime, Failure, Interpreter,
    Order, Pool, Time, TimeDelta, UtcOffset, Value, WorkerSpec,
};

use crate::support::{BOUND, Rig, call, python, run, soon, tools, workers};

/// Values of one call.
const BATCH: usize = 500;

fn number(variable: &str, default: u64) -> u64 {
    let text = std::env::var(variable).ok();
    text.map_or(default, |text| text.parse().expect("the variable must be a number"))
}

/// Chance with the few questions that a generator asks.
struct Dice(Chance);

impl Dice {
    fn below(&self, n: u64) -> u64 {
        self.0.next_u64() % n
    }

    fn small<T: TryFrom<u64, Error: std::fmt::Debug>>(&self, n: u64) -> T {
        T::try_from(self.below(n)).unwrap()
    }

    fn coin(&self) -> bool {
        self.below(2) == 0
    }

    fn bytes(&self, most: u64) -> Vec<u8> {
        (0..self.below(most)).map(|_| self.small(256)).collect()
    }

    fn text(&self, most: u64) -> String {
        const CHARS: [char; 12] =
            ['a', 'Z', ' ', '\0', '"', '\n', 'é', '߿', '€', '\u{ffff}', '🐍', '\u{10ffff}'];
        (0..self.below(most)).map(|_| CHARS[self.small::<usize>(12)]).collect()
    }

    fn float(&self) -> f64 {
        const EDGES: [u64; 8] = [
            0,
            1,
            1 << 63,
            0x3ff0_0000_0000_0000,
            0x7ff0_0000_0000_0000,
            0x7ff0_0000_0000_0001,
            0x7ff8_dead_beef_0001,
            0xffff_ffff_ffff_ffff,
        ];
        let bits = if self.coin() { self.0.next_u64() } else { EDGES[self.small::<usize>(8)] };
        f64::from_bits(bits)
    }

    fn int(&self) -> Value {
        // One bit and its neighbours, up to 512 bits: every border of every form is among them.
        let one = num_bigint::BigInt::from(1) << self.below(512);
        let n: num_bigint::BigInt = one + self.below(3) - 1;
        if self.coin() { n.into() } else { (-n).into() }
    }

    fn clock(&self) -> Time {
        let time = Time::new(self.small(24), self.small(60), self.small(60), self.small(1_000_000));
        let time = time.unwrap().with_fold(self.coin());
        const EDGES: [i64; 4] = [0, 19_800_000_000, -86_399_999_999, 86_399_999_999];
        match EDGES.get(self.small::<usize>(6)) {
            Some(micros) => time.with_offset(UtcOffset::from_micros(*micros).unwrap()),
            None => time,
        }
    }

    fn day(&self) -> Date {
        let year = [1, 1900, 2000, 2024, 9999][self.small::<usize>(5)];
        let day = Date::new(year, 1 + self.small::<u8>(12), 1 + self.small::<u8>(31));
        day.or_else(|| Date::new(year, 2, 28)).unwrap()
    }

    fn buffer(&self) -> Value {
        if self.below(4) == 0 {
            let kind = if self.coin() { ArrowKind::Table } else { ArrowKind::RecordBatch };
            return Arrow { kind, stream: self.bytes(40).into() }.into();
        }
        const KINDS: [(&str, u64); 6] =
            [("|b1", 1), ("<f4", 4), (">i8", 8), ("<c16", 16), ("<U2", 8), ("<M8[25s]", 8)];
        let (dtype, size) = KINDS[self.small::<usize>(6)];
        let shape: Vec<u64> = (0..self.below(4)).map(|_| self.below(4)).collect();
        let len = shape.iter().product::<u64>() * size;
        let data: Vec<u8> = (0..len).map(|_| self.small(256)).collect();
        let order = if self.coin() { Order::C } else { Order::F };
        Array::new(dtype, &shape, order, data).unwrap().into()
    }

    /// A value that can be a key.
    fn key(&self, depth: u32) -> Value {
        match self.below(if depth < 2 { 12 } else { 10 }) {
            0 => [Value::None, true.into(), false.into()][self.small::<usize>(3)].clone(),
            1 | 2 => self.int(),
            3 => Value::Float(self.float()),
            4 => Value::Bytes(self.bytes(20).into()),
            5 => Value::Complex(self.float(), self.float()),
            6 => self.day().into(),
            7 => self.clock().into(),
            8 => DateTime { date: self.day(), time: self.clock() }.into(),
            9 => self.text(12).into(),
            10 => Value::Tuple((0..self.below(4)).map(|_| self.key(depth + 1)).collect()),
            _ => Value::FrozenSet(self.keys(depth + 1)),
        }
    }

    /// Keys that Python finds different.
    fn keys(&self, depth: u32) -> Vec<Value> {
        let mut keys = Vec::new();
        for _ in 0..self.below(12 >> depth.min(3)) {
            keys.push(self.key(depth));
            if Value::FrozenSet(keys.clone()).encode().is_err() {
                keys.pop();
            }
        }
        keys
    }

    fn value(&self, depth: u32) -> Value {
        let some = || (0..self.below(16 >> depth)).map(|_| self.value(depth + 1));
        match self.below(if depth < 4 { 20 } else { 14 }) {
            0..=6 => self.key(2),
            7 => self.text(300).into(),
            8 => Value::Bytes(self.bytes(300).into()),
            9 => Value::ByteArray(self.bytes(300).into()),
            10 => {
                let micros = i128::from(self.0.next_u64()) * 9 - (1 << 66);
                TimeDelta::from_micros(micros).map_or(Value::None, Value::from)
            }
            11 => self.buffer(),
            12 | 13 => self.int(),
            14 | 15 => Value::List(some().collect()),
            16 => Value::Tuple(some().collect()),
            17 => Value::Set(self.keys(depth)),
            18 => Value::FrozenSet(self.keys(depth)),
            _ => {
                let keys = self.keys(0).into_iter();
                Value::Dict(keys.map(|key| (key, self.value(depth + 1))).collect())
            }
        }
    }
}

/// So many values of every kind.
pub(crate) fn random_values(seed: u64, count: usize) -> Vec<Value> {
    let dice = Dice(Chance::seeded(seed));
    (0..count).map(|_| dice.value(0)).collect()
}

/// Sends values there and back, and has the worker do the same with its own.
async fn exchange(pool: &Pool, count: u64, seed: u64) {
    let dice = Dice(Chance::seeded(seed));
    let options = CallOptions::within(600 * BOUND);
    let stream = pool.stream("echo_items", Args::none(), options).await.unwrap();
    for batch in 0..count.div_ceil(BATCH as u64) {
        let sent = Value::List((0..BATCH).map(|_| dice.value(0)).collect());
        // By turns as an argument and a result, and as items of a stream.
        let back = match batch % 2 {
            0 => call(pool, "echo", Args::none().arg(sent.clone())).await.unwrap(),
            _ => {
                stream.send(sent.clone()).await.unwrap();
                stream.next().await.unwrap().unwrap()
            }
        };
        if back != sent {
            let (Value::List(sent), Value::List(back)) = (sent, back) else { panic!("no list") };
            let (was, is) = sent.iter().zip(&back).find(|(a, b)| a != b).unwrap();
            panic!("seed {seed}, batch {batch}: {was:?} came back as {is:?}");
        }
        let which = i64::try_from(batch).unwrap();
        let own = Args::none().arg(which).arg(i64::try_from(BATCH / 10).unwrap());
        let made = call(pool, "make_values", own.clone()).await.unwrap();
        let wrong = call(pool, "check_values", own.arg(made)).await.unwrap();
        assert_eq!(wrong, Value::None, "seed {seed}, batch {batch}");
    }
    stream.finish_sending();
    assert!(stream.next().await.is_none());
}

fn through(python: Interpreter, codec: &str) {
    let count = number("SNAKEHOUSE_VALUES", 100_000);
    let seed = number("SNAKEHOUSE_TEST_SEED", 1);
    let codec = codec.to_owned();
    // Each exchange has its own bound; all of them together take as long as they are many.
    snakehouse_supervise::run(async move {
        let rig = Rig::new().await;
        let spec = WorkerSpec::python("values", python)
            .module(tools().to_str().unwrap())
            .module(tools().with_file_name("value_tools.py").to_str().unwrap());
        let pool = rig.pool_of(spec, workers(2)).await;
        let used = call(&pool, "codec", Args::none()).await.unwrap();
        assert_eq!(used.as_str(), Some(codec.as_str()));
        exchange(&pool, count, seed).await;
        rig.end().await;
    });
}

#[test]
fn random_values_come_back_equal_through_the_pure_codec() {
    through(python(), "python");
}

#[test]
fn random_values_come_back_equal_through_the_c_codec() {
    let Some(path) = std::env::var_os("SNAKEHOUSE_MSGPACK_PYTHON").map(PathBuf::from) else {
        println!("not run: SNAKEHOUSE_MSGPACK_PYTHON names no interpreter that has msgpack");
        return;
    };
    through(Interpreter::find(Some(&path)).unwrap(), "msgpack");
}

#[test]
fn an_exception_arrives_with_its_causes_notes_and_members() {
    run(async {
        let rig = Rig::new().await;
        let module = tools().with_file_name("value_tools.py");
        let spec = WorkerSpec::python("values", python()).module(module.to_str().unwrap());
        let pool = rig.pool_of(spec, workers(1)).await;
        let error = call(&pool, "raise_much", Args::none()).await.unwrap_err();
        let CallError::Tool { failure: outer, .. } = error else { panic!("{error:?}") };
        assert_eq!(&*outer.type_name, "ExceptionGroup");
        assert_eq!(outer.message, "outer (2 sub-exceptions)");
        let place = outer.traceback.last().unwrap();
        assert_eq!(place.function, "raise_much");
        assert!(place.source.starts_with("raise ExceptionGroup"), "{place:?}");
        let middle = outer.cause().unwrap();
        let implicit = |failure: &Failure| failure.related.as_ref().unwrap().implicit;
        assert_eq!((&*middle.type_name, implicit(&outer)), ("KeyError", true));
        let inner = middle.cause().unwrap();
        assert_eq!((&*inner.type_name, implicit(middle)), ("ValueError", false));
        assert_eq!(inner.to_string(), "ValueError: inner\nnoted");
        assert_eq!(inner.traceback.last().unwrap().function, "_inner");
        let names: Vec<_> = outer.members().iter().map(|member| &*member.type_name).collect();
        assert_eq!(names, ["TypeError", "KeyError"]);
        assert_eq!(&outer.members()[1], middle);
        // The same through a stream, whether it is the function or a generator that raises.
        for tool in ["raise_much", "raise_in_stream"] {
            let stream = pool.stream(tool, Args::none(), soon()).await.unwrap();
            let error = stream.next().await.unwrap().unwrap_err();
            let CallError::Tool { failure, .. } = error else { panic!("{error:?}") };
            let inner = |failure: &Failure| {
                let frames = failure.traceback.iter().rev().take(1).cloned().collect::<Vec<_>>();
                (
                    failure.type_name.clone(),
                    failure.message.clone(),
                    frames,
                    failure.related.clone(),
                )
            };
            assert_eq!(inner(&failure), inner(&outer), "{tool}");
        }
        rig.end().await;
    });
}
