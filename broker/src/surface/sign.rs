//! A signature that waits for a decision, as surfaces show it.

use keyhatch_protocol::text::shown;
use keyhatch_protocol::{CarriedSignature, Identity, PushPromise, SignFacts, SignatureFact};

use super::written;
use crate::approval::{BATCH_HOLDS, BATCH_LASTS};
use crate::control::RequestView;

/// Parents that are listed; the count is whole.
const LISTED: usize = 4;
/// Lines of a message that are shown.
const LINES: usize = 20;

/// In a few words, for lists. Nothing in it is the session's to choose.
pub(super) fn words(facts: &SignFacts) -> String {
    format!("sign {} with {}", facts.kind.word(), shown(&facts.key))
}

/// In full.
pub(super) fn request(request: &RequestView, facts: &SignFacts) -> String {
    let mut text = String::new();
    let mut say = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    say(format!("sign {}", request.id));
    say(format!("  what        {}, {} signature", facts.kind.word(), facts.format.word()));
    say(format!("  key         {}", shown(&facts.key)));
    if let Some(promise) = &facts.certificate {
        certificate(promise, &mut say);
    }
    if let Some(tag) = &facts.tag {
        say(format!("  tags        {} {}", tag.object_type, tag.object.short()));
    }
    for risk in &request.risks {
        say(format!("! risk        {}: {}", risk.kind.word(), shown(&risk.detail)));
    }
    say(format!("  session     {}", request.session));
    say(format!("  rule        {}: {}", shown(&request.rule), shown(&request.reason)));
    say(format!("  digest      {}", request.digest));
    if request.batch {
        say(format!(
            "  covers      also what follows of this kind, rule, key, committer and author: at most {BATCH_HOLDS} \
             within {} minutes",
            BATCH_LASTS.as_secs() / 60
        ));
    } else {
        say("  covers      this one".to_owned());
    }
    if request.changes_known {
        let (files, added, removed) = (request.file_count, request.added, request.removed);
        say(format!("  changes     {files} files, +{added} -{removed} lines, against its first parent"));
    } else if facts.tree.is_some() {
        say("! changes     unknown: its objects are not at hand; the push will show them".to_owned());
    }
    for parent in facts.parents.iter().take(LISTED) {
        say(format!("  follows     {}", parent.short()));
    }
    let left = request.parent_count.saturating_sub(facts.parents.len().min(LISTED) as u64);
    if left > 0 {
        say(format!("              … and {left} more"));
    }
    if let Some(tree) = &facts.tree {
        say(format!("  tree        {}", tree.short()));
    }
    say(super::SEPARATOR.to_owned());
    if let Some(who) = &facts.speaker {
        say(written("as", &person(who)));
    }
    if let Some(tag) = &facts.tag {
        say(written("tag", &tag.name));
    }
    say(written("subject", &facts.subject));
    facts.body.lines().take(LINES).for_each(|line| say(written("", line)));
    if facts.body.lines().count() > LINES {
        say("              … and more lines".to_owned());
    }
    if let Some(who) = &facts.author {
        say(written("author", &person(who)));
    }
    super::files(request, &mut say);
    text
}

/// Where a push certificate counts, and for what.
fn certificate(promise: &PushPromise, say: &mut impl FnMut(String)) {
    say(format!("  pushee      {}", promise.remote));
    let nonce = promise.nonce.as_deref().map_or_else(|| "none: upstream gives none".to_owned(), shown);
    say(format!("  nonce       {nonce}"));
    for update in promise.updates.iter().take(super::LISTED) {
        let from_to = match (update.old.is_zero(), update.new.is_zero()) {
            (true, _) => format!("new at {}", update.new.short()),
            (_, true) => format!("deleted, was {}", update.old.short()),
            _ => format!("{} -> {}", update.old.short(), update.new.short()),
        };
        say(format!("  ref         {from_to}"));
        say(written("name", update.ref_name.as_str()));
    }
    let listed = promise.updates.len().min(super::LISTED);
    super::more(say, promise.update_count, listed, "refs");
    promise.push_options.iter().for_each(|option| say(written("option", option)));
}

/// Whose signature a commit or a tag carries.
pub(super) fn carried(signature: Option<&CarriedSignature>) -> String {
    let Some(signature) = signature else { return String::new() };
    match &signature.fact {
        SignatureFact::Ours { key, record, .. } => {
            format!(" (signed here with {}, audit record {record})", shown(key))
        }
        SignatureFact::Foreign { key: Some(key), .. } => format!(" (signed elsewhere with {})", shown(key)),
        SignatureFact::Foreign { format, key: None } => {
            format!(" (signed elsewhere, {}, not checked)", format.map_or("unknown", |format| format.word()))
        }
        SignatureFact::Bad { why } => format!(" (BAD SIGNATURE: {})", shown(why)),
    }
}

/// Name and address. Not escaped yet.
pub(super) fn person(who: &Identity) -> String {
    format!("{} <{}>", who.name, who.email)
}
