//! Callers that Landlock would not let be: what the hatch itself looks at.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::*;

/// A hatch that serves, and a session behind it that answers each connection with what it read to its end.
struct Served {
    directory: tempfile::TempDir,
    /// A word for each connection whose end the session has read.
    ended: Receiver<()>,
}

impl Served {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let listener = UnixListener::bind(directory.path().join("http.sock")).expect("a socket");
        let (ends, ended) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let ends = ends.clone();
                std::thread::spawn(move || {
                    let (mut stream, mut said) = (stream.expect("a connection"), Vec::new());
                    stream.read_to_end(&mut said).expect("what was said");
                    // The test may be over, or the caller gone.
                    drop((ends.send(()), stream.write_all(&said)));
                });
            }
        });
        let hatch = Hatch::prepare(&directory.path().join("hatch"), directory.path()).expect("a hatch");
        hatch.serve().expect("a thread");
        Self { directory, ended }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join("hatch").join(name)
    }

    fn pipe(&self, name: &str) -> PathBuf {
        let path = self.at(CALLS).join(name);
        mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).expect("a pipe");
        path
    }

    fn knock(&self, line: &str) {
        let mut door = File::options().write(true).open(self.at(DOOR)).expect("the door");
        door.write_all(line.as_bytes()).expect("room");
    }

    /// Opens both ends without waiting, calls, and waits for the answer.
    fn call(&self, name: &str, line: &str) -> (File, File, u8) {
        let (up, down) = (self.pipe(&format!("{name}.up")), self.pipe(&format!("{name}.down")));
        let down = open(down, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).expect("it opens");
        let up = File::options().read(true).write(true).open(up).expect("it opens");
        self.knock(line);
        let mut answer = [0];
        poll(&mut [PollFd::new(&down, PollFlags::IN)], None).expect("an answer");
        rustix::io::read(&down, &mut answer).expect("an answer");
        rustix::fs::fcntl_setfl(&down, OFlags::empty()).expect("it waits from here on");
        (up, down.into(), answer[0])
    }

    /// Whatever came before it, a call is answered.
    fn goes_on(&self) {
        let (mut up, mut down, answer) = self.call("goodgoodgoodgood", "\nhttp goodgoodgoodgood\n");
        assert_eq!(answer, 0);
        up.write_all(b"still here").expect("room");
        drop(up);
        let mut said = String::new();
        down.read_to_string(&mut said).expect("what was said");
        assert_eq!(said, "still here");
        assert!(!self.at("calls/goodgoodgoodgood.up").exists(), "its names are gone");
    }
}

/// Whether somebody has a pipe open for reading.
fn has_reader(pipe: &Path) -> bool {
    open(pipe, OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty()).is_ok()
}

#[test]
fn a_link_to_a_pipe_elsewhere_is_not_followed() {
    let served = Served::new();
    let elsewhere = served.at("elsewhere");
    mkfifoat(CWD, &elsewhere, Mode::RUSR | Mode::WUSR).expect("a pipe");
    std::os::unix::fs::symlink(&elsewhere, served.at("calls/linklinklinklink.up")).expect("a link");
    let down = served.pipe("linklinklinklink.down");
    let down = open(down, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).expect("it opens");
    served.knock("http linklinklinklink\n");
    poll(&mut [PollFd::new(&down, PollFlags::IN)], None).expect("its end");
    assert_eq!(rustix::io::read(&down, &mut [0; 8]), Ok(0), "no connection");
    assert!(!has_reader(&elsewhere));
    served.goes_on();
}

#[test]
fn what_is_no_pipe_is_neither_read_nor_written() {
    let served = Served::new();
    for (up, down) in [("file", "pipe"), ("pipe", "file"), ("socket", "pipe"), ("pipe", "directory")] {
        let name = "otherotherothero";
        let mut held = Vec::new();
        for (kind, end) in [(up, "up"), (down, "down")] {
            let path = served.at(CALLS).join(format!("{name}.{end}"));
            match kind {
                "file" => std::fs::write(&path, "a file's content").expect("a file"),
                "socket" => drop(UnixListener::bind(&path).expect("a socket")),
                "directory" => std::fs::create_dir(&path).expect("a directory"),
                _ => held
                    .push(File::options().read(true).write(true).open(served.pipe(&format!("{name}.{end}")))),
            }
        }
        let file = File::open(served.at(CALLS).join(format!("{name}.down"))).ok().filter(|_| down == "file");
        served.knock(&format!("http {name}\n"));
        served.goes_on();
        if let Some(mut file) = file {
            let mut content = String::new();
            file.read_to_string(&mut content).expect("a file");
            assert_eq!(content, "a file's content");
        }
        std::fs::remove_dir(served.at(CALLS).join(format!("{name}.down"))).ok();
    }
}

#[test]
fn a_session_that_is_not_there_is_said_with_the_kernels_own_word() {
    let served = Served::new();
    let (_up, mut down, answer) = served.call("brokerbrokerbrok", "broker brokerbrokerbrok\n");
    assert_eq!(i32::from(answer), libc::ENOENT);
    assert_eq!(down.read(&mut [0]).expect("its end"), 0);
    served.goes_on();
}

#[test]
fn more_than_any_buffer_holds_goes_both_ways() {
    let served = Served::new();
    let (mut up, mut down, _) = served.call("largelargelargel", "http largelargelargel\n");
    let sent: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
    let copy = sent.clone();
    let writer = std::thread::spawn(move || up.write_all(&copy).expect("room"));
    let mut came = Vec::new();
    down.read_to_end(&mut came).expect("what was said");
    writer.join().expect("all was written");
    assert!(came == sent, "{} bytes came", came.len());
}

#[test]
fn a_caller_that_goes_takes_its_connection_with_it() {
    let served = Served::new();
    // Its own writing end is open all the while, as one that a child inherited would be.
    let (_up, down, _) = served.call("goneogoneogoneog", "http goneogoneogoneog\n");
    drop(down);
    served.ended.recv_timeout(Duration::from_secs(60)).expect("the session sees its end");
    served.goes_on();
}
