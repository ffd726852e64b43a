//! Where upstream's refs are, asked by the broker itself for one push: what a session says, and what it saw earlier, is no
//! fact.
//!
//! Comes in: the push's commands. Goes out: where each of their refs really is, everything else that upstream has, and
//! its default branch. Asked when a push is inspected, and again when it is sent.

use std::collections::{BTreeSet, HashMap};

use keyhatch_host::digest::sha256;
use keyhatch_policies::push_credential;
use keyhatch_protocol::{ObjectId, RefName, RefUpdate, Remote};
use tokio::task::JoinHandle;

use crate::claim::PushClaim;
use crate::pktline::{Packet, Packets};
use crate::upstream::{Service, Upstream, UpstreamError};

use super::Front;
use super::advertisement::named;

/// Most places of refs that are told to the inspector. What is beyond hides nothing: more appears to be new.
const MAX_TIPS: usize = 100_000;
/// What a default branch is called where upstream does not name one.
const USUAL: [&str; 2] = ["refs/heads/main", "refs/heads/master"];

/// What upstream said it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UpstreamRefs {
    /// Where each command's ref is, in the order of the commands; none where there is no such ref.
    places: Vec<Option<ObjectId>>,
    /// Where all refs are, each place once.
    pub(super) tips: Vec<ObjectId>,
    /// Where the default branch is, where one of the commands makes a ref.
    pub(super) default_branch: Option<ObjectId>,
    /// Names all refs and their places.
    digest: String,
}

/// A command that does not start from where upstream is.
#[derive(Debug)]
pub(super) struct Stale<'u> {
    /// Which.
    pub(super) update: &'u RefUpdate,
    /// Where upstream has its ref.
    pub(super) place: Option<ObjectId>,
}

impl Stale<'_> {
    /// What the session reads, in one line.
    pub(super) fn reason(&self) -> String {
        let where_it_is = match &self.place {
            Some(place) => format!("upstream has it at {}", place.short()),
            None => "upstream has no such ref".to_owned(),
        };
        let meant = if self.update.old.is_zero() {
            "and the push makes it".to_owned()
        } else {
            format!("and the push starts from {}", self.update.old.short())
        };
        format!("keyhatch: stale: {where_it_is}, {meant}; hint: git fetch, then push again")
    }
}

impl UpstreamRefs {
    /// Asks for everything that one push needs, both questions at once.
    pub(super) async fn ask(upstream: &Upstream, updates: &[RefUpdate]) -> Result<Self, UpstreamError> {
        let advertised = upstream.advertisement(Service::ReceivePack, None);
        let (advertised, head) = tokio::join!(advertised, default_branch(upstream, updates));
        Ok(Self::of(&advertised?.bytes, head, updates))
    }

    /// Reads an advertisement of receive-pack.
    pub(super) fn of(advertisement: &[u8], head: Option<ObjectId>, updates: &[RefUpdate]) -> Self {
        let mut places: HashMap<&RefName, Option<ObjectId>> =
            updates.iter().map(|update| (&update.ref_name, None)).collect();
        let (mut tips, mut all, mut usual) = (BTreeSet::new(), Vec::new(), [None, None]);
        let mut packets = Packets::new(advertisement);
        while let Ok(Some(packet)) = packets.next_packet() {
            let Packet::Data(line) = packet else { continue };
            let Some((name, place)) = named(line) else { continue };
            all.extend_from_slice(format!("{place} {name}\n").as_bytes());
            if let Some(at) = USUAL.iter().position(|usual| *usual == name.as_str()) {
                usual[at] = Some(place.clone());
            }
            if tips.len() < MAX_TIPS {
                tips.insert(place.clone());
            }
            if let Some(known) = places.get_mut(&name) {
                *known = Some(place);
            }
        }
        let makes = updates.iter().any(is_create);
        Self {
            places: updates.iter().map(|update| places.get(&update.ref_name).cloned().flatten()).collect(),
            tips: tips.into_iter().collect(),
            default_branch: head.or_else(|| usual.into_iter().flatten().next()).filter(|_| makes),
            digest: sha256(&all),
        }
    }

    /// The commands that do not start from where upstream is.
    pub(super) fn stale<'u>(&self, updates: &'u [RefUpdate]) -> Vec<Stale<'u>> {
        let both = updates.iter().zip(&self.places);
        let moved = both.filter(|(update, place)| match place {
            Some(place) => *place != update.old,
            None => !update.old.is_zero(),
        });
        moved.map(|(update, place)| Stale { update, place: place.clone() }).collect()
    }
}

