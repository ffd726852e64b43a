//! What passes the filter: by example, and for any bytes in any pieces.

use keyhatch_terminal::{EscapeFilter, Passes};
use proptest::prelude::*;

fn through(pieces: &[&[u8]]) -> Vec<u8> {
    let mut filter = EscapeFilter::new(Passes::Screen);
    let mut shown = Vec::new();
    for piece in pieces {
        filter.pass(piece, &mut shown);
    }
    shown
}

/// Whole, and byte by byte: a sequence may come in any pieces.
#[track_caller]
fn assert_shown(given: &[u8], shown: &[u8]) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(text(&through(&[given])), text(shown));
    let bytes: Vec<&[u8]> = given.chunks(1).collect();
    assert_eq!(text(&through(&bytes)), text(shown), "byte by byte");
}

#[test]
fn text_colours_and_cursor_pass_as_they_are() {
    for given in [
        &b"plain\r\n\ttext\x07\x08"[..],
        "\u{e4} \u{1f600} \u{2500}".as_bytes(),
        b"\x1b[1;31mred\x1b[m\x1b[38:2:0:1:2:3mx\x1b[m",
        b"\x1b[2J\x1b[H\x1b[?1049h\x1b[?25l\x1b[0;5H\x1b[6n\x1b[c\x1b[>q\x1b[18t\x1b[22;0t",
        b"\x1b]0;a title\x07\x1b]11;?\x1b\\\x1b7\x1b8\x1b(B\x1b=\x1b>\x1bM",
        b"\x1b]8;;https://example.org/\x1b\\link\x1b]8;;\x1b\\",
        b"\x1b[?2026h\x1b[4:3m\x1b[ q\x1b[!p\x1b[?1$p\x1b[4h\x1b[>4;2m\x1b[>1u\x1b[<u\x1b[?u",
        b"\x1b]4;1;rgb:ff/00/00\x07\x1b]104;1\x07\x1b]10;#ffffff\x1b\\\x1b]110\x1b\\",
        b"\x1b[3;10r\x1b[?69h\x1b[2;20s\x1b[20b\x1b[3g\x1bH\x1b(0\x0elqk\x0f",
    ] {
        assert_shown(given, given);
    }
    // Written anew: what was left out is what it stands for, and modes come one by one.
    assert_shown(b"\x1b[38:2::1:2:3m\x1b[;5H\x1b[0m", b"\x1b[38:2:0:1:2:3m\x1b[0;5H\x1b[m");
    assert_shown(b"\x1b[?1049;25;3;1002h", b"\x1b[?1049h\x1b[?25h\x1b[?1002h");
}

