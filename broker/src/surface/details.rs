//! All that is known of a request, as rows: each has keyhatch's words or the session's, never both.

use keyhatch_protocol::{CommitFact, RefName, TagFact, UpdateFact, UpdateKind};
use keyhatch_terminal::Row;

use super::sign;
use crate::control::RequestView;

/// Refs, commits, files and risks that a rendering lists; the counts are always whole.
pub(super) const LISTED: usize = 20;

/// Where rows are collected: at a width, and of long lists only so much.
pub(super) struct Details {
    rows: Vec<Row>,
    columns: usize,
}

impl Details {
    /// For rows of so many cells; of what a session wrote nothing is cut, it takes more rows.
    pub(super) fn new(columns: usize) -> Self {
        Self { rows: Vec::new(), columns }
    }

    pub(super) fn say(&mut self, text: impl AsRef<str>) {
        self.rows.push(Row::keyhatch(text));
    }

    pub(super) fn warn(&mut self, text: impl AsRef<str>) {
        self.rows.push(Row::warning(text));
    }

    /// What the session wrote: what would fill the screen is without its middle.
    pub(super) fn quote(&mut self, text: &str) {
        let text = keyhatch_protocol::text::shown(text);
        self.rows.extend(Row::session_whole(&text, self.columns));
    }

    /// The same of a name (a path, a remote, a person), with what could be taken for another escaped.
    pub(super) fn quote_name(&mut self, name: &str) {
        let text = keyhatch_protocol::text::shown_name(name);
        self.rows.extend(Row::session_whole(&text, self.columns));
    }

    pub(super) fn more(&mut self, count: u64, listed: usize, what: &str) {
        let left = count.saturating_sub(listed.min(LISTED) as u64);
        if left > 0 {
            self.say(format!("              … and {left} more {what}"));
        }
    }

    /// How many rows there are.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn into_rows(self) -> Vec<Row> {
        self.rows
    }

    /// Every ref of a push, with where it is and where it would be.
    pub(super) fn refs(&mut self, request: &RequestView, most: usize) {
        for update in request.updates.iter().take(most) {
            self.update(update);
        }
        let left = request.update_count.saturating_sub(request.updates.len().min(most) as u64);
        if left > 0 {
            self.say(format!("              … and {left} more refs"));
        }
    }

    fn update(&mut self, update: &UpdateFact) {
        let (old, new) = (update.old.short(), update.new.short());
        let from_to = match update.kind {
            UpdateKind::Create => format!("new at {new}"),
            UpdateKind::Delete => format!("was {old}"),
            UpdateKind::FastForward | UpdateKind::Force => format!("{old} -> {new}"),
        };
        if is_dangerous(update.kind) {
            self.warn(format!("! {:<11} {from_to}", word(update.kind)));
        } else {
            self.say(format!("  {:<11} {from_to}", word(update.kind)));
        }
        self.name(&update.ref_name);
    }

    fn name(&mut self, name: &RefName) {
        self.rows.extend(Row::name_whole(name.as_str(), self.columns));
    }

    pub(super) fn risks(&mut self, request: &RequestView) {
        for option in request.push_options.iter().take(LISTED) {
            self.warn("! option");
            self.quote(option);
        }
        self.more(request.push_option_count, request.push_options.len(), "push options");
        for risk in request.risks.iter().take(LISTED) {
            self.warn(format!("! risk        {}", risk.kind.word()));
            self.quote(&risk.detail);
        }
        self.more(request.risk_count, request.risks.len(), "risks");
    }

    pub(super) fn files(&mut self, request: &RequestView) {
        for file in request.files.iter().take(LISTED) {
            let lines = match (file.added, file.removed) {
                (Some(added), Some(removed)) => format!("+{added} -{removed}"),
                _ => "binary".to_owned(),
            };
            self.say(format!("  file        {}  {lines}", file.status));
            self.quote_name(&file.path);
        }
        self.more(request.file_count, request.files.len(), "files");
    }

    fn commit(&mut self, commit: &CommitFact) {
        let signed = sign::carried(commit.signature.as_ref());
        self.say(format!("  commit      {}{signed}", commit.oid.short()));
        self.quote(&commit.subject);
        self.quote_name(&format!("{} <{}>", commit.author.name, commit.author.email));
    }

    fn tag(&mut self, tag: &TagFact) {
        self.say(format!("  tag         {}{}", tag.oid.short(), sign::carried(tag.signature.as_ref())));
        self.quote_name(&tag.name);
        self.quote(&tag.subject);
        if let Some(who) = &tag.tagger {
            self.quote_name(&format!("{} <{}>", who.name, who.email));
        }
    }

    /// What is the same for every kind of request.
    pub(super) fn terms(&mut self, request: &RequestView) {
        self.say(format!("  session     {}", request.session));
        if !request.credential.is_empty() {
            self.say(format!("  credential  {}", request.credential));
        }
        self.say(format!("  rule        {}: {}", request.rule, request.reason));
        self.say(format!("  digest      {}", request.digest));
    }
}

/// A push or a fetch, without its remote and its refs.
pub(super) fn rest(request: &RequestView, details: &mut Details) {
    details.risks(request);
    details.terms(request);
    if request.operation != "push" {
        return;
    }
    details.say(format!(
        "  changes     {}{}, {}, +{} -{} lines, {} bytes",
        counted(request.commit_count, "commit"),
        known(request),
        counted(request.file_count, "file"),
        request.added,
        request.removed,
        request.pack_bytes
    ));
    for commit in request.commits.iter().take(LISTED) {
        details.commit(commit);
    }
    details.more(request.commit_count, request.commits.len(), "commits");
    for tag in request.tags.iter().take(LISTED) {
        details.tag(tag);
    }
    details.more(request.tag_count, request.tags.len(), "tags");
    details.files(request);
}

/// How many of the commits upstream has already, under another ref.
fn known(request: &RequestView) -> String {
    match request.commit_count.saturating_sub(request.new_commit_count) {
        0 => String::new(),
        known => format!(" ({known} of them upstream already, under another ref)"),
    }
}

/// A number with its word.
pub(super) fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Whether an update takes something away.
pub(super) const fn is_dangerous(kind: UpdateKind) -> bool {
    matches!(kind, UpdateKind::Force | UpdateKind::Delete)
}

/// The word for people: what takes something away is written large.
pub(super) const fn word(kind: UpdateKind) -> &'static str {
    match kind {
        UpdateKind::Create => "create",
        UpdateKind::FastForward => "fast-forward",
        UpdateKind::Force => "FORCE",
        UpdateKind::Delete => "DELETE",
    }
}
