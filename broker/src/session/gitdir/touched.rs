//! Whether anything in a project was touched while a session ran: where nothing was, the end need not ask each of
//! 300,000 files.
//!
//! Comes in: what the kernel tells of watched directories, from before the command starts until nothing of it runs. Goes
//! out: `Nothing` where it is certain. Everything that could be otherwise is `Perhaps`, and then the whole project is
//! looked at: a directory that is not watched, a queue that ran over, a name by which a file could have been reached that is
//! not in the project.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use keyhatch_policies::rules::Mount;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::ReadFlags;
use rustix::fs::statfs;

use super::nested::{self, Found};
use super::placeholder::Placeholder;
use super::watches::{Fate, MAX_DIRECTORIES, Watches};

/// File systems that nobody changes from another machine, and whose times of change are the kernel's: ext2 to ext4, XFS,
/// btrfs, tmpfs, overlayfs, F2FS, bcachefs, ZFS. statfs(2)
const LOCAL: &[u32] =
    &[0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630, 0xf2f5_2010, 0xca45_1a4e, 0x2fc1_2fc1];
/// Most files that were opened and are asked for their time of change one by one.
const MAX_OPENED: usize = 4096;
/// What becomes of a watch itself.
const OF_ITSELF: ReadFlags = ReadFlags::DELETE_SELF
    .union(ReadFlags::MOVE_SELF)
    .union(ReadFlags::UNMOUNT)
    .union(ReadFlags::QUEUE_OVERFLOW)
    .union(ReadFlags::IGNORED);

/// What happened in a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Touched {
    /// Nothing: no file in it was changed, and no name.
    Nothing,
    /// It cannot be excluded that something was.
    Perhaps,
}

/// A project that is watched while a session runs.
#[derive(Debug)]
pub struct Watch {
    /// What was there at the start.
    found: Found,
    /// None where the kernel gave none.
    watches: Option<Watches>,
    /// The table of mounts, as it was; none where there is a doubt already.
    certain: Option<File>,
    /// Files that were opened, by watch and name: each may have been changed by whoever opened it.
    opened: HashSet<(i32, OsString)>,
}

impl Watch {
    /// Looks for the repositories inside a project, and where `is_told` watches every directory that is looked at.
    #[must_use]
    pub fn start(project: &Path, cache: &Path, is_told: bool) -> Self {
        // Before the first watch: what is mounted from here on is noticed.
        let mounts = File::open("/proc/self/mountinfo").ok();
        let mut watches = is_told.then(|| Watches::of(project)).flatten();
        let found = nested::at_start(project, cache, watches.as_mut());
        if let Some(watches) = &mut watches {
            watches.forget_others();
        }
        let is_whole = found.whole && watches.as_ref().is_some_and(Watches::is_whole);
        let certain = mounts.filter(|_| is_whole && is_local(project));
        Self { found, watches, certain, opened: HashSet::new() }
    }

    /// The repositories inside the project, as far as a short look finds them.
    #[must_use]
    pub fn found(&self) -> &Found {
        &self.found
    }

    /// Takes note of what was made in the project for the session: nothing of it runs yet. What is reached inside must be
    /// watched, or lie below a mount of the session's.
    pub(in crate::session) fn settle(&mut self, placeholders: &[Placeholder], mounts: &[Mount]) {
        let settled =
            self.certain.is_some() && self.is_covered(mounts) && self.is_calm(placeholders).unwrap_or(false);
        if !settled {
            self.certain = None;
        }
    }

    /// Whether no git directory of the host's can be reached: none is watched.
    fn is_covered(&self, mounts: &[Mount]) -> bool {
        let Some(watches) = &self.watches else { return false };
        self.found.marked().all(|path| {
            let itself = watches.project().join(path);
            let git = itself.join(".git");
            let over = |mount: &Mount| mount.target == itself || mount.target == git;
            // A mount of a directory over itself keeps it in place, and hides nothing.
            mounts.iter().any(|mount| over(mount) && mount.source != mount.target)
        })
    }

