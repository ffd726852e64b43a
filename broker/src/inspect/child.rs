//! The confined child's own path: confine, read the order, index, walk, compare, answer.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

use keyhatch_protocol::{Facts, SignedChanges, UpdateKind};

use super::quarantine::Quarantine;
use super::{
    Answer, CommitErrand, Errand, Inspected, Missing, Order, Refusal, changes, confine, history, reach,
};

/// Most bytes of an order: 100,000 advertised tips and 10,000 commands fit.
const MAX_ORDER: u64 = 32 * 1024 * 1024;

/// Runs `keyhatch inspect`. Standard input is the spooled push, standard output a socket to the broker.
pub fn main() -> ExitCode {
    let answer = match work() {
        Ok(answer) => answer,
        Err(refusal) => Answer::Refusal(refusal),
    };
    let told = serde_json::to_vec(&answer).map_err(io::Error::other).and_then(|text| {
        let mut socket = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        socket.write_all(&text)
    });
    if told.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Names a step of ours that failed.
pub(super) fn failed(step: &str, error: impl std::fmt::Display) -> Refusal {
    Refusal::Failed { step: format!("{step}: {error}") }
}

fn work() -> Result<Answer, Refusal> {
    match read_errand().map_err(|error| failed("the errand", error))? {
        Errand::Push(order) => push(&order).map(|found| Answer::Found(Box::new(found))),
        Errand::Commit(errand) => commit(*errand).map(|changes| Answer::Changes(Box::new(changes))),
    }
}

/// Looks at a commit that waits for a signature.
fn commit(errand: CommitErrand) -> Result<SignedChanges, Refusal> {
    let CommitErrand { tree, parent, quarantine, objects, readable, limits } = errand;
    let cage = confine::Cage { readable: &readable, quarantine: &quarantine, limits };
    confine::enforce(&cage).map_err(|error| failed("the confinement", error))?;
    let order = Order {
        object_format: tree.format(),
        updates: Vec::new(),
        pack_offset: None,
        quarantine,
        objects,
        bases: Vec::new(),
        advertised: Vec::new(),
        limits,
    };
    changes::of_commit(&Quarantine::borrowing(&order)?, (parent.as_ref(), &tree))
}

fn push(order: &Order) -> Result<Inspected, Refusal> {
    let readable: Vec<_> = order.objects.iter().chain(&order.bases).cloned().collect();
    let cage = confine::Cage { readable: &readable, quarantine: &order.quarantine, limits: order.limits };
    confine::enforce(&cage).map_err(|error| failed("the confinement", error))?;
    let spool = io::stdin().as_fd().try_clone_to_owned().map_err(|error| failed("the spool", error))?;
    let quarantine = Quarantine::index(order, &File::from(spool))?;
    let mut missing = Missing::default();
    let history = history::of(order, &quarantine, &mut missing)?;
    let reached = reach::of(order, &quarantine, &mut missing)?;
    let changes = changes::of(order, &quarantine, &history, &mut missing)?;
    let mut risks = quarantine.risks;
    risks.extend(history.risks);
    risks.extend(reached);
    risks.extend(changes.risks);
    if history.updates.iter().all(|update| update.kind == UpdateKind::Delete) {
        risks.clear();
    }
    let facts = Facts {
        object_format: order.object_format,
        updates: history.updates,
        commit_count: history.commit_count,
        commits: history.commits,
        tags: history.tags,
        file_count: changes.file_count,
        files: changes.files,
        added: changes.added,
        removed: changes.removed,
        object_count: quarantine.objects,
        pack_bytes: quarantine.bytes,
        risks,
        diff: changes.diff,
        diff_cut: changes.diff_cut,
    };
    Ok(Inspected { facts, missing, absent: history.absent })
}

fn read_errand() -> io::Result<Errand> {
    let socket = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut text = Vec::new();
    socket.take(MAX_ORDER).read_to_end(&mut text)?;
    serde_json::from_slice(&text).map_err(io::Error::other)
}
