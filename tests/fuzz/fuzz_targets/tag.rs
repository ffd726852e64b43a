//! What is accepted is written back to the very same bytes.
#![no_main]

use keyhatch_protocol::signable::Tag;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(parsed) = Tag::parse(bytes) {
        assert_eq!(parsed.encode(), bytes);
    }
});
