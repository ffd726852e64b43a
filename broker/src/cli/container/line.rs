//! A command line of podman, docker or nerdctl, read as far as it must be: which engine, where `run` stands, which
//! options it has, and where the image begins.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::options;
use crate::cli::Failure;

/// The engines whose options are known.
const ENGINES: [&str; 3] = ["podman", "docker", "nerdctl"];

/// One option of `run`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    /// Its long name.
    pub(super) name: String,
    /// Its value; none where it stands alone.
    pub(super) value: Option<String>,
}

/// A host directory that is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bind {
    /// On the host, as it was given.
    pub(super) source: PathBuf,
    /// Inside.
    pub(super) target: PathBuf,
}

/// A command line that runs a container.
#[derive(Debug)]
pub(super) struct Line {
    words: Vec<String>,
    /// Where `run` stands.
    verb: usize,
    /// Where the image stands: options of ours go before it.
    image: usize,
    /// The options of `run`.
    pub(super) options: Vec<Given>,
}

impl Line {
    /// Reads a command line.
    pub(super) fn parse(command: &[OsString]) -> Result<Self, Failure> {
        let words: Result<Vec<String>, _> = command.iter().cloned().map(OsString::into_string).collect();
        let words = words.map_err(|_| {
            Failure::invalid(
                "the command line is not UTF-8",
                "keyhatch session open --json says what to add to it",
            )
        })?;
        let engine = words.first().map(Path::new).and_then(Path::file_name).unwrap_or_default();
        if !ENGINES.iter().any(|known| engine == *known) {
            return Err(Failure::invalid(
                format!("{} is not podman, docker or nerdctl", engine.to_string_lossy()),
                "keyhatch session open says what to mount and to set, for everything else that starts containers",
            ));
        }
        let verb = verb(&words)?;
        let (options, image) = read(&words, verb + 1)?;
        let line = Self { words, verb, image, options };
        if line.is("detach") {
            return Err(Failure::invalid(
                "--detach: the session ends with the command that opened it, and the container would outlive both",
                "leave it out; or use keyhatch session open, whose session lasts until it is closed",
            ));
        }
        Ok(line)
    }

    /// The engine, with its own options.
    pub(super) fn engine(&self) -> Vec<&str> {
        let own = self.words.iter().take(self.verb).map(String::as_str);
        own.filter(|word| *word != "container").collect()
    }

    /// The engine's name.
    pub(super) fn engine_name(&self) -> &str {
        let program = self.words.first().map_or("", String::as_str);
        program.rsplit('/').next().unwrap_or(program)
    }

    /// The image, or the directory that `--rootfs` makes of it.
    pub(super) fn image(&self) -> Option<&str> {
        self.words
            .get(self.image)
            .map(String::as_str)
            .filter(|word| *word != "--")
            .or_else(|| self.words.get(self.image + 1).map(String::as_str))
    }

    /// The whole line with options added before the image.
    pub(super) fn with(&self, more: &[String]) -> Vec<String> {
        let (before, after) = self.words.split_at(self.image);
        [before, more, after].concat()
    }

    /// Whether a flag is on.
    pub(super) fn is(&self, name: &str) -> bool {
        let given = self.options.iter().rev().find(|given| given.name == name);
        given.is_some_and(|given| !matches!(given.value.as_deref(), Some("false" | "0" | "f")))
    }

    /// The values of an option.
    pub(super) fn values<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s str> {
        self.options.iter().filter(move |given| given.name == name).filter_map(|given| given.value.as_deref())
    }

    /// The host's directories and files that are mounted.
    pub(super) fn binds(&self) -> Vec<Bind> {
        let volumes = self.values("volume").filter_map(volume);
        volumes.chain(self.values("mount").filter_map(mount)).collect()
    }
}

/// Where `run` stands, behind the engine's own options.
fn verb(words: &[String]) -> Result<usize, Failure> {
    let mut at = 1;
    while let Some(word) = words.get(at) {
        match word.as_str() {
            "run" => return Ok(at),
            "container" => at += 1,
            "create" => {
                return Err(Failure::invalid(
                    "create: the session would end before the container starts",
                    "keyhatch session open --json says what to add; its session lasts until it is closed",
                ));
            }
            option if options::engine_takes_value(option) => at += 2,
            option if option.starts_with('-') => at += 1,
            other => {
                return Err(Failure::invalid(
                    format!("{other} runs no container in the foreground: only `run` is known here"),
                    "keyhatch session open says what to mount and to set; --format compose for Compose",
                ));
            }
        }
    }
    Err(Failure::invalid("there is no `run` in this command line", "keyhatch container -- podman run IMAGE"))
}

