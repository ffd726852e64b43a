//! HTTP/1.1 to the session's front end over `http.sock`: one request a connection.
//!
//! Comes in: what the broker answers, which this side believes as git believes a server. Bounded: the head of an answer
//! and a refusal's text; bodies are streamed.

use std::io::{self, BufRead, BufReader, Read, Write};

use chunked_transfer::Decoder;
use thiserror::Error;

use crate::sockets::{self, Connection, Unreachable};

/// Most bytes of an answer's head; the broker's are under 300.
const MAX_HEAD: u64 = 16 * 1024;
/// Most header lines of an answer.
const MAX_HEADERS: usize = 32;
/// Most text of a refusal that is shown.
const MAX_REFUSAL: u64 = 8 * 1024;
/// What one read of a stream takes: git's pipes hold 64 KiB.
const CHUNK: usize = 64 * 1024;

/// A request was not answered as it should be.
#[derive(Debug, Error)]
pub(crate) enum HttpError {
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    /// The broker said no, and why.
    #[error("{text}")]
    Refused {
        /// Its own words, perhaps with a hint, without the program's name.
        text: String,
    },
    /// What came is no answer.
    #[error("the broker's answer is not one")]
    Malformed,
    /// The connection broke.
    #[error("the connection to the broker broke")]
    Io(#[from] io::Error),
}

/// The body of an answer, as it comes.
pub(crate) type Body = Box<dyn Read>;

/// A connection on which the head of a request was sent.
pub(crate) struct Exchange {
    stream: Connection,
}

impl Exchange {
    /// `GET`.
    pub(crate) fn get(path: &str, headers: &str) -> Result<Self, HttpError> {
        Self::begin("GET", path, headers)
    }

    /// `POST` of a body that is there.
    pub(crate) fn post(path: &str, headers: &str, body: &[u8]) -> Result<Self, HttpError> {
        let length = format!("{headers}Content-Length: {}\r\n", body.len());
        let mut exchange = Self::begin("POST", path, &length)?;
        // A broker that refuses early closes before it has read everything; its answer is there all the same.
        match exchange.stream.write_all(body) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(exchange),
        }
    }

    /// `POST` of a body that is yet to come, through the second value.
    pub(crate) fn post_stream(path: &str, headers: &str) -> Result<(Self, BodyWriter), HttpError> {
        let exchange = Self::begin("POST", path, &format!("{headers}Transfer-Encoding: chunked\r\n"))?;
        let writer = BodyWriter { stream: exchange.stream.clone() };
        Ok((exchange, writer))
    }

    fn begin(method: &str, path: &str, headers: &str) -> Result<Self, HttpError> {
        let mut stream = sockets::connect(sockets::HTTP)?;
        let head = format!(
            "{method} /{path} HTTP/1.1\r\nHost: keyhatch\r\nUser-Agent: keyhatch-helper/{}\r\nConnection: close\r\n{headers}\r\n",
            env!("CARGO_PKG_VERSION")
        );
        stream.write_all(head.as_bytes())?;
        Ok(Self { stream })
    }

    /// Reads the answer's head; its body is what is left.
    pub(crate) fn answer(self) -> Result<Body, HttpError> {
        let mut reader = BufReader::with_capacity(CHUNK, self.stream);
        let head = read_head(&mut reader)?;
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut parsed = httparse::Response::new(&mut headers);
        parsed.parse(&head).map_err(|_| HttpError::Malformed)?;
        let status = parsed.code.ok_or(HttpError::Malformed)?;
        let value = |name: &str| {
            let found = parsed.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
            found.and_then(|header| std::str::from_utf8(header.value).ok())
        };
        let body: Body = match (value("transfer-encoding"), value("content-length")) {
            (Some("chunked"), _) => Box::new(Decoder::new(reader)),
            (None, Some(length)) => Box::new(reader.take(length.parse().map_err(|_| HttpError::Malformed)?)),
            (None, None) => Box::new(reader),
            (Some(_), _) => return Err(HttpError::Malformed),
        };
        if status == 200 { Ok(body) } else { Err(refusal(body)) }
    }
}

/// The head of an answer, to the empty line that ends it.
fn read_head(reader: &mut impl BufRead) -> Result<Vec<u8>, HttpError> {
    let mut head = Vec::new();
    let mut bounded = reader.take(MAX_HEAD);
    while !head.ends_with(b"\r\n\r\n") {
        if bounded.read_until(b'\n', &mut head)? == 0 {
            return Err(HttpError::Malformed);
        }
    }
    Ok(head)
}

fn refusal(body: Body) -> HttpError {
    let mut text = Vec::new();
    // What was cut off of a refusal's text is less to read; that it is one stands.
    drop(body.take(MAX_REFUSAL).read_to_end(&mut text));
    let text = String::from_utf8_lossy(&text);
    let text = text.trim().strip_prefix("keyhatch: ").unwrap_or(text.trim()).to_owned();
    HttpError::Refused { text: if text.is_empty() { "the request was refused".into() } else { text } }
}

/// Writes the body of a request as it comes, in chunks.
pub(crate) struct BodyWriter {
    stream: Connection,
}

impl BodyWriter {
    /// Says that there will be no more of it, so that it is not taken for whole.
    pub(crate) fn abort(self) -> io::Result<()> {
        self.stream.end_writing()
    }

    /// The body's end.
    pub(crate) fn end(mut self) -> io::Result<()> {
        self.stream.write_all(b"0\r\n\r\n")
    }
}

impl Write for BodyWriter {
    /// One chunk; an empty one would end the body and is not sent.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !bytes.is_empty() {
            let mut chunk = Vec::with_capacity(bytes.len() + 16);
            write!(chunk, "{:x}\r\n", bytes.len())?;
            chunk.extend_from_slice(bytes);
            chunk.extend_from_slice(b"\r\n");
            self.stream.write_all(&chunk)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Copies a stream as it comes: whatever one read gives is written and flushed.
pub(crate) fn relay(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => {
                to.write_all(&buffer[..read])?;
                to.flush()?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
