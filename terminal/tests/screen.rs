//! A question on a terminal that an agent prepared, in a model of a real one: every row is in its place, and the agent's
//! screen and modes are afterwards what they would have been.

use alacritty_terminal::event::VoidListener;
use alacritty_terminal::grid::Dimensions as _;
use alacritty_terminal::index::{Column, Line};
use alacritty_terminal::term::cell::Flags;
use alacritty_terminal::term::test::TermSize;
use alacritty_terminal::term::{Config, Term};
use alacritty_terminal::vte::ansi::Processor;
use keyhatch_terminal::{EscapeFilter, GUTTER, Passes, Row, Size, draw, give_back, put_aside, width};
use proptest::prelude::*;

const SIZES: [Size; 4] = [
    Size { columns: 40, rows: 10 },
    Size { columns: 80, rows: 24 },
    Size { columns: 120, rows: 40 },
    Size { columns: 200, rows: 50 },
];

struct Screen {
    term: Term<VoidListener>,
    processor: Processor,
}

impl Screen {
    fn new(size: Size) -> Self {
        let config = Config { kitty_keyboard: true, ..Config::default() };
        let size = TermSize::new(usize::from(size.columns), usize::from(size.rows));
        Self { term: Term::new(config, &size, VoidListener), processor: Processor::new() }
    }

    fn write(&mut self, bytes: &[u8]) {
        self.processor.advance(&mut self.term, bytes);
    }

    fn rows(&self) -> Vec<String> {
        let grid = self.term.grid();
        let row = |line: i32| {
            let mut text = String::new();
            for column in 0..self.term.columns() {
                let cell = &grid[Line(line)][Column(column)];
                if !cell.flags.intersects(Flags::WIDE_CHAR_SPACER | Flags::LEADING_WIDE_CHAR_SPACER) {
                    text.push(cell.c);
                    text.extend(cell.zerowidth().into_iter().flatten());
                }
            }
            text.trim_end().to_owned()
        };
        (0..i32::try_from(self.term.screen_lines()).expect("few rows")).map(row).collect()
    }

    /// All that the model keeps of a terminal's state, as far as an agent can tell.
    fn state(&self) -> String {
        let cursor = &self.term.grid().cursor;
        let colours: Vec<_> =
            (0..269).filter_map(|index| self.term.colors()[index].map(|c| (index, c))).collect();
        format!(
            "{:?} {:?} {:?} {:?} {:?} {colours:?}",
            self.term.mode(),
            cursor.point,
            cursor.template.fg,
            cursor.template.bg,
            cursor.template.flags,
        )
    }
}

