//! Large values without copies: shared by reference with any number of calls, and returned in
//! memory that the host reads directly.
//!
//! ```sh
//! cargo run -p snakehouse-pool --example large
//! ```

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;

use snakehouse_pool::{
    Args, CallOptions, Host, PoolConfig, SharedBuffer, Value, WorkerSpec, script,
};

const TOOLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/tools/large.py");

const SIZE: usize = 8 << 20;

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    script(large)
}

async fn large(host: &Host) -> Result<(), Box<dyn Error>> {
    let spec = WorkerSpec::python("large", host.python()).module(TOOLS);
    let pool = host.pool(spec, PoolConfig::default()).await?;

    // Copied once, into sealed memory. Calls after that carry its name only; numpy and Arrow see it
    // as an array or a table with `as_array` and `as_arrow`.
    let shared = SharedBuffer::new(&vec![1; SIZE])?;
    for _ in 0..3 {
        let args = Args::none().arg(shared.as_bytes());
        let sum = pool.call("checksum", args, CallOptions::default()).await?;
        println!("checksum {sum:?}");
        assert_eq!(sum.as_i64(), Some((SIZE / 65536) as i64));
    }

    let args = Args::none().arg(i64::try_from(SIZE)?);
    let ramp = pool.call("ramp", args, CallOptions::default()).await?;
    let Value::Bytes(bytes) = ramp else { return Err("it returns bytes".into()) };
    println!("{} bytes, the last is {:?}", bytes.len(), bytes.last());
    assert_eq!((bytes.len(), bytes.last()), (SIZE, Some(&255)));
    Ok(())
}
