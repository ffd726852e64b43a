//! What a commit changes that a person is asked to let sign: found out in the inspector's confined child, since the
//! objects are the session's. Only for a question that is really asked; the default policy asks none.

use std::time::SystemTime;

use keyhatch_policies::{Operation, SignOperation, Terms};
use keyhatch_protocol::SignedChanges;

use crate::approval::Question;
use crate::broker::Broker;
use crate::cause::chain;
use crate::inspect::{self, CommitErrand, InspectError, Limits};
use crate::session::Session;

/// Adds what a commit changes to the question, where its objects are at hand.
pub(super) async fn at(
    broker: &Broker,
    session: &Session,
    (operation, terms): (Operation, Terms),
) -> (Operation, Terms) {
    let sign = match operation {
        Operation::Sign(sign) => sign,
        other => return (other, terms),
    };
    let question = Question { sign: &sign, terms: &terms };
    if broker.queue.covers(&session.id, &question, SystemTime::now()) {
        return (Operation::Sign(sign), terms);
    }
    let changes = match changes(broker, session, &sign).await {
        Ok(changes) => changes,
        Err(error) => {
            tracing::info!(session = %session.id, error = %chain(&error), "what a commit changes is not known");
            None
        }
    };
    (Operation::Sign(SignOperation { changes, ..sign }), terms)
}

async fn changes(
    broker: &Broker,
    session: &Session,
    sign: &SignOperation,
) -> Result<Option<SignedChanges>, InspectError> {
    // A tag or a certificate names commits that are there already, and that a push shows.
    let Some(tree) = sign.facts.tree.clone() else { return Ok(None) };
    let quarantine = tempfile::Builder::new().prefix("look-").tempdir_in(broker.paths.spool())?;
    let (objects, readable) = session.stores();
    let limits = session.policy.limits();
    let errand = CommitErrand {
        tree,
        parent: sign.facts.parents.first().cloned(),
        quarantine: quarantine.path().to_owned(),
        objects,
        readable,
        limits: Limits { pack_bytes: limits.pack_bytes, objects: limits.objects },
    };
    inspect::changes_of(&errand).await.map(Some)
}