/// What an agent does to the terminal before the question.
const PREPARED: &[(&str, &str)] = &[
    ("nothing", ""),
    ("a scroll region", "\x1b[1;5r"),
    ("a scroll region of the last rows", "\x1b[6;9r\x1b[7;1H"),
    ("origin mode", "\x1b[3;8r\x1b[?6h\x1b[2;3H"),
    ("side margins", "\x1b[?69h\x1b[5;20s\x1b[2;6H"),
    ("no wrapping", "\x1b[?7l"),
    ("insert mode", "\x1b[4h"),
    ("line feed mode", "\x1b[20h"),
    ("line drawing in G0", "\x1b(0"),
    ("line drawing in G1", "\x1b)0\x0e"),
    ("line drawing in G2", "\x1b*0\x1bn"),
    ("line drawing in G3", "\x1b+0\x1bo"),
    ("a single shift", "\x1b*0\x1bN"),
    ("another single shift", "\x1b+0\x1bO"),
    ("no tab stops", "\x1b[3g"),
    ("tab stops", "\x1b[5G\x1bH\x1b[1G"),
    ("hidden text", "\x1b[8m"),
    ("colours", "\x1b[1;3;4;7;9;38;5;1;48;2;1;2;3;58:5:4m"),
    ("black on black", "\x1b[30;40m"),
    ("a palette of one colour", "\x1b]4;0;#000000;7;#000000;15;#000000\x07"),
    ("text coloured as its background", "\x1b]10;#000000\x07\x1b]11;#000000\x07\x1b]12;#000000\x07"),
    ("a title", "\x1b]0;keyhatch: approved\x07\x1b]2;x\x07"),
    ("a stack of titles", "\x1b[22;0t\x1b]2;x\x07"),
    ("a cursor's style", "\x1b[5 q"),
    ("no cursor", "\x1b[?25l"),
    ("mouse reports", "\x1b[?1000;1006h"),
    ("mouse movements", "\x1b[?1003h\x1b[?1015h"),
    ("mouse drags", "\x1b[?1002h\x1b[?1005h"),
    ("the oldest mouse", "\x1b[?9h"),
    ("mouse pixels", "\x1b[?1016h"),
    ("focus reports", "\x1b[?1004h"),
    ("marked pastes", "\x1b[?2004h"),
    ("application keys", "\x1b[?1h\x1b="),
    ("the keypad's mode", "\x1b[?66h"),
    ("kitty's keyboard", "\x1b[>31u"),
    ("kitty's keyboard, set", "\x1b[=31;1u"),
    ("modified keys", "\x1b[>4;2m\x1b[>1;3m"),
    ("a synchronized update", "\x1b[?2026hhalf a screen"),
    ("a reversed screen", "\x1b[?5h"),
    ("double height", "\x1b#3top\r\n\x1b#4top"),
    ("protected cells", "\x1b[1\"q\x1bVprotected\x1b[0\"q"),
    ("eight-bit controls", "\x1b G\x1b[62;0\"p\u{9b}8m"),
    ("another encoding", "\x1b%@"),
    ("repeats", "x\x1b[1000b"),
    ("a saved cursor", "\x1b[4;4H\x1b7\x1b[6;6H"),
    ("a link", "\x1b]8;id=a;https://example.org/\x1b\\linked"),
    ("a string that does not end", "\x1b]0;never"),
    ("a device control that does not end", "\x1bPq"),
    ("a control that does not end", "\x1b[38;5"),
    ("a character that does not end", "\u{2500}"),
    ("half a line at the edge", "\x1b[1;999Hx"),
    ("a full screen", "\x1b[?1049h\x1b[2J\x1b[Hfull\r\n\x1b[31mscreen\x1b[m\x1b[3;3Hof the agent's"),
    ("the older alternate screen", "\x1b[?47h\x1b[2J\x1b[Hold"),
    ("another alternate screen", "\x1b[?1047h\x1b[2J\x1b[Hold"),
    (
        "a full screen with all",
        "\x1b[?1049h\x1b[2J\x1b[2;6r\x1b[?6h\x1b[?1003h\x1b[?1004h\x1b[44;1mx\x1b[2;2H\x1b[?25l\x1b(0qqq",
    ),
    ("a reset", "\x1b[?1003h\x1b[2;5r\x1bc\x1b[3;3Hx"),
    // The model knows none: nothing is set that it would reset.
    ("a soft reset", "\x1b[!p"),
];

/// What a session writes into its fields.
const WRITTEN: &[&str] = &[
    "refs/heads/main",
    "ordinary words",
    "",
    "a very long subject that goes on and on, over the edge of every screen, to push away what stands below it: a  approve once   refs/heads/agent/typo no risk was found, again and again and again, until the last column",
    "\x1b[2J\x1b[H\x1b[1;5r",
    "\u{9b}2J\u{9d}0;x\u{9c}",
    "two\nlines\r\nmore\u{85}and\u{2028}more\u{2029}",
    "a\tb\x0bc\x0cd\x08e\x7f",
    "\u{202e}evil\u{202c} \u{2066}x\u{2069} \u{61c}",
    "שלום עולם العربية",
    "漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字",
    "x漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字",
    "Z\u{351}\u{36b}\u{343}\u{36a}\u{302}\u{36b}\u{33d}\u{34f}\u{334}\u{319}\u{324}\u{31e}a",
    "\u{301}\u{301}\u{301}leading marks",
    "👩‍👩‍👧‍👦🏳️‍🌈🇩🇪👍🏽",
    "zero\u{200b}\u{200c}\u{200d}\u{2060}\u{feff}width",
    "│ keyhatch: approved",
    "keyhatch: the agent wants to push to",
    "(signed here with SHA256:x, audit record 1)",
    "\u{e0041}\u{e0042}tags",
    "\u{1f1e6}\u{1f1e6}\u{1f1e6}",
    "ﷺ﷽𒐫𒈙⸻",
];

fn agent(text: &str) -> (EscapeFilter, Vec<u8>) {
    let mut filter = EscapeFilter::new(Passes::Screen);
    let mut shown = Vec::new();
    filter.state().resize(Size::default());
    filter.pass(text.as_bytes(), &mut shown);
    (filter, shown)
}

fn question(size: Size, text: &str) -> Vec<Row> {
    let rows = usize::from(size.rows);
    (0..rows)
        .map(|at| match at % 3 {
            0 => Row::warning(format!("! row {at} of keyhatch's")),
            1 => Row::session(text),
            _ => Row::keyhatch(format!("row {at} of keyhatch's")),
        })
        .collect()
}

