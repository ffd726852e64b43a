//! A session's network in its report and in the audit's last word.

use keyhatch_policies::network::{Network, NetworkMode};
use keyhatch_protocol::SessionId;
use keyhatch_protocol::text::shown;
use serde_json::{Value, json};

use super::SessionNetwork;
use super::tally::{Count, Counts};
use crate::session::report::Section;

/// The section's name, for scripts and for `keyhatch session show --network`.
pub const NAME: &str = "network";
/// Refused destinations that the end report names; `--network` names them all.
const NAMED: usize = 10;

/// What a session's network did; none when there is nothing to say.
#[must_use]
pub fn section(session: &SessionId, network: &SessionNetwork) -> Option<Section> {
    let counts = network.tally.counts();
    if counts.is_empty() {
        return None;
    }
    Some(Section { name: NAME.into(), lines: lines(session, &network.rules, &counts), data: data(&counts) })
}

fn data(counts: &Counts) -> Value {
    // Plain data of ours: it always encodes.
    serde_json::to_value(counts).unwrap_or(Value::Null)
}

fn lines(session: &SessionId, rules: &Network, counts: &Counts) -> Vec<String> {
    let sums = counts.sums();
    let mut lines = vec![summary(counts, &sums)];
    let missed: Vec<(&String, &Count)> =
        counts.destinations.iter().filter(|(_, count)| count.refused + count.failed > 0).collect();
    lines.extend(missed.iter().take(NAMED).map(|(name, count)| miss(name, count)));
    if missed.len() > NAMED {
        let more = missed.len() - NAMED;
        lines.push(format!("  and {more} more: keyhatch session show {session} --network"));
    }
    let others = counts.others.refused + counts.others.failed;
    if others > 0 {
        lines.push(format!("  and {others} attempts to destinations that are not listed"));
    }
    let unlisted: Vec<&String> =
        missed.iter().filter(|(_, count)| count.line.is_some()).map(|(name, _)| *name).collect();
    if !unlisted.is_empty() && rules.mode != NetworkMode::Host {
        lines.push(
            "  a line goes into the session's policy: keyhatch policy show prints what is there".into(),
        );
    }
    lines
}

fn summary(counts: &Counts, sums: &Count) -> String {
    let mut parts = vec![format!("{} connections to {} hosts", sums.connected, reached(counts))];
    if sums.sent + sums.received > 0 {
        parts.push(format!("{} out, {} in", bytes(sums.sent), bytes(sums.received)));
    }
    for (count, words) in
        [(sums.refused, "refused"), (sums.failed, "failed"), (counts.published, "to published ports")]
    {
        if count > 0 {
            parts.push(format!("{count} {words}"));
        }
    }
    for (service, count) in &counts.services {
        parts.push(format!("{count} to {service} of this machine"));
    }
    parts.join(", ")
}

fn reached(counts: &Counts) -> usize {
    counts.destinations.values().filter(|count| count.connected > 0).count()
}

/// One destination that was not reached: what, who, why, and the line that would allow it.
fn miss(name: &str, count: &Count) -> String {
    let who = match count.processes.iter().next() {
        Some(process) => format!(" (by {})", shown(process)),
        None => String::new(),
    };
    let times = count.refused + count.failed;
    let why = count.reason.as_deref().unwrap_or("no reason is kept");
    let line = count.line.as_deref().map(|line| format!("; to allow it: {line}")).unwrap_or_default();
    let times = if times == 1 { "once".to_owned() } else { format!("{times} times") };
    format!("  {name}, {times}{who}: {why}{line}")
}

fn bytes(count: u64) -> String {
    match count {
        0..=9_999 => format!("{count} B"),
        10_000..=9_999_999 => format!("{} KiB", count >> 10),
        _ => format!("{} MiB", count >> 20),
    }
}

/// The whole section, every destination of it, from the data that a report keeps.
#[must_use]
pub fn whole(section: &Section) -> Vec<String> {
    let Ok(counts) = serde_json::from_value::<Counts>(section.data.clone()) else {
        return section.lines.clone();
    };
    let mut lines = vec![summary(&counts, &counts.sums())];
    for (name, count) in &counts.destinations {
        if count.connected > 0 {
            let (sent, received) = (bytes(count.sent), bytes(count.received));
            lines.push(format!("  {name}, {} connections: {sent} out, {received} in", count.connected));
        }
        if count.refused + count.failed > 0 {
            lines.push(miss(name, count));
        }
    }
    lines
}

/// The sums for the audit: every connection and every refusal is in one of them.
#[must_use]
pub fn audit_fields(network: &SessionNetwork) -> Option<Vec<(&'static str, Value)>> {
    let counts = network.tally.counts();
    if counts.is_empty() {
        return None;
    }
    let of = |count: &Count| {
        json!({
            "connected": count.connected, "refused": count.refused, "failed": count.failed,
            "sent": count.sent, "received": count.received,
        })
    };
    let destinations: Value =
        counts.destinations.iter().map(|(name, count)| (name.clone(), of(count))).collect();
    let services: Value =
        counts.services.iter().map(|(name, count)| (name.clone(), Value::from(*count))).collect();
    Some(vec![
        ("destinations", destinations),
        ("others", of(&counts.others)),
        ("published", counts.published.into()),
        ("services", services),
    ])
}
