//! `keyhatch-helper forward`: the front end on the container's own loopback, for tools that speak HTTP and run no ssh.
//!
//! Comes in: connections of processes in this network namespace; each is joined to `http.sock`, byte by byte. Whoever can
//! connect can reach the socket's session: that is why it listens on loopback alone and is started only where it is asked for.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::http::relay;
use crate::sockets;

/// Where the front end is in a sandbox that keyhatch made, too: one address in every configuration.
pub(crate) const ADDRESS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8417);
/// Set to `1`, the first git command through the bridge starts it.
const WANTED: &str = "KEYHATCH_FORWARD";
/// The argument of the process that stays.
const SERVE: &str = "--serve";
/// What that process says when it listens.
const LISTENING: &str = "listening";
/// Connections at once: what the broker takes of one session.
const MAX_CONNECTIONS: usize = 64;
/// How often it looks whether the session still lives.
const LOOK: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };
/// How long the next one waits, where all are in use, before it is looked at again.
const FULL: Duration = Duration::from_millis(100);
/// How long something on the port may take to say what it is.
const KNOCK: Duration = Duration::from_secs(2);

pub(crate) fn answer(arguments: &[OsString], output: &mut impl Write) -> ExitCode {
    if arguments.first().is_some_and(|word| word == SERVE) {
        return serve(output);
    }
    match start() {
        Ok(how) => super::say(output, &format!("keyhatch: {how} http://{ADDRESS}/\n")),
        Err(why) => {
            eprintln!("keyhatch: cannot listen on {ADDRESS}: {why}");
            eprintln!("hint: keyhatch-helper status says what this container reaches");
            ExitCode::FAILURE
        }
    }
}

/// Starts it on the way of another command, where the environment asks for it. That command goes on whatever comes of it.
pub(crate) fn start_if_wanted() {
    if std::env::var_os(WANTED).is_some_and(|word| word == "1")
        && let Err(why) = start()
    {
        eprintln!("keyhatch: cannot listen on {ADDRESS}: {why}");
    }
}

/// Starts the process that stays, unless one is there.
fn start() -> Result<&'static str, String> {
    if sockets::hatch().is_some() {
        return Err(
            "this sandbox has no sockets (tier C); git goes through the session's pipes by itself".to_owned()
        );
    }
    if is_there() {
        return Ok("it listens already on");
    }
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut child = Command::new(program);
    child.args(["forward", SERVE]).current_dir("/");
    child.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = child.spawn().map_err(|error| error.to_string())?;
    let mut said = String::new();
    if let Some(stdout) = child.stdout.take() {
        // What it cannot say is the same as nothing said: it did not start.
        drop(BufReader::new(stdout).read_line(&mut said));
    }
    if said.trim() == LISTENING {
        return Ok("listens on");
    }
    let mut why = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        drop(stderr.read_to_string(&mut why));
    }
    // It has ended: what it said is why.
    drop(child.wait());
    // Two commands that started one at the same time: one of them is there.
    if is_there() { Ok("it listens already on") } else { Err(why.trim().to_owned()) }
}

/// Whether the front end answers on the port: somebody else's server there is not taken for it.
pub(crate) fn is_there() -> bool {
    let ask = || -> io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&ADDRESS.into(), KNOCK)?;
        stream.set_read_timeout(Some(KNOCK))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.take(1024).read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).contains("\r\n\r\nkeyhatch: "))
    };
    ask().unwrap_or(false)
}

/// The process that stays: listens, says so, and serves until the session is gone.
fn serve(output: &mut impl Write) -> ExitCode {
    // Not the leader of a group, as a child of ours; started by hand, it stays with its terminal.
    rustix::process::setsid().ok();
    let listening =
        sockets::connect_to_socket(sockets::HTTP).map_err(|error| format!("{error}\nhint: {}", error.hint()));
    let listener = listening.and_then(|_| TcpListener::bind(ADDRESS).map_err(|error| error.to_string()));
    let listener = match listener {
        Ok(listener) => listener,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::FAILURE;
        }
    };
    if super::say(output, &format!("{LISTENING}\n")) != ExitCode::SUCCESS {
        return ExitCode::FAILURE;
    }
    let served = Arc::new(AtomicUsize::new(0));
    loop {
        let mut watched = [PollFd::new(&listener, PollFlags::IN)];
        let ready = poll(&mut watched, Some(&LOOK)).unwrap_or(0);
        let Ok(session) = sockets::connect_to_socket(sockets::HTTP) else { return ExitCode::SUCCESS };
        if ready == 0 {
            continue;
        }
        if served.load(Ordering::Relaxed) >= MAX_CONNECTIONS {
            std::thread::sleep(FULL);
            continue;
        }
        if let Ok((client, _)) = listener.accept() {
            let served = served.clone();
            served.fetch_add(1, Ordering::Relaxed);
            std::thread::spawn(move || {
                // Either end may break off at any time: the other one sees its stream end.
                drop(join(&client, &session));
                served.fetch_sub(1, Ordering::Relaxed);
            });
        }
    }
}

/// Copies both ways until both streams have ended.
fn join(client: &TcpStream, session: &UnixStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let sent = relay(&mut &*client, &mut &*session);
            // A request that broke off takes its held answer along.
            drop(session.shutdown(if sent.is_ok() { Shutdown::Write } else { Shutdown::Both }));
        });
        let answered = relay(&mut &*session, &mut &*client);
        drop(client.shutdown(Shutdown::Both));
        answered
    })
}
