//! A large push streams: it costs disk, not memory.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use keyhatch_tests::{SshServer, SshVersion, World};

/// What broker and inspector together may hold in anonymous memory, in KiB.
const MOST: u64 = 64 * 1024;

/// Anonymous memory of a process, in KiB; none for one that is gone. proc_pid_status(5).
fn anonymous(pid: i32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}

/// The broker, the inspector, and the git that the inspector runs.
fn family(world: &World) -> Vec<i32> {
    let broker = world.broker();
    let parents: BTreeMap<i32, i32> = std::fs::read_dir("/proc")
        .expect("/proc can be read")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid: i32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect();
    let descends = |mut pid: i32| {
        while let Some(parent) = parents.get(&pid) {
            if pid == broker {
                return true;
            }
            pid = *parent;
        }
        false
    };
    // ssh is upstream's transport, and the same program as without keyhatch.
    let is_ssh = |pid: &i32| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "ssh")
    };
    parents.keys().copied().filter(|pid| descends(*pid) && !is_ssh(pid)).collect()
}

#[test]
fn a_push_of_100_mb_streams_through_broker_and_inspector() {
    let world = World::new();
    world.allow_policy();
    let server = SshServer::start(&world, SshVersion::V2);
    let upstream = world.upstream("r.git", "sha1");
    let project = world.project("p", &server.url(&upstream));
    let script = "for i in $(seq 100); do head -c 1M /dev/urandom > big$i; done; git add . && git commit -qm big; \
                  touch ready; while ! test -e go; do sleep 0.02; done; git push -q origin main";
    let push = world.start(&project, "allow", script);
    world.wait_until("the repository is there", || project.join("ready").exists());
    let (over, most) = (AtomicBool::new(false), AtomicBool::new(false));
    let (pushed, peak) = std::thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let (mut peak, mut members) = (0u64, 0);
            while !over.load(Ordering::Relaxed) {
                let family = family(&world);
                members = members.max(family.len());
                peak = peak.max(family.iter().filter_map(|pid| anonymous(*pid)).sum());
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            most.store(members > 1, Ordering::Relaxed);
            peak
        });
        world.write("p/go", "");
        let pushed = push.finish();
        over.store(true, Ordering::Relaxed);
        (pushed, sampler.join().expect("the sampler ends"))
    });
    pushed.ok();
    assert!(most.load(Ordering::Relaxed), "the inspector was seen");
    assert!(peak < MOST, "{peak} KiB of anonymous memory");
    assert_eq!(world.tip(&upstream, "main"), world.tip(&project, "main"));
}
