//! An ssh-agent for the agent's side: it lists the keys that policy names, and signs logins to hosts that policy names.
//!
//! Comes in: the agent protocol on `agent.sock`, from untrusted processes. A login is signed only on a connection that
//! was bound to a server by that server's own signature (`session-bind@openssh.com`, or seen by `witness` where the
//! client does not send it), when known_hosts has the server's key under a named host. Everything else is refused: SSHSIG blobs, forwarding, adding, removing, locking, extensions.

pub(crate) mod hosts;
pub(crate) mod witness;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use keyhatch_policies::SshAgentPolicy;
use keyhatch_protocol::agent::{self, AgentRequest, MAX_MESSAGE};
use keyhatch_protocol::text::shown;
use serde_json::json;
use signature::Verifier;
use ssh_key::encoding::Encode;
use ssh_key::{HashAlg, PublicKey, Signature};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use crate::broker::Broker;
use crate::credential::named;
use crate::front::ListenError;
use crate::session::Session;
use crate::signer::{SshKey, Voice};

/// The socket's name in the session's directory.
pub const SOCKET_NAME: &str = "agent.sock";
/// Connections that one session can hold open at once.
const MAX_CONNECTIONS: usize = 16;
/// How long a connection may be silent: an ssh keeps it while it logs in.
const SILENCE: Duration = Duration::from_secs(15 * 60);
const FAILURE: u8 = 5;
const SUCCESS: u8 = 6;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_RESPONSE: u8 = 14;
/// `SSH_AGENT_RSA_SHA2_512`, the only hash that RSA is used with here.
const RSA_SHA2_512: u32 = 4;

/// Why a login is refused of which nobody knows where it goes.
const UNBOUND: &str = "the login is not bound to a server: the client sends no session-bind@openssh.com, and its \
                       connection does not pass through the session's proxy";

/// Serves the session's ssh-agent, where its policy has one.
///
/// # Errors
/// When the socket cannot be bound.
pub fn listen(broker: &Arc<Broker>, session: &Arc<Session>) -> Result<(), ListenError> {
    let Some(policy) = session.policy.ssh_agent() else { return Ok(()) };
    let listener = UnixListener::bind(session.sockets().join(SOCKET_NAME))?;
    let keys = policy.keys.iter().filter_map(|name| match named::ssh_key(name) {
        Ok(key) => Some(key),
        Err(why) => {
            tracing::warn!(name, why, "a key of the session's ssh-agent cannot be used");
            None
        }
    });
    let facade = Facade {
        broker: broker.clone(),
        session: session.clone(),
        policy: policy.clone(),
        keys: keys.collect(),
    };
    tokio::spawn(accept_until_closed(Arc::new(facade), listener));
    Ok(())
}

struct Facade {
    broker: Arc<Broker>,
    session: Arc<Session>,
    policy: SshAgentPolicy,
    keys: Vec<SshKey>,
}

async fn accept_until_closed(facade: Arc<Facade>, listener: UnixListener) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let session = facade.session.clone();
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let facade = facade.clone();
                    tokio::spawn(async move {
                        let session = facade.session.clone();
                        let mut connection = Connection { facade, stream, bound: Binding::None };
                        tokio::select! {
                            served = connection.serve() => if let Err(error) = served {
                                tracing::debug!(%error, "an ssh-agent's client broke off");
                            },
                            () = session.ended() => {}
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an ssh-agent's client");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            () = session.ended() => return,
        }
    }
}

/// To which server a connection is bound. An illegal step ends every hope of a signature on it.
enum Binding {
    None,
    To { session: Vec<u8>, host_key: Vec<u8>, host: String },
    Refused,
}

struct Connection {
    facade: Arc<Facade>,
    stream: UnixStream,
    bound: Binding,
}

impl Connection {
    async fn serve(&mut self) -> io::Result<()> {
        loop {
            let mut length = [0; 4];
            let reading = self.stream.read_exact(&mut length);
            match tokio::time::timeout(SILENCE, reading).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Ok(Err(error)) => return Err(error),
                Err(_) => return Ok(()),
            }
            let length = u32::from_be_bytes(length) as usize;
            if length > MAX_MESSAGE {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let mut message = vec![0; length];
            self.stream.read_exact(&mut message).await?;
            let answer = self.answer(&message).await;
            let mut framed = Vec::with_capacity(4 + answer.len());
            agent::put(&mut framed, &answer);
            self.stream.write_all(&framed).await?;
        }
    }

    async fn answer(&mut self, message: &[u8]) -> Vec<u8> {
        match agent::parse(message) {
            Ok(AgentRequest::List) => self.list(),
            Ok(AgentRequest::Bind { host_key, session, signature, forwarding }) => {
                self.bind((host_key, session, signature), forwarding).await
            }
            Ok(AgentRequest::Sign { key, data, flags }) => match self.login(key, data, flags).await {
                Ok(signature) => {
                    let mut answer = vec![SIGN_RESPONSE];
                    agent::put(&mut answer, &signature);
                    answer
                }
                Err(why) => self.refused(&why).await,
            },
            Ok(AgentRequest::Other) => self.refused("only listing and logging in are served").await,
            Err(error) => self.refused(&error.to_string()).await,
        }
    }

