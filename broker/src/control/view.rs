//! Requests as surfaces see them, bounded where they are made.
//!
//! A session chooses most of what is in a request, and one frame carries the answer. So every text and every list of a
//! view is cut to what fits its share of a frame; counts are always whole, and what was cut says how much. A request that
//! cannot be rendered is listed as such, and hides no other.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::SystemTime;

use keyhatch_policies::{CredentialChoice, Operation};
use keyhatch_protocol::frame::MAX_CONTROL_FRAME;
use keyhatch_protocol::{
    CarriedSignature, ChangedFile, CommitFact, Facts, Identity, PushPromise, RequestId, Risk, SessionId,
    SignFacts, SignatureFact, SignedChanges, TagFact, TagPromise, UpdateFact,
};
use serde::{Deserialize, Deserializer, Serialize};

use crate::approval::{Asked, BootTime, SignQuestion, seconds};

/// Most bytes of a listing, as JSON: a frame's, and some room for what is around it.
const LISTING: usize = MAX_CONTROL_FRAME - MAX_CONTROL_FRAME / 8;
/// Most bytes of one request in a listing: a few are pending, and each is asked for often.
const LISTED: usize = 256 * 1024;
/// Most bytes of one request that is shown by itself.
const SHOWN: usize = MAX_CONTROL_FRAME / 4;
/// Most bytes of its diff.
const SHOWN_DIFF: usize = MAX_CONTROL_FRAME / 2;
/// The most that a request takes in the smallest of the bounds: a ref's name and an object's are never cut.
const SMALLEST: usize = 16 * 1024;

/// How much of a request a view holds.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// Entries of each list.
    items: usize,
    /// Bytes of each text.
    text: usize,
}

/// From what is read in comfort to what always fits.
const ALL_BOUNDS: [Bounds; 6] = [
    Bounds { items: 2_000, text: 1_000 },
    Bounds { items: 200, text: 1_000 },
    Bounds { items: 50, text: 400 },
    Bounds { items: 20, text: 200 },
    Bounds { items: 4, text: 120 },
    Bounds { items: 1, text: 80 },
];
/// In a listing nobody reads more; `show` has it.
const LISTED_BOUNDS: &[Bounds] = ALL_BOUNDS.as_slice().split_at(2).1;

/// What waits, bounded.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Listing {
    /// Oldest first.
    #[serde(deserialize_with = "each")]
    pub requests: Vec<RequestView>,
    /// How many more there are: nobody reads thousands.
    #[serde(default)]
    pub left_out: u64,
}

/// Reads each request by itself: one that another broker made otherwise, or broke, hides no other.
fn each<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<RequestView>, D::Error> {
    let values = Vec::<serde_json::Value>::deserialize(from)?;
    let text = |value: &serde_json::Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let view = |value: serde_json::Value| {
        let broken = (RequestId::try_from(text(&value, "id")), SessionId::try_from(text(&value, "session")));
        match (serde_json::from_value(value), broken) {
            (Ok(view), _) => Some(view),
            (Err(error), (Ok(id), Ok(session))) => Some(RequestView::broken(id, session, &error.to_string())),
            (Err(error), _) => {
                tracing::warn!(%error, "a request in the list names neither itself nor its session");
                None
            }
        }
    };
    Ok(values.into_iter().filter_map(view).collect())
}

impl Listing {
    /// Renders what waits.
    #[must_use]
    pub fn of(pending: &[Asked], now: BootTime) -> Self {
        let listed = pending.len().min(LISTING / SMALLEST);
        let share = (LISTING / listed.max(1)).min(LISTED);
        let views = pending[..listed].iter().map(|asked| {
            let fitted = || fitted(asked, now, LISTED_BOUNDS, share);
            // A mistake of ours in one view is that view's problem.
            catch_unwind(AssertUnwindSafe(fitted)).unwrap_or_else(|_| {
                RequestView::broken(asked.id.clone(), asked.session.clone(), "its view cannot be made")
            })
        });
        Self { requests: views.collect(), left_out: (pending.len() - listed) as u64 }
    }
}

