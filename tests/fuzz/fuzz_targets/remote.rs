//! A remote has one spelling, which is itself; a name is shown without what could be taken for another.
#![no_main]

use keyhatch_protocol::{Remote, lookalike, text};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(url) = std::str::from_utf8(bytes) else { return };
    for remote in [Remote::parse(url), Remote::from_front_end(url)].into_iter().flatten() {
        assert_eq!(Remote::parse(&remote.to_string()).as_ref(), Ok(&remote));
        assert_eq!(Remote::from_front_end(&remote.front_end()).as_ref(), Ok(&remote));
        assert!(remote.same_repository(&remote));
        let path = remote.location().path;
        assert!(path.split('/').all(|component| !matches!(component, "" | "." | "..")), "{path}");
    }
    let shown = text::shown_name(url);
    assert!(lookalike::is_lookalike(url) || shown.len() < 4 * url.len() + 100);
    assert!(shown.chars().all(|c| text::is_plain(c) && !text::is_blank(c) || c == ' '), "{shown:?}");
    assert!(lookalike::folded(url).len() <= 64 * url.len());
});
