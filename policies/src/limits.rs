//! `[limits]`: what a push may weigh, and what a session may use up. Six limits, and each is said when it is hit:
//! memory (with swap), processes, processor (with disk bandwidth), time (wall clock and idle), disk (outside the
//! project and growth inside it), output.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use crate::parse::Text;
use crate::place::PolicyError;
use crate::{PushLimits, units};

/// What a push may weigh, unless the policy says otherwise: GitHub's own limit is 2 GiB.
const PUSH: PushLimits = PushLimits { pack_bytes: 2 << 30, objects: 2_000_000 };
/// Unless the policy says otherwise: a parallel build has hundreds, a fork bomb millions.
const PROCESSES: u64 = 4096;
/// Unless the policy says otherwise: what is written to `/tmp` and an empty home is memory.
const DISK: u64 = 4 << 30;
/// Below this nothing starts.
const LEAST_MEMORY: u64 = 16 << 20;
/// The kernel's own default and range for `io.weight`.
const IO_WEIGHTS: std::ops::RangeInclusive<u64> = 1..=10_000;
/// More than any machine has: 1,024 processors.
const MOST_CPU: u64 = 102_400;

/// What a session may use up; none is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionLimits {
    /// Bytes of memory, all processes together.
    pub memory: Option<u64>,
    /// Bytes of swap beside that.
    pub swap: Option<u64>,
    /// Processes and threads.
    pub processes: u64,
    /// Processor time in percent of one processor.
    pub cpu: Option<u64>,
    /// Weight of disk bandwidth beside others' 100.
    pub io: Option<u64>,
    /// From start to end.
    pub time: Option<Duration>,
    /// Without input, output or work.
    pub idle: Option<Duration>,
    /// Bytes in the home directory, and as much in `/tmp`.
    pub disk: u64,
    /// Bytes by which the project may grow.
    pub growth: Option<u64>,
    /// Bytes of output.
    pub output: Option<u64>,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            memory: None,
            swap: None,
            processes: PROCESSES,
            cpu: None,
            io: None,
            time: None,
            idle: None,
            disk: DISK,
            growth: None,
            output: None,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LimitsToml {
    pack: Option<Spanned<String>>,
    objects: Option<Spanned<u64>>,
    memory: Option<Spanned<String>>,
    swap: Option<Spanned<String>>,
    processes: Option<Spanned<u64>>,
    cpu: Option<Spanned<String>>,
    io: Option<Spanned<u64>>,
    time: Option<Spanned<String>>,
    idle: Option<Spanned<String>>,
    disk: Option<Spanned<String>>,
    growth: Option<Spanned<String>>,
    output: Option<Spanned<String>>,
}

/// Reads `[limits]`.
pub(crate) fn parse(
    text: &Text<'_>,
    given: Option<LimitsToml>,
) -> Result<(PushLimits, SessionLimits), PolicyError> {
    let Some(given) = given else { return Ok((PUSH, SessionLimits::default())) };
    let LimitsToml { pack, objects, memory, swap, processes, cpu, io, time, idle, disk, growth, output } =
        given;
    let push = PushLimits {
        pack_bytes: size(text, pack.as_ref(), "pack")?.unwrap_or(PUSH.pack_bytes),
        objects: objects.map_or(PUSH.objects, Spanned::into_inner),
    };
    if let Some(memory) = &memory
        && units::size(memory.get_ref()).is_some_and(|bytes| bytes < LEAST_MEMORY)
    {
        return Err(text.wrong(memory.span(), "nothing starts in less than 16 MiB", "memory = \"256MiB\""));
    }
    let session = SessionLimits {
        memory: size(text, memory.as_ref(), "memory")?,
        swap: swap.as_ref().map(|swap| swap_size(text, swap)).transpose()?,
        processes: processes.as_ref().map_or(Ok(PROCESSES), |count| processes_count(text, count))?,
        cpu: cpu.as_ref().map(|cpu| percent(text, cpu)).transpose()?,
        io: io.as_ref().map(|weight| io_weight(text, weight)).transpose()?,
        time: duration(text, time.as_ref(), "time")?,
        idle: duration(text, idle.as_ref(), "idle")?,
        disk: size(text, disk.as_ref(), "disk")?.unwrap_or(DISK),
        growth: size(text, growth.as_ref(), "growth")?,
        output: size(text, output.as_ref(), "output")?,
    };
    Ok((push, session))
}

fn size(text: &Text<'_>, given: Option<&Spanned<String>>, key: &str) -> Result<Option<u64>, PolicyError> {
    given
        .map(|given| {
            units::size(given.get_ref()).ok_or_else(|| {
                let help = format!("{key} = \"2GiB\"; units are KiB, MiB and GiB");
                text.wrong(given.span(), "this is not a size", &help)
            })
        })
        .transpose()
}

/// No swap at all is a size that people want.
fn swap_size(text: &Text<'_>, given: &Spanned<String>) -> Result<u64, PolicyError> {
    match given.get_ref().as_str() {
        "none" => Ok(0),
        size => units::size(size)
            .ok_or_else(|| text.wrong(given.span(), "this is not a size", "swap = \"none\", or \"1GiB\"")),
    }
}