/// A request as `keyhatch pending --json` prints it. Stable: fields are added, never changed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RequestView {
    /// What people type.
    pub id: RequestId,
    /// Who asks.
    pub session: SessionId,
    /// `push`, `fetch` or `sign`.
    pub operation: String,
    /// The remote's URL; empty for a signature.
    pub remote: String,
    /// SHA-256 over everything that is shown of it, in hexadecimal. The first twelve digits name it too.
    pub digest: String,
    /// When it was asked, in seconds since the epoch.
    pub created: u64,
    /// When it ends by itself, in seconds since the epoch.
    pub expires: u64,
    /// Whether the client went away; an approval then waits for its retry.
    pub withdrawn: bool,
    /// The policy's rule that asks.
    pub rule: String,
    /// Why it asks.
    pub reason: String,
    /// Whether it can only be approved once.
    pub once_only: bool,
    /// The credential's name: `host`, `none`, or one that the user named.
    pub credential: String,
    /// What happens to each ref; empty for a fetch. The first of them.
    pub updates: Vec<UpdateFact>,
    /// How many refs.
    #[serde(default)]
    pub update_count: u64,
    /// The options of `git push -o`. The first of them.
    pub push_options: Vec<String>,
    /// How many options.
    #[serde(default)]
    pub push_option_count: u64,
    /// What to look at. The first of it.
    pub risks: Vec<Risk>,
    /// How many risks.
    #[serde(default)]
    pub risk_count: u64,
    /// How many commits the refs would newly reach.
    pub commit_count: u64,
    /// How many of those no ref of upstream's reaches.
    #[serde(default)]
    pub new_commit_count: u64,
    /// The newest of them.
    pub commits: Vec<CommitFact>,
    /// The annotated tags that are brought.
    #[serde(default)]
    pub tags: Vec<TagFact>,
    /// How many tags.
    #[serde(default)]
    pub tag_count: u64,
    /// Whether it is known what changes; for a signature it may not be.
    #[serde(default)]
    pub changes_known: bool,
    /// How many files change.
    pub file_count: u64,
    /// The first of them.
    pub files: Vec<ChangedFile>,
    /// Added lines.
    pub added: u64,
    /// Removed lines.
    pub removed: u64,
    /// Size of the pack in bytes.
    pub pack_bytes: u64,
    /// What would be signed; only for a signature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<SignFacts>,
    /// How many parents a commit that would be signed has.
    #[serde(default)]
    pub parent_count: u64,
    /// Whether an approval covers the signatures that follow, for a while.
    #[serde(default)]
    pub batch: bool,
    /// Whether texts of it were cut. Each says by how much.
    #[serde(default)]
    pub cut: bool,
    /// Why it cannot be shown. There is then nothing else to go by, and it cannot be approved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A request with its diff.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ShownRequest {
    /// The request.
    #[serde(flatten)]
    pub request: RequestView,
    /// The diff as unified text; it holds what the session wrote.
    pub diff: String,
    /// Whether the diff was cut.
    pub diff_cut: bool,
}

/// The first of the bounds in which a request takes at most so many bytes as JSON.
fn fitted(asked: &Asked, now: BootTime, bounds: &[Bounds], most: usize) -> RequestView {
    for bounds in bounds {
        let view = Cutter { bounds: *bounds, cut: false }.view(asked, now);
        if encoded(&view) <= most {
            return view;
        }
    }
    RequestView::broken(asked.id.clone(), asked.session.clone(), "it is too large to be shown")
}

fn encoded(value: &(impl Serialize + ?Sized)) -> usize {
    serde_json::to_vec(value).map_or(usize::MAX, |bytes| bytes.len())
}

impl RequestView {
    /// Renders one request as a listing does.
    #[must_use]
    pub fn of(asked: &Asked, now: BootTime) -> Self {
        fitted(asked, now, LISTED_BOUNDS, LISTED)
    }

    /// A request of which nothing can be shown.
    fn broken(id: RequestId, session: SessionId, why: &str) -> Self {
        Self { problem: Some(why.to_owned()), ..Self::empty(id, session) }
    }

    fn empty(id: RequestId, session: SessionId) -> Self {
        Self {
            id,
            session,
            operation: String::new(),
            remote: String::new(),
            digest: String::new(),
            created: 0,
            expires: 0,
            withdrawn: false,
            rule: String::new(),
            reason: String::new(),
            once_only: true,
            credential: String::new(),
            updates: Vec::new(),
            update_count: 0,
            push_options: Vec::new(),
            push_option_count: 0,
            risks: Vec::new(),
            risk_count: 0,
            commit_count: 0,
            new_commit_count: 0,
            commits: Vec::new(),
            tags: Vec::new(),
            tag_count: 0,
            changes_known: false,
            file_count: 0,
            files: Vec::new(),
            added: 0,
            removed: 0,
            pack_bytes: 0,
            signature: None,
            parent_count: 0,
            batch: false,
            cut: false,
            problem: None,
        }
    }
}