    fn list(&self) -> Vec<u8> {
        let mut answer = vec![IDENTITIES_ANSWER];
        let keys: Vec<(Vec<u8>, String)> =
            self.facade.keys.iter().filter_map(|key| Some((key.blob()?, key.fingerprint()))).collect();
        answer.extend_from_slice(&u32::try_from(keys.len()).unwrap_or(0).to_be_bytes());
        for (blob, comment) in keys {
            agent::put(&mut answer, &blob);
            agent::put(&mut answer, comment.as_bytes());
        }
        answer
    }

    /// Binds the connection to the server that signed its session's id.
    async fn bind(
        &mut self,
        (host_key, session, signature): (&[u8], &[u8], &[u8]),
        forwarding: bool,
    ) -> Vec<u8> {
        let host = if forwarding {
            Err("this ssh-agent is not forwarded to another machine".to_owned())
        } else if !matches!(self.bound, Binding::None) {
            Err("a connection is bound to one server, once".to_owned())
        } else {
            server(host_key, session, signature).and_then(|key| hosts::named(&self.facade.policy.hosts, &key))
        };
        match host {
            Ok(host) => {
                self.bound = Binding::To { session: session.to_vec(), host_key: host_key.to_vec(), host };
                vec![SUCCESS]
            }
            Err(why) => {
                self.bound = Binding::Refused;
                self.refused(&why).await
            }
        }
    }

    /// Signs a login to the server that the connection is bound to.
    async fn login(&self, key: &[u8], data: &[u8], flags: u32) -> Result<Vec<u8>, String> {
        let login = agent::parse_login(data).map_err(|error| error.to_string())?;
        if !self.facade.policy.lets_in(login.user) {
            return Err(format!("the policy names no user {}", shown(login.user)));
        }
        let (host_key, host) = match &self.bound {
            Binding::To { session, host_key, host } if login.session == session => {
                (host_key.clone(), host.clone())
            }
            Binding::To { .. } => return Err("the login is for another connection".to_owned()),
            Binding::None => self.witnessed(login.session)?,
            Binding::Refused => return Err("the connection was refused already".to_owned()),
        };
        if login.host_key.is_some_and(|named| named != host_key) || login.key != key {
            return Err("the login is for another server or key".to_owned());
        }
        let named = self.facade.keys.iter().find(|one| one.blob().is_some_and(|blob| blob == key));
        let named = named.ok_or("this key is not one that the policy names")?;
        if named.is_rsa() && flags & RSA_SHA2_512 == 0 {
            return Err("RSA signs with SHA-512 alone".to_owned());
        }
        let (voice, _unheard) = Voice::of(&self.facade.session.id);
        let signature = named.login(&self.facade.broker, data.to_vec(), &voice).await;
        let signature = signature.map_err(|error| error.to_string())?;
        let bytes = signature.encode_vec().map_err(|_| "the signature cannot be written")?;
        let fields = vec![
            ("host", json!(host)),
            ("user", json!(shown(login.user))),
            ("key", named.fingerprint().into()),
            ("pid", json!(self.stream.peer_cred().ok().and_then(|peer| peer.pid()))),
        ];
        let recorded = self.facade.broker.record(&self.facade.session.id, "login-signed", fields).await;
        recorded.map_err(|error| error.to_string())?;
        Ok(bytes)
    }

    /// The server of a login that its client did not bind: one whose own signature of this session's id was seen on its
    /// way through the broker. It is the proof that a client would have handed over.
    fn witnessed(&self, session: &[u8]) -> Result<(Vec<u8>, String), String> {
        let proofs = self.facade.session.proofs.all().into_iter();
        let mut proved = proofs.filter_map(|proof| {
            let key = server(&proof.host_key, session, &proof.signature).ok()?;
            Some((proof.host_key, key))
        });
        let (host_key, key) = proved.next().ok_or(UNBOUND)?;
        Ok((host_key, hosts::named(&self.facade.policy.hosts, &key)?))
    }

    async fn refused(&self, why: &str) -> Vec<u8> {
        let fields = vec![("reason", why.into())];
        self.facade.broker.refuse(&self.facade.session.id, "login-refused", fields).await;
        vec![FAILURE]
    }
}

/// The server's key, if it signed the session's id itself.
fn server(host_key: &[u8], session: &[u8], signature: &[u8]) -> Result<PublicKey, String> {
    let odd = || "the server's proof is malformed".to_owned();
    let key = PublicKey::from_bytes(host_key).map_err(|_| odd())?;
    let signature = Signature::try_from(signature).map_err(|_| odd())?;
    let verified = key.key_data().verify(session, &signature);
    verified.map_err(|_| {
        format!("the server {} did not sign this connection", key.fingerprint(HashAlg::Sha256))
    })?;
    Ok(key)
}
