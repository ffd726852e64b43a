//! What is accepted is written back to the very same bytes.
#![no_main]

use keyhatch_protocol::signable::{Commit, CommitText};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // What a person reads can be made of any bytes, and is bounded.
    let text = CommitText::of(bytes);
    assert!(text.subject.len() < 1024 && text.author.name.len() < 1024 && text.committer.email.len() < 1024);
    if let Ok(parsed) = Commit::parse(bytes) {
        assert_eq!(parsed.encode(), bytes);
        assert_eq!(text.doubt, None, "what is signed is read without a doubt");
        assert_eq!(parsed.text(), text);
    }
});
