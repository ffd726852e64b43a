//! Who inside a sandbox opened a connection: found through `/proc` by the port that it comes from.
//!
//! Only for a person who looks for a cause: what a process is called is the session's own word, and it may be gone.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use keyhatch_protocol::text::shown;

/// Longest part of a command line that is kept, in characters.
const MAX_COMMAND: usize = 80;

/// Which of the kernel's tables a connection is in.
#[derive(Debug, Clone, Copy)]
pub enum Table {
    /// TCP.
    Stream,
    /// UDP.
    Datagram,
}

/// Names the process that holds the socket with this address. `member` is any process in the sandbox's network.
#[must_use]
pub fn behind(member: u32, from: SocketAddr, table: Table) -> Option<String> {
    let names: &[&str] = match table {
        Table::Stream => &["tcp", "tcp6"],
        Table::Datagram => &["udp", "udp6"],
    };
    let inode = names.iter().find_map(|name| {
        let text = fs::read_to_string(format!("/proc/{member}/net/{name}")).ok()?;
        text.lines().skip(1).find_map(|line| inode_of(line, from.port())).map(str::to_owned)
    })?;
    let network = fs::read_link(format!("/proc/{member}/ns/net")).ok()?;
    let socket = format!("socket:[{inode}]");
    let holds = |process: &Path| {
        fs::read_link(process.join("ns/net")).is_ok_and(|its| its == network)
            && fs::read_dir(process.join("fd")).is_ok_and(|mut descriptors| {
                descriptors.any(|fd| {
                    fd.is_ok_and(|fd| fs::read_link(fd.path()).is_ok_and(|to| to == Path::new(&socket)))
                })
            })
    };
    let mut processes = fs::read_dir("/proc").ok()?.filter_map(Result::ok).map(|entry| entry.path());
    processes.find(|process| process.join("ns").exists() && holds(process)).and_then(|process| name(&process))
}

/// The inode of a line of `/proc/net/tcp`, if its local port is this one: `sl local remote st queues tr retr uid timeout
/// inode …`, addresses in hexadecimal.
fn inode_of(line: &str, port: u16) -> Option<&str> {
    let mut fields = line.split_whitespace();
    let (_, local_port) = fields.nth(1)?.rsplit_once(':')?;
    let same = u16::from_str_radix(local_port, 16).ok()? == port;
    let inode = fields.nth(7)?;
    (same && inode != "0").then_some(inode)
}

/// Names a process or thread by its number here.
#[must_use]
pub fn named(pid: u32) -> Option<String> {
    name(Path::new(&format!("/proc/{pid}")))
}

fn name(process: &Path) -> Option<String> {
    let line = fs::read(process.join("cmdline")).ok()?;
    let line = String::from_utf8_lossy(&line).replace('\0', " ");
    let line: String = match line.trim() {
        "" => fs::read_to_string(process.join("comm")).ok()?.trim().to_owned(),
        line if line.chars().count() > MAX_COMMAND => {
            // The end of a long path is what names a program.
            let (program, rest) = line.split_once(' ').unwrap_or((line, ""));
            let program = program.rsplit('/').next().unwrap_or(program);
            let short = format!("{program} {rest}");
            let cut = short.chars().count() > MAX_COMMAND;
            short.trim().chars().take(MAX_COMMAND).chain(cut.then_some('…')).collect()
        }
        line => line.to_owned(),
    };
    Some(shown(&line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_of_this_process_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
        let client = std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
        let found = behind(std::process::id(), client.local_addr().expect("bound"), Table::Stream);
        let own = std::env::args().next().expect("a name");
        let own: String = own.chars().take(20).collect();
        assert!(found.as_deref().is_some_and(|found| found.contains(&own)), "{found:?}");
    }
}
