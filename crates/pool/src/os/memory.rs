//! How much memory a worker and what it started hold.
//!
//! Resident memory is cheap to read and counts pages that processes share once for each of them;
//! what is proportional counts them in parts, and the kernel walks every page for it. So the cheap
//! number decides while it is below the limit, and only above it the other one is asked.

use std::fs;

use snakehouse_base::ByteSize;

use super::procfs::resident_bytes;

/// More processes than a worker sensibly has; beyond it, their parents are what counts.
const MOST_PROCESSES: usize = 256;

/// What the process group that `leader` leads holds; below the limit, with shared pages counted for each
/// process. What is gone holds nothing. Blocks for some ten microseconds a process, and for a
/// millisecond per 100 MiB from the limit on.
pub(crate) fn group_bytes(leader: u32, limit: ByteSize) -> ByteSize {
    let group = group(leader);
    let resident: u64 = group.iter().filter_map(|pid| resident_bytes(*pid)).map(|b| b.0).sum();
    if resident < limit.0 {
        return ByteSize(resident);
    }
    let proportional = |pid: &u32| proportional_bytes(*pid).or_else(|| resident_bytes(*pid));
    ByteSize(group.iter().filter_map(proportional).map(|bytes| bytes.0).sum())
}

/// The processes of the group that `leader` leads: those of its descendants that are in it. One that
/// a tool put into a group of its own is not the worker's memory.
fn group(leader: u32) -> Vec<u32> {
    let mut found = vec![leader];
    let mut looked = 0;
    while looked < found.len() && found.len() < MOST_PROCESSES {
        let children = children(found[looked]);
        found.extend(children.into_iter().filter(|pid| process_group(*pid) == Some(leader)));
        looked += 1;
    }
    found
}

/// The kernel's list of a process's children, of all its threads.
fn children(pid: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists = threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| {
            list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()
        })
        .collect()
}

fn process_group(pid: u32) -> Option<u32> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let after = stat.iter().rposition(|&byte| byte == b')')? + 2;
    let fields = std::str::from_utf8(stat.get(after..)?).ok()?;
    fields.split_ascii_whitespace().nth(2)?.parse().ok()
}

fn proportional_bytes(pid: u32) -> Option<ByteSize> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kib: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    Some(ByteSize(kib * 1024))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_holds_what_it_holds_and_no_more() {
        let own = std::process::id();
        let resident = resident_bytes(own).unwrap();
        assert!(proportional_bytes(own).unwrap() <= ByteSize(resident.0 + (64 << 20)));
        // This process need not lead its group; what counts here is its own memory.
        assert!(group_bytes(own, ByteSize(1 << 20)) >= ByteSize(1 << 20));
        assert!(group_bytes(own, ByteSize(1 << 50)) < ByteSize(1 << 50));
        assert_eq!(group_bytes(u32::MAX, ByteSize(1)), ByteSize(0), "what is not there");
    }

    #[test]
    fn a_child_is_in_its_parent_s_group_unless_it_left() {
        use std::os::unix::process::CommandExt;
        let spawn = |group: i32| {
            let mut command = Command::new("sleep");
            command.arg("600").stdin(Stdio::null()).process_group(group);
            command.spawn().unwrap()
        };
        let mut leader = spawn(0);
        let mut member = spawn(leader.id().try_into().unwrap());
        assert_eq!(process_group(member.id()), Some(leader.id()));
        assert_eq!(process_group(leader.id()), Some(leader.id()));
        assert!(children(std::process::id()).contains(&leader.id()));
        // The member is no descendant of the leader, so it is not its memory.
        assert_eq!(group(leader.id()), [leader.id()]);
        for child in [&mut leader, &mut member] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}
