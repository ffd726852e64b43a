//! The file of those who may sign: ssh-keygen(1), "ALLOWED SIGNERS". Read as OpenSSH reads it, errors included, for images
//! that have no `ssh-keygen`.
//!
//! Times are compared as they are written, in the user's own zone: git gives the time of a commit in that zone too.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

/// One line.
#[derive(Debug)]
struct Signer<'l> {
    principals: String,
    key: Vec<u8>,
    options: Options<'l>,
}

#[derive(Debug, Default)]
struct Options<'l> {
    authority: bool,
    namespaces: Option<&'l str>,
    after: Option<Time>,
    before: Option<Time>,
}

/// A moment in the user's own zone, as its digits: `YYYYMMDDHHMMSS`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Time(String);

/// Who is looked for.
pub(crate) struct Wanted<'w> {
    /// The key that made the signature, as ssh's protocols write it.
    pub(crate) key: &'w [u8],
    /// Whom it must belong to; none to find out.
    pub(crate) principal: Option<&'w str>,
    /// What it must be good for; none where that is not asked.
    pub(crate) namespace: Option<&'w str>,
    /// When it must be valid.
    pub(crate) at: &'w Time,
}

/// Looks for the first line that lets the key sign: its principals. Lines that are wrong are said and passed over.
pub(crate) fn find(
    text: &str,
    path: &Path,
    wanted: &Wanted<'_>,
    say: &mut dyn FnMut(String),
) -> Option<String> {
    text.lines().enumerate().find_map(|(index, line)| {
        let mut say = |what: &str| say(format!("{}:{}: {what}", path.display(), index + 1));
        match signer(line, wanted.principal) {
            Ok(signer) => {
                signer.filter(|signer| signer.fits(wanted, &mut say)).map(|signer| signer.principals)
            }
            Err(wrong) => {
                say(&wrong);
                None
            }
        }
    })
}

/// Reads a line; none for an empty one, a comment, or one of somebody else.
fn signer<'l>(line: &'l str, principal: Option<&str>) -> Result<Option<Signer<'l>>, String> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (principals, rest) = match line.strip_prefix('"') {
        Some(quoted) => quoted.split_once('"').ok_or("invalid line")?,
        None => line.split_once([' ', '\t']).ok_or("invalid line")?,
    };
    if principal.is_some_and(|principal| !listed(principal, principals)) {
        return Ok(None);
    }
    let rest = rest.trim_start();
    let (options, key) = match key(rest) {
        Some(key) => ("", key),
        None => {
            let (options, rest) = past_options(rest).ok_or("invalid options")?;
            if rest.is_empty() {
                return Err("missing key".to_owned());
            }
            (options, key(rest.trim_start()).ok_or("invalid key")?)
        }
    };
    let options = Options::parse(options).map_err(|why| format!("bad options: {why}"))?;
    Ok(Some(Signer { principals: principals.to_owned(), key, options }))
}

/// `TYPE BASE64`, where the blob itself says the same type.
fn key(text: &str) -> Option<Vec<u8>> {
    let mut words = text.split([' ', '\t']).filter(|word| !word.is_empty());
    let (kind, blob) = (words.next()?, BASE64.decode(words.next()?).ok()?);
    let (length, rest) = blob.split_first_chunk::<4>()?;
    let length = u32::from_be_bytes(*length) as usize;
    (rest.len() > length && rest.get(..length)? == kind.as_bytes()).then_some(blob)
}

/// Splits behind options, whose quoted values may hold spaces.
fn past_options(text: &str) -> Option<(&str, &str)> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if std::mem::take(&mut escaped) => {}
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            ' ' | '\t' if !quoted => return Some((&text[..at], &text[at..])),
            _ => {}
        }
    }
    (!quoted).then_some((text, ""))
}

impl<'l> Options<'l> {
    fn parse(mut text: &'l str) -> Result<Self, String> {
        let mut options = Self::default();
        while !text.is_empty() {
            let lower = text.to_ascii_lowercase();
            let value = |name: &str| -> Option<Result<(&'l str, &'l str), String>> {
                lower.starts_with(&format!("{name}=")).then(|| {
                    let quoted =
                        text[name.len() + 1..].strip_prefix('"').and_then(|value| value.split_once('"'));
                    quoted.ok_or_else(|| "missing start quote".to_owned())
                })
            };
            let time = |name: &str, value: &str| {
                Time::parse(value).ok_or_else(|| format!("invalid \"{name}\" time"))
            };
            text = if lower.starts_with("cert-authority") {
                options.authority = true;
                &text["cert-authority".len()..]
            } else if let Some(found) = value("namespaces") {
                let (list, rest) = found?;
                if options.namespaces.replace(list).is_some() {
                    return Err("multiple \"namespaces\" clauses".to_owned());
                }
                rest
            } else if let Some(found) = value("valid-after") {
                let (moment, rest) = found?;
                options.after = Some(time("valid-after", moment)?);
                rest
            } else if let Some(found) = value("valid-before") {
                let (moment, rest) = found?;
                options.before = Some(time("valid-before", moment)?);
                rest
            } else {
                return Err("unknown key option".to_owned());
            };
            text = match text.strip_prefix(',') {
                Some("") => return Err("unexpected end-of-options".to_owned()),
                Some(rest) => rest,
                None if text.is_empty() => text,
                None => return Err("unknown key option".to_owned()),
            };
        }
        Ok(options)
    }
}

