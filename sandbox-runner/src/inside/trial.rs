//! Whether namespaces are of use in this container: a whole sandbox is built in them, once, to run nothing.
//!
//! A container may give them and forbid what is needed in them: with parts of `/proc` covered, as engines do, the kernel
//! shows no fresh one. There is no way back from namespaces, so a child tries.

use std::io::Read;
use std::path::Path;

use keyhatch_sandbox_rules::rules::SandboxRules;
use rustix::process::{WaitOptions, waitpid};

use super::NOTHING;
use super::watch::launched;
use crate::error::RunError;
use crate::outer::said;
use crate::supervise::Ended;
use crate::sys::{self, Forked};
use crate::tier::{self, Around};

/// Most of a failure's text that is read.
const LONGEST: u64 = 4096;

/// Why they are of no use; none where they are.
pub(super) fn namespaces(rules: &SandboxRules, program: &Path) -> Option<String> {
    match tier::trial() {
        Ok(()) => {}
        Err(RunError::NoNamespaces { source }) => return Some(tier::explain(&source)),
        Err(other) => return Some(other.to_string()),
    }
    let nothing = [program.to_string_lossy().into_owned(), NOTHING.to_owned()];
    let rules = SandboxRules { command: nothing.into(), quiet: true, require: Vec::new(), ..rules.clone() };
    whole(&rules).map(|why| format!("namespaces are given, but no sandbox can be built in them: {why}"))
}

fn whole(rules: &SandboxRules) -> Option<String> {
    let Ok((mut reader, writer)) = std::io::pipe() else { return Some("no pipe can be made".to_owned()) };
    match sys::fork() {
        Err(error) => Some(error.to_string()),
        Ok(Forked::Child) => {
            drop(reader);
            if rustix::stdio::dup2_stderr(&writer).is_err() {
                std::process::exit(1);
            }
            drop(writer);
            let code = launched(rules, Around::Container { without: None }).map(|ended| match ended {
                Ended::Code(code) => i32::from(code),
                Ended::Signal(_) => 1,
            });
            std::process::exit(said(code));
        }
        Ok(Forked::Parent(child)) => {
            drop(writer);
            let mut text = String::new();
            // What cannot be read is not said.
            drop(reader.by_ref().take(LONGEST).read_to_string(&mut text));
            let ended = waitpid(Some(child), WaitOptions::empty()).ok().flatten();
            if ended.and_then(|(_, status)| status.exit_status()) == Some(0) {
                return None;
            }
            let line = text.lines().next().unwrap_or("it was killed");
            Some(line.trim_start_matches("keyhatch: ").to_owned())
        }
    }
}
