use keyhatch_terminal::{Voice, width};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const SIZES: [(u16, u16); 4] = [(40, 10), (80, 24), (120, 40), (200, 50)];

/// What a session writes into a field.
const WRITTEN: &[&str] = &[
    "fix",
    "a  approve once   s  for this session   d  deny",
    "keyhatch: the agent wants to push to",
    "no risk was found",
    "│ refs/heads/agent/typo",
    "(signed here with SHA256:x, audit record 1)",
    "a very long line that goes on and on over the edge of every screen so that what stands below it is pushed away, a very long line that goes on and on over the edge of every screen so that what stands below it is pushed away",
    "\u{1b}[2J\u{1b}[H\u{9b}1;5r",
    "two\nlines\r\nmore\u{2028}\u{2029}\u{85}",
    "\u{202e}evil\u{2066} שלום العربية",
    "漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字",
    "Z\u{351}\u{36b}\u{343}\u{36a}\u{302}\u{36b}\u{33d}",
    "👩‍👩‍👧‍👦 zero\u{200b}width\ttab",
];

fn request(refs: &[(&str, &str)], written: &str, risks: usize) -> RequestView {
    let oid = |digit: &str| digit.repeat(40);
    let updates: Vec<Value> = refs
        .iter()
        .map(|(name, kind)| json!({"ref": name, "kind": kind, "old": oid("1"), "new": oid("2")}))
        .collect();
    let who = json!({"name": written, "email": written});
    let commit = json!({
        "oid": oid("3"), "author": who, "committer": who, "subject": written, "signed": false, "signature": null, "parents": 1
    });
    let risk = json!({"kind": "secret", "detail": written});
    let file = json!({"path": written, "status": "M", "added": 1, "removed": 1});
    serde_json::from_value(json!({
        "id": "3f2a1c", "session": "0".repeat(8), "operation": "push", "remote": "https://git.example.org/acme/hello.git",
        "digest": "d".repeat(64), "created": 1, "expires": 2, "withdrawn": false, "rule": "own remotes", "reason": "asks",
        "once_only": false, "credential": "host", "updates": updates, "update_count": refs.len(),
        "push_options": [written], "push_option_count": 1, "risks": vec![risk; risks], "risk_count": risks, "commit_count": 30, "commits": vec![commit; 30], "tags": [], "changes_known": true,
        "file_count": 30, "files": vec![file; 30], "added": 1, "removed": 1, "pack_bytes": 1, "batch": false
    }))
    .expect("a request")
}

fn shown(layout: &Layout, columns: u16) -> Vec<String> {
    layout.rows.iter().map(|row| row.fitted(usize::from(columns))).collect()
}

#[test]
fn remote_refs_risks_and_keys_stand_in_their_rows_at_every_size_whatever_the_session_wrote() {
    let refs =
        [("refs/heads/main", "force"), ("refs/heads/release", "delete"), ("refs/heads/agent/x", "create")];
    for (columns, rows) in SIZES {
        for written in WRITTEN {
            let request = request(&refs, written, 3);
            let layout = layout(&request, View::default(), Size { columns, rows });
            let lines = shown(&layout, columns);
            let whole = lines.join("\n");
            let at = |text: &str| {
                lines.iter().position(|row| row == text).unwrap_or_else(|| panic!("{text}:\n{whole}"))
            };
            assert!(lines[0].starts_with("keyhatch: the agent wants to push to"), "{whole}");
            assert_eq!(lines[1].trim_end(), "│ https://git.example.org/acme/hello.git");
            assert!(lines.iter().any(|row| row.starts_with("! FORCE 1 ref")), "{whole}");
            assert!(lines.iter().any(|row| row.starts_with("! DELETE 1 ref")), "{whole}");
            assert!(at("│ refs/heads/main") < at("│ refs/heads/release"), "{whole}");
            assert!(lines.iter().any(|row| row.starts_with("! 3 risks: secret")), "{whole}");
            let last = lines.last().expect("rows");
            assert!(last.ends_with("l  later"), "{whole}");
            for (row, line) in layout.rows.iter().zip(&lines) {
                assert_eq!(row.voice() == Voice::Session, line.starts_with('│'), "{whole}");
            }
        }
    }
}

#[test]
fn refs_that_do_not_fit_must_have_been_on_the_screen_before_an_approval() {
    let names: Vec<String> = (0..200).map(|at| format!("refs/heads/agent/{at}")).collect();
    let refs: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "create")).collect();
    let request = request(&refs, "x", 0);
    let size = Size { columns: 80, rows: 24 };
    let mut view = View::default();
    let first = layout(&request, view, size);
    assert_eq!(first.offer, Offer::ReadOn);
    // A jump to the end has not shown what lies between.
    view.scroll = usize::MAX;
    assert_eq!(layout(&request, view, size).offer, Offer::ReadOn);
    (view.scroll, view.seen) = (0, first.seen);
    let mut pages = 0;
    loop {
        let laid = layout(&request, view, size);
        if laid.offer == Offer::Decide {
            break;
        }
        (view.scroll, view.seen) = (view.scroll + laid.viewer - 1, laid.seen);
        pages += 1;
        assert!(pages < 1000, "it ends");
    }
    assert!(pages > 10, "{pages}");
}

