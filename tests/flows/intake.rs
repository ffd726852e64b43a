//! A session's `broker.sock`: what it answers, and what it does not take.

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use keyhatch_protocol::frame::{self, MAX_SESSION_FRAME};
use keyhatch_protocol::message::{SessionReply, SessionRequest, VERSION};
use keyhatch_tests::{Running, World, raw};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// A session that waits, with its socket.
fn session() -> (World, Running) {
    let world = World::new();
    let project = world.project("p", "https://git.invalid/p");
    let run = world.start(&project, "default", "touch started; while ! test -e go; do sleep 0.1; done");
    world.wait_until("the session opens", || world.path("p/started").exists());
    (world, run)
}

fn connect(world: &World) -> UnixStream {
    let socket = raw::http_socket(world).with_file_name("broker.sock");
    let stream = UnixStream::connect(socket).expect("the session's socket");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    stream
}

fn framed(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("a short body");
    [&length.to_be_bytes()[..], body].concat()
}

fn refusal(mut stream: UnixStream) -> String {
    match frame::read(&mut stream, MAX_SESSION_FRAME).expect("a reply") {
        SessionReply::Refused { reason } => reason,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn the_helper_says_inside_which_session_it_is_in_and_by_which_policy() {
    let world = World::new();
    let project = world.project("p", "https://git.invalid/p");
    let said = world.run(&project, "default", "keyhatch-helper status").ok();
    let by_path = world.run(&project, "default", "$KEYHATCH_HELPER status").ok();
    assert_eq!(by_path.stdout.lines().count(), said.stdout.lines().count(), "{by_path:?}");
    assert!(said.stdout.starts_with("keyhatch session "), "{said:?}");
    assert!(said.stdout.contains("policy default: The project's own remotes"), "{said:?}");
    for part in [
        "allowed: fetch from the project's remotes",
        "asked: ",
        "denied: every other remote",
        "only the user can: ",
    ] {
        assert!(said.stdout.contains(part), "{part}: {said:?}");
    }
    assert!(said.stdout.lines().count() <= 10, "{said:?}");
    let notes = world.keyhatch(&["agent-notes"]).ok();
    assert!(notes.stdout.contains("run the very same command again"), "{notes:?}");
    assert!(notes.stdout.contains("`keyhatch-helper status`"), "{notes:?}");
    let outside = world.command(world.path("bin/keyhatch-helper")).arg("status").output().expect("it runs");
    assert!(!outside.status.success());
    let text = String::from_utf8_lossy(&outside.stderr).into_owned();
    assert!(text.contains("no keyhatch session can be reached") && text.contains("hint: "), "{text}");
}

#[test]
fn messages_of_another_form_version_or_size_are_refused_with_a_reason() {
    let (world, _run) = session();
    let ask = |bytes: &[u8]| {
        let mut stream = connect(&world);
        stream.write_all(bytes).expect("writes");
        refusal(stream)
    };
    let unknown_field = framed(br#"{"request":"status","version":1,"and":"more"}"#);
    assert!(ask(&unknown_field).contains("not of this protocol's version"));
    assert!(ask(&framed(br#"{"request":"status","version":2}"#)).contains("different versions"));
    assert!(ask(&framed(b"GET / HTTP/1.1")).contains("not of this protocol's version"));
    let announced = (MAX_SESSION_FRAME as u32 + 1).to_be_bytes();
    assert!(ask(&announced).contains("longer than 65536 bytes"));
}

#[test]
fn a_descriptor_on_the_sessions_socket_ends_the_connection_unread() {
    let (world, _run) = session();
    let stream = connect(&world);
    let request =
        frame::encode(&SessionRequest::Status { version: VERSION }, MAX_SESSION_FRAME).expect("encodes");
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let stdin = std::io::stdin();
    let descriptors = [stdin.as_fd()];
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)));
    sendmsg(&stream, &[IoSlice::new(&request)], &mut ancillary, SendFlags::NOSIGNAL).expect("sends");
    assert_eq!(refusal(stream.try_clone().expect("a clone")), "this socket takes no file descriptors");
    let mut rest = Vec::new();
    // The broker had not read everything: the kernel may say so by a reset.
    drop((&stream).read_to_end(&mut rest));
    assert!(rest.is_empty());
}

#[test]
fn many_silent_connections_leave_the_session_answering() {
    let (world, _run) = session();
    let silent: Vec<UnixStream> = (0..31).map(|_| connect(&world)).collect();
    let mut stream = connect(&world);
    frame::write(&mut stream, &SessionRequest::Status { version: VERSION }, MAX_SESSION_FRAME)
        .expect("writes");
    let reply: SessionReply = frame::read(&mut stream, MAX_SESSION_FRAME).expect("a reply");
    assert!(matches!(reply, SessionReply::Status { .. }));
    drop(silent);
}
