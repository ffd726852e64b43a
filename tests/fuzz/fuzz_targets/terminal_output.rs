//! What a command writes to the user's terminal: what passes is text without controls of eight bits, the same for any
//! pieces, and passes again; a question after it ends in what the filter knows.
#![no_main]

use keyhatch_terminal::{EscapeFilter, Passes, Size, give_back, put_aside};
use libfuzzer_sys::fuzz_target;

fn through(pieces: &[&[u8]]) -> (EscapeFilter, Vec<u8>) {
    let mut filter = EscapeFilter::new(Passes::Screen);
    filter.state().resize(Size { columns: 40, rows: 10 });
    let mut shown = Vec::new();
    for piece in pieces {
        filter.pass(piece, &mut shown);
    }
    (filter, shown)
}

fuzz_target!(|bytes: &[u8]| {
    let (mut filter, whole) = through(&[bytes]);
    let text = std::str::from_utf8(&whole).expect("text");
    assert!(!text.chars().any(
        |c| matches!(c, '\u{0}'..='\u{6}' | '\u{10}'..='\u{1a}' | '\u{1c}'..='\u{1f}' | '\u{7f}'..='\u{9f}')
    ));
    let cut = bytes.first().map_or(0, |byte| usize::from(*byte) % bytes.len());
    assert_eq!(through(&[&bytes[..cut], &bytes[cut..]]).1, whole);
    assert_eq!(through(&[&whole]).1, whole);
    let state = filter.state();
    assert!(put_aside(state).len() < 1 << 20 && give_back(state).len() < 1 << 20);
});
