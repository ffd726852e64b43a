//! The first line is a remote pattern, the second a remote: what a rule lets through by a pattern, a rule that denies by the
//! same pattern stops.
#![no_main]

use keyhatch_policies::{FetchOperation, Judgement, Operation, Policy, Project, judge};
use keyhatch_protocol::Remote;
use libfuzzer_sys::fuzz_target;

fn policy(pattern: &str, decision: &str) -> Option<Policy> {
    let text = format!(
        "name = \"f\"\ndescription = \"f\"\n[[fetch]]\nname = \"f\"\nreason = \"f\"\nremote = {pattern:?}\ndecision = \"{decision}\"\n"
    );
    Policy::parse(&text, "f.toml").ok()
}

fuzz_target!(|bytes: &[u8]| {
    let Some((pattern, url)) = std::str::from_utf8(bytes).ok().and_then(|text| text.split_once('\n')) else {
        return;
    };
    let (Some(allows), Some(denies)) = (policy(pattern, "allow"), policy(pattern, "deny")) else { return };
    let Ok(remote) = Remote::parse(url) else { return };
    let operation = Operation::Fetch(FetchOperation { remote });
    let project = Project::default();
    let allowed = !matches!(judge(&allows, &project, &operation), Judgement::Deny(_));
    let Judgement::Deny(reason) = judge(&denies, &project, &operation) else {
        panic!("a policy that only denies")
    };
    assert!(!allowed || reason.rule.is_some(), "allowed, and not denied");
});
