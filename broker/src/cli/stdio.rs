//! What a confined command gets as standard input, output and error: pipes, or a terminal of its own.
//!
//! Never a file of the host's: a read-only descriptor is reopened for writing through `/proc/self/fd`. Never the
//! user's own terminal: it could be typed into (TIOCSTI) or read.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use keyhatch_policies::Policy;
use keyhatch_terminal::Passes;
use rustix::fs::FileType;
use rustix::termios::{OptionalActions, Termios};

use super::display::{Filtered, Gate};
use crate::limits::watch::Traffic;

/// The three descriptors, and what relays them.
pub(super) struct Relayed {
    /// For the runner.
    pub(super) stdio: [OwnedFd; 3],
    /// The user's terminal, where standard input is one.
    pub(super) terminal: Option<Terminal>,
    /// Threads that end when the command's output does.
    pub(super) outputs: Vec<JoinHandle<()>>,
}

/// The user's terminal while a command runs on one of its own.
pub(super) struct Terminal {
    saved: Termios,
    /// Our end of the command's terminal.
    pub(super) master: Arc<File>,
    /// Shut while a prompt is shown.
    pub(super) gate: Arc<Gate>,
}

impl Terminal {
    /// Gives the command's terminal the size of the user's.
    pub(super) fn copy_size(&self) {
        let copied = rustix::termios::tcgetwinsize(io::stdin())
            .and_then(|size| rustix::termios::tcsetwinsize(&*self.master, size));
        if let Err(error) = copied {
            tracing::debug!(%error, "the window's size is unknown");
        }
    }

    /// Passes every key to the command.
    pub(super) fn set_raw(&self) -> io::Result<()> {
        let mut raw = self.saved.clone();
        raw.make_raw();
        Ok(rustix::termios::tcsetattr(io::stdin(), OptionalActions::Now, &raw)?)
    }

    /// Gives the terminal back as it was.
    pub(super) fn restore(&self) {
        if let Err(error) = rustix::termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.saved) {
            tracing::debug!(%error, "the terminal could not be restored");
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.restore();
    }
}

/// What becomes of the command's output.
#[derive(Debug, Clone)]
pub(super) enum Outputs {
    /// It goes where ours goes, directly where that is safe.
    PassOn(Arc<Traffic>),
    /// The same, and every byte is counted.
    Count(Arc<Traffic>),
    /// It is kept, for a result as JSON. There is no terminal then.
    Keep(Arc<Traffic>, Arc<Kept>),
}

/// Output that is kept, up to a limit for each stream.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) most: u64,
    pub(super) stdout: Mutex<Vec<u8>>,
    pub(super) stderr: Mutex<Vec<u8>>,
}

/// What is kept of each stream where the policy does not limit output.
const KEPT: u64 = 16 << 20;

impl Kept {
    /// As much as a policy lets through.
    pub(super) fn of(policy: &Policy) -> Arc<Self> {
        let most = policy.session_limits().output.unwrap_or(KEPT);
        Arc::new(Self { most, stdout: Mutex::default(), stderr: Mutex::default() })
    }
}

impl Outputs {
    fn traffic(&self) -> &Arc<Traffic> {
        match self {
            Self::PassOn(traffic) | Self::Count(traffic) | Self::Keep(traffic, _) => traffic,
        }
    }
}

/// Prepares the descriptors from what this process has, keeping the output.
fn keep(traffic: &Arc<Traffic>, kept: &Arc<Kept>) -> io::Result<Relayed> {
    let mut outputs = Vec::new();
    let mut stream = |of: fn(&Kept) -> &Mutex<Vec<u8>>| -> io::Result<OwnedFd> {
        let (mut reader, writer) = io::pipe()?;
        let (traffic, kept) = (traffic.clone(), kept.clone());
        outputs.push(std::thread::spawn(move || {
            let mut buffer = [0; 16 * 1024];
            while let Ok(read @ 1..) = reader.read(&mut buffer) {
                traffic.output.fetch_add(read as u64, Ordering::Relaxed);
                let mut held = of(&kept).lock().unwrap_or_else(PoisonError::into_inner);
                let room = usize::try_from(kept.most).unwrap_or(usize::MAX).saturating_sub(held.len());
                held.extend_from_slice(&buffer[..read.min(room)]);
            }
        }));
        Ok(writer.into())
    };
    let (out, err) = (stream(|kept| &kept.stdout)?, stream(|kept| &kept.stderr)?);
    Ok(Relayed { stdio: [input(io::stdin().as_fd())?, out, err], terminal: None, outputs })
}

/// Prepares the descriptors from what this process has.
pub(super) fn relay(wish: &Outputs, passes: Passes) -> io::Result<Relayed> {
    if let Outputs::Keep(traffic, kept) = wish {
        return keep(traffic, kept);
    }
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let mut outputs = Vec::new();
    let is_terminal = |fd: &dyn AsFd| rustix::termios::isatty(fd.as_fd());
    let pty = if is_terminal(&stdin) || is_terminal(&stdout) { Some(open_pty()?) } else { None };
    let slave = |pty: &Option<(File, OwnedFd)>| -> io::Result<Option<OwnedFd>> {
        pty.as_ref().map(|(_, slave)| slave.try_clone()).transpose()
    };
    let input = match slave(&pty)? {
        Some(slave) if is_terminal(&stdin) => slave,
        _ => input(stdin.as_fd())?,
    };
    let mut output = |fd: &dyn AsFd, to: Box<dyn Write + Send>| -> io::Result<OwnedFd> {
        match slave(&pty)? {
            Some(slave) if is_terminal(fd) => Ok(slave),
            _ => self::output(fd, to, wish, &mut outputs),
        }
    };
    // Standard error alone may be a terminal too: the rest is then redirected.
    let out = output(&stdout, Box::new(io::stdout()))?;
    let err = if is_terminal(&stderr) {
        output(&stderr, Box::new(Filtered::new(io::stderr(), passes)))?
    } else {
        output(&stderr, Box::new(io::stderr()))?
    };
    let terminal = match pty {
        Some((master, slave)) => {
            drop(slave);
            Some(start_terminal(master, wish.traffic(), passes, &mut outputs)?)
        }
        None => None,
    };
    Ok(Relayed { stdio: [input, out, err], terminal, outputs })
}

