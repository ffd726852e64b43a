//! The host's ssh-agent: keys that it holds, security keys among them.

use std::time::Duration;

use russh::keys::Error;
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use ssh_key::{Algorithm, HashAlg, PublicKey, Signature};
use tokio::net::UnixStream;

use super::{SignError, Voice};

/// How long an agent may think: it may ask the user to confirm or to touch a key.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long until a waiting client is told why it waits.
const QUIET: Duration = Duration::from_secs(1);
/// How long an agent may take to say which keys it holds; it asks nobody for that.
const LISTS: Duration = Duration::from_secs(5);

/// Whether the agent holds this key.
pub(super) async fn holds(key: &PublicKey) -> bool {
    let listing = async { identity(&mut connect().await?, key).await };
    matches!(tokio::time::timeout(LISTS, listing).await, Ok(Ok(_)))
}

/// Has the agent sign bytes.
pub(super) async fn sign(key: &PublicKey, data: Vec<u8>, voice: &Voice) -> Result<Signature, SignError> {
    let signing = async {
        let mut agent = connect().await?;
        let identity = identity(&mut agent, key).await?;
        let hash = matches!(key.algorithm(), Algorithm::Rsa { .. }).then_some(HashAlg::Sha512);
        let length = data.len();
        let answer = agent.sign_request(&identity, hash, data).await.map_err(|error| failed(&error))?;
        signature(answer.get(length..).unwrap_or_default())
    };
    let mut signing = std::pin::pin!(tokio::time::timeout(PATIENCE, signing));
    let answer = tokio::select! {
        answer = &mut signing => answer,
        () = tokio::time::sleep(QUIET) => {
            voice.say("keyhatch: waiting for the host's ssh-agent; it may ask the user to confirm");
            signing.await
        }
    };
    answer.unwrap_or(Err(SignError::Agent { did: "did not answer in time" }))
}

async fn connect() -> Result<AgentClient<UnixStream>, SignError> {
    AgentClient::connect_env().await.map_err(|_| SignError::Agent { did: "cannot be reached" })
}

async fn identity(agent: &mut AgentClient<UnixStream>, key: &PublicKey) -> Result<AgentIdentity, SignError> {
    let held = agent.request_identities().await.map_err(|error| failed(&error))?;
    let same = |one: &AgentIdentity| match one {
        AgentIdentity::PublicKey { key: held, .. } => held.key_data() == key.key_data(),
        AgentIdentity::Certificate { .. } => false,
    };
    held.into_iter().find(same).ok_or(SignError::Agent { did: "does not hold the signing key" })
}

/// The signature at the end of an answer: a string of its own.
fn signature(bytes: &[u8]) -> Result<Signature, SignError> {
    let malformed = || SignError::Agent { did: "answered something that is no signature" };
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(malformed)?;
    if u32::from_be_bytes(*length) as usize != rest.len() {
        return Err(malformed());
    }
    Signature::try_from(rest).map_err(|_| malformed())
}

fn failed(error: &Error) -> SignError {
    let did = match error {
        Error::AgentFailure => "refused to sign",
        Error::IO(_) => "broke off",
        _ => "answered something unexpected",
    };
    SignError::Agent { did }
}