#[test]
fn what_reaches_past_the_screen_or_survives_a_reset_is_dropped_and_the_text_around_it_stays() {
    for dropped in [
        &b"\x1b]52;c;ZXZpbA==\x07"[..],
        b"\x1b]52;c;?\x1b\\",
        b"\x1b]9;a notification\x07",
        b"\x1b]777;notify;a;b\x1b\\",
        b"\x1b]1337;File=name=x:eA==\x07",
        b"\x1b]51;Aeval\x07",
        b"\x1b]633;E;rm -rf ~\x07",
        b"\x1b]7;file://host/\x07",
        b"\x1b]50;font\x07",
        b"\x1b]8;;file:///etc/passwd\x1b\\",
        b"\x1b]8;;vscode://x\x1b\\",
        b"\x1b]17;red\x07",
        b"\x1b]12;red;green\x07",
        b"\x1b]10;red;green;blue;white\x07",
        b"\x1bP$qm\x1b\\",
        b"\x1bP+q544e\x1b\\",
        b"\x1bPtmux;\x1b\x1b]52;c;eA==\x07\x1b\\",
        b"\x1b_Gi=1;x\x1b\\",
        b"\x1b^private\x1b\\",
        b"\x1bXstring\x1b\\",
        b"\x1bkwindow\x1b\\",
        b"\x1b[21t",
        b"\x1b[20t",
        b"\x1b[2t",
        b"\x1b[8;1;1t",
        b"\x1b[5i",
        b"\x1b[?5i",
        b"\x1b[1;1;1;1;1;1*y",
        b"\x1b[2$~\x1b[1$}",
        b"\x1b[1\"q\x1b[62;1\"p",
        b"\x1bV\x1bW\x1b#3\x1b#4\x1b#6\x1b#8",
        b"\x1b%@\x1b%G\x1b F\x1b G\x1bl\x1bm",
        b"\x1b[2h\x1b[12l\x1b[?2l\x1b[?3h\x1b[?42h\x1b[?1001h\x1b[?9001h",
        b"\x1b[?7s\x1b[?7r\x1b[#{\x1b[1;1'z",
        b"\x05\x00\x7f",
        "\u{9d}52;c;eA==\u{9c}".as_bytes(),
    ] {
        let given = [b"before ", dropped, b" after"].concat();
        let shown = through(&[&given]);
        let text = String::from_utf8_lossy(&shown);
        assert!(text.starts_with("before ") && text.ends_with(" after"), "{text:?}");
        assert!(!text.chars().any(char::is_control), "{text:?}");
        let bytes: Vec<&[u8]> = given.chunks(1).collect();
        assert_eq!(String::from_utf8_lossy(&through(&bytes)), text, "byte by byte");
    }
}

#[test]
fn a_control_of_eight_bits_passes_nowhere_also_as_utf8_within_a_sequence() {
    for given in [
        &b"\x1b]0;a\xc2\x9d52;c;ZXZpbA==\xc2\x9c\x07"[..],
        b"\x1b]0;a\x9d52;c;ZXZpbA==\x9c\x07",
        b"\x1b]2;a\xc2\x9b21t\x1b\\",
        b"\x1b]8;;https://x/\xc2\x9d52;c;eA==\xc2\x9c\x1b\\",
        b"\x1b]8;id=\xc2\x9b;https://x/\x1b\\",
        b"\x1b]4;1;\xc2\x9b5i\x1b\\",
        b"\x1b[3\xc2\x9b5im",
        b"\x1b[3\x9b5im",
        b"\x1b(\xc2\x9b5i",
        b"\xc2\x9b5i\x9b5i",
    ] {
        for pieces in [vec![given], given.chunks(1).collect()] {
            let shown = through(&pieces);
            let text = std::str::from_utf8(&shown).unwrap_or_else(|_| panic!("{shown:?}"));
            assert!(!text.chars().any(|c| ('\u{80}'..='\u{9f}').contains(&c)), "{given:?}: {text:?}");
        }
    }
}

#[test]
fn a_sequence_that_never_ends_takes_no_memory_and_does_not_swallow_what_follows() {
    let mut given = b"\x1b]0;".to_vec();
    given.extend(std::iter::repeat_n(b'x', 1 << 20));
    given.extend(b"\x07after");
    assert_shown(&given, b"after");
}

#[test]
fn a_control_within_a_sequence_and_an_aborted_one_leave_nothing_half() {
    assert_shown(b"\x1b[3\n1mx", b"\n\x1b[31mx");
    assert_shown(b"\x1b]52;c;eA\x18x", b"x");
    assert_shown(b"\x1b]52;c;e\x1b[31mx\x07", b"\x1b[31mx\x07");
}

/// Every sequence that may come out, by what stands before its parameters, after them, and at its end.
const MAY_PASS: &[(&str, &str, &str)] = &[
    ("", "", "@ABCDEFGHIJKLMPSTXZ`abcdefgmrsunthl"),
    ("?", "", "JKumnhl"),
    (">", "", "cqmnu"),
    ("<", "", "u"),
    ("=", "", "uc"),
    ("", " ", "q@A"),
    ("", "!", "p"),
    ("", "$", "pxzv{"),
    ("?", "$", "p"),
    ("", "'", "}~"),
    ("", "#", "PQR"),
];

