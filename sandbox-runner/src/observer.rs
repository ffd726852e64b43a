//! The observer's end of the filter: its descriptor goes to `keyhatch run`, over a line of its own.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use keyhatch_sandbox_rules::rules::{Foundation, Observe};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::error::{RunError, at};

/// What is looked at, and where the descriptor goes; none where nobody asked. Dropped, the other side knows that nobody
/// will ask it anything.
pub(crate) struct Observer(Option<(Observe, OwnedFd)>);

/// Takes the line that was inherited for it.
pub(crate) fn prepare(foundation: &Foundation, line: Option<OwnedFd>) -> Observer {
    Observer(foundation.observe.zip(line))
}

impl Observer {
    /// What somebody asked for.
    pub(crate) fn kind(&self) -> Option<Observe> {
        self.0.as_ref().map(|(kind, _)| *kind)
    }

    /// Hands it over. Nothing is refused or looked at before the other side has it: the kernel waits.
    pub(crate) fn hand_over(self, listener: &OwnedFd) -> Result<(), RunError> {
        let Some((_, line)) = self.0 else { return Ok(()) };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors = [listener.as_fd()];
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        sendmsg(&line, &[IoSlice::new(b"O")], &mut ancillary, SendFlags::NOSIGNAL)
            .map_err(at("hand over", "the observer's end of the filter"))?;
        Ok(())
    }
}