/// Copies what fits, and remembers whether anything did not.
struct Cutter {
    bounds: Bounds,
    cut: bool,
}

impl Cutter {
    fn view(mut self, asked: &Asked, now: BootTime) -> RequestView {
        let wall = SystemTime::now();
        let mut view = RequestView {
            digest: asked.digest.as_str().to_owned(),
            created: seconds(asked.created.on_wall(now, wall)),
            expires: seconds(asked.expires.on_wall(now, wall)),
            withdrawn: asked.withdrawn,
            rule: self.text(&asked.terms.rule),
            reason: self.text(&asked.terms.reason),
            once_only: asked.terms.once_only,
            credential: match &asked.terms.credential {
                CredentialChoice::Host => "host".into(),
                CredentialChoice::None => "none".into(),
                CredentialChoice::Named(name) => self.text(name),
            },
            ..RequestView::empty(asked.id.clone(), asked.session.clone())
        };
        match &*asked.operation {
            Operation::Sign(sign) => {
                view.operation = "sign".into();
                view.parent_count = sign.facts.parents.len() as u64;
                view.signature = Some(self.signature(&sign.facts));
                view.batch = SignQuestion { sign, terms: &asked.terms }.opens_batch();
                view.risks = self.risks(&sign.facts.risks);
                view.risk_count = sign.facts.risks.len() as u64;
                view.once_only = true;
                if let Some(changes) = &sign.changes {
                    self.changes(&mut view, changes);
                }
            }
            Operation::Fetch(fetch) => {
                view.operation = "fetch".into();
                view.remote = self.text(&fetch.remote.to_string());
            }
            Operation::Push(push) => {
                view.operation = "push".into();
                view.remote = self.text(&push.remote.to_string());
                view.push_option_count = push.push_options.len() as u64;
                view.push_options = self.list(&push.push_options, |cutter, option| cutter.text(option));
                self.push(&mut view, &push.facts);
            }
        }
        view.cut = self.cut;
        view
    }

    fn changes(&mut self, view: &mut RequestView, changes: &SignedChanges) {
        view.changes_known = true;
        view.file_count = changes.file_count;
        view.files = self.list(&changes.files, Self::file);
        view.added = changes.added;
        view.removed = changes.removed;
    }

    fn push(&mut self, view: &mut RequestView, facts: &Facts) {
        view.update_count = facts.updates.len() as u64;
        view.updates = self.list(&facts.updates, |_, update| update.clone());
        view.risk_count = facts.risks.len() as u64;
        view.risks = self
            .list(&facts.risks, |cutter, risk| Risk { detail: cutter.text(&risk.detail), ..risk.clone() });
        view.commit_count = facts.commit_count;
        view.new_commit_count = facts.new_commit_count;
        view.commits = self.list(&facts.commits, Self::commit);
        view.tag_count = facts.tag_count;
        view.tags = self.list(&facts.tags, Self::tag);
        view.changes_known = true;
        view.file_count = facts.file_count;
        view.files = self.list(&facts.files, Self::file);
        view.added = facts.added;
        view.removed = facts.removed;
        view.pack_bytes = facts.pack_bytes;
    }

    /// The first of a list; its count says how much was left out.
    fn list<T, U>(&mut self, all: &[T], mut each: impl FnMut(&mut Self, &T) -> U) -> Vec<U> {
        all.iter().take(self.bounds.items).map(|one| each(self, one)).collect()
    }

    /// The first of a text, and how much of it was cut.
    fn text(&mut self, text: &str) -> String {
        if text.len() <= self.bounds.text {
            return text.to_owned();
        }
        self.cut = true;
        let mut end = self.bounds.text;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        format!("{}… ({} bytes more)", &text[..end], text.len() - end)
    }

    fn risks(&mut self, risks: &[Risk]) -> Vec<Risk> {
        self.list(risks, |cutter, risk| Risk { kind: risk.kind, detail: cutter.text(&risk.detail) })
    }

