//! What a commit changes that a person is asked to let sign: found out in the inspector's confined child, since the
//! objects are the session's. Only for a question that is really asked; the default policy asks none.

use std::sync::atomic::AtomicBool;

use keyhatch_protocol::{SignFacts, SignedChanges};

use crate::approval::{Question, Signature};
use crate::broker::Broker;
use crate::cause::chain;
use crate::inspect::{self, CommitErrand, InspectError, Limits};
use crate::session::Session;

/// Adds what a commit changes to the question, where its objects are at hand.
pub(super) async fn at(
    broker: &Broker,
    session: &Session,
    question: Question<Signature>,
) -> Question<Signature> {
    if broker.queue.covers(&session.id, &question) {
        return question;
    }
    let changes = match changes(broker, session, question.facts()).await {
        Ok(changes) => changes,
        Err(error) => {
            tracing::info!(session = %session.id, error = %chain(&error), "what a commit changes is not known");
            None
        }
    };
    question.with_changes(changes)
}

async fn changes(
    broker: &Broker,
    session: &Session,
    facts: &SignFacts,
) -> Result<Option<SignedChanges>, InspectError> {
    // A tag or a certificate names commits that are there already, and that a push shows.
    let Some(tree) = facts.tree.clone() else { return Ok(None) };
    let quarantine = tempfile::Builder::new().prefix("look-").tempdir_in(broker.paths.spool())?;
    let (objects, readable) = session.stores();
    let limits = session.policy.limits();
    let errand = CommitErrand {
        tree,
        parent: facts.parents.first().cloned(),
        quarantine: quarantine.path().to_owned(),
        objects,
        readable,
        limits: Limits { pack_bytes: limits.pack_bytes, objects: limits.objects },
    };
    let _turn = broker.looks.turn(&session.id, &AtomicBool::default()).await;
    inspect::changes_of(&errand).await.map(Some)
}
