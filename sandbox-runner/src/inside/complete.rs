//! The rules as they hold in this container: what only it knows is filled in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use keyhatch_sandbox_rules::rules::{InsideRules, SandboxRules};

use super::{leads_into, shown};

/// Where programs are looked for, where the container does not say or says nothing that may be read.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The home where the container's user has none that could be one.
const HOME: &str = "/home/agent";

/// Fills in command, place, home and environment; adds what the user should know.
pub(super) fn complete(
    given: InsideRules,
    command: Vec<String>,
    place: &Path,
) -> (SandboxRules, Vec<String>) {
    let InsideRules { mut rules, keep, tools, mut notes, seconds: _ } = given;
    let variables: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let home = variables.get("HOME").map(PathBuf::from).filter(|home| can_be_home(home, &shown(&rules)));
    notes.extend(not_shown(home.as_deref(), &tools));
    notes.extend(mounted_below(&rules.system));
    rules.home = home.unwrap_or_else(|| HOME.into());
    if rules.cwd.as_os_str().is_empty() {
        rules.cwd.clone_from(&rules.home);
    } else if let Some(now) = std::env::current_dir().ok().filter(|now| now.starts_with(&rules.cwd)) {
        rules.cwd = now;
    }
    rules.fallback = place.to_owned();
    rules.command = if command.is_empty() { vec!["/bin/sh".to_owned()] } else { command };
    rules.env = environment(&rules, &keep, &variables);
    (rules, notes)
}

/// Neither everything nor what the command may reach under its own name: the home is another directory inside. Services of
/// images have theirs below /opt or /usr.
fn can_be_home(home: &Path, shown: &[PathBuf]) -> bool {
    home.is_absolute() && home != Path::new("/") && !leads_into(home, shown)
}

fn environment(
    rules: &SandboxRules,
    keep: &[String],
    variables: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let kept = variables.iter().filter(|(name, _)| keep.contains(name) || name.starts_with("LC_"));
    let mut env: BTreeMap<String, String> = kept.map(|(name, value)| (name.clone(), value.clone())).collect();
    let plain = |name: &&String| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    let user = variables.get("USER").filter(plain).map_or("agent", String::as_str);
    for (name, value) in [
        ("PATH", programs(&rules.system, variables.get("PATH").map_or("", String::as_str))),
        ("HOME", rules.home.display().to_string()),
        ("USER", user.to_owned()),
        ("LOGNAME", user.to_owned()),
        ("SHELL", "/bin/sh".to_owned()),
        ("TMPDIR", "/tmp".to_owned()),
    ] {
        env.insert(name.to_owned(), value);
    }
    // The policy's and the session's own outdo what the container has.
    env.extend(rules.env.clone());
    env
}

/// The container's own search path, as far as it leads to what may be read.
fn programs(system: &[PathBuf], path: &str) -> String {
    let readable = |directory: &&str| system.iter().any(|shown| Path::new(directory).starts_with(shown));
    let found: Vec<&str> = path.split(':').filter(readable).collect();
    if found.is_empty() { PATH.to_owned() } else { found.join(":") }
}

/// Tools of the home: what is a credential among their files is looked for on the host alone.
fn not_shown(home: Option<&Path>, tools: &[String]) -> Option<String> {
    let home = home?;
    let there: Vec<String> =
        tools.iter().filter(|tool| home.join(tool).exists()).map(|tool| format!("~/{tool}")).collect();
    let line =
        format!("not shown inside: {}; what the image has in /usr, /opt and /nix/store is", there.join(", "));
    (!there.is_empty()).then_some(line)
}

/// What is mounted below the image's own directories is read with them.
fn mounted_below(system: &[PathBuf]) -> Option<String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // proc_pid_mountinfo(5): the fifth field, with octal escapes, which are shown as they are.
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    let below: Vec<&str> = points
        .filter(|point| {
            system.iter().any(|shown| Path::new(point).starts_with(shown) && Path::new(point) != shown)
        })
        .collect();
    let line = format!("mounted below the image's own directories, and readable: {}", below.join(", "));
    (!below.is_empty()).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_looked_for_where_they_can_be_read() {
        let system = ["/usr", "/bin", "/opt"].map(PathBuf::from);
        assert_eq!(programs(&system, "/opt/x/bin:/root/bin::relative:/usr/bin:/usrx"), "/opt/x/bin:/usr/bin");
        assert_eq!(programs(&system, "/root/bin"), PATH);
    }

    #[test]
    fn a_home_is_neither_everything_nor_what_is_shown_anyway() {
        let shown = ["/work", "/opt"].map(PathBuf::from);
        for (home, fits) in [
            ("/home/vscode", true),
            ("/", false),
            ("/work", false),
            ("/work/x", false),
            ("x", false),
            ("/opt/app", false),
        ] {
            assert_eq!(can_be_home(home.as_ref(), &shown), fits, "{home}");
        }
    }
}