#[test]
fn every_row_of_a_question_is_in_its_place_whatever_the_agent_set_and_wrote() {
    for size in SIZES {
        for (what, set) in PREPARED {
            for text in WRITTEN {
                let mut screen = Screen::new(size);
                let (mut filter, shown) = agent(&format!("before\r\nit\r\n{set}"));
                filter.state().resize(size);
                screen.write(&shown);
                screen.write(put_aside(filter.state()).as_bytes());
                let rows = question(size, text);
                screen.write(draw(&rows, size).as_bytes());
                for (at, (seen, row)) in screen.rows().iter().zip(&rows).enumerate() {
                    let meant = row.fitted(usize::from(size.columns));
                    assert_eq!(seen, meant.trim_end(), "row {at} after {what} at {size:?} with {text:?}");
                    assert_eq!(seen.starts_with(GUTTER.trim_end()), at % 3 == 1, "{seen}");
                }
            }
        }
    }
}

#[test]
fn after_a_question_the_screen_and_the_modes_are_what_they_would_have_been() {
    // What an agent goes on with: it would show a margin, a set, a mode that did not come back.
    const GOES_ON: &str =
        "lqk\r\n漢\x1b[7mx\x0ely\x0f\r\n\n\n\n\n\n\n\n\n\n\x1b[999;1Hend\x1b[2;2Hxyz\x1b[4;1H";
    for size in SIZES {
        for (what, set) in PREPARED {
            // Saved beside the cursor: a terminal keeps one place for it and for switching screens.
            let text = format!("before\r\nit\r\n{set}");
            let (mut filter, shown) = agent("");
            assert!(shown.is_empty());
            filter.state().resize(size);
            let mut shown = Vec::new();
            filter.pass(text.as_bytes(), &mut shown);
            let (mut asked, mut plain) = (Screen::new(size), Screen::new(size));
            for screen in [&mut asked, &mut plain] {
                screen.write(&shown);
            }
            asked.write(put_aside(filter.state()).as_bytes());
            asked.write(draw(&question(size, "x"), size).as_bytes());
            asked.write(give_back(filter.state()).as_bytes());
            // A model that collects an update shows it when it is over.
            let end = b"\x1b[?2026l";
            for screen in [&mut asked, &mut plain] {
                screen.write(end);
            }
            assert_eq!(asked.rows(), plain.rows(), "{what} at {size:?}");
            assert_eq!(asked.state(), plain.state(), "{what} at {size:?}");
            let mut more = Vec::new();
            filter.pass(b"\x1b\\", &mut Vec::new());
            filter.pass(GOES_ON.as_bytes(), &mut more);
            for screen in [&mut asked, &mut plain] {
                screen.write(&more);
            }
            assert_eq!(asked.rows(), plain.rows(), "{what} at {size:?}, going on");
            assert_eq!(asked.state(), plain.state(), "{what} at {size:?}, going on");
        }
    }
}

proptest! {
    #[test]
    fn a_row_is_never_wider_than_its_screen_and_holds_no_control(text in any::<String>(), columns in 1usize..220) {
        for row in [Row::session(&text), Row::keyhatch(&text), Row::warning(&text)] {
            let fitted = row.fitted(columns);
            prop_assert!(width(&fitted) <= columns, "{fitted:?}");
            prop_assert!(!fitted.chars().any(char::is_control), "{fitted:?}");
        }
        for row in Row::session_whole(&text, columns) {
            prop_assert!(row.line().starts_with(GUTTER));
            prop_assert!(width(&row.line()) <= columns.max(4), "{:?}", row.line());
        }
        prop_assert!(!Row::keyhatch(&text).line().starts_with('│'));
    }

    #[test]
    fn whatever_an_agent_writes_a_question_is_in_its_place(set in prop::collection::vec(prop::sample::select(PREPARED), 0..6), text in any::<String>()) {
        let size = SIZES[0];
        let all: String = set.iter().map(|(_, set)| *set).collect();
        let (mut filter, shown) = agent(&all);
        let mut screen = Screen::new(size);
        screen.write(&shown);
        screen.write(put_aside(filter.state()).as_bytes());
        let rows = question(size, "x");
        screen.write(draw(&rows, size).as_bytes());
        for (seen, row) in screen.rows().iter().zip(&rows) {
            let meant = row.fitted(usize::from(size.columns));
            prop_assert_eq!(seen.as_str(), meant.trim_end());
        }
        drop(text);
    }
}
