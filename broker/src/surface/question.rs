//! A question on a screen of any size: what is decided stands in rows that nothing pushes away, the rest scrolls below.
//!
//! Pure: a request and a size give the rows. Where the rows that must be seen do not fit, it is not asked there.

use keyhatch_protocol::UpdateKind;
use keyhatch_terminal::{GUTTER, Row, Size, cut, width};

use super::details::{self, Details, counted, word};
use super::sign;
use crate::control::RequestView;

/// The smallest screen on which is asked.
pub const SMALLEST: Size = Size { columns: 40, rows: 10 };
/// Rows that a remote takes at most. Its host is whole in the first two.
const REMOTE_ROWS: usize = 3;
/// Rows that stay for the details where there is more than one ref.
const VIEWER: usize = 3;

/// What scrolls below the fixed rows.
#[derive(Debug, Clone, Copy, Default)]
pub struct View<'v> {
    /// The first row that is seen.
    pub scroll: usize,
    /// The diff, in place of the details.
    pub diff: Option<&'v [Row]>,
    /// How many rows of the details were on the screen so far, without a gap.
    pub seen: usize,
}

/// Which decisions a screen offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// All of them.
    Decide,
    /// Approving once all refs were on the screen.
    ReadOn,
    /// None that approves: this screen cannot show what must be seen.
    Elsewhere,
    /// None at all: it is too small.
    TooSmall,
}

/// A screen.
#[derive(Debug, Clone)]
pub struct Layout {
    /// As many as the screen has, each of its width at most when fitted.
    pub rows: Vec<Row>,
    /// What may be decided here.
    pub offer: Offer,
    /// How many rows scroll at a time.
    pub viewer: usize,
    /// How far it can be scrolled.
    pub furthest: usize,
    /// How many rows of the details were on the screen so far, this time included, without a gap.
    pub seen: usize,
}

/// Lays a request out. The layout has exactly `size.rows` rows.
#[must_use]
pub fn layout(request: &RequestView, view: View<'_>, size: Size) -> Layout {
    if size.columns < SMALLEST.columns || size.rows < SMALLEST.rows {
        return too_small(request, size);
    }
    let columns = usize::from(size.columns);
    let mut fixed = Fixed::of(request, columns);
    // As many rows as the longest offer takes: nothing jumps when the offer changes.
    let offers = [Offer::Decide, Offer::ReadOn, Offer::Elsewhere];
    let most = offers.iter().map(|offer| keys(request, *offer, columns).len()).max().unwrap_or(0);
    let room = usize::from(size.rows).saturating_sub(most);
    let hidden = fixed.place_refs(room);
    let mut scrolled = Details::new(columns);
    if hidden > 0 {
        scrolled.refs(request, usize::MAX);
    }
    let refs = scrolled.len();
    match &request.signature {
        Some(facts) => sign::details(request, facts, &mut scrolled),
        None => {
            if hidden == 0 {
                scrolled.refs(request, details::LISTED);
            }
            details::rest(request, &mut scrolled);
        }
    }
    let scrolled = scrolled.into_rows();
    let left = room.saturating_sub(fixed.rows.len());
    let has_rule = left > 2;
    let viewer = left - usize::from(has_rule);
    let body = view.diff.unwrap_or(&scrolled);
    let furthest = body.len().saturating_sub(viewer);
    let scroll = view.scroll.min(furthest);
    let is_followed = view.diff.is_none() && scroll <= view.seen;
    let seen = if is_followed { view.seen.max((scroll + viewer).min(body.len())) } else { view.seen };
    let offer = match (fixed.is_whole && (hidden == 0 || viewer > 0), hidden > 0 && refs > seen) {
        (false, _) => Offer::Elsewhere,
        (true, true) => Offer::ReadOn,
        (true, false) => Offer::Decide,
    };
    let mut rows = fixed.rows;
    if has_rule {
        rows.push(rule(view.diff.is_some(), scroll, viewer, body.len(), columns));
    }
    rows.extend(body.iter().skip(scroll).take(viewer).cloned());
    let keys = keys(request, offer, columns);
    rows.resize(usize::from(size.rows) - keys.len(), Row::keyhatch(""));
    rows.extend(keys);
    Layout { rows, offer, viewer, furthest, seen }
}

