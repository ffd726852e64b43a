//! What an ssh server says before its connection is encrypted: no panic, and a prefix never proves what the whole does not.
#![no_main]

use keyhatch_protocol::kex::{Prelude, read};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let whole = read(bytes);
    let half = read(&bytes[..bytes.len() / 2]);
    if let Prelude::Proved(_) = half {
        assert_eq!(half, whole);
    }
});
