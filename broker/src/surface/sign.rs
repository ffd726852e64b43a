//! A signature that waits for a decision, as surfaces show it.

use keyhatch_protocol::text::shown;
use keyhatch_protocol::{CarriedSignature, Identity, SignFacts, SignatureFact};

use crate::approval::{BATCH_HOLDS, BATCH_LASTS};
use crate::control::RequestView;

/// Parents that are listed; the count is whole.
const LISTED: usize = 4;

/// In a few words, for lists.
pub(super) fn words(facts: &SignFacts) -> String {
    format!("sign {} {}", facts.kind.word(), shown(&facts.subject))
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
    if let Some(who) = &facts.speaker {
        say(format!("  as          {}", person(who)));
    }
    say(format!("  session     {}", request.session));
    say(format!("  rule        {}: {}", shown(&request.rule), shown(&request.reason)));
    say(format!("  digest      {}", request.digest));
    if request.batch {
        say(format!(
            "  covers      also what follows of this kind, key and person: at most {BATCH_HOLDS} within {} minutes",
            BATCH_LASTS.as_secs() / 60
        ));
    }
    if request.changes_known {
        let (files, added, removed) = (request.file_count, request.added, request.removed);
        say(format!("  changes     {files} files, +{added} -{removed} lines, against its first parent"));
    } else if facts.tree.is_some() {
        say("! changes     unknown: its objects are not at hand; the push will show them".to_owned());
    }
    say("  --- from here on, text that the session wrote ---".to_owned());
    say(format!("  subject     {}", shown(&facts.subject)));
    if let Some(who) = &facts.author {
        say(format!("  author      {}", person(who)));
    }
    for parent in facts.parents.iter().take(LISTED) {
        say(format!("  follows     {}", parent.short()));
    }
    if facts.parents.len() > LISTED {
        say(format!("              … and {} more", facts.parents.len() - LISTED));
    }
    if let Some(tree) = &facts.tree {
        say(format!("  tree        {}", tree.short()));
    }
    super::files(request, &mut say);
    text
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

fn person(who: &Identity) -> String {
    shown(&format!("{} <{}>", who.name, who.email))
}
