//! The ssh-agent protocol (RFC 9987) and what a login signs (RFC 4252, section 7): parsed strictly, pure functions on
//! slices. Only what the facade can answer has a name; everything else is refused.

use thiserror::Error;

/// Largest message that is read, as in OpenSSH's agent.
pub const MAX_MESSAGE: usize = 256 * 1024;
/// Longest name in a message.
const MAX_NAME: usize = 256;

/// Bytes that are not a message of the agent protocol, or not a login.
#[derive(Debug, Clone, Copy, Error, PartialEq, Eq)]
pub enum AgentError {
    /// They end too early, or go on too long.
    #[error("malformed ssh-agent message")]
    Malformed,
    /// What is to be signed is not a login bound to a server: SSHSIG blobs hide what they sign.
    #[error("only logins are signed here")]
    NotALogin,
}

/// What a client asks of an ssh-agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentRequest<'b> {
    /// `SSH_AGENTC_REQUEST_IDENTITIES`.
    List,
    /// `SSH_AGENTC_SIGN_REQUEST`.
    Sign {
        /// The public key's blob.
        key: &'b [u8],
        /// What is to be signed.
        data: &'b [u8],
        /// Which hash, for RSA.
        flags: u32,
    },
    /// The extension `session-bind@openssh.com` (PROTOCOL.agent).
    Bind {
        /// The server's key.
        host_key: &'b [u8],
        /// The connection, by its first exchange hash.
        session: &'b [u8],
        /// The server's signature of that.
        signature: &'b [u8],
        /// Whether the agent is to be forwarded there.
        forwarding: bool,
    },
    /// Anything else: adding, removing, locking, other extensions.
    Other,
}

/// What a login signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Login<'b> {
    /// The connection that it is for.
    pub session: &'b [u8],
    /// The user on the server.
    pub user: &'b str,
    /// The signature's algorithm.
    pub algorithm: &'b str,
    /// The public key's blob.
    pub key: &'b [u8],
    /// The server's key, where the method names it (`publickey-hostbound-v00@openssh.com`).
    pub host_key: Option<&'b [u8]>,
}

/// Parses a message without its length.
///
/// # Errors
/// When a message of a known kind is malformed.
pub fn parse(message: &[u8]) -> Result<AgentRequest<'_>, AgentError> {
    const REQUEST_IDENTITIES: u8 = 11;
    const SIGN_REQUEST: u8 = 13;
    const EXTENSION: u8 = 27;
    let (kind, body) = message.split_first().ok_or(AgentError::Malformed)?;
    let mut body = Reader(body);
    match *kind {
        REQUEST_IDENTITIES => {
            body.end()?;
            Ok(AgentRequest::List)
        }
        SIGN_REQUEST => {
            let (key, data, flags) = (body.string()?, body.string()?, body.number()?);
            body.end()?;
            Ok(AgentRequest::Sign { key, data, flags })
        }
        EXTENSION if body.string()? == b"session-bind@openssh.com" => {
            let (host_key, session, signature) = (body.string()?, body.string()?, body.string()?);
            let forwarding = body.flag()?;
            body.end()?;
            Ok(AgentRequest::Bind { host_key, session, signature, forwarding })
        }
        _ => Ok(AgentRequest::Other),
    }
}

/// Parses what a login signs.
///
/// # Errors
/// When it is anything else.
pub fn parse_login(data: &[u8]) -> Result<Login<'_>, AgentError> {
    const USERAUTH_REQUEST: u8 = 50;
    let mut data = Reader(data);
    let not_a_login = |_| AgentError::NotALogin;
    let session = data.string().map_err(not_a_login)?;
    if data.byte().map_err(not_a_login)? != USERAUTH_REQUEST {
        return Err(AgentError::NotALogin);
    }
    let user = data.name()?;
    if data.name()? != "ssh-connection" {
        return Err(AgentError::NotALogin);
    }
    let names_host = match data.name()? {
        "publickey" => false,
        "publickey-hostbound-v00@openssh.com" => true,
        _ => return Err(AgentError::NotALogin),
    };
    // A signature is there: the form without one only asks whether the key would do.
    if !data.flag()? {
        return Err(AgentError::NotALogin);
    }
    let (algorithm, key) = (data.name()?, data.string()?);
    let host_key = if names_host { Some(data.string()?) } else { None };
    data.end()?;
    if session.is_empty() {
        Err(AgentError::NotALogin)
    } else {
        Ok(Login { session, user, algorithm, key, host_key })
    }
}

