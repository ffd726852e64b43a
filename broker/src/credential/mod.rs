//! Credentials: where they come from, and the only types that hold one.
//!
//! Comes in: a parsed remote. Goes out: a login that goes into one request upstream and nowhere else. Sources: the
//! host's own `git credential`, and what the project's configuration holds. Secrets are wiped when dropped, and their
//! `Debug` prints no byte of them.

mod host_git;
pub mod named;
mod project;

pub use host_git::{CredentialError, HostGit, HttpSettings};
pub use project::ProjectSecrets;
pub(crate) use project::is_token;

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

/// What one request upstream carries to say who asks.
#[derive(Clone)]
pub struct Login {
    kind: Kind,
    /// The helper's own words, for `approve` and `reject`; none for a login of the project's configuration.
    answer: Option<Arc<SecretString>>,
}

#[derive(Clone)]
enum Kind {
    Basic { user: String, password: SecretString },
    Header { scheme: String, credential: SecretString },
}

impl Login {
    /// A user and a password or token.
    #[must_use]
    pub const fn basic(user: String, password: SecretString) -> Self {
        Self { kind: Kind::Basic { user, password }, answer: None }
    }

    /// Whether it may be used where the remote names this user, or nobody. A header says nothing of who it is.
    fn is_of(&self, user: Option<&str>) -> bool {
        match (&self.kind, user) {
            (Kind::Basic { user, .. }, Some(named)) => user == named,
            (Kind::Basic { .. } | Kind::Header { .. }, _) => true,
        }
    }

    /// The value of the `Authorization` header: RFC 7617 for a password, else the scheme that the helper named.
    #[must_use]
    pub fn authorization(&self) -> SecretString {
        match &self.kind {
            Kind::Basic { user, password } => {
                let plain = Zeroizing::new(format!("{user}:{}", password.expose_secret()));
                let encoded =
                    Zeroizing::new(base64::engine::general_purpose::STANDARD.encode(plain.as_bytes()));
                format!("Basic {}", *encoded).into()
            }
            Kind::Header { scheme, credential } => format!("{scheme} {}", credential.expose_secret()).into(),
        }
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_basic_authentication_and_shows_nothing() {
        let login = Login::basic("Aladdin".into(), "open sesame".to_owned().into());
        assert_eq!(login.authorization().expose_secret(), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert_eq!(format!("{login:?}"), "Login");
    }
}
