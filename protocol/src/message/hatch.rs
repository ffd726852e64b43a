//! The hatch: how a command without any socket reaches its session, by named pipes (fifo(7)).
//!
//! A caller makes two pipes in [`CALLS`], opens both, and writes one [`Call`] to [`DOOR`]. The other side opens them, removes
//! their names, and answers on the one that comes down with one byte: 0, or the errno with which it could not connect.
//! From there on the two are a connection. A line is shorter than `PIPE_BUF`, so that lines of several callers stay whole.

/// The variable that names the hatch's directory, where there is one.
pub const HATCH_VARIABLE: &str = "KEYHATCH_HATCH";

/// The pipe in that directory that calls are written to.
pub const DOOR: &str = "door";

/// The directory in it where callers make their pipes.
pub const CALLS: &str = "calls";

/// How many letters the name of a call has.
pub const NAME_LENGTH: usize = 16;

/// Most bytes of a line, without its end.
pub const MAX_LINE: usize = "broker".len() + 1 + NAME_LENGTH;

/// Which of the session's sockets is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Called {
    /// The front end for git.
    Http,
    /// The socket that session messages go through.
    Broker,
}

impl Called {
    const ALL: [Self; 2] = [Self::Http, Self::Broker];

    const fn word(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Broker => "broker",
        }
    }

    /// The one whose socket has this name.
    #[must_use]
    pub fn of_socket(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|called| called.socket() == name)
    }

    /// The socket's name in the directory of the session's sockets.
    #[must_use]
    pub const fn socket(self) -> &'static str {
        match self {
            Self::Http => super::HTTP_SOCKET_NAME,
            Self::Broker => super::SOCKET_NAME,
        }
    }
}

/// One call: a socket, and the name of the caller's pipes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Which socket.
    pub socket: Called,
    name: String,
}

impl Call {
    /// A call whose pipes are named after these bytes, which the caller drew by lot.
    #[must_use]
    pub fn new(socket: Called, random: [u8; NAME_LENGTH]) -> Self {
        const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz012345";
        let name = random.iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)])).collect();
        Self { socket, name }
    }

    /// Reads a line without its end. None for whatever is no call: a name is nothing but lower-case letters and digits.
    #[must_use]
    pub fn parse(line: &[u8]) -> Option<Self> {
        let (word, name) = std::str::from_utf8(line).ok()?.split_once(' ')?;
        let socket = Called::ALL.into_iter().find(|called| called.word() == word)?;
        let is_name = name.len() == NAME_LENGTH
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        is_name.then(|| Self { socket, name: name.to_owned() })
    }

    /// What is written to the door: a line of its own, whatever somebody left unfinished before it.
    #[must_use]
    pub fn line(&self) -> String {
        format!("\n{} {}\n", self.socket.word(), self.name)
    }

    /// The name of the pipe from the caller to the session.
    #[must_use]
    pub fn up(&self) -> String {
        format!("{}.up", self.name)
    }

    /// The name of the pipe from the session to the caller.
    #[must_use]
    pub fn down(&self) -> String {
        format!("{}.down", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_read_as_it_was_written_and_nothing_else_is_one() {
        for socket in Called::ALL {
            let call = Call::new(socket, [0, 25, 26, 31, 32, 255, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
            let line = call.line();
            let line = line.strip_prefix('\n').and_then(|line| line.strip_suffix('\n')).expect("a line");
            assert!(line.len() <= MAX_LINE);
            assert_eq!(Call::parse(line.as_bytes()), Some(call));
            assert_eq!(Called::of_socket(socket.socket()), Some(socket));
        }
        for bad in [
            "",
            "http",
            "http ",
            "http abc",
            "http abcdefghijklmno/",
            "http ../../../../etc/x",
            "http ABCDEFGHIJKLMNOP",
            "http abcdefghijklmnopq",
            "http  bcdefghijklmnop",
            "control abcdefghijklmnop",
            "http abcdefghijklmno\0",
            "http abcdefghijklmnö",
        ] {
            assert_eq!(Call::parse(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(Call::parse(b"http abcdefghijklmno\xff"), None);
    }
}