    /// Whether no directory came or went since it was watched, but those that were made to mount on: these are watched too.
    fn is_calm(&mut self, placeholders: &[Placeholder]) -> io::Result<bool> {
        let Some(watches) = &mut self.watches else { return Ok(false) };
        let project = watches.project().to_owned();
        let (mut calm, mut appeared) = (true, HashSet::new());
        watches.read(|event| match watches.directory(event.watch) {
            Some(directory) if event.kind == ReadFlags::CREATE | ReadFlags::ISDIR => {
                appeared.insert(project.join(directory).join(event.name));
            }
            directory => calm &= changes_no_directory(event.kind, directory.is_some()),
        })?;
        let made = |path: &Path| placeholders.iter().any(|placeholder| placeholder.path == path);
        calm &= appeared.iter().all(|path| made(path));
        let mut added = HashSet::new();
        // Parents come first, one as often as something in it was made. What a mount of the session's covers is not reached.
        for directory in placeholders.iter().filter(|made| made.directory && !made.path.ends_with(".git")) {
            let path = &directory.path;
            let below_new = path.parent().is_some_and(|parent| added.contains(parent));
            if let Ok(place) = path.strip_prefix(&project)
                && (below_new || appeared.contains(path))
                && added.insert(path.as_path())
            {
                watches.add(place);
                // From before it was watched, nothing may be in it but what was made too.
                for entry in fs::read_dir(path)? {
                    calm &= made(&entry?.path());
                }
            }
        }
        Ok(calm && watches.is_whole())
    }

    /// Takes what happened out of the kernel's queue. Once there is a doubt, nothing more needs to be known.
    pub(super) fn look(&mut self) {
        let (Some(watches), Some(_)) = (&self.watches, &self.certain) else { return };
        let (mut certain, opened) = (true, &mut self.opened);
        let read = watches.read(|event| {
            if event.kind.contains(ReadFlags::OPEN | ReadFlags::ISDIR) {
                // Whoever opens a directory sees names.
            } else if event.kind == ReadFlags::OPEN && opened.len() < MAX_OPENED {
                opened.insert((event.watch, event.name));
            } else {
                certain = false;
            }
        });
        if read.is_err() || !certain {
            self.certain = None;
        }
    }

    /// What happened in the project since `opened`, in seconds since the epoch. Asked when nothing of the session runs any
    /// more. `enclosed` is whether nothing of the host could be written inside but its mounts.
    pub(super) fn touched(&mut self, opened: u64, enclosed: bool) -> Touched {
        self.look();
        let (Some(watches), Some(mounts)) = (&self.watches, &self.certain) else { return Touched::Perhaps };
        let since = i64::try_from(opened).unwrap_or(0);
        // A file that was opened by another name of the project has the same time of change.
        let is_as_before = |(watch, name): &(i32, OsString)| {
            let path =
                watches.directory(*watch).map(|directory| watches.project().join(directory).join(name));
            let metadata = path.and_then(|path| fs::symlink_metadata(path).ok());
            metadata.is_some_and(|metadata| metadata.ctime() < since)
        };
        match enclosed && is_unchanged(mounts) && self.opened.iter().all(is_as_before) {
            true => Touched::Nothing,
            false => Touched::Perhaps,
        }
    }

    /// Does what nobody waits for: the directories of a project where nothing happened are remembered, and watches that took
    /// long to make are kept.
    pub(super) fn rest(self, touched: Touched, cache: &Path) {
        let Some(watches) = self.watches else { return };
        if touched == Touched::Nothing {
            self.found.remember(watches.project(), cache);
        }
        match watches.fate() {
            Fate::Drop => {}
            Fate::Keep => watches.keep(),
            Fate::Complete if self.found.directories() > MAX_DIRECTORIES => {}
            Fate::Complete => {
                let mut watches = watches.anew();
                let project = watches.project().to_owned();
                let found = nested::behind(&project, cache, Some(&mut watches));
                watches.forget_others();
                if found.whole && watches.is_whole() {
                    watches.keep();
                }
            }
        }
    }
}

