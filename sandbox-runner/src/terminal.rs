//! The session and its terminal: no signal and no key of the host's terminal crosses, and job control works inside.

use keyhatch_sandbox_rules::rules::SandboxRules;
use rustix::process::{getpgrp, getpid, ioctl_tiocsctty, setpgid, setsid};
use rustix::termios::tcsetpgrp;

use crate::error::{RunError, at};
use crate::mutation::{self, Mitigation};
use crate::sys;

/// Leaves the host's session; where the rules say so, standard input becomes the controlling terminal.
pub(crate) fn enforce(rules: &SandboxRules) -> Result<(), RunError> {
    if mutation::is_off(Mitigation::Session) {
        return Ok(());
    }
    setsid().map_err(at("start", "a session"))?;
    if rules.terminal {
        ioctl_tiocsctty(std::io::stdin()).map_err(at("take", "the terminal"))?;
    }
    Ok(())
}

/// Puts this process into the foreground as a group of its own.
pub(crate) fn lead(rules: &SandboxRules) -> Result<(), RunError> {
    if mutation::is_off(Mitigation::Session) {
        return Ok(());
    }
    // Who leads the session leads its group already.
    if getpgrp() != getpid() {
        setpgid(None, None).map_err(at("lead", "a process group"))?;
    }
    if rules.terminal {
        // From the background this stops the caller with SIGTTOU, unless it is ignored; exec gets the default back.
        sys::ignore(libc::SIGTTOU);
        tcsetpgrp(std::io::stdin(), getpid()).map_err(at("take", "the terminal's foreground"))?;
    }
    Ok(())
}
