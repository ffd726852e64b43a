//! The system calls that no safe crate offers whole. Everything else uses rustix.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// Most descriptors in one message that are taken; the kernel's own limit is 253 (SCM_MAX_FD).
const MAX_DESCRIPTORS: usize = 128;

/// Sends descriptors with one byte, `unix(7)` SCM_RIGHTS.
///
/// # Errors
/// What `sendmsg(2)` says.
pub fn send_descriptors(socket: BorrowedFd<'_>, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("no room for the descriptors"));
    }
    sendmsg(socket, &[IoSlice::new(b"L")], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives the descriptors that come with one byte; how many are right is the caller's to say.
///
/// # Errors
/// What `recvmsg(2)` says; `UnexpectedEof` when the peer closed.
pub fn receive_descriptors(socket: BorrowedFd<'_>) -> io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let message =
        recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    if message.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let received = ancillary.drain().filter_map(|m| match m {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    Ok(received.flatten().collect())
}

/// Closes every descriptor that whoever started this process left open in it, standard ones excepted.
///
/// # Errors
/// What `close_range(2)` says.
#[allow(unsafe_code)]
pub fn close_inherited() -> io::Result<()> {
    // JUSTIFICATION: no safe call closes what it does not own. SAFETY: called before anything in this process opens or owns
    // a descriptor above the standard ones.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// What the children of this process used that it has waited for, and theirs: `getrusage(2)`.
#[derive(Debug, Clone, Copy, Default)]
pub struct ChildrenUsage {
    /// Processor time of their own.
    pub user: std::time::Duration,
    /// Processor time of the kernel for them.
    pub system: std::time::Duration,
    /// The most memory that one of them had, in bytes.
    pub largest: u64,
}

/// Asks for it.
#[must_use]
#[allow(unsafe_code)]
pub fn children_usage() -> ChildrenUsage {
    // JUSTIFICATION: rustix lacks it. SAFETY: rusage is plain data, for which zeros are valid, and it lives across the
    // call, which fills it and keeps no pointer.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage);
        usage
    };
    let time = |time: libc::timeval| {
        let part = std::time::Duration::from_micros(u64::try_from(time.tv_usec).unwrap_or(0));
        std::time::Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0)) + part
    };
    ChildrenUsage {
        user: time(usage.ru_utime),
        system: time(usage.ru_stime),
        // In KiB, getrusage(2).
        largest: u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024,
    }
}

/// A system call that waits for its observer: `seccomp_unotify(2)`.
#[derive(Debug, Clone, Copy)]
pub struct Notification {
    /// Names it in the answer.
    pub id: u64,
    /// The thread, by its number here.
    pub pid: u32,
    /// The call's number.
    pub call: i64,
    /// Its arguments, as they were in registers: nobody can change them any more.
    pub arguments: [u64; 6],
}

/// What becomes of such a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The kernel does it, as it would have without an observer.
    GoOn,
    /// EPERM.
    Refuse,
}

// _IOWR('!', 0, struct seccomp_notif) and _IOWR('!', 1, struct seccomp_notif_resp), linux/seccomp.h
const NOTIFICATION_RECEIVE: libc::c_ulong = 0xC050_2100;
const NOTIFICATION_SEND: libc::c_ulong = 0xC018_2101;

/// Receives the next call that waits.
///
/// # Errors
/// What the kernel says: ENOENT where its process was killed meanwhile.
#[allow(unsafe_code)]
pub fn next_notification(listener: BorrowedFd<'_>) -> io::Result<Notification> {
    use std::os::fd::AsRawFd;
    // JUSTIFICATION: no safe crate in this tree speaks seccomp_unotify. SAFETY: the structure is plain data that must be
    // zero before the call, which fills it and keeps no pointer.
    let (result, notification) = unsafe {
        let mut notification: libc::seccomp_notif = std::mem::zeroed();
        let result = libc::ioctl(listener.as_raw_fd(), NOTIFICATION_RECEIVE, &raw mut notification);
        (result, notification)
    };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(Notification {
        id: notification.id,
        pid: notification.pid,
        call: notification.data.nr.into(),
        arguments: notification.data.args,
    })
}

/// Asks the kernel to switch between the one who waits and the one who answers on one processor, where it knows how (Linux
/// 6.6): it halves the wait.
#[allow(unsafe_code)]
pub fn wake_in_turns(listener: BorrowedFd<'_>) {
    use std::os::fd::AsRawFd;
    // _IOW('!', 4, __u64) and SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP, linux/seccomp.h
    const SET_FLAGS: libc::c_ulong = 0x4008_2104;
    const SYNC_WAKE_UP: u64 = 1;
    // JUSTIFICATION: as above. SAFETY: the flag is passed by value; an older kernel refuses it, and only speed is lost.
    unsafe { libc::ioctl(listener.as_raw_fd(), SET_FLAGS, SYNC_WAKE_UP) };
}

/// Answers one.
///
/// # Errors
/// What the kernel says: ENOENT where its process was killed meanwhile.
#[allow(unsafe_code)]
pub fn answer_notification(listener: BorrowedFd<'_>, id: u64, answer: Answer) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let (error, flags) = match answer {
        Answer::GoOn => (0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
        Answer::Refuse => (-libc::EPERM, 0),
    };
    let response = libc::seccomp_notif_resp { id, val: 0, error, flags };
    // JUSTIFICATION: as above. SAFETY: the structure lives across the call, which reads it and keeps no pointer.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), NOTIFICATION_SEND, &raw const response) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
