//! The rules come in two parts: the foundation, with which the runner begins while the session still opens, and then all of
//! them, which must stand on that foundation.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use keyhatch_protocol::frame::{self, FrameError, MAX_CONTROL_FRAME};
use keyhatch_sandbox_rules::rules::{Foundation, SandboxRules};

use crate::error::{RunError, at};
use crate::stdio;
use crate::supervise::abandoned;

/// Where the rest of the rules comes from.
pub(crate) enum Rest {
    /// From `keyhatch run`, with the command's standard descriptors before them.
    Line(File),
    /// From nobody: they are known.
    Known(Box<SandboxRules>),
}

/// Reads the foundation.
pub(crate) fn begin(line: OwnedFd) -> Result<(Foundation, Rest), RunError> {
    let mut line = File::from(line);
    match frame::read(&mut line, MAX_CONTROL_FRAME) {
        Ok(foundation) => Ok((foundation, Rest::Line(line))),
        Err(FrameError::Io(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => abandoned(),
        Err(_) => Err(RunError::Rules),
    }
}

impl Rest {
    /// Rules that are known from the beginning.
    pub(crate) fn known(rules: &SandboxRules) -> (Foundation, Self) {
        (rules.foundation(), Self::Known(Box::new(rules.clone())))
    }

    /// Waits for them. What was built on another foundation would not be what they say.
    pub(crate) fn read(self, foundation: &Foundation) -> Result<SandboxRules, RunError> {
        let mut line = match self {
            Self::Known(rules) => return Ok(*rules),
            Self::Line(line) => line,
        };
        stdio::take(&line)?;
        let mut text = Vec::new();
        line.read_to_end(&mut text).map_err(at("read", "the sandbox's rules"))?;
        parse(&text, foundation)
    }
}

fn parse(text: &[u8], foundation: &Foundation) -> Result<SandboxRules, RunError> {
    let rules: SandboxRules = serde_json::from_slice(text).map_err(|_| RunError::Rules)?;
    if rules.foundation() == *foundation { Ok(rules) } else { Err(RunError::Foundation) }
}

#[cfg(test)]
mod tests {
    use keyhatch_sandbox_rules::rules::NetworkInside;

    use super::*;
    use crate::facts;

    #[test]
    fn rules_that_stand_on_another_foundation_are_refused() {
        let rules = facts::smallest("/nonexistent".into());
        let text = serde_json::to_vec(&rules).expect("encodes");
        assert_eq!(parse(&text, &rules.foundation()).expect("stands"), rules);
        let looser = Foundation { network: NetworkInside::Host, ..rules.foundation() };
        assert!(matches!(parse(&text, &looser), Err(RunError::Foundation)));
    }
}
