//! Which nonces upstreams gave to a session: a push certificate counts where its nonce comes from, so only one of these is
//! signed, and sent.

use std::collections::VecDeque;

use keyhatch_protocol::Remote;
use std::sync::{Mutex, PoisonError};

/// Most that are remembered in one session: each is an advertisement, and a push uses its own at once.
const MOST: usize = 64;

/// What an upstream says of push certificates in its advertisement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CertificateOffer {
    /// What a certificate must name; none where upstream gives none.
    pub(crate) nonce: Option<String>,
}

#[derive(Debug)]
struct Given {
    remote: Remote,
    offer: CertificateOffer,
}

/// The nonces of one session, oldest first. They end with it.
#[derive(Debug, Default)]
pub(crate) struct GivenNonces(Mutex<VecDeque<Given>>);

impl GivenNonces {
    /// Remembers what an upstream said.
    pub(crate) fn record(&self, remote: &Remote, offer: CertificateOffer) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST {
            all.pop_front();
        }
        all.push_back(Given { remote: remote.clone(), offer });
    }

    /// Whether this remote gave this very nonce; without one, whether it takes certificates that have none.
    pub(crate) fn was_given(&self, remote: &Remote, nonce: Option<&str>) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().any(|one| one.remote.same_repository(remote) && one.offer.nonce.as_deref() == nonce)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_counts_for_the_remote_that_gave_it_and_none_for_one_that_gives_none() {
        let remote = |url: &str| Remote::parse(url).expect("a remote");
        let (ours, other) = (remote("https://h/r"), remote("https://h/other"));
        let given = GivenNonces::default();
        assert!(!given.was_given(&ours, None), "it did not say that it takes certificates");
        given.record(&ours, CertificateOffer { nonce: Some("1-x".into()) });
        assert!(
            given.was_given(&ours, Some("1-x")) && given.was_given(&remote("https://h/r.git"), Some("1-x"))
        );
        assert!(!given.was_given(&ours, None) && !given.was_given(&ours, Some("")));
        assert!(!given.was_given(&ours, Some("2-y")) && !given.was_given(&other, Some("1-x")));
        given.record(&other, CertificateOffer { nonce: None });
        assert!(given.was_given(&other, None) && !given.was_given(&other, Some("1-x")));
        for number in 0..MOST {
            given.record(&other, CertificateOffer { nonce: Some(number.to_string()) });
        }
        assert!(!given.was_given(&ours, Some("1-x")), "the oldest go");
    }
}