/// A question to upstream that is under way while the pack arrives. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Asking(JoinHandle<Result<UpstreamRefs, UpstreamError>>);

impl Asking {
    /// Asks for what a push's commands need.
    pub(super) fn start(front: &Front, remote: &Remote, claim: &PushClaim) -> Self {
        let session = &front.session;
        let credential = push_credential(&session.policy, &session.project, remote);
        let upstream = Upstream::connect(&front.broker, session, remote, &credential);
        let updates = claim.updates.clone();
        Self(tokio::spawn(async move { UpstreamRefs::ask(&upstream, &updates).await }))
    }

    /// Waits for the answer.
    pub(super) async fn finish(mut self) -> Result<UpstreamRefs, UpstreamError> {
        let ended = |error: tokio::task::JoinError| UpstreamError::Host {
            what: "ask upstream what it has",
            source: std::io::Error::other(error),
        };
        (&mut self.0).await.map_err(ended)?
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Whether a command makes a ref.
pub(super) fn is_create(update: &RefUpdate) -> bool {
    update.old.is_zero() && !update.new.is_zero()
}

/// Where upstream's default branch is: asked only where a ref is made, which is compared with it.
pub(super) async fn default_branch(upstream: &Upstream, updates: &[RefUpdate]) -> Option<ObjectId> {
    if !updates.iter().any(is_create) {
        return None;
    }
    let format = updates.first()?.new.format();
    match upstream.head(format).await {
        Ok(head) => head,
        Err(error) => {
            // A server may give pushes and no fetches.
            tracing::info!(error = %crate::cause::chain(&error), "an upstream did not name its default branch");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pktline;

    fn advertisement(refs: &[(&str, char)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (at, (name, digit)) in refs.iter().enumerate() {
            let capabilities = if at == 0 { "\0report-status push-cert=1-x" } else { "" };
            let line = format!("{} {name}{capabilities}\n", digit.to_string().repeat(40));
            pktline::write(&mut bytes, line.as_bytes());
        }
        bytes.extend_from_slice(b"0000");
        bytes
    }

    fn update(old: char, new: char, name: &str) -> RefUpdate {
        let digits = |digit: char| digit.to_string().repeat(40);
        RefUpdate::parse(format!("{} {} {name}", digits(old), digits(new)).as_bytes()).expect("a command")
    }

    #[test]
    fn only_commands_that_start_where_upstream_is_are_not_stale() {
        let bytes = advertisement(&[("refs/heads/main", 'a'), ("refs/heads/side", 'b'), (".have", 'c')]);
        let updates = [
            update('a', 'd', "refs/heads/main"),
            update('0', 'd', "refs/heads/new"),
            update('b', '0', "refs/heads/side"),
        ];
        let refs = UpstreamRefs::of(&bytes, None, &updates);
        assert!(refs.stale(&updates).is_empty());
        assert_eq!(refs.tips.len(), 2, "what lies in an alternate is no ref");
        assert_eq!(refs.default_branch.as_ref().map(ObjectId::as_str), Some("a".repeat(40).as_str()));
        for (stale, says) in [
            (update('d', 'd', "refs/heads/decoy"), "upstream has no such ref"),
            (update('c', 'd', "refs/heads/decoy"), "upstream has no such ref"),
            (update('0', 'd', "refs/heads/main"), "upstream has it at aaaaaaaaaa"),
            (update('b', 'd', "refs/heads/main"), "upstream has it at aaaaaaaaaa"),
            (update('a', '0', "refs/heads/side"), "upstream has it at bbbbbbbbbb"),
        ] {
            let updates = [stale];
            let refs = UpstreamRefs::of(&bytes, None, &updates);
            let reasons: Vec<String> = refs.stale(&updates).iter().map(Stale::reason).collect();
            assert!(reasons.len() == 1 && reasons[0].contains(says), "{reasons:?}");
        }
    }

    #[test]
    fn what_upstream_has_is_the_same_only_where_every_ref_is() {
        let updates = [update('a', 'd', "refs/heads/main")];
        let of = |refs: &[(&str, char)]| UpstreamRefs::of(&advertisement(refs), None, &updates);
        let first = of(&[("refs/heads/main", 'a'), ("refs/heads/side", 'b')]);
        assert_eq!(first, of(&[("refs/heads/main", 'a'), ("refs/heads/side", 'b')]));
        assert_ne!(first, of(&[("refs/heads/main", 'a')]));
        assert_ne!(first, of(&[("refs/heads/main", 'a'), ("refs/heads/site", 'b')]));
        assert_eq!(first.default_branch, None, "nothing is made that it would be compared with");
    }
}
