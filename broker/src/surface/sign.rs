//! A signature that waits for a decision, as surfaces show it.

use keyhatch_protocol::{CarriedSignature, Identity, PushPromise, SignFacts, SignatureFact};

use super::details::{Details, counted};
use crate::approval::{BATCH_HOLDS, BATCH_LASTS};
use crate::control::RequestView;

/// Parents that are listed; the count is whole.
const LISTED: usize = 4;
/// Lines of a message that are shown.
const LINES: usize = 20;

/// In full, but for its first line.
pub(super) fn details(request: &RequestView, facts: &SignFacts, details: &mut Details) {
    details.say(format!("  what        {}, {} signature", facts.kind.word(), facts.format.word()));
    details.say(format!("  key         {}", facts.key));
    if let Some(promise) = &facts.certificate {
        certificate(promise, details);
    }
    if let Some(tag) = &facts.tag {
        details.say(format!("  tags        {} {}", tag.object_type, tag.object.short()));
        details.quote_name(&tag.name);
    }
    details.risks(request);
    if let Some(who) = &facts.speaker {
        details.say("  as");
        details.quote_name(&person(who));
    }
    details.terms(request);
    if request.batch {
        details.say(format!(
            "  covers      also what follows of this kind, rule, key, committer and author: at most {BATCH_HOLDS} \
             within {} minutes",
            BATCH_LASTS.as_secs() / 60
        ));
    } else {
        details.say("  covers      this one");
    }
    if request.changes_known {
        details.say(format!(
            "  changes     {}, +{} -{} lines, against its first parent",
            counted(request.file_count, "file"),
            request.added,
            request.removed
        ));
    } else if facts.tree.is_some() {
        details.warn("! changes     unknown: its objects are not at hand; the push will show them");
    }
    details.say("  subject");
    details.quote(&facts.subject);
    facts.body.lines().take(LINES).for_each(|line| details.quote(line));
    if facts.body.lines().count() > LINES {
        details.say("              … and more lines");
    }
    if let Some(who) = &facts.author {
        details.say("  author");
        details.quote_name(&person(who));
    }
    for parent in facts.parents.iter().take(LISTED) {
        details.say(format!("  follows     {}", parent.short()));
    }
    let left = request.parent_count.saturating_sub(facts.parents.len().min(LISTED) as u64);
    if left > 0 {
        details.say(format!("              … and {left} more"));
    }
    if let Some(tree) = &facts.tree {
        details.say(format!("  tree        {}", tree.short()));
    }
    details.files(request);
}

/// Where a push certificate counts, and for what.
fn certificate(promise: &PushPromise, details: &mut Details) {
    details.say("  pushee");
    details.quote_name(&promise.remote.to_string());
    details.say(format!("  nonce       {}", promise.nonce.as_deref().unwrap_or("none: upstream gives none")));
    for update in promise.updates.iter().take(super::LISTED) {
        let from_to = match (update.old.is_zero(), update.new.is_zero()) {
            (true, _) => format!("new at {}", update.new.short()),
            (_, true) => format!("DELETED, was {}", update.old.short()),
            _ => format!("{} -> {}", update.old.short(), update.new.short()),
        };
        details.say(format!("  ref         {from_to}"));
        details.quote_name(update.ref_name.as_str());
    }
    details.more(promise.update_count, promise.updates.len(), "refs");
    for option in &promise.push_options {
        details.say("  option");
        details.quote(option);
    }
}

/// Whose signature a commit or a tag carries: keyhatch's words, for a row without the session's.
pub(super) fn carried(signature: Option<&CarriedSignature>) -> String {
    let Some(signature) = signature else { return String::new() };
    match &signature.fact {
        SignatureFact::Ours { key, record, .. } => {
            format!(" (signed here with {key}, audit record {record})")
        }
        SignatureFact::Foreign { key: Some(key), .. } => format!(" (signed elsewhere with {key})"),
        SignatureFact::Foreign { format, key: None } => {
            format!(" (signed elsewhere, {}, not checked)", format.map_or("unknown", |format| format.word()))
        }
        SignatureFact::Bad { why } => format!(" (BAD SIGNATURE: {why})"),
    }
}

fn person(who: &Identity) -> String {
    format!("{} <{}>", who.name, who.email)
}
