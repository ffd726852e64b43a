//! How the agent writes: colours and attributes (SGR), as they are in force.

use std::fmt::Write as _;

use vte::Params;

/// Attributes that exclude each other share a slot.
const SLOTS: usize = 15;
const FOREGROUND: usize = 0;
const BACKGROUND: usize = 1;
const UNDERLINE_COLOUR: usize = 2;

/// What is in force: for each slot the parameters that set it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Pen {
    slots: [Option<String>; SLOTS],
}

impl Pen {
    /// Takes over what one sequence sets.
    pub(crate) fn apply(&mut self, params: &Params) {
        let mut groups = params.iter();
        while let Some(group) = groups.next() {
            match group {
                [38 | 48 | 58] => {
                    let slot = colour_slot(group[0]);
                    let most = match groups.next() {
                        Some([5]) => 1,
                        Some([2]) => 3,
                        _ => return,
                    };
                    let mut text = format!("{};{}", group[0], if most == 1 { 5 } else { 2 });
                    for _ in 0..most {
                        let value = groups.next().and_then(|value| value.first()).copied().unwrap_or(0);
                        // Writing to a String cannot fail.
                        let _infallible = write!(text, ";{value}");
                    }
                    self.slots[slot] = Some(text);
                }
                [38 | 48 | 58, ..] => self.slots[colour_slot(group[0])] = Some(joined(group, ':')),
                [] | [0, ..] => *self = Self::default(),
                _ => self.attribute(group),
            }
        }
    }

    fn attribute(&mut self, group: &[u16]) {
        let (slot, is_on) = match group[0] {
            30..=37 | 90..=97 => (FOREGROUND, true),
            39 => (FOREGROUND, false),
            40..=47 | 100..=107 => (BACKGROUND, true),
            49 => (BACKGROUND, false),
            59 => (UNDERLINE_COLOUR, false),
            1 => (3, true),
            2 => (4, true),
            22 => {
                self.slots[4] = None;
                (3, false)
            }
            3 | 20 => (5, true),
            23 => (5, false),
            4 => (6, group.get(1) != Some(&0)),
            21 => (6, true),
            24 => (6, false),
            5 | 6 => (7, true),
            25 => (7, false),
            7 => (8, true),
            27 => (8, false),
            8 => (9, true),
            28 => (9, false),
            9 => (10, true),
            29 => (10, false),
            10 => (11, false),
            11..=19 => (11, true),
            51 | 52 => (12, true),
            54 => (12, false),
            53 => (13, true),
            55 => (13, false),
            73 | 74 => (14, true),
            75 => (14, false),
            _ => return,
        };
        self.slots[slot] = is_on.then(|| joined(group, ':'));
    }

    /// The sequence that puts this in force, from whatever was.
    pub(crate) fn sequence(&self) -> String {
        let mut text = "\x1b[0".to_owned();
        for slot in self.slots.iter().flatten() {
            text.push(';');
            text.push_str(slot);
        }
        text.push('m');
        text
    }
}

fn colour_slot(number: u16) -> usize {
    match number {
        38 => FOREGROUND,
        48 => BACKGROUND,
        _ => UNDERLINE_COLOUR,
    }
}

fn joined(group: &[u16], by: char) -> String {
    let mut text = String::new();
    for (at, value) in group.iter().enumerate() {
        if at > 0 {
            text.push(by);
        }
        // Writing to a String cannot fail.
        let _infallible = write!(text, "{value}");
    }
    text
}