/// Appends a string: its length, then its bytes.
pub fn put(to: &mut Vec<u8>, bytes: &[u8]) {
    // Nothing here is near the limit of the length.
    to.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    to.extend_from_slice(bytes);
}

/// Takes a string off the front: its bytes, and what follows.
#[must_use]
pub fn take(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_be_bytes(*length) as usize)
}

struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn byte(&mut self) -> Result<u8, AgentError> {
        let (byte, rest) = self.0.split_first().ok_or(AgentError::Malformed)?;
        self.0 = rest;
        Ok(*byte)
    }

    fn flag(&mut self) -> Result<bool, AgentError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(AgentError::Malformed),
        }
    }

    fn number(&mut self) -> Result<u32, AgentError> {
        let (number, rest) = self.0.split_first_chunk::<4>().ok_or(AgentError::Malformed)?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*number))
    }

    fn string(&mut self) -> Result<&'b [u8], AgentError> {
        let length = self.number()? as usize;
        let (string, rest) = self.0.split_at_checked(length).ok_or(AgentError::Malformed)?;
        self.0 = rest;
        Ok(string)
    }

    fn name(&mut self) -> Result<&'b str, AgentError> {
        let bytes = self.string()?;
        let text = std::str::from_utf8(bytes).map_err(|_| AgentError::Malformed)?;
        let legal = text.len() <= MAX_NAME && !text.chars().any(char::is_control);
        if legal { Ok(text) } else { Err(AgentError::Malformed) }
    }

    const fn end(&self) -> Result<(), AgentError> {
        if self.0.is_empty() { Ok(()) } else { Err(AgentError::Malformed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(parts: &[&[u8]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        parts.iter().for_each(|part| put(&mut bytes, part));
        bytes
    }

    fn login(method: &[u8], host_key: Option<&[u8]>) -> Vec<u8> {
        let mut data = strings(&[b"session"]);
        data.push(50);
        data.extend(strings(&[b"git", b"ssh-connection", method]));
        data.push(1);
        data.extend(strings(&[b"ssh-ed25519", b"key"]));
        host_key.iter().for_each(|key| put(&mut data, key));
        data
    }

    #[test]
    fn listing_signing_and_binding_are_understood_and_nothing_else() {
        assert_eq!(parse(&[11]), Ok(AgentRequest::List));
        assert_eq!(parse(&[11, 0]), Err(AgentError::Malformed));
        let sign = [&[13][..], &strings(&[b"key", b"data"]), &4u32.to_be_bytes()].concat();
        assert_eq!(parse(&sign), Ok(AgentRequest::Sign { key: b"key", data: b"data", flags: 4 }));
        for cut in 1..sign.len() {
            assert_eq!(parse(&sign[..cut]), Err(AgentError::Malformed), "{cut}");
        }
        let bind = [&[27][..], &strings(&[b"session-bind@openssh.com", b"h", b"s", b"g"]), &[1]].concat();
        let bound = AgentRequest::Bind { host_key: b"h", session: b"s", signature: b"g", forwarding: true };
        assert_eq!(parse(&bind), Ok(bound));
        for other in [17u8, 18, 19, 20, 21, 22, 23, 25, 26] {
            assert_eq!(parse(&[other]), Ok(AgentRequest::Other));
        }
        assert_eq!(parse(&[&[27][..], &strings(&[b"query"])].concat()), Ok(AgentRequest::Other));
    }

    #[test]
    fn only_a_login_is_a_login() {
        let plain = login(b"publickey", None);
        assert_eq!(parse_login(&plain).expect("a login").user, "git");
        let bound = login(b"publickey-hostbound-v00@openssh.com", Some(b"host"));
        assert_eq!(parse_login(&bound).expect("a login").host_key, Some(&b"host"[..]));
        for other in [
            b"SSHSIG\0\0\0\x03git\0\0\0\0\0\0\0\x06sha512\0\0\0\0".to_vec(),
            login(b"publickey", Some(b"host")),
            login(b"publickey-hostbound-v00@openssh.com", None),
            login(b"hostbased", None),
            plain[..plain.len() - 1].to_vec(),
            Vec::new(),
        ] {
            assert!(parse_login(&other).is_err(), "{other:?}");
        }
    }
}
