//! The intake: requests of the agent's side on a session's `broker.sock`, one a connection.
//!
//! Comes in: frames from untrusted processes (`keyhatch_protocol::message`). Goes out: one reply, and a stream where the
//! reply says so. Reaching the socket is the session's identity; nothing in a request is. Bounded: connections, the
//! time to a whole request, its size. Descriptors that come with it end the connection.

mod look;
mod sign;
mod status;
mod verify;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use keyhatch_protocol::message::{SOCKET_NAME, SessionReply, SessionRequest, VERSION};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::broker::Broker;
use crate::front::ListenError;
use crate::session::Session;
use wire::{Wire, WireError};

/// Requests that one session can have open at once, apart from git's own connections. More wait in the backlog.
const MAX_REQUESTS: usize = 32;
/// How long a client may take until its request is whole: the helper writes it at once.
const WHOLE_REQUEST: Duration = Duration::from_secs(20);

/// Serves a session on `broker.sock` in its directory.
///
/// # Errors
/// When the socket cannot be bound.
pub fn listen(broker: &Arc<Broker>, session: &Arc<Session>) -> Result<(), ListenError> {
    let listener = UnixListener::bind(session.sockets().join(SOCKET_NAME))?;
    tokio::spawn(accept_until_closed(broker.clone(), session.clone(), listener));
    Ok(())
}

async fn accept_until_closed(broker: Arc<Broker>, session: Arc<Session>, listener: UnixListener) {
    let permits = Arc::new(Semaphore::new(MAX_REQUESTS));
    loop {
        // A permit first: above the cap, requests of this session wait in its own backlog and cost nothing here.
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => { tokio::spawn(serve(broker.clone(), session.clone(), stream, permit)); }
                Err(error) => {
                    tracing::warn!(session = %session.id, %error, "cannot accept a request of a session");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            () = session.ended() => return,
        }
    }
}

async fn serve(broker: Arc<Broker>, session: Arc<Session>, stream: UnixStream, permit: OwnedSemaphorePermit) {
    let ended = session.clone();
    tokio::select! {
        answered = answer(&broker, &session, Wire::new(stream)) => if let Err(error) = answered {
            tracing::debug!(session = %session.id, %error, "a request of a session came to nothing");
        },
        () = ended.ended() => {}
    }
    drop(permit);
}

/// Reads one request and answers it.
async fn answer(broker: &Arc<Broker>, session: &Arc<Session>, mut wire: Wire) -> Result<(), WireError> {
    let request = match tokio::time::timeout(WHOLE_REQUEST, wire.request::<SessionRequest>()).await {
        Ok(Ok(request)) => request,
        Ok(Err(error)) => return wire.refuse(&error).await,
        Err(_) => return Err(WireError::Slow),
    };
    if request.version() != VERSION {
        let reason =
            format!("this helper and the broker are of different versions, {VERSION} is spoken here");
        return wire.reply(&SessionReply::Refused { reason }).await;
    }
    match request {
        SessionRequest::Status { .. } => {
            wire.reply(&SessionReply::Status { lines: status::lines(broker, session) }).await
        }
        SessionRequest::Verify { namespace, signature, .. } => {
            verify::answer(wire, namespace, signature).await
        }
        SessionRequest::Sign { format, key, namespace, .. } => {
            sign::answer(broker, session, wire, sign::Asked { format, key, namespace }).await
        }
    }
}
