//! A signed object taken apart: nothing that a signature covers is lost or made up.
#![no_main]

use keyhatch_protocol::ObjectFormat;
use keyhatch_protocol::signable::{split_commit, split_tag};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(tag) = split_tag(bytes) {
        assert_eq!([tag.covered, tag.signature].concat(), bytes);
    }
    for format in [ObjectFormat::Sha1, ObjectFormat::Sha256] {
        if let Some(commit) = split_commit(bytes, format) {
            assert!(commit.covered.len() + commit.signature.len() <= bytes.len());
            assert_eq!(split_commit(&commit.covered, format), None);
        }
    }
});