/// The line between what stays and what scrolls.
fn rule(is_diff: bool, scroll: usize, viewer: usize, rows: usize, columns: usize) -> Row {
    let what = if is_diff { "diff" } else { "details" };
    let text = if rows > viewer {
        format!("-- {what} {}-{} of {rows}, j k space: scroll ", scroll + 1, (scroll + viewer).min(rows))
    } else {
        format!("-- {what} ")
    };
    let left = columns.saturating_sub(width(&text));
    Row::keyhatch(format!("{text}{}", "-".repeat(left)))
}

/// The rows that stay.
struct Fixed {
    rows: Vec<Row>,
    /// The updates that take nothing away.
    harmless: Vec<Row>,
    risks: Row,
    /// Whether a value that must be whole is.
    is_whole: bool,
}

impl Fixed {
    fn of(request: &RequestView, columns: usize) -> Self {
        let mut rows = vec![Row::keyhatch(sentence(request, columns))];
        let named = remote(&request.remote, columns);
        let is_whole = named.is_some()
            && request.problem.is_none()
            && request.update_count == request.updates.len() as u64;
        rows.extend(named.unwrap_or_else(|| vec![Row::name(&request.remote)]));
        for kind in [UpdateKind::Force, UpdateKind::Delete] {
            rows.extend(group(request, kind));
        }
        if request.problem.is_some() {
            rows.push(Row::warning("! it cannot be shown, so not approved"));
        }
        let mut is_whole = is_whole;
        if let Some(promise) = request.signature.as_ref().and_then(|facts| facts.certificate.as_ref()) {
            let pushee = remote(&promise.remote.to_string(), columns);
            is_whole = pushee.is_some() && promise.update_count == promise.updates.len() as u64;
            rows.push(Row::warning(format!("for a push of {} to", counted(promise.update_count, "ref"))));
            rows.extend(pushee.unwrap_or_default());
            for update in &promise.updates {
                let text = if update.new.is_zero() { "! DELETE" } else { "update" };
                rows.push(if update.new.is_zero() { Row::warning(text) } else { Row::keyhatch(text) });
                rows.push(Row::name(update.ref_name.as_str()));
            }
        }
        if let Some(facts) = &request.signature {
            rows.push(Row::keyhatch(format!("with the key {}", facts.key)));
            if let Some(who) = &facts.speaker {
                rows.push(Row::keyhatch("in the name of"));
                rows.push(Row::name(&format!("{} <{}>", who.name, who.email)));
            }
            if request.batch {
                rows.push(Row::warning(cut("and what follows of this kind and person", columns)));
            }
        }
        let harmless = [UpdateKind::FastForward, UpdateKind::Create]
            .into_iter()
            .flat_map(|kind| group(request, kind))
            .collect();
        Self { rows, harmless, risks: risks(request, columns), is_whole }
    }

    /// Places the updates that take nothing away, as many as leave some of the room, and the risks. Says how many rows
    /// of them could not be placed. What does not fit without them is not whole.
    fn place_refs(&mut self, room: usize) -> usize {
        let needed = self.rows.len() + 1;
        if needed > room {
            self.is_whole = false;
            self.rows.truncate(room.saturating_sub(1));
        }
        let fits = self.harmless.len() + needed <= room;
        let placed = if fits { self.harmless.len() } else { room.saturating_sub(needed + VIEWER + 1) };
        let hidden = self.harmless.len().saturating_sub(placed);
        self.rows.extend(self.harmless.drain(..).take(placed));
        self.rows.push(self.risks.clone());
        hidden
    }
}

/// What is asked, in one line.
fn sentence(request: &RequestView, columns: usize) -> String {
    let what = match &request.signature {
        Some(facts) => format!("sign a {}", facts.kind.word()),
        None if request.operation == "push" => "push to".to_owned(),
        None => format!("{} from", request.operation),
    };
    let text = format!("keyhatch: the agent wants to {what}");
    let named = format!("{text:<46} request {}", request.id);
    if width(&named) <= columns { named } else { cut(&text, columns) }
}