fn duration(
    text: &Text<'_>,
    given: Option<&Spanned<String>>,
    key: &str,
) -> Result<Option<Duration>, PolicyError> {
    given
        .map(|given| {
            units::duration(given.get_ref()).ok_or_else(|| {
                let help = format!("{key} = \"10m\"; units are s, m and h");
                text.wrong(given.span(), "this is not a duration", &help)
            })
        })
        .transpose()
}

fn processes_count(text: &Text<'_>, given: &Spanned<u64>) -> Result<u64, PolicyError> {
    match *given.get_ref() {
        // One is our own: the command needs another.
        count @ 2..=4_194_304 => Ok(count),
        _ => Err(text.wrong(given.span(), "this is not a number of processes", "processes = 512")),
    }
}

fn percent(text: &Text<'_>, given: &Spanned<String>) -> Result<u64, PolicyError> {
    let number = given.get_ref().strip_suffix('%').and_then(|number| number.trim_end().parse().ok());
    number.filter(|percent| (1..=MOST_CPU).contains(percent)).ok_or_else(|| {
        text.wrong(given.span(), "this is not a share of a processor", "cpu = \"200%\" is two processors")
    })
}

fn io_weight(text: &Text<'_>, given: &Spanned<u64>) -> Result<u64, PolicyError> {
    if IO_WEIGHTS.contains(given.get_ref()) {
        return Ok(*given.get_ref());
    }
    Err(text.wrong(given.span(), "this is not a weight", "io = 50; others have 100, the range is 1 to 10000"))
}

/// Bytes as policies write them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes(
    /// How many.
    pub u64,
);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes >= 1 << 30 && bytes % (1 << 30) == 0 => write!(f, "{} GiB", bytes >> 30),
            bytes if bytes >= 1 << 20 && bytes % (1 << 20) == 0 => write!(f, "{} MiB", bytes >> 20),
            bytes if bytes >= 10 << 20 => write!(f, "{} MiB", bytes >> 20),
            bytes if bytes >= 1 << 10 => write!(f, "{} KiB", bytes >> 10),
            bytes => write!(f, "{bytes} bytes"),
        }
    }
}

/// A duration as policies write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(
    /// How long.
    pub Duration,
);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            seconds if seconds % 3600 == 0 && seconds > 0 => write!(f, "{} h", seconds / 3600),
            seconds if seconds % 60 == 0 && seconds > 0 => write!(f, "{} min", seconds / 60),
            seconds => write!(f, "{seconds} s"),
        }
    }
}

impl SessionLimits {
    /// The limits that are set, a word and its value, as `keyhatch policy show` prints them.
    #[must_use]
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let Self { memory, swap, processes, cpu, io, time, idle, disk, growth, output } = *self;
        let bytes = |bytes: Option<u64>| bytes.map(|bytes| Bytes(bytes).to_string());
        let span = |span: Option<Duration>| span.map(|span| Span(span).to_string());
        let swap = if swap == Some(0) { Some("none".to_owned()) } else { bytes(swap) };
        [
            ("memory", bytes(memory)),
            ("swap", swap),
            ("processes", Some(processes.to_string())),
            ("cpu", cpu.map(|percent| format!("{percent}%"))),
            ("io", io.map(|weight| weight.to_string())),
            ("time", span(time)),
            ("idle", span(idle)),
            ("disk", bytes(Some(disk))),
            ("growth", bytes(growth)),
            ("output", bytes(output)),
        ]
        .into_iter()
        .filter_map(|(word, value)| Some((word, value?)))
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::Policy;

    const HEAD: &str = "name = \"t\"\ndescription = \"d\"\n[limits]\n";

    #[test]
    fn limits_carry_units_and_errors_point_at_the_number() {
        let policy = Policy::parse(
            &format!("{HEAD}memory = \"4GiB\"\nswap = \"none\"\nprocesses = 512\ncpu = \"150%\"\nio = 50\ntime = \"8h\"\nidle = \"30m\"\ndisk = \"1GiB\"\ngrowth = \"2GiB\"\noutput = \"64MiB\"\n"),
            "p.toml",
        )
        .expect("parses");
        let said: Vec<String> =
            policy.session_limits().lines().iter().map(|(word, value)| format!("{word} {value}")).collect();
        assert_eq!(
            said.join(", "),
            "memory 4 GiB, swap none, processes 512, cpu 150%, io 50, time 8 h, idle 30 min, disk 1 GiB, growth 2 GiB, output 64 MiB"
        );
        for (line, what) in [
            ("memory = \"4GB\"", "not a size"),
            ("memory = \"1MiB\"", "nothing starts"),
            ("swap = \"0\"", "not a size"),
            ("processes = 1", "number of processes"),
            ("cpu = \"2\"", "share of a processor"),
            ("cpu = \"0%\"", "share of a processor"),
            ("io = 0", "not a weight"),
            ("time = \"8\"", "not a duration"),
            ("output = \"5\"", "not a size"),
        ] {
            let wrong = Policy::parse(&format!("{HEAD}{line}\n"), "p.toml").expect_err(line);
            assert!(wrong.what().contains(what) && wrong.line() == 4, "{wrong}");
            assert!(wrong.to_string().contains('^'), "{wrong}");
        }
        assert_eq!(Policy::parse(&format!("{HEAD}ram = 5\n"), "p.toml").expect_err("unknown").line(), 4);
    }
}
