//! Sessions: one project, one policy, one set of sockets. Reaching the socket is the session's identity.

pub mod container;
mod git_config;
pub mod gitdir;
mod project;
pub mod report;
mod settings;
pub mod told;
mod user_config;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use keyhatch_policies::rules::{FileInside, Mount};
use keyhatch_policies::{GitDirectory, Policy, Project, ProjectAccess, Terms};
use keyhatch_protocol::message::BRIDGE_BASE;
use keyhatch_protocol::{Identity, Remote, SessionId};
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};

use crate::control::OpenedContainer;
use crate::credential::ProjectSecrets;
use crate::front::OnHost;
use crate::network::{SessionNetwork, plan};
use crate::paths::{Paths, PathsError, make_private};
use crate::registries::{self, Answer};
use crate::signer::{self, Signing};
use crate::spool::SpoolQuota;
use crate::ssh_agent;
use crate::ssh_agent::witness::Proofs;
use crate::upstream::lfs::Links;
use crate::upstream::{GivenNonces, HeldConnections};

use container::{Container, ContainerError, SessionName};
use gitdir::{Directories, Keeper, Record, Source, Watch};
use report::Section;
use told::Told;

pub(crate) use git_config::{Setting, parse_list};
pub use keyhatch_protocol::message::SOCKETS_INSIDE;
pub use project::{ProjectError, ProjectGit};

/// Connections that one session can hold open at once; git uses one, git-lfs eight. More wait in the backlog.
const MAX_CONNECTIONS: usize = 64;
/// The port of the front end on a sandbox's own loopback. Nothing else lives in that network namespace.
pub const FRONT_END_PORT: u16 = 8417;