    /// A message of several lines: more of it than of one line.
    fn message(&mut self, text: &str) -> String {
        let bounds = self.bounds;
        self.bounds.text *= 10;
        let text = self.text(text);
        self.bounds = bounds;
        text
    }

    fn person(&mut self, who: &Identity) -> Identity {
        Identity { name: self.text(&who.name), email: self.text(&who.email) }
    }

    fn file(&mut self, file: &ChangedFile) -> ChangedFile {
        ChangedFile { path: self.text(&file.path), ..*file }
    }

    fn commit(&mut self, commit: &CommitFact) -> CommitFact {
        CommitFact {
            oid: commit.oid.clone(),
            author: self.person(&commit.author),
            committer: self.person(&commit.committer),
            subject: self.text(&commit.subject),
            signature: commit.signature.as_ref().map(|one| self.carried(one)),
            ..*commit
        }
    }

    fn tag(&mut self, tag: &TagFact) -> TagFact {
        TagFact {
            oid: tag.oid.clone(),
            name: self.text(&tag.name),
            tagger: tag.tagger.as_ref().map(|who| self.person(who)),
            subject: self.text(&tag.subject),
            signature: tag.signature.as_ref().map(|one| self.carried(one)),
        }
    }

    fn carried(&mut self, signature: &CarriedSignature) -> CarriedSignature {
        let fact = match &signature.fact {
            SignatureFact::Ours { format, key, record } => {
                SignatureFact::Ours { format: *format, key: self.text(key), record: *record }
            }
            SignatureFact::Foreign { format, key } => {
                SignatureFact::Foreign { format: *format, key: key.as_ref().map(|key| self.text(key)) }
            }
            SignatureFact::Bad { why } => SignatureFact::Bad { why: self.text(why) },
        };
        CarriedSignature {
            covered: self.text(&signature.covered),
            digest: self.text(&signature.digest),
            fact,
        }
    }

    fn promise(&mut self, promise: &PushPromise) -> PushPromise {
        PushPromise {
            remote: promise.remote.clone(),
            nonce: promise.nonce.as_ref().map(|nonce| self.text(nonce)),
            updates: self.list(&promise.updates, |_, update| update.clone()),
            update_count: promise.update_count,
            push_options: self.list(&promise.push_options, |cutter, option| cutter.text(option)),
        }
    }

    fn signature(&mut self, facts: &SignFacts) -> SignFacts {
        SignFacts {
            key: self.text(&facts.key),
            speaker: facts.speaker.as_ref().map(|who| self.person(who)),
            author: facts.author.as_ref().map(|who| self.person(who)),
            subject: self.text(&facts.subject),
            body: self.message(&facts.body),
            encoding: facts.encoding.as_ref().map(|name| self.text(name)),
            risks: self.risks(&facts.risks),
            tag: facts.tag.as_ref().map(|tag| {
                let (name, object_type) = (self.text(&tag.name), self.text(&tag.object_type));
                Box::new(TagPromise { name, object: tag.object.clone(), object_type })
            }),
            certificate: facts.certificate.as_ref().map(|promise| Box::new(self.promise(promise))),
            parents: self.list(&facts.parents, |_, parent| parent.clone()),
            covered: self.text(&facts.covered),
            ..facts.clone()
        }
    }
}

impl ShownRequest {
    /// Renders a request with its diff; none where it cannot be shown.
    #[must_use]
    pub fn of(asked: &Asked, now: BootTime) -> Option<Self> {
        let (diff, mut diff_cut) = match &*asked.operation {
            Operation::Fetch(_) => ("", false),
            Operation::Sign(sign) => match &sign.changes {
                Some(changes) => (changes.diff.as_str(), changes.diff_cut),
                None => ("", false),
            },
            Operation::Push(push) => (push.facts.diff.as_str(), push.facts.diff_cut),
        };
        let mut most = diff.len();
        // What JSON has to escape takes up to six bytes.
        while encoded(&diff[..most]) > SHOWN_DIFF {
            most = most / 4 * 3;
            while !diff.is_char_boundary(most) {
                most -= 1;
            }
            diff_cut = true;
        }
        let request = catch_unwind(AssertUnwindSafe(|| fitted(asked, now, &ALL_BOUNDS, SHOWN))).ok()?;
        request.problem.is_none().then(|| Self { request, diff: diff[..most].to_owned(), diff_cut })
    }
}

#[cfg(test)]
mod tests;