/// The remote. None where its host does not fit.
fn remote(remote: &str, columns: usize) -> Option<Vec<Row>> {
    if remote.is_empty() {
        return Some(Vec::new());
    }
    // Cut where the view was made: how much of the host is left is not known.
    if remote.contains('…') {
        return None;
    }
    let room = columns - width(GUTTER);
    let mut rows = Row::name_whole(remote, columns);
    if rows.len() <= REMOTE_ROWS {
        return Some(rows);
    }
    let host_ends = remote.find("://").map_or(0, |at| at + 3);
    let host_ends = remote[host_ends..].find('/').map_or(remote.len(), |at| host_ends + at);
    let host_width =
        Row::session_whole(&remote[..host_ends], usize::MAX).first().map_or(0, |row| width(&row.line()));
    if host_width > room * (REMOTE_ROWS - 1) {
        return None;
    }
    let head: usize = REMOTE_ROWS - 1;
    let rest: String =
        rows.iter().skip(head).map(|row| row.line().trim_start_matches(GUTTER).to_owned()).collect();
    rows.truncate(head);
    // It is escaped already: what is left of it is shown cut.
    rows.push(Row::session(&rest));
    Some(rows)
}

/// The updates of one kind: what, then each ref in a row of its own.
fn group(request: &RequestView, kind: UpdateKind) -> Vec<Row> {
    let refs: Vec<Row> = request
        .updates
        .iter()
        .filter(|update| update.kind == kind)
        .map(|update| Row::name(update.ref_name.as_str()))
        .collect();
    if refs.is_empty() {
        return refs;
    }
    let text = format!("{} {}", word(kind), counted(refs.len() as u64, "ref"));
    let head = match kind {
        UpdateKind::Force => Row::warning(format!("! {text}: commits can be lost")),
        UpdateKind::Delete => Row::warning(format!("! {text}")),
        _ => Row::keyhatch(text),
    };
    std::iter::once(head).chain(refs).collect()
}

/// How many risks there are, and of which kinds.
fn risks(request: &RequestView, columns: usize) -> Row {
    if request.risk_count == 0 {
        return Row::keyhatch("no risk was found");
    }
    let mut text = format!("! {}", counted(request.risk_count, "risk"));
    let mut kinds: Vec<&str> = Vec::new();
    for risk in &request.risks {
        let word = risk.kind.word();
        if kinds.contains(&word) {
            continue;
        }
        let next = format!("{text}{} {word}", if kinds.is_empty() { ":" } else { "," });
        if width(&next) + 2 > columns {
            text.push_str(" …");
            break;
        }
        kinds.push(word);
        text = next;
    }
    Row::warning(text)
}

/// The keys, in as many rows as they take.
fn keys(request: &RequestView, offer: Offer, columns: usize) -> Vec<Row> {
    let mut items: Vec<String> = Vec::new();
    match offer {
        Offer::Decide => {
            items.push("a  approve once".to_owned());
            if !request.once_only {
                items.push("s  for this session".to_owned());
            }
        }
        Offer::ReadOn => items.push("space  read on: all refs, then approve".to_owned()),
        _ if request.problem.is_some() => items.push("it can only be denied".to_owned()),
        Offer::Elsewhere | Offer::TooSmall => items.push(format!("keyhatch show {} to approve", request.id)),
    }
    items.push("d  deny".to_owned());
    if request.operation != "fetch" {
        items.push("v  diff".to_owned());
    }
    items.push("l  later".to_owned());
    let mut rows: Vec<String> = Vec::new();
    for item in items {
        match rows.last_mut() {
            Some(row) if width(row) + 3 + width(&item) <= columns => {
                row.push_str("   ");
                row.push_str(&item);
            }
            _ => rows.push(item),
        }
    }
    rows.into_iter().map(Row::keyhatch).collect()
}

/// A screen on which is not asked, and how to decide all the same.
fn too_small(request: &RequestView, size: Size) -> Layout {
    let texts = [
        format!("keyhatch show {}", request.id),
        "in another terminal: a request waits".to_owned(),
        format!("this one has less than {}x{}", SMALLEST.columns, SMALLEST.rows),
        "l  later".to_owned(),
    ];
    let mut rows: Vec<Row> = texts.iter().map(Row::keyhatch).collect();
    rows.resize(usize::from(size.rows), Row::keyhatch(""));
    Layout { rows, offer: Offer::TooSmall, viewer: 0, furthest: 0, seen: 0 }
}

/// What is shown for a moment when a request leaves the screen undecided.
#[must_use]
pub fn farewell(request: &RequestView, why: &str, size: Size) -> Vec<Row> {
    let mut rows = vec![
        Row::keyhatch(format!("keyhatch: request {} still waits", request.id)),
        Row::keyhatch(why),
        Row::keyhatch(format!("keyhatch show {}", request.id)),
        Row::keyhatch("in another terminal, shows it again"),
    ];
    rows.resize(usize::from(size.rows), Row::keyhatch(""));
    rows
}

#[cfg(test)]
mod tests;