/// Whether an event from before the command leaves what is watched complete. A watch that was given back says so.
fn changes_no_directory(kind: ReadFlags, is_watched: bool) -> bool {
    match kind.intersects(OF_ITSELF) {
        true => kind == ReadFlags::IGNORED && !is_watched,
        false => !kind.contains(ReadFlags::ISDIR) || kind.contains(ReadFlags::OPEN),
    }
}

fn is_local(project: &Path) -> bool {
    let kind = statfs(project).ok().and_then(|told| u32::try_from(told.f_type).ok());
    kind.is_some_and(|kind| LOCAL.contains(&kind))
}

/// Whether nothing was mounted or unmounted since the table was opened. proc(5), `/proc/PID/mounts`
fn is_unchanged(mounts: &File) -> bool {
    let mut asked = [PollFd::new(mounts, PollFlags::PRI)];
    poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|changed| changed == 0)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::fs::OpenOptionsExt;
    use std::path::PathBuf;
    use std::process::{Child, Command, Stdio};
    use std::thread;
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use keyhatch_protocol::SessionId;
    use rustix::fs::{AtFlags, CWD, OFlags, Timespec, Timestamps, UTIME_NOW, linkat, utimensat};

    use super::super::placeholder;
    use super::*;

    /// A time that no file of a test was changed after.
    const LATER: u64 = 1 << 40;

    struct Place {
        temp: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Self {
            let temp = tempfile::tempdir().expect("a directory");
            fs::create_dir_all(temp.path().join("p/d/deep/deeper")).expect("a directory");
            for file in ["Makefile", "d/Makefile", "d/deep/deeper/Makefile"] {
                fs::write(temp.path().join("p").join(file), "all:\n").expect("a file");
            }
            Self { temp }
        }

        fn project(&self) -> PathBuf {
            self.temp.path().join("p")
        }

        /// A busy machine may have no time to look at all of it.
        fn start(&self) -> Watch {
            let start = || Watch::start(&self.project(), &self.temp.path().join("cache"), true);
            (0..100).map(|_| start()).find(|watch| watch.certain.is_some()).expect("all of it is watched")
        }

        fn watch(&self) -> Watch {
            let mut watch = self.start();
            watch.settle(&[], &[]);
            watch
        }
    }

    fn python(project: &Path, script: &str) -> Child {
        let mut command = Command::new("python3");
        command.current_dir(project).args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.spawn().expect("python3 is installed")
    }

    #[test]
    fn whatever_is_done_to_a_project_is_told() {
        type Act = Box<dyn Fn(&Path)>;
        let shell = |script: &'static str| -> Act {
            Box::new(move |project| {
                let status = Command::new("sh").current_dir(project).args(["-ec", script]).status();
                assert!(status.expect("sh runs").success(), "{script}");
            })
        };
        let acts: Vec<(&str, Act)> = vec![
            ("a write", shell("echo x > Makefile")),
            ("an append in a deep directory", shell("echo x >> d/deep/deeper/Makefile")),
            (
                "a cut without opening",
                Box::new(|project| {
                    let cut = python(project, "import os; os.truncate('d/Makefile', 1)").wait();
                    assert!(cut.expect("it runs").success());
                }),
            ),
            ("another mode", shell("chmod +x d/Makefile")),
            ("another mode of a directory", shell("chmod 700 d/deep")),
            (
                "another time",
                Box::new(|project| {
                    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
                    let times = Timestamps { last_access: now, last_modification: now };
                    utimensat(CWD, project.join("Makefile"), &times, AtFlags::empty()).expect("sets it");
                }),
            ),
            ("a second name", shell("ln Makefile d/deep/other; echo x > d/deep/other; rm d/deep/other")),
            ("a file over another", shell("echo x > ../new; mv ../new Makefile")),
            ("a directory that moves", shell("mv d/deep d/moved")),
            ("a directory that goes", shell("mv d/deep/deeper ..")),
            ("a file in a new directory", shell("mkdir d/new; echo x > d/new/Makefile")),
            ("a file that goes", shell("rm Makefile")),
            ("a link", shell("ln -s /etc/passwd d/out")),
            ("a pipe", shell("mkfifo d/pipe")),
            ("the project elsewhere", shell("mv ../p ../q; mkdir ../p; echo x > ../p/Makefile")),
            (
                "a file without a name that gets one",
                Box::new(|project| {
                    let mut options = fs::OpenOptions::new();
                    let flags = i32::try_from(OFlags::TMPFILE.bits()).expect("flags");
                    let file =
                        options.write(true).custom_flags(flags).open(project.join("d")).expect("opens");
                    let opened = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
                    linkat(CWD, opened, CWD, project.join("d/new"), AtFlags::SYMLINK_FOLLOW).expect("links");
                }),
            ),
        ];
        let missed = acts.iter().filter_map(|(what, act)| {
            let place = Place::new();
            let mut watch = place.watch();
            assert!(watch.certain.is_some(), "{what}: there is a doubt before");
            act(&place.project());
            (watch.touched(LATER, true) == Touched::Nothing).then_some(*what)
        });
        assert_eq!(missed.collect::<Vec<_>>(), [""; 0]);
    }

    #[test]
    fn a_write_by_a_descriptor_from_before_is_told() {
        let place = Place::new();
        let mut file =
            fs::OpenOptions::new().append(true).open(place.project().join("Makefile")).expect("opens");
        let mut watch = place.watch();
        file.write_all(b"x").expect("writes");
        assert_eq!(watch.touched(LATER, true), Touched::Perhaps);
    }

    #[test]
    fn a_file_that_was_only_read_was_not_touched_and_a_mapped_one_shows_by_its_time() {
        let place = Place::new();
        let (project, name) = (place.project(), "d/deep/deeper/Makefile");
        let changed = || fs::metadata(project.join(name)).expect("it is there").ctime();
        let mut watch = place.watch();
        fs::read(project.join(name)).expect("reads");
        fs::read_dir(project.join("d")).expect("opens").flatten().for_each(drop);
        let now = u64::try_from(changed()).expect("a time");
        assert_eq!(watch.touched(now + 1, true), Touched::Nothing);
        assert_eq!(watch.touched(now, true), Touched::Perhaps, "changed since");

        // A change through a mapping that lasts: nothing is told but that the file was opened.
        let mut watch = place.watch();
        let script = format!(
            "import mmap, sys; f = open('{name}', 'r+b'); m = mmap.mmap(f.fileno(), 0); f.close(); sys.stdin.read(1); \
             m[0:1] = b'X'; print(flush=True); sys.stdin.read()"
        );
        let before = changed();
        let mut mapping = python(&project, &script);
        // From the next second on it shows in whole seconds; a time of change is some milliseconds behind the clock.
        let next = UNIX_EPOCH + Duration::from_millis(before.unsigned_abs() * 1000 + 1200);
        while SystemTime::now() < next {
            thread::yield_now();
        }
        let mut line = mapping.stdin.take().expect("a pipe");
        line.write_all(b"x").expect("writes");
        mapping.stdout.as_mut().expect("a pipe").read_exact(&mut [0]).expect("it has written");
        watch.look();
        assert!(watch.certain.is_some(), "a doubt already");
        assert_eq!(watch.touched(before.unsigned_abs() + 1, true), Touched::Perhaps);
        drop(line);
        mapping.wait().expect("it ends");
    }

    #[test]
    fn every_doubt_is_one() {
        let place = Place::new();
        let project = place.project();
        assert_eq!(place.watch().touched(LATER, true), Touched::Nothing);
        assert_eq!(place.watch().touched(LATER, false), Touched::Perhaps, "there were other ways to write");
        let mut unwatched = Watch::start(&project, &place.temp.path().join("cache"), false);
        unwatched.settle(&[], &[]);
        assert_eq!(unwatched.touched(LATER, true), Touched::Perhaps);

        let mut full = place.watch();
        let most = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").expect("reads");
        for _ in 0..=most.trim().parse::<usize>().expect("a number") / 2 {
            fs::read(project.join("Makefile")).expect("reads");
            fs::read(project.join("d/Makefile")).expect("reads");
        }
        assert_eq!(full.touched(LATER, true), Touched::Perhaps, "the queue ran over");
    }

    #[test]
    fn a_git_directory_is_covered_by_a_mount_of_the_sessions_or_a_doubt() {
        let place = Place::new();
        let (project, other) = (place.project(), place.temp.path().join("other"));
        fs::create_dir_all(project.join("d/.git")).expect("a directory");
        let mount = |source: &Path, target: &str| Mount {
            source: source.to_owned(),
            target: project.join(target),
            read_only: false,
        };
        let touched = |mounts: &[Mount]| {
            let mut watch = place.start();
            watch.settle(&[], mounts);
            watch.touched(LATER, true)
        };
        assert_eq!(touched(&[]), Touched::Perhaps);
        assert_eq!(touched(&[mount(&project.join("d"), "d")]), Touched::Perhaps, "kept in place only");
        assert_eq!(touched(&[mount(&other, "d/.git")]), Touched::Nothing);
        assert_eq!(touched(&[mount(&other, "d")]), Touched::Nothing);
        fs::create_dir_all(project.join(".git")).expect("a directory");
        assert_eq!(touched(&[mount(&other, "d/.git")]), Touched::Perhaps);
        assert_eq!(touched(&[mount(&other, "d/.git"), mount(&other, ".git")]), Touched::Nothing);
    }

    #[test]
    fn what_is_made_to_mount_on_is_watched_and_what_else_appears_is_a_doubt() {
        let session = SessionId::from_random([7; 4]);
        let made = |place: &Place| -> Vec<Placeholder> {
            let of = |(path, directory)| placeholder::place(&place.project().join(path), directory, &session);
            let all = [
                (".cargo", true),
                (".cargo/config", false),
                (".cargo", true),
                (".envrc", false),
                ("d/.x", true),
                ("d/.x/y", true),
            ];
            all.into_iter().filter_map(|one| of(one).expect("made").ours()).collect()
        };
        type Act = fn(&Path);
        let acts: [(&str, Act, Act, Touched); 6] = [
            ("nothing", |_| {}, |_| {}, Touched::Nothing),
            ("a file before", |p| fs::write(p.join("new"), "").expect("writes"), |_| {}, Touched::Nothing),
            (
                "a directory before",
                |p| fs::create_dir(p.join("d/new")).expect("mkdir"),
                |_| {},
                Touched::Perhaps,
            ),
            (
                "a stranger in it",
                |p| fs::write(p.join(".cargo/x"), "").expect("writes"),
                |_| {},
                Touched::Perhaps,
            ),
            (
                "a file in it",
                |_| {},
                |p| fs::write(p.join(".cargo/x"), "").expect("writes"),
                Touched::Perhaps,
            ),
            (
                "a file below it",
                |_| {},
                |p| fs::write(p.join("d/.x/y/x"), "").expect("writes"),
                Touched::Perhaps,
            ),
        ];
        for (what, before, after, expected) in acts {
            let place = Place::new();
            let mut watch = place.start();
            let placeholders = made(&place);
            before(&place.project());
            watch.settle(&placeholders, &[]);
            after(&place.project());
            assert_eq!(watch.touched(LATER, true), expected, "{what}");
            drop(placeholder::remove(&placeholders, &session));
        }
    }
}