/// The options of `run`, and where the image stands.
fn read(words: &[String], start: usize) -> Result<(Vec<Given>, usize), Failure> {
    let (mut given, mut at) = (Vec::new(), start);
    while let Some(word) = words.get(at) {
        if word == "--" || word == "-" || !word.starts_with('-') {
            return Ok((given, at));
        }
        at += 1;
        let mut next = || {
            at += 1;
            words
                .get(at - 1)
                .cloned()
                .ok_or_else(|| Failure::invalid(format!("{word} has no value"), "see its manual"))
        };
        match word.strip_prefix("--") {
            Some(long) => given.push(long_option(word, long, &mut next)?),
            None => given.extend(short_options(word, &mut next)?),
        }
    }
    Err(Failure::invalid("there is no image in this command line", "keyhatch container -- podman run IMAGE"))
}

fn long_option(
    word: &str,
    long: &str,
    next: &mut impl FnMut() -> Result<String, Failure>,
) -> Result<Given, Failure> {
    if let Some((name, value)) = long.split_once('=') {
        return Ok(Given { name: name.to_owned(), value: Some(value.to_owned()) });
    }
    let value = match options::takes_value(long) {
        Some(true) => Some(next()?),
        Some(false) => None,
        None => return Err(unknown(word)),
    };
    Ok(Given { name: long.to_owned(), value })
}

/// `-it`, `-v/a:/b`, `-e=K=V`: the first that takes a value takes the rest of the word.
fn short_options(
    word: &str,
    next: &mut impl FnMut() -> Result<String, Failure>,
) -> Result<Vec<Given>, Failure> {
    let mut given = Vec::new();
    for (at, short) in word.char_indices().skip(1) {
        let name = options::long(short).ok_or_else(|| unknown(word))?.to_owned();
        if options::takes_value(&name) != Some(true) {
            given.push(Given { name, value: None });
            continue;
        }
        let rest = word.get(at + short.len_utf8()..).unwrap_or_default();
        let value = match rest.strip_prefix('=').unwrap_or(rest) {
            "" => next()?,
            value => value.to_owned(),
        };
        given.push(Given { name, value: Some(value) });
        break;
    }
    Ok(given)
}

fn unknown(word: &str) -> Failure {
    Failure::invalid(
        format!("{word} is not known here, so it cannot be said where the image begins"),
        format!("write {word}=VALUE, or {word}=true where it takes none"),
    )
}

/// `SOURCE:TARGET[:OPTIONS]`; none for a volume that the engine keeps.
fn volume(value: &str) -> Option<Bind> {
    let mut parts = value.split(':');
    let (source, target) = (parts.next()?, parts.next()?);
    (source.starts_with(['/', '.', '~'])).then(|| Bind { source: source.into(), target: target.into() })
}

/// `type=bind,source=…,target=…`.
fn mount(value: &str) -> Option<Bind> {
    let fields: Vec<(&str, &str)> = value.split(',').filter_map(|field| field.split_once('=')).collect();
    let of = |names: &[&str]| fields.iter().find(|(name, _)| names.contains(name)).map(|(_, value)| *value);
    if of(&["type"]) != Some("bind") {
        return None;
    }
    let (source, target) = (of(&["source", "src"])?, of(&["target", "dst", "destination"])?);
    Some(Bind { source: source.into(), target: target.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Line, Failure> {
        Line::parse(&line.split(' ').map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_added_before_the_image_and_what_follows_it_is_the_commands() {
        let line = parse("podman --root /r container run -it --rm -v/a:/b -e=K=V --name x img run -v /c:/d")
            .expect("reads");
        assert_eq!(line.engine(), ["podman", "--root", "/r"]);
        assert_eq!((line.image(), line.engine_name()), (Some("img"), "podman"));
        assert_eq!(line.binds(), [Bind { source: "/a".into(), target: "/b".into() }]);
        assert_eq!(line.values("env").collect::<Vec<_>>(), ["K=V"]);
        assert!(line.is("rm") && line.is("interactive") && line.is("tty") && !line.is("privileged"));
        let with = line.with(&["--env".into(), "A=B".into()]).join(" ");
        assert!(with.ends_with("--name x --env A=B img run -v /c:/d"), "{with}");
        let line =
            parse("docker -H unix:///x run --mount type=bind,src=.,dst=/w --rm=false -- img").expect("reads");
        assert_eq!(line.binds(), [Bind { source: ".".into(), target: "/w".into() }]);
        assert!(!line.is("rm"));
        assert_eq!(line.image(), Some("img"));
        assert!(
            parse("docker run -v cache:/c img").expect("reads").binds().is_empty(),
            "the engine's own volume"
        );
    }

    #[test]
    fn what_cannot_be_read_for_sure_is_refused_with_what_to_write() {
        for (line, reason) in [
            ("docker run --brand-new x img", "write --brand-new=VALUE"),
            ("docker run -Zx img", "write -Zx=VALUE"),
            ("sudo docker run img", "keyhatch session open says"),
            ("docker compose up", "--format compose"),
            ("docker create img", "lasts until it is closed"),
            ("docker run -d img", "lasts until it is closed"),
            ("docker run --rm", "IMAGE"),
            ("docker run -v", "manual"),
            ("docker", "IMAGE"),
        ] {
            let failure = parse(line).expect_err(line);
            assert!(failure.hint.as_deref().is_some_and(|hint| hint.contains(reason)), "{line}: {failure:?}");
        }
    }
}
