//! The parent's side of a confined child: started, told, heard, ended. There is no other.
//!
//! A child belongs to the thread that started it: the kernel kills it when that thread ends (`PR_SET_PDEATHSIG`), so the thread
//! here lives exactly as long as the child does, whatever becomes of the caller's.

use std::future::Future;
use std::io::PipeWriter;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use std::{fmt, io, thread};

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::patient::{Ended, Talk};
use crate::{ReadOnlyFd, Untrusted};

/// A program that is started as a confined child.
#[derive(Debug, Clone)]
pub struct Program {
    /// Its file.
    pub path: PathBuf,
    /// Its only argument: which of its tasks.
    pub task: &'static str,
    /// Most bytes of its answer; what says more is ended at once.
    pub max_answer: usize,
}

/// A child gave no answer.
#[derive(Debug, Error)]
pub enum ChildError {
    /// Its program is not there.
    #[error("{} is missing", .program.display())]
    Missing {
        /// The file that was looked for.
        program: PathBuf,
    },
    /// It could not be started or spoken to.
    #[error("the child cannot be run")]
    Unavailable(#[from] io::Error),
    /// The request cannot be written down.
    #[error("the request cannot be written down")]
    Request(#[source] serde_json::Error),
    /// It took longer than it may.
    #[error("it took longer than {} seconds", .patience.as_secs())]
    TimedOut {
        /// What it had.
        patience: Duration,
    },
    /// It stopped in the middle of its request or its answer.
    #[error("it stopped in the middle of {during}")]
    Stalled {
        /// Of what.
        during: &'static str,
    },
    /// Its answer is larger than it may be.
    #[error("its answer is larger than {limit} bytes")]
    TooLarge {
        /// The bound that was in force.
        limit: usize,
    },
    /// It did not end well, most often at one of its limits.
    #[error("it died: {how}{}{said}", if .said.is_empty() { "" } else { ": " })]
    Died {
        /// Its exit status.
        how: String,
        /// The first of what it wrote to standard error: for logs, never for a session.
        said: String,
    },
    /// Its answer is not one.
    #[error("its answer cannot be read")]
    Unreadable,
    /// Nobody waits for it any more.
    #[error("nobody waits for it any more")]
    Cancelled,
    /// The thread that looks after it is gone.
    #[error("the thread that looks after it is gone")]
    Lost,
}

/// Confined children.
#[derive(Debug)]
pub struct Child;

impl Child {
    /// Runs one, and waits for its answer: for callers that may block.
    ///
    /// # Errors
    /// When there is no answer. The child and all that it started are gone then, as they are after an answer.
    pub fn run<A: DeserializeOwned>(
        program: &Program,
        request: &impl Serialize,
        fds: &[ReadOnlyFd],
        patience: Duration,
    ) -> Result<Untrusted<A>, ChildError> {
        let request = serde_json::to_vec(request).map_err(ChildError::Request)?;
        // The caller's thread is here until the child is gone.
        answer_of(program, &Order { request: &request, fds, patience, cancelled: None })
    }

    /// Starts one beside the caller. Dropping what is returned ends the child.
    ///
    /// # Errors
    /// When the request cannot be written down, or no thread can be had.
    pub fn start<A: DeserializeOwned + Send + 'static>(
        program: &Program,
        request: &impl Serialize,
        fds: Vec<ReadOnlyFd>,
        patience: Duration,
    ) -> Result<Running<A>, ChildError> {
        let request = serde_json::to_vec(request).map_err(ChildError::Request)?;
        let (cancelled, cancel) = io::pipe()?;
        let promise = Promise(Arc::new(Slot(Mutex::new(State { answer: None, waker: None }))));
        let slot = Arc::clone(&promise.0);
        let program = program.clone();
        thread::Builder::new().name(format!("cage {}", program.task)).spawn(move || {
            let cancelled = Some(cancelled.as_fd());
            let order = Order { request: &request, fds: &fds, patience, cancelled };
            promise.keep(answer_of(&program, &order));
        })?;
        Ok(Running { slot, _cancel: cancel })
    }
}

/// A child at work: a future of its answer. Dropped, it kills the child and all that it started, and reaps it.
#[must_use = "a child that nobody waits for is ended"]
pub struct Running<A> {
    slot: Arc<Slot<A>>,
    /// Closed when this is dropped, which the thread sees.
    _cancel: PipeWriter,
}

impl<A> fmt::Debug for Running<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Running(..)")
    }
}

impl<A> Future for Running<A> {
    type Output = Result<Untrusted<A>, ChildError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.slot.0.lock().unwrap_or_else(PoisonError::into_inner);
        match state.answer.take() {
            Some(answer) => Poll::Ready(answer),
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// Where thread and future meet.
struct Slot<A>(Mutex<State<A>>);

struct State<A> {
    answer: Option<Result<Untrusted<A>, ChildError>>,
    waker: Option<Waker>,
}

/// The thread's end of a slot: kept once, or broken when the thread ends without.
struct Promise<A>(Arc<Slot<A>>);

impl<A> Promise<A> {
    fn keep(self, answer: Result<Untrusted<A>, ChildError>) {
        self.put(answer);
    }

    fn put(&self, answer: Result<Untrusted<A>, ChildError>) {
        let mut state = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.answer.get_or_insert(answer);
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }
}

impl<A> Drop for Promise<A> {
    fn drop(&mut self) {
        let mut state = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.answer.is_none() {
            state.answer = Some(Err(ChildError::Lost));
            if let Some(waker) = state.waker.take() {
                waker.wake();
            }
        }
    }
}

/// What one child gets.
struct Order<'o> {
    request: &'o [u8],
    fds: &'o [ReadOnlyFd],
    patience: Duration,
    cancelled: Option<std::os::fd::BorrowedFd<'o>>,
}

/// Runs a child from its start to its end, on this thread.
fn answer_of<A: DeserializeOwned>(program: &Program, order: &Order<'_>) -> Result<Untrusted<A>, ChildError> {
    let (ours, theirs) = UnixStream::pair()?;
    let (said, says) = io::pipe()?;
    let mut command = command(program, theirs.into(), says.into());
    let spawned = command.spawn();
    // With these open here, a child that is gone would not show.
    drop(command);
    let child = spawned.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => ChildError::Missing { program: program.path.clone() },
        _ => error.into(),
    })?;
    let mut ended = Ended::new(child);
    let descriptors: Vec<_> = order.fds.iter().map(AsFd::as_fd).collect();
    // A child that is gone already shows in its answer.
    drop(keyhatch_host::sys::send_descriptors(ours.as_fd(), &descriptors));
    let mut talk = Talk::new(&ours, &said, order.cancelled, order.patience)?;
    let spoken = talk.speak(order.request, program.max_answer).and_then(|answer| {
        let status = talk.wait_for(&mut ended)?;
        Ok((answer, status))
    });
    let said = talk.said();
    // Whatever it started ends with it: it cannot leave its process group.
    ended.kill();
    let (answer, status) = spoken?;
    if !status.success() {
        return Err(ChildError::Died { how: status.to_string(), said });
    }
    serde_json::from_slice(&answer).map(Untrusted::new).map_err(|_| ChildError::Unreadable)
}

fn command(program: &Program, answer: OwnedFd, errors: OwnedFd) -> Command {
    let mut command = Command::new(&program.path);
    command
        .arg(program.task)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into()))
        .current_dir(Path::new("/"))
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::from(answer))
        .stderr(Stdio::from(errors));
    command
}