/// Reads what came out by a grammar of its own. What is left when something does not fit.
fn unexplained(mut text: &str) -> Option<&str> {
    while let Some(first) = text.chars().next() {
        let rest = &text[first.len_utf8()..];
        text = match first {
            '\u{7}'..='\u{f}' => rest,
            '\u{1b}' => match explained(rest) {
                Some(rest) => rest,
                None => return Some(text),
            },
            c if c.is_control() => return Some(text),
            _ => rest,
        };
    }
    None
}

fn explained(rest: &str) -> Option<&str> {
    if let Some(rest) = rest.strip_prefix('[') {
        let prefixed = rest.trim_start_matches(['<', '=', '>', '?']);
        let prefix = &rest[..rest.len() - prefixed.len()];
        let after = prefixed.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';' || c == ':');
        let last = after.trim_start_matches(|c: char| (' '..='/').contains(&c));
        let between = &after[..after.len() - last.len()];
        let end = last.chars().next()?;
        let known = MAY_PASS.iter().any(|(p, b, ends)| (*p, *b) == (prefix, between) && ends.contains(end));
        return known.then(|| &last[end.len_utf8()..]);
    }
    if let Some(rest) = rest.strip_prefix(']') {
        let command = [
            "0;", "1;", "2;", "8;", "4;", "10;", "11;", "12;", "104", "110", "111", "112", "0", "1", "2",
            "4", "10", "11",
        ];
        let end = rest.find(['\u{7}', '\u{1b}'])?;
        let (string, after) = rest.split_at(end);
        let fits =
            command.iter().any(|start| string.starts_with(start)) && !string.chars().any(char::is_control);
        return fits.then(|| after.strip_prefix('\u{7}').or_else(|| after.strip_prefix("\u{1b}\\")))?;
    }
    for set in ['(', ')', '*', '+'] {
        if let Some(rest) = rest.strip_prefix(set) {
            return rest.strip_prefix(['0', 'A', 'B']);
        }
    }
    rest.strip_prefix(['7', '8', '=', '>', 'D', 'E', 'H', 'M', 'N', 'O', 'Z', 'c', 'n', 'o'])
}

/// Bytes that are likely to be parts of sequences.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        any::<u8>().prop_map(|byte| vec![byte]),
        prop::sample::select(
            &[
                "\u{1b}",
                "\u{1b}[",
                "\u{1b}]",
                "\u{1b}P",
                "\u{1b}_",
                "\u{1b}k",
                "\u{1b}(",
                "\u{9b}",
                "\u{9d}",
                "\u{9c}",
                "\u{1b}\\",
                "\u{7}",
                "\u{18}",
                ";",
                ":",
                "?",
                ">",
                "$",
                "\"",
                "52;c;eA==",
                "0;t",
                "4;1;red",
                "8;;https://x",
                "1049",
                "2026",
                "38;5",
                "h",
                "l",
                "m",
                "p",
                "r",
                "s",
                "t",
                "u",
                "0",
                "9",
                "a",
                "é",
                "漢",
                "\u{301}",
            ][..]
        )
        .prop_map(|text| text.as_bytes().to_vec()),
    ];
    prop::collection::vec(part, 0..60).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn whatever_comes_in_whatever_pieces_nothing_passes_but_what_the_table_names(
        given in hostile(),
        cuts in prop::collection::vec(0usize..300, 0..6),
    ) {
        let whole = through(&[&given]);
        let text = String::from_utf8(whole.clone()).expect("UTF-8");
        prop_assert_eq!(unexplained(&text), None, "{:?}", text);
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(given.len())).collect();
        cuts.sort_unstable();
        let (mut pieces, mut at) = (Vec::new(), 0);
        for cut in cuts {
            pieces.push(&given[at..cut]);
            at = cut;
        }
        pieces.push(&given[at..]);
        prop_assert_eq!(&through(&pieces), &whole);
        prop_assert_eq!(&through(&[&whole]), &whole, "what passed passes");
    }
}
