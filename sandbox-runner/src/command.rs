//! The command's own process: the last walls, the proof, and exec.

use keyhatch_sandbox_rules::rules::SandboxRules;

use crate::error::{RunError, at};
use crate::mutation::{self, Mitigation};
use crate::observer::Observer;
use crate::sys;
use crate::tier::Chosen;
use crate::{privileges, probe, ruleset, seccomp, terminal};

/// `env(1)`'s codes for a command that is not there, or cannot be run.
const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;

/// Confines this process and becomes the command. Returns only where that failed, with an exit code.
pub(crate) fn become_it(
    rules: &SandboxRules,
    chosen: &Chosen,
    grants: Vec<ruleset::Grant>,
    observer: Observer,
) -> Result<i32, RunError> {
    terminal::lead(rules)?;
    let landlock = ruleset::prepare(grants, chosen.tier)?;
    let filter = seccomp::prepare(chosen.tier);
    // Landlock and seccomp ask for it, and nothing that is executed later gets a power back.
    privileges::forbid_new()?;
    landlock.enforce()?;
    // Last, because the steps above make calls that it refuses.
    filter.enforce(observer)?;
    probe::enforce(rules, chosen)?;
    if !mutation::is_off(Mitigation::Descriptors) {
        sys::close_from(3).map_err(at("close", "descriptors"))?;
    }
    sys::default_effect(libc::SIGPIPE);
    sys::default_effect(libc::SIGTTOU);
    sys::hold_signals(false).map_err(at("let through", "signals"))?;
    let environment: Vec<String> = rules.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let (program, code, why) = exec(rules, &environment);
    eprintln!("keyhatch: cannot run {program}: {why}");
    if code == NOT_FOUND {
        eprintln!("hint: inside, programs are looked for in {}", path(rules));
        eprintln!(
            "hint: what is in your home is inside where the policy's [sandbox] tools names it: keyhatch policy list"
        );
    }
    Ok(code)
}

fn path(rules: &SandboxRules) -> &str {
    rules.env.get("PATH").map_or("", String::as_str)
}

/// Execs the command, looked up in the `PATH` inside. Returns only on failure.
fn exec<'a>(rules: &'a SandboxRules, environment: &[String]) -> (&'a str, i32, std::io::Error) {
    let Some(name) = rules.command.first() else {
        return ("", NOT_FOUND, std::io::ErrorKind::NotFound.into());
    };
    if name.contains('/') {
        let error = sys::exec(name.as_ref(), &rules.command, environment);
        let code = if error.kind() == std::io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE };
        return (name, code, error);
    }
    let mut last = (NOT_FOUND, std::io::Error::from_raw_os_error(libc::ENOENT));
    for directory in path(rules).split(':').filter(|directory| !directory.is_empty()) {
        let error = sys::exec(format!("{directory}/{name}").as_ref(), &rules.command, environment);
        if error.kind() != std::io::ErrorKind::NotFound {
            last = (NOT_EXECUTABLE, error);
        }
    }
    (name, last.0, last.1)
}