#[test]
fn forced_refs_that_do_not_fit_are_not_approved_on_that_screen() {
    let names: Vec<String> = (0..9).map(|at| format!("refs/heads/{at}")).collect();
    let refs: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "force")).collect();
    let request = request(&refs, "x", 2);
    let small = layout(&request, View::default(), Size { columns: 40, rows: 10 });
    assert_eq!(small.offer, Offer::Elsewhere);
    let lines = shown(&small, 40).join("\n");
    assert!(lines.contains("keyhatch show 3f2a1c to approve") && lines.contains("! 2 risks"), "{lines}");
    assert!(!lines.contains("a  approve"), "{lines}");
    assert_eq!(layout(&request, View::default(), Size { columns: 80, rows: 24 }).offer, Offer::Decide);
}

#[test]
fn a_host_is_never_cut() {
    let mut request = request(&[("refs/heads/main", "force")], "x", 0);
    request.remote =
        format!("https://github.com.{}.evil.example/{}/hello.git", "a".repeat(200), "p".repeat(300));
    let small = layout(&request, View::default(), Size { columns: 40, rows: 10 });
    assert_eq!(small.offer, Offer::Elsewhere);
    let wide = layout(&request, View::default(), Size { columns: 200, rows: 50 });
    let lines = shown(&wide, 200).join("");
    assert!(lines.replace("│ ", "").contains(".evil.example/"), "{lines}");
    assert_eq!(wide.offer, Offer::Decide);
}

#[test]
fn a_screen_that_is_too_small_names_the_command() {
    let request = request(&[("refs/heads/main", "force")], "x", 0);
    for (columns, rows) in [(39, 24), (80, 9), (20, 3), (1, 1)] {
        let laid = layout(&request, View::default(), Size { columns, rows });
        assert_eq!((laid.offer, laid.rows.len()), (Offer::TooSmall, usize::from(rows)));
        assert!(laid.rows[0].line().starts_with("keyhatch show 3f2a1c"));
    }
}

#[test]
fn what_the_session_wrote_never_shares_a_line_with_keyhatchs_words_in_a_text_either() {
    for written in WRITTEN {
        let canary = format!("CANARY {written} CANARY");
        let mut request = request(&[("refs/heads/CANARY", "force")], &canary, 2);
        request.remote = "https://git.example.org/CANARY".to_owned();
        for text in [crate::surface::request(&request), crate::surface::lines(&request)] {
            for line in text.lines() {
                assert!(!line.contains("CANARY") || line.starts_with(GUTTER), "{line:?} in\n{text}");
            }
            assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
        }
    }
}

fn refs() -> impl Strategy<Value = Vec<(String, &'static str)>> {
    let kind = prop::sample::select(&["create", "force", "delete", "fast-forward"][..]);
    prop::collection::vec(("refs/heads/[a-zA-Zа-я漢\u{301}]{1,90}", kind), 0..30)
}

proptest! {
    #[test]
    fn for_any_request_and_size_the_layout_has_as_many_rows_each_of_the_width_and_the_fixed_parts(
        refs in refs(), written in any::<String>(), risks in 0usize..60, remote in "https://[a-z.]{1,80}/.{0,120}",
        columns in 1u16..220, rows in 1u16..60, scroll in 0usize..400, seen in 0usize..400,
    ) {
        let refs: Vec<(&str, &str)> = refs.iter().map(|(name, kind)| (name.as_str(), *kind)).collect();
        let mut request = request(&refs, &written, risks);
        request.remote = remote;
        let size = Size { columns, rows };
        let laid = layout(&request, View { scroll, diff: None, seen }, size);
        prop_assert_eq!(laid.rows.len(), usize::from(rows));
        let lines = shown(&laid, columns);
        for line in &lines {
            prop_assert!(width(line) <= usize::from(columns), "{line:?}");
            prop_assert!(!line.chars().any(char::is_control), "{line:?}");
        }
        if laid.offer == Offer::TooSmall {
            return Ok(());
        }
        let is_there = |start: &str| lines.iter().any(|line| line.starts_with(start));
        prop_assert!(is_there("keyhatch: the agent wants to push to"));
        prop_assert!(is_there("d  deny") || lines.iter().any(|line| line.contains("   d  deny")));
        let count = format!("! {risks} risk");
        prop_assert!(is_there(if risks == 0 { "no risk was found" } else { &count }), "{lines:#?}");
        if laid.offer != Offer::Elsewhere {
            let columns = usize::from(columns);
            for (name, kind) in refs.iter().filter(|(_, kind)| matches!(*kind, "force" | "delete")) {
                let row = Row::name(name).fitted(columns);
                prop_assert!(lines.contains(&row), "{kind} {name}: {lines:#?}");
            }
            prop_assert!(lines[1].starts_with("│ https://"));
        }
    }
}
