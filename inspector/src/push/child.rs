//! The confined child's own path: confine, read the order, index, walk, compare, answer.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use keyhatch_cage::{Cage, Limits, Work};
use keyhatch_protocol::{Facts, SignedChanges};

use super::look::Look;
use super::quarantine::Quarantine;
use super::{
    Answer, CommitErrand, Errand, Inspected, Order, Refusal, changes, history, names, reach, search,
};

/// Most bytes of an order: 100,000 advertised tips and 10,000 commands fit.
const MAX_ORDER: u64 = 32 * 1024 * 1024;

/// Runs `keyhatch-inspect inspect`: a confined child, whose one descriptor is the spooled push.
pub fn main() -> ExitCode {
    let told = Work::<Errand>::receive(MAX_ORDER).and_then(|work| {
        let (errand, fds, work) = work.split();
        work.answer(&look(errand, fds).unwrap_or_else(Answer::Refusal))
    });
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("keyhatch-inspect: {}", keyhatch_host::cause::chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// Names a step of ours that failed.
pub(super) fn failed(step: &str, error: impl std::fmt::Display) -> Refusal {
    Refusal::Failed { step: format!("{step}: {error}") }
}

fn look(errand: Errand, fds: Vec<OwnedFd>) -> Result<Answer, Refusal> {
    match errand {
        Errand::Push(order) => push(&order, fds),
        Errand::Commit(errand) => commit(*errand).map(|changes| Answer::Changes(Box::new(changes))),
    }
}

/// Goes in, before anything hostile is read.
fn enforce(readable: &[PathBuf], writable: &Path, limits: super::Limits) -> Result<(), Refusal> {
    let limits = Limits::for_pack(limits.pack_bytes);
    let confined = Cage { readable, writable, limits }.enforce();
    confined.map_err(|error| failed("the confinement", keyhatch_host::cause::chain(&error)))
}

/// Looks at a commit that waits for a signature.
fn commit(errand: CommitErrand) -> Result<SignedChanges, Refusal> {
    let CommitErrand { tree, parent, quarantine, objects, readable, limits } = errand;
    enforce(&readable, &quarantine, limits)?;
    let order = Order {
        object_format: tree.format(),
        updates: Vec::new(),
        pack_offset: None,
        quarantine,
        objects,
        bases: Vec::new(),
        advertised: Vec::new(),
        default_branch: None,
        may_fetch: false,
        limits,
    };
    let quarantine = Quarantine::borrowing(&order)?;
    changes::of_commit(&mut Look::new(&quarantine), parent.as_ref(), &tree)
}

fn push(order: &Order, fds: Vec<OwnedFd>) -> Result<Answer, Refusal> {
    let readable: Vec<_> = order.objects.iter().chain(&order.bases).cloned().collect();
    enforce(&readable, &order.quarantine, order.limits)?;
    let spool = fds.into_iter().next().ok_or_else(|| failed("the spool", "it was not given"))?;
    let quarantine = Quarantine::index(order, &File::from(spool))?;
    let mut look = Look::new(&quarantine);
    quarantine.risks.iter().for_each(|risk| look.risks.add(risk.kind, &risk.detail));
    if order.may_fetch && !history::has_ends(order, &mut look)? {
        return Ok(Answer::Needs(look.missing));
    }
    let history = history::of(order, &mut look)?;
    names::note(&mut look.risks, &history.updates);
    reach::of(order, &mut look)?;
    let changes = changes::of(&mut look, &history.targets);
    search::commits(&mut look, &history.reached);
    let Look { budget, mut risks, missing, .. } = look;
    budget.spent().for_each(|spent| risks.not_looked_at(spent.to_string()));
    let facts = Facts {
        object_format: order.object_format,
        updates: history.updates,
        commit_count: history.commit_count,
        new_commit_count: history.new_count,
        commits: history.commits,
        tag_count: history.tag_count,
        tags: history.tags,
        file_count: changes.file_count,
        files: changes.files,
        added: changes.added,
        removed: changes.removed,
        object_count: quarantine.objects,
        pack_bytes: quarantine.bytes,
        risks: risks.into_list(),
        diff: changes.diff,
        diff_cut: changes.diff_cut,
    };
    Ok(Answer::Found(Box::new(Inspected { facts, missing, absent: history.absent })))
}