/// A session could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The project is not what it should be.
    #[error(transparent)]
    Project(#[from] ProjectError),
    /// A directory of ours failed.
    #[error(transparent)]
    Paths(#[from] PathsError),
    /// Its own git directory could not be made.
    #[error("cannot make the session's own git directory")]
    GitDirectory(#[source] std::io::Error),
    /// A file of the session could not be written.
    #[error("cannot write the session's files")]
    Write(#[source] std::io::Error),
    /// It cannot be had in a container.
    #[error(transparent)]
    Container(#[from] ContainerError),
}

/// What a session is opened with.
#[derive(Debug)]
pub struct Opening {
    /// Its name.
    pub id: SessionId,
    /// The project's directory on the host; none where the policy wants none.
    pub project: Option<PathBuf>,
    /// What it may do.
    pub policy: Policy,
}

/// What a session is furnished from.
struct Ground {
    git: ProjectGit,
    signs: signer::Inside,
    /// Mounts over the project, at the host's paths.
    over: Vec<Mount>,
}

/// One open session. Made by [`open`]; ends when the connection that opened it does, or for a container when it is closed.
#[derive(Debug)]
pub struct Session {
    /// Its name.
    pub id: SessionId,
    /// The project's directory on the host.
    pub directory: PathBuf,
    /// What it may do.
    pub policy: Policy,
    /// The project's remotes, as they were on the host when it was opened.
    pub project: Project,
    /// Where the host keeps the project's objects.
    pub objects: Vec<PathBuf>,
    /// Secrets of the project's own configuration; used upstream, never shown inside.
    pub secrets: ProjectSecrets,
    /// What its upstreams said that they have.
    pub upstreams: Arc<Told>,
    /// How it signs.
    pub signing: Signing,
    /// Held while a signature is asked for: one answer covers those that follow.
    pub asking: tokio::sync::Mutex<()>,
    /// When it was opened.
    pub opened: SystemTime,
    /// When it ends by itself; none for one that lives as long as its sandbox.
    pub expires: Option<SystemTime>,
    /// What the user calls it.
    pub name: Option<SessionName>,
    /// What the command that opened a container's session was told, for those who ask for it again.
    pub told: OnceLock<OpenedContainer>,
    /// What its pushes may take of the disk.
    pub spool: Arc<SpoolQuota>,
    /// One permit an advertisement that lies in memory until it is read.
    pub advertisements: Arc<Semaphore>,
    /// One permit a connection.
    pub connections: Arc<Semaphore>,
    /// Turns true when it ends; listeners and held requests watch it.
    pub closed: watch::Sender<bool>,
    /// Connections upstream that wait for its signed pushes.
    pub(crate) held: HeldConnections,
    /// The nonces that upstreams gave to it.
    pub(crate) nonces: GivenNonces,
    /// What ssh servers proved on its connections.
    pub(crate) proofs: Proofs,
    /// Its network: what is allowed, and what was counted.
    pub network: SessionNetwork,
    sockets: PathBuf,
    files: PathBuf,
    /// Its link by name, where it has one.
    link: OnceLock<PathBuf>,
    /// Whether nothing of it runs any more, where somebody said so: of a container nobody else knows.
    over: AtomicBool,
    fetches: Mutex<HashMap<Remote, Admitted>>,
    counts: Mutex<BTreeMap<String, u64>>,
    /// Watches its own git directory; none where it shares the project's.
    keeper: Option<Keeper>,
    /// Links to large files that upstreams offered.
    pub(crate) large: Links,
}

/// A fetch that was judged: one clone is several requests.
#[derive(Debug, Clone)]
pub struct Admitted {
    /// On which terms.
    pub terms: Terms,
    /// Until when its requests belong to it.
    pub until: Instant,
}

/// What the runner needs of a new session.
#[derive(Debug)]
pub struct Furniture {
    /// Mounts over the project.
    pub mounts: Vec<Mount>,
    /// Files inside.
    pub files: Vec<FileInside>,
    /// What the user should know.
    pub notes: Vec<String>,
    /// Variables that lead tools to the proxy and to registries.
    pub env: BTreeMap<String, String>,
    /// The front end of a session with the host's network, not served yet.
    pub on_host: Option<OnHost>,
}

impl Session {
    /// The directory of its sockets on the host.
    #[must_use]
    pub fn sockets(&self) -> &PathBuf {
        &self.sockets
    }

    /// The terms of a fetch from this remote that was admitted a while ago and still lasts.
    #[must_use]
    pub fn admitted_fetch(&self, remote: &Remote) -> Option<Terms> {
        let mut fetches = self.fetches.lock().unwrap_or_else(PoisonError::into_inner);
        fetches.retain(|_, admitted| admitted.until > Instant::now());
        fetches.get(remote).map(|admitted| admitted.terms.clone())
    }

    /// Remembers that a fetch was admitted.
    pub fn remember_fetch(&self, remote: &Remote, admitted: Admitted) {
        self.fetches.lock().unwrap_or_else(PoisonError::into_inner).insert(remote.clone(), admitted);
    }

    /// Writes what its sandbox finds, and says what the runner needs.
    async fn furnish(&self, ground: Ground, registries: Vec<Answer>) -> Result<Furniture, OpenError> {
        let (policy, Ground { git, signs, over }) = (&self.policy, ground);
        for (role, target) in signer::links() {
            std::os::unix::fs::symlink(target, self.sockets.join(role)).map_err(OpenError::Write)?;
        }
        let mut mounts = Vec::new();
        let access = policy.sandbox().project;
        if access != ProjectAccess::None {
            let (source, target) = (self.directory.clone(), self.directory.clone());
            mounts.push(Mount { source, target, read_only: access == ProjectAccess::Read });
        }
        mounts.extend(over);
        mounts.push(Mount { source: self.sockets.clone(), target: SOCKETS_INSIDE.into(), read_only: false });
        let on_host = OnHost::open(policy.network()).await.map_err(OpenError::Write)?;
        let own_loopback = format!("http://127.0.0.1:{FRONT_END_PORT}");
        let front_end = on_host.as_ref().map_or(own_loopback.as_str(), OnHost::base);
        let (excludes, excluding) = git.excludes(&self.directory).unzip();
        let preferences = [git.preferences, signs.settings, Vec::from_iter(excluding)].concat();
        let inside = |base: &str| git_config::inside(policy, &self.project, &preferences, base);
        // Without a network of its own there is no loopback to listen on: git's ssh goes by the session's socket.
        let bridged = on_host.is_none().then(|| inside(BRIDGE_BASE));
        let mut furniture = Furniture {
            mounts,
            files: vec![FileInside { bridged, ..FileInside::new("/etc/gitconfig", inside(front_end)) }],
            notes: git.notes,
            env: plan::environment(policy.network()),
            on_host,
        };
        furniture.files.extend(signs.files);
        if policy.ssh_agent().is_some() {
            let socket = format!("{SOCKETS_INSIDE}/{}", ssh_agent::SOCKET_NAME);
            furniture.env.insert("SSH_AUTH_SOCK".into(), socket);
        }
        furniture.files.extend(excludes);
        furniture.notes.extend(signs.notes);
        furniture.notes.extend(plan::notes(policy.network()));
        for answer in registries {
            furniture.env.extend(answer.env);
            furniture.files.extend(answer.files);
            furniture.notes.extend(answer.note);
        }
        Ok(furniture)
    }

    /// Writes what its container finds, and says what whoever starts it needs.
    fn furnish_container(
        &self,
        Ground { git, signs, over }: Ground,
        container: &Container,
    ) -> Result<container::Furniture, ContainerError> {
        let (excludes, excluding) = git.excludes(&self.directory).unzip();
        let content = container::Content {
            id: &self.id,
            sockets: &self.sockets,
            policy: &self.policy,
            project: &self.project,
            preferences: [git.preferences, signs.settings, Vec::from_iter(excluding)].concat(),
            files: signs.files.into_iter().chain(excludes).collect(),
        };
        let over = container.moved(&self.directory, over)?;
        let mut furniture = container.furnish(content)?;
        furniture.mounts.extend(over);
        container.confine(&self.id, &self.sockets, (&self.policy, &furniture))?;
        furniture.warnings.splice(0..0, git.notes.into_iter().chain(signs.notes));
        Ok(furniture)
    }

    /// Counts an event of the audit log, for the report.
    pub fn count(&self, event: &str) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(event.to_owned()).or_default() += 1;
    }

    /// How often each event of the audit log happened.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends it: no more connections, its directories go, what it committed is brought. Says what could not be brought.
    pub async fn end(&self) -> Vec<Section> {
        self.close();
        let over = self.over.load(Ordering::Acquire);
        let finishing = self.keeper.as_ref().map(|keeper| keeper.finish(over));
        // Meanwhile.
        self.clear();
        match finishing {
            Some(finishing) => finishing.await,
            None => Vec::new(),
        }
    }

    /// Takes note that nothing of it runs any more.
    pub fn is_over(&self) {
        self.over.store(true, Ordering::Release);
    }

    /// Takes note that nothing of the host could be written in it but what it mounted.
    pub fn was_enclosed(&self) {
        if let Some(keeper) = &self.keeper {
            keeper.was_enclosed();
        }
    }

    /// Makes the link by its name, where it has one: the same path from one session to the next.
    ///
    /// # Errors
    /// When the link cannot be made.
    pub fn link(&self, directory: &Path) -> std::io::Result<()> {
        let Some(name) = &self.name else { return Ok(()) };
        let link = directory.join(name.as_str());
        std::os::unix::fs::symlink(Path::new("../sessions").join(self.id.as_str()), &link)?;
        // It is set once: a session is opened once.
        drop(self.link.set(link));
        Ok(())
    }

    /// Removes that link.
    pub fn unlink(&self) {
        if let Some(link) = self.link.get()
            && let Err(error) = std::fs::remove_file(link)
        {
            tracing::warn!(session = %self.id, %error, "cannot remove a session's name");
        }
    }

    /// Bytes of objects that it has brought to the host so far.
    #[must_use]
    pub fn bytes_brought(&self) -> u64 {
        self.keeper.as_ref().map(Keeper::bytes_brought).unwrap_or_default()
    }

    /// What it has brought so far.
    #[must_use]
    pub fn brought(&self) -> Vec<Section> {
        self.keeper.as_ref().map(Keeper::sections).unwrap_or_default()
    }

    /// The object stores that its git writes to and reads from, and what must be readable for them: a session can put a
    /// link where its objects are, so that the directory around them is named.
    #[must_use]
    pub fn stores(&self) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let own = self.keeper.as_ref().map(Keeper::directories).unwrap_or_default();
        let mut objects = self.objects.clone();
        let mut readable = self.objects.clone();
        for Directories { session, host } in own {
            objects.push(session.join("objects"));
            objects.extend(host.iter().cloned());
            readable.push(session);
            readable.extend(host);
        }
        (objects, readable)
    }

    /// Whether its ssh-agent logs in to a destination, written as `host:port`: there a server's proof is looked at.
    #[must_use]
    pub fn logs_in_at(&self, destination: &str) -> bool {
        let hosts = self.policy.ssh_agent().map(|agent| agent.hosts.as_slice()).unwrap_or_default();
        hosts.iter().any(|(host, port)| destination == format!("{}:{port}", host.as_str()))
    }

    /// Waits until it ends.
    pub async fn ended(&self) {
        // The sender is this session's own and outlives the wait; were it gone, the session would be over too.
        drop(self.closed.subscribe().wait_for(|closed| *closed).await);
    }

    fn close(&self) {
        self.closed.send_replace(true);
        self.connections.close();
        self.held.clear();
    }

    fn clear(&self) {
        for directory in [&self.sockets, &self.files] {
            if let Err(error) = std::fs::remove_dir_all(directory) {
                tracing::warn!(session = %self.id, %error, "cannot remove a session's directory");
            }
        }
    }
}

/// Opens a session for a sandbox: reads the project's git configuration as it is now, and writes what will be mounted.
///
/// # Errors
/// When the project cannot be read or the session's files cannot be written. Nothing is left behind that a next start
/// of the broker does not remove.
pub async fn open(
    paths: &Paths,
    opening: Opening,
    registries: Vec<Answer>,
) -> Result<(Session, Furniture), OpenError> {
    let hosts = registries::hosts(&registries);
    let (mut session, ground) = begin_here(paths, opening, None)?;
    session.network = SessionNetwork::new(session.policy.network().clone(), hosts);
    let furniture = session.furnish(ground, registries).await?;
    Ok((session, furniture))
}

/// Opens a session for a container that somebody else starts. What is mounted and set is what a sandbox of ours has, as
/// far as it can be had there.
///
/// # Errors
/// As for [`open`]; and when the helper cannot be used in containers.
pub async fn open_for_container(
    paths: &Paths,
    opening: Opening,
    container: &Container,
) -> Result<(Session, container::Furniture), OpenError> {
    let target = container.target.as_deref();
    let (mut session, ground) = begin_here(paths, opening, Some(target))?;
    session.expires = Some(session.opened + Duration::from_secs(container.lasts));
    session.name.clone_from(&container.name);
    match session.furnish_container(ground, container) {
        Ok(furniture) => Ok((session, furniture)),
        Err(error) => {
            // Nobody was told of it: what was made in the project goes at once.
            session.is_over();
            session.end().await;
            Err(error.into())
        }
    }
}

/// Begins on this thread, while others serve the rest: most of it is files, and to hand them to another thread takes as
/// long as to make a dozen.
fn begin_here(
    paths: &Paths,
    opening: Opening,
    container: Option<Option<&Path>>,
) -> Result<(Session, Ground), OpenError> {
    tokio::task::block_in_place(|| Handle::current().block_on(begin(paths, opening, container)))
}

/// Makes what every session has. In a container the project's place may be known: only then can anything be over it.
async fn begin(
    paths: &Paths,
    opening: Opening,
    container: Option<Option<&Path>>,
) -> Result<(Session, Ground), OpenError> {
    let Opening { id, project: directory, policy } = opening;
    let sockets = paths.sessions().join(id.as_str());
    let files = paths.files().join(id.as_str());
    make_private(&sockets)?;
    make_private(&files)?;
    let access = policy.sandbox().project;
    // A session without a project works on an empty directory of its own, which nobody sees.
    let directory = match directory.filter(|_| access != ProjectAccess::None) {
        Some(directory) => directory,
        None => {
            let nothing = files.join(report::NO_PROJECT);
            make_private(&nothing)?;
            nothing
        }
    };
    let target = container.flatten();
    let covered = (container.is_none() || target.is_some()) && access != ProjectAccess::None;
    let own = covered && policy.repository().git_dir == GitDirectory::Own;
    let watch = own.then(|| Watch::start(&directory, &paths.nested(), container.is_none()));
    let nested = watch.as_ref().map(|watch| watch.found().repositories.clone()).unwrap_or_default();
    let mut git = ProjectGit::read(&directory, &nested).await?;
    let (signing, signs) = Signing::of(&git.signing_settings(), &policy, &directory).await;
    let project = Project {
        remotes: git.remotes.clone(),
        submodules: git.submodules.clone(),
        identities: signing.identities.clone(),
    };
    let told = Arc::new(Told::default());
    let (keeper, over) = if own {
        let record = Record::new(&id, &directory, &policy, container.is_some());
        let at = paths.git_directories().join(id.as_str());
        let protect = policy.repository().protect.clone();
        let made_of = (std::mem::take(&mut git.sources), protect, target.map(Path::to_owned));
        let (keeper, over) =
            own_git_directory((&at, &told), record, made_of, watch).map_err(OpenError::GitDirectory)?;
        let read_only = access == ProjectAccess::Read;
        let over = over.into_iter().map(|m| Mount { read_only: m.read_only || read_only, ..m }).collect();
        (Some(keeper), over)
    } else if covered {
        (None, git.shared_mounts(&files).map_err(OpenError::Write)?)
    } else {
        (None, Vec::new())
    };
    let session = Session {
        id,
        directory,
        project,
        objects: std::mem::take(&mut git.objects),
        secrets: std::mem::take(&mut git.secrets),
        upstreams: told,
        signing,
        asking: tokio::sync::Mutex::default(),
        opened: SystemTime::now(),
        expires: None,
        name: None,
        told: OnceLock::new(),
        spool: SpoolQuota::of(policy.limits().pack_bytes),
        advertisements: Arc::new(Semaphore::new(1)),
        connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        closed: watch::Sender::new(false),
        network: SessionNetwork::new(policy.network().clone(), Vec::new()),
        policy,
        sockets,
        files,
        link: OnceLock::new(),
        over: AtomicBool::new(false),
        fetches: Mutex::default(),
        counts: Mutex::default(),
        held: HeldConnections::default(),
        nonces: GivenNonces::default(),
        proofs: Proofs::default(),
        keeper,
        large: Links::default(),
    };
    Ok((session, Ground { git, signs, over }))
}

/// Who the user is in a project, by their git configuration and the project's.
///
/// # Errors
/// When the directory or a configuration file cannot be read.
pub async fn identities(project: &Path) -> Result<Vec<Identity>, ProjectError> {
    let git = ProjectGit::read(project, &BTreeSet::new()).await?;
    Ok(signer::identities(&git.signing_settings()))
}

/// Makes the session's own git directories and starts to watch them.
fn own_git_directory(
    (directory, told): (&Path, &Arc<Told>),
    mut record: Record,
    (sources, protect, target): (Vec<Source>, Vec<String>, Option<PathBuf>),
    mut watch: Option<Watch>,
) -> std::io::Result<(Keeper, Vec<Mount>)> {
    let ground =
        gitdir::Ground { directory, sources: &sources, protect: &protect, target: target.as_deref() };
    let mounts = gitdir::build(&ground, &mut record)?;
    if let Some(watch) = &mut watch {
        watch.settle(&record.placeholders, &mounts);
    }
    Ok((Keeper::start(directory, record, Arc::clone(told), watch)?, mounts))
}
