//! The observer's end of the filter: its descriptor goes to `keyhatch run`, which asked for it.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use keyhatch_policies::rules::SandboxRules;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::error::{RunError, at};

/// Where the descriptor goes; none where nobody asked.
pub(crate) struct Observer(Option<OwnedFd>);

/// Keeps the hand-off socket for it.
pub(crate) fn prepare(rules: &SandboxRules, handoff: &OwnedFd) -> Result<Observer, RunError> {
    let line = rules.observe.then(|| handoff.try_clone()).transpose();
    Ok(Observer(line.map_err(at("keep", "the hand-off socket"))?))
}

impl Observer {
    /// Nobody looks.
    pub(crate) const fn none() -> Self {
        Self(None)
    }

    /// Whether somebody asked.
    pub(crate) const fn is_wanted(&self) -> bool {
        self.0.is_some()
    }

    /// Hands it over. Nothing is refused or looked at before the other side has it: the kernel waits.
    pub(crate) fn hand_over(self, listener: &OwnedFd) -> Result<(), RunError> {
        let Some(line) = self.0 else { return Ok(()) };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors = [listener.as_fd()];
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        sendmsg(&line, &[IoSlice::new(b"O")], &mut ancillary, SendFlags::NOSIGNAL)
            .map_err(at("hand over", "the observer's end of the filter"))?;
        Ok(())
    }
}
