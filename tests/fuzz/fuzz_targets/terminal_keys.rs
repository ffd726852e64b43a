//! What a terminal sends while a question is open: within a paste there is no key, and every paste ends.
#![no_main]

use keyhatch_terminal::{Key, KeyParser};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut parser = KeyParser::default();
    for byte in bytes {
        let _key = parser.take(*byte);
    }
    let mut parser = KeyParser::default();
    let held: Vec<u8> = bytes.iter().copied().filter(|byte| *byte != 0x1b).collect();
    let keys = |parser: &mut KeyParser, bytes: &[u8]| -> Vec<Key> {
        bytes.iter().filter_map(|byte| parser.take(*byte)).collect()
    };
    assert_eq!(keys(&mut parser, b"\x1b[200~"), []);
    assert_eq!(keys(&mut parser, &held), []);
    assert_eq!(keys(&mut parser, b"\x1b[201~a"), [Key::Other, Key::Character('a')]);
});