fn open_pty() -> io::Result<(File, OwnedFd)> {
    use rustix::fs::{Mode, OFlags};
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let slave = rustix::fs::open(&*name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    Ok((File::from(master), slave))
}

fn start_terminal(
    master: File,
    traffic: &Arc<Traffic>,
    passes: Passes,
    outputs: &mut Vec<JoinHandle<()>>,
) -> io::Result<Terminal> {
    let master = Arc::new(master);
    let terminal = Terminal {
        saved: rustix::termios::tcgetattr(io::stdin())
            .or_else(|_| rustix::termios::tcgetattr(io::stdout()))?,
        master: master.clone(),
        gate: Arc::new(Gate::new(passes)),
    };
    terminal.copy_size();
    let (gate, reader) = (terminal.gate.clone(), master.clone());
    let counted = traffic.clone();
    outputs.push(std::thread::spawn(move || {
        let mut buffer = [0; 16 * 1024];
        // The slave's last close ends this with EIO: the command and everything it started are gone.
        while let Ok(read @ 1..) = (&*reader).read(&mut buffer) {
            counted.output.fetch_add(read as u64, Ordering::Relaxed);
            if gate.show(&buffer[..read]).is_err() {
                return;
            }
        }
    }));
    if rustix::termios::isatty(io::stdin()) {
        terminal.set_raw()?;
        let (gate, traffic) = (terminal.gate.clone(), traffic.clone());
        std::thread::spawn(move || pass_keys(&master, &gate, &traffic));
    }
    Ok(terminal)
}

/// Passes keys to the command. While the gate is shut they belong to the prompt, which reads them itself.
fn pass_keys(master: &File, gate: &Gate, traffic: &Traffic) {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut buffer = [0; 4096];
    loop {
        gate.wait();
        let stdin = io::stdin();
        let mut polled = [PollFd::new(&stdin, PollFlags::IN)];
        let tick = rustix::event::Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        match poll(&mut polled, Some(&tick)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) => {}
            Err(_) => return,
        }
        // Looked at once more: a prompt may have thrown away what was there, and a read would wait for its keys.
        let read = gate.read_if_open(|| {
            let mut polled = [PollFd::new(&stdin, PollFlags::IN)];
            let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
            if poll(&mut polled, Some(&now))? == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(rustix::io::read(&stdin, &mut buffer)?)
        });
        match read {
            Ok(None) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Ok(Some(read @ 1..)) => {
                traffic.input.fetch_add(read as u64, Ordering::Relaxed);
                let mut master = master;
                if master.write_all(&buffer[..read]).is_err() {
                    return;
                }
            }
            _ => return,
        }
    }
}

/// Standard input that is no terminal: pipes, sockets and `/dev/null` pass as they are, files through a pipe.
fn input(fd: std::os::fd::BorrowedFd<'_>) -> io::Result<OwnedFd> {
    if passes_as_it_is(fd)? {
        return fd.try_clone_to_owned();
    }
    let (reader, mut writer) = io::pipe()?;
    std::thread::spawn(move || {
        // The command may read less than there is: a broken pipe is its right.
        if let Err(error) = io::copy(&mut io::stdin().lock(), &mut writer) {
            tracing::debug!(%error, "the command stopped reading");
        }
    });
    Ok(reader.into())
}

fn output(
    fd: &dyn AsFd,
    mut to: Box<dyn Write + Send>,
    wish: &Outputs,
    outputs: &mut Vec<JoinHandle<()>>,
) -> io::Result<OwnedFd> {
    if matches!(wish, Outputs::PassOn(_)) && passes_as_it_is(fd.as_fd())? {
        return fd.as_fd().try_clone_to_owned();
    }
    let (mut reader, writer) = io::pipe()?;
    let traffic = wish.traffic().clone();
    outputs.push(std::thread::spawn(move || {
        let mut buffer = [0; 16 * 1024];
        while let Ok(read @ 1..) = reader.read(&mut buffer) {
            traffic.output.fetch_add(read as u64, Ordering::Relaxed);
            if let Err(error) = to.write_all(&buffer[..read]).and_then(|()| to.flush()) {
                tracing::debug!(%error, "nobody reads the command's output");
                return;
            }
        }
    }));
    Ok(writer.into())
}

fn passes_as_it_is(fd: std::os::fd::BorrowedFd<'_>) -> io::Result<bool> {
    let stat = rustix::fs::fstat(fd)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let null = rustix::fs::stat("/dev/null")?;
    Ok(matches!(kind, FileType::Fifo | FileType::Socket)
        || (kind == FileType::CharacterDevice && stat.st_rdev == null.st_rdev))
}
