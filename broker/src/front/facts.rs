//! From spooled bytes to facts: inspect, fetch from upstream what the host lacks, inspect again.
//!
//! What cannot be had stays unknown, and unknown is a risk: a push is not refused for want of a base, only where what it
//! would point to is nowhere.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use keyhatch_policies::{PushLimits, push_credential};
use keyhatch_protocol::text::shown_name;
use keyhatch_protocol::{CarriedSignature, Facts, Remote, Risk, RiskKind, SignatureFact};

use super::Front;
use super::upstream_refs::UpstreamRefs;
use crate::cause::chain;
use crate::inspect::{self, InspectError, Inspected, Inspection, Limits, Missing, Order, base_packs};
use crate::signer::MadeSignature;
use crate::spool::Sealed;
use crate::upstream::Upstream;

/// Rounds with upstream: history first, then the files that the diff compares, then what those showed.
const ROUNDS: usize = 3;
/// Most bytes of packs that are kept for one remote and credential.
const MAX_KEPT: u64 = 512 * 1024 * 1024;

/// Finds out what a push would do. `waits` says when it waits for its turn.
///
/// # Errors
/// When the push is refused, or the inspector did not answer.
pub(super) async fn of(
    front: &Front,
    remote: &Remote,
    sealed: &Sealed,
    refs: &UpstreamRefs,
    waits: &AtomicBool,
) -> Result<Facts, InspectError> {
    let session = &front.session;
    let credential = push_credential(&session.policy, &session.project, remote);
    let upstream = Upstream::connect(&front.broker, session, remote, &credential);
    let quarantine = tempfile::Builder::new().prefix("quarantine-").tempdir_in(front.broker.paths.spool())?;
    let PushLimits { pack_bytes, objects } = session.policy.limits();
    let kept = upstream.base_store();
    let mut order = Order {
        object_format: sealed.claim().object_format,
        updates: sealed.claim().updates.clone(),
        pack_offset: sealed.claim().pack_offset,
        quarantine: PathBuf::new(),
        objects: session
            .objects
            .iter()
            .cloned()
            .chain([kept.clone()])
            .filter(|store| store.is_dir())
            .collect(),
        bases: Vec::new(),
        advertised: refs.tips.clone(),
        default_branch: refs.default_branch.clone(),
        may_fetch: true,
        limits: Limits { pack_bytes, objects },
    };
    let mut round = 0;
    loop {
        // Each inspection starts afresh: what an earlier one left is not trusted.
        order.quarantine = quarantine.path().join(format!("round-{round}"));
        fs::create_dir(&order.quarantine)?;
        let mut settled = None;
        let turn = front.broker.inspections.turn(&session.id, waits).await;
        let looked = inspect::inspect(&order, sealed.file()).await?;
        drop(turn);
        let missing = match looked {
            Inspection::Needs(missing) => missing,
            Inspection::Found(found) => {
                let Inspected { facts, missing, absent } = *found;
                if missing.is_empty() || round == ROUNDS || !order.may_fetch {
                    keep(&base_packs(&order.quarantine), &kept);
                    return match absent {
                        Some(refusal) => Err(refusal.into()),
                        None => Ok(with_signatures(front, with_remote(remote, facts)).await),
                    };
                }
                settled = Some((facts, absent));
                missing
            }
        };
        let base = quarantine.path().join(format!("base-{round}.pack"));
        round += 1;
        match fetch(&upstream, &missing, &order, &base).await? {
            Fetched::Pack => {
                order.bases.push(base);
                order.may_fetch = round < ROUNDS;
            }
            Fetched::Nothing => match settled {
                Some((facts, None)) => {
                    return Ok(with_signatures(front, with_remote(remote, facts)).await);
                }
                Some((_, Some(absent))) => return Err(absent.into()),
                // What it needs is nowhere: it is looked at as it is.
                None => order.may_fetch = false,
            },
        }
    }
}

/// Whether upstream sent anything.
enum Fetched {
    Pack,
    Nothing,
}

async fn fetch(
    upstream: &Upstream,
    missing: &Missing,
    order: &Order,
    to: &Path,
) -> Result<Fetched, InspectError> {
    let mut file = File::create_new(to)?;
    match upstream.fetch_bases(missing, order.object_format, (&mut file, order.limits.pack_bytes)).await {
        Ok(true) => Ok(Fetched::Pack),
        Ok(false) => Ok(Fetched::Nothing),
        Err(error) => {
            tracing::info!(error = %chain(&error), "upstream did not send what a push builds on");
            Ok(Fetched::Nothing)
        }
    }
}

/// Adds what the remote's own name says.
fn with_remote(remote: &Remote, mut facts: Facts) -> Facts {
    if remote.is_lookalike() {
        let detail = shown_name(&remote.to_string());
        facts.risks.push(Risk { kind: RiskKind::LookAlike, detail });
    }
    facts
}

/// Says which signatures this broker made, for these very commits and tags.
async fn with_signatures(front: &Front, mut facts: Facts) -> Facts {
    let commits = facts.commits.iter_mut().filter_map(|commit| commit.signature.as_mut());
    let tags = facts.tags.iter_mut().filter_map(|tag| tag.signature.as_mut());
    let carried: Vec<&mut CarriedSignature> = commits.chain(tags).collect();
    let wanted: Vec<_> = carried.iter().map(|one| (one.covered.clone(), one.digest.clone())).collect();
    if wanted.is_empty() {
        return facts;
    }
    let found = front.broker.made.find(&wanted, &front.broker.paths.audit()).await;
    for signature in carried {
        let digests = (signature.covered.clone(), signature.digest.clone());
        if let Some(MadeSignature { format, key, record }) = found.get(&digests).cloned() {
            signature.fact = SignatureFact::Ours { format, key, record };
        }
    }
    facts
}

/// Keeps indexed packs for the next push. Objects are named by their content and checked when they are read, so a pack
/// that a fooled inspector wrote can only be missing something.
fn keep(packs: &Path, store: &Path) {
    let moved = || -> io::Result<()> {
        let to = store.join("pack");
        let entries: Vec<PathBuf> =
            fs::read_dir(packs)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
        if entries.is_empty() {
            return Ok(());
        }
        fs::create_dir_all(&to)?;
        for path in entries {
            if let Some(name) = path.file_name() {
                fs::rename(&path, to.join(name))?;
            }
        }
        prune(&to)
    };
    if let Err(error) = moved() {
        tracing::warn!(%error, "what upstream sent is not kept");
    }
}

/// Drops everything where too much is kept: the next push fetches what it needs.
fn prune(packs: &Path) -> io::Result<()> {
    let mut bytes = 0;
    for entry in fs::read_dir(packs)? {
        bytes += entry?.metadata()?.len();
    }
    if bytes > MAX_KEPT { fs::remove_dir_all(packs) } else { Ok(()) }
}
