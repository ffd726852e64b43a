//! The command line inside a container: one verb of `keyhatch`'s, and what is said to all others.

use std::ffi::OsString;
use std::fmt;

/// What is to be run.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// The command and its arguments; empty for a shell.
    pub(super) command: Vec<String>,
    /// Whether root may run it.
    pub(super) as_root: bool,
}

/// The command line makes no sense here.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Another verb, or another option of `run`.
    NotHere,
    /// `run` without `--inside`.
    Outside,
    /// A word that is no text.
    Text,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotHere => {
                "the broker is on the host; here there is only run --inside\n\
                 hint: keyhatch run --inside [--as-root] -- COMMAND; the session's policy was chosen when it was opened"
            }
            Self::Outside => {
                "this is a container with a session of the host's: keyhatch run makes none here\n\
                 hint: keyhatch run --inside -- COMMAND confines it with that session's policy"
            }
            Self::Text => "the command is not UTF-8\nhint: put it into a script with a plain name",
        })
    }
}

impl Asked {
    /// Reads `run --inside [--as-root] [--] COMMAND…`, with `--as-root` before the verb too, as `keyhatch` takes it.
    pub(super) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Self, Refused> {
        let words: Result<Vec<String>, OsString> = arguments.map(OsString::into_string).collect();
        let mut words = words.map_err(|_| Refused::Text)?.into_iter().peekable();
        let (mut as_root, mut inside) = (false, false);
        while words.next_if(|word| word == "--as-root").is_some() {
            as_root = true;
        }
        if words.next().as_deref() != Some("run") {
            return Err(Refused::NotHere);
        }
        while let Some(word) = words.next_if(|word| word.starts_with("--")) {
            match word.as_str() {
                "--" => break,
                "--inside" => inside = true,
                "--as-root" => as_root = true,
                _ => return Err(Refused::NotHere),
            }
        }
        if inside { Ok(Self { command: words.collect(), as_root }) } else { Err(Refused::Outside) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Asked, Refused> {
        Asked::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn the_commands_own_options_are_its_own_and_no_other_verb_is_taken() {
        let asked = parsed("--as-root run --inside -- make --as-root").expect("a command");
        assert_eq!(asked, Asked { command: vec!["make".into(), "--as-root".into()], as_root: true });
        let asked = parsed("run --inside make -- x").expect("a command");
        assert_eq!(asked, Asked { command: ["make", "--", "x"].map(str::to_owned).into(), as_root: false });
        assert!(parsed("run --as-root --inside").expect("a shell").command.is_empty());
        for (line, refused) in [
            ("", Refused::NotHere),
            ("approve 1a2b", Refused::NotHere),
            ("--help", Refused::NotHere),
            ("run --inside --policy x -- make", Refused::NotHere),
            ("run make", Refused::Outside),
            ("run -- make --inside", Refused::Outside),
        ] {
            assert_eq!(parsed(line), Err(refused), "{line}");
        }
    }
}
