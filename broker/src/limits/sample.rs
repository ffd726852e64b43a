//! What the processes of a sandbox use now, read from the host's `/proc`.
//!
//! The tree starts at the runner: everything inside is below it, because orphans go to init and init is below it too.
//! What the processes say of themselves is the kernel's word, not theirs; a process that ended while it was read counts
//! as nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The use at one moment.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Sample {
    /// Bytes of private memory, and of files that are memory.
    pub(super) memory: u64,
    /// Processes and threads.
    pub(super) tasks: u64,
    /// Processor time so far, of the ended ones too.
    pub(super) cpu: Duration,
    /// Whether a file system that is memory is full.
    pub(super) disk_full: bool,
}

/// Ticks a second in `/proc/PID/stat`: Linux has had no other number for user space.
const TICKS: u64 = 100;
/// File systems inside that are memory, beside the home.
const IN_MEMORY: &[&str] = &["/tmp", "/dev/shm"];
/// `TMPFS_MAGIC`, `statfs(2)`.
const TMPFS: i64 = 0x0102_1994;

/// Looks at everything below the runner. The runner itself and init are ours and do not count.
pub(super) fn take(runner: u32, home: &Path) -> Sample {
    let mut sample = Sample::default();
    let init = children(runner);
    init.iter().for_each(|pid| add(&mut sample, *pid, false));
    let mut saw_files = false;
    for pid in init.into_iter().flat_map(below) {
        add(&mut sample, pid, true);
        saw_files = saw_files || files_in_memory(&mut sample, pid, home);
    }
    sample
}

/// Every process below another.
pub(super) fn below(pid: u32) -> Vec<u32> {
    let mut found = children(pid);
    let mut at = 0;
    while let Some(pid) = found.get(at).copied() {
        found.extend(children(pid));
        at += 1;
    }
    found
}

fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

fn add(sample: &mut Sample, pid: u32, counts: bool) {
    if let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat"))
        // The name in brackets can hold anything: what follows the last bracket is numbers, from field 3 on.
        && let Some((_, rest)) = stat.rsplit_once(')')
    {
        let fields: Vec<u64> =
            rest.split_whitespace().skip(1).map(|field| field.parse().unwrap_or(0)).collect();
        let field = |number: usize| fields.get(number - 4).copied().unwrap_or(0);
        let ticks = field(14) + field(15) + field(16) + field(17);
        sample.cpu += Duration::from_millis(ticks * 1000 / TICKS);
        if counts {
            sample.tasks += field(20);
        }
    }
    if counts && let Ok(statm) = fs::read_to_string(format!("/proc/{pid}/statm")) {
        let mut pages = statm.split_whitespace().skip(1).filter_map(|field| field.parse::<u64>().ok());
        let (resident, shared) = (pages.next().unwrap_or(0), pages.next().unwrap_or(0));
        // Shared pages are files, which the kernel can drop, or are counted as files in memory below.
        sample.memory += resident.saturating_sub(shared) * rustix::param::page_size() as u64;
    }
}

/// Adds what lies in file systems that are memory, seen through one process inside. False where it cannot be seen.
fn files_in_memory(sample: &mut Sample, pid: u32, home: &Path) -> bool {
    let root = PathBuf::from(format!("/proc/{pid}/root"));
    let home = home.strip_prefix("/").unwrap_or(home);
    let places = IN_MEMORY.iter().map(|path| root.join(&path[1..])).chain([root.join(home)]);
    let mut seen = false;
    for place in places {
        let Ok(stat) = rustix::fs::statfs(&place) else { continue };
        seen = true;
        if stat.f_type == TMPFS {
            let block = u64::try_from(stat.f_bsize).unwrap_or(0);
            sample.memory += stat.f_blocks.saturating_sub(stat.f_bfree) * block;
            sample.disk_full |= stat.f_bavail == 0;
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_childs_child_is_found_with_its_threads_and_memory() {
        // The shell stands for init: it is ours and does not count.
        let mut shell = std::process::Command::new("sh")
            .args(["-c", "sh -c 'read x' & read y"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("a shell");
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        let own = std::process::id();
        let sample = loop {
            let sample = take(own, Path::new("/nonexistent"));
            // A child that has not executed its program yet has no memory of its own.
            if (sample.tasks > 0 && sample.memory > 0) || std::time::Instant::now() > deadline {
                break sample;
            }
        };
        assert!(sample.tasks >= 1 && sample.memory > 0, "{sample:?}");
        drop(shell.stdin.take());
        shell.wait().expect("it ends");
    }
}