impl Signer<'_> {
    fn fits(&self, wanted: &Wanted<'_>, say: &mut dyn FnMut(&str)) -> bool {
        // A line of an authority speaks of certificates, which are not looked at here.
        if self.options.authority || self.key != wanted.key {
            return false;
        }
        if let (Some(list), Some(namespace)) = (self.options.namespaces, wanted.namespace)
            && !listed(namespace, list)
        {
            say(&format!("key is not permitted for use in signature namespace \"{namespace}\""));
            return false;
        }
        let at = wanted.at;
        if let Some(after) = self.options.after.as_ref().filter(|after| at < after) {
            say(&format!("key is not yet valid: verify time {} < valid-after {}", at.shown(), after.shown()));
            return false;
        }
        if let Some(before) = self.options.before.as_ref().filter(|before| at > before) {
            say(&format!("key has expired: verify time {} > valid-before {}", at.shown(), before.shown()));
            return false;
        }
        true
    }
}

impl Time {
    /// Reads `YYYYMMDD[HHMM[SS]]`, with or without a zone's `Z`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_suffix("UTC").or_else(|| text.strip_suffix(['Z', 'z'])).unwrap_or(text);
        let sound = matches!(digits.len(), 8 | 12 | 14) && digits.bytes().all(|byte| byte.is_ascii_digit());
        let number = |at: std::ops::Range<usize>| {
            digits.get(at).and_then(|part| part.parse::<u32>().ok()).unwrap_or(0)
        };
        let real = (1..=12).contains(&number(4..6)) && (1..=31).contains(&number(6..8)) && number(8..10) < 24;
        (sound && real).then(|| Self(format!("{digits:0<14}")))
    }

    /// A moment by its seconds since the epoch (the civil calendar of Howard Hinnant's `days_from_civil`, backwards).
    pub(crate) fn of_epoch(seconds: u64) -> Self {
        let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
        let (era, of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * of_year + 2) / 153;
        let (day, month) =
            (of_year - (153 * shifted + 2) / 5 + 1, if shifted < 10 { shifted + 3 } else { shifted - 9 });
        let year = era * 400 + year_of_era + u64::from(month <= 2);
        Self(format!(
            "{year:04}{month:02}{day:02}{:02}{:02}{:02}",
            second / 3600,
            second / 60 % 60,
            second % 60
        ))
    }

    fn shown(&self) -> String {
        let part = |at: std::ops::Range<usize>| self.0.get(at).unwrap_or_default();
        format!(
            "{}-{}-{}T{}:{}:{}",
            part(0..4),
            part(4..6),
            part(6..8),
            part(8..10),
            part(10..12),
            part(12..14)
        )
    }
}

/// Whether a list of patterns names something: one that is negated beats all others (ssh_config(5), PATTERNS).
fn listed(name: &str, list: &str) -> bool {
    let mut found = false;
    for pattern in list.split(',') {
        match pattern.strip_prefix('!') {
            Some(pattern) if matches(name.as_bytes(), pattern.as_bytes()) => return false,
            Some(_) => {}
            None => found |= matches(name.as_bytes(), pattern.as_bytes()),
        }
    }
    found
}

/// `*` is any text and `?` any byte.
fn matches(name: &[u8], pattern: &[u8]) -> bool {
    let (mut at, mut of) = (0, 0);
    // Where the last star stands, and how far it reaches.
    let mut star: Option<(usize, usize)> = None;
    while at < name.len() {
        match pattern.get(of) {
            Some(b'*') => {
                star = Some((of, at));
                of += 1;
            }
            Some(byte) if *byte == b'?' || *byte == name[at] => (at, of) = (at + 1, of + 1),
            _ => match star {
                Some((stands, reaches)) => {
                    star = Some((stands, reaches + 1));
                    (at, of) = (reaches + 1, stands + 1);
                }
                None => return false,
            },
        }
    }
    pattern[of..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_openssh() {
        assert!(listed("a@x", "b@x,a@x") && listed("ada@x", "*@x") && listed("ada@x", "a?a@*x*"));
        assert!(!listed("ada@x", "*@x,!ada@x") && !listed("ada@x", "!ada@x,*@x") && !listed("a@x", "A@x"));
        assert!(!listed("a", "") && !listed("abc", "a*bd"));
    }

    #[test]
    fn times_are_digits_of_the_calendar() {
        assert_eq!(Time::of_epoch(0).shown(), "1970-01-01T00:00:00");
        assert_eq!(Time::of_epoch(1_709_210_096).shown(), "2024-02-29T12:34:56");
        assert_eq!(Time::parse("20300101").expect("a day").shown(), "2030-01-01T00:00:00");
        assert_eq!(Time::parse("202412312359Z").expect("a minute").shown(), "2024-12-31T23:59:00");
        for bad in ["", "2030", "2030010", "20301301", "xx300101", "20300101T1"] {
            assert_eq!(Time::parse(bad), None, "{bad}");
        }
    }
}
