//! The ssh-agent's messages and what a login signs: no panic, and a login is never an SSHSIG blob.
#![no_main]

use keyhatch_protocol::agent::{AgentRequest, parse, parse_login};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(AgentRequest::Sign { data, .. }) = parse(bytes)
        && parse_login(data).is_ok()
    {
        assert!(!data.starts_with(b"SSHSIG"));
    }
    if parse_login(bytes).is_ok() {
        assert!(!bytes.starts_with(b"SSHSIG"));
    }
});
