//! The edge between callers and an API server, wherever it runs.

use std::pin::Pin;
use std::sync::Arc;

use api::status::Status;
use bytes::Bytes;
use futures_util::Stream;
use stdx::BoxFuture;

use crate::decode;
use crate::error::{ClientError, TransportError};
use crate::object::Object;
use crate::request::Request;

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub code: u16,
    /// Empty when the server named none.
    pub content_type: String,
    pub body: Bytes,
}

impl Response {
    /// The response itself when it tells success, else its `Status`.
    pub fn success(self) -> Result<Response, ClientError> {
        if (200..300).contains(&self.code) { Ok(self) } else { Err(decode::failure(&self).into()) }
    }
}

/// Objects as they were at one revision.
#[derive(Clone, Debug, Default)]
pub struct ObjectList {
    pub revision: u64,
    pub items: Vec<Arc<Object>>,
    /// Where the list goes on; `None` at its end.
    pub continue_token: Option<String>,
}

/// One event of a watch.
#[derive(Clone, Debug)]
pub enum WatchEvent {
    Added(Arc<Object>),
    Modified(Arc<Object>),
    /// The object as it was last, at the revision of its deletion.
    Deleted(Arc<Object>),
    /// Everything up to this revision has been sent.
    Bookmark {
        revision: u64,
        initial_events_end: bool,
    },
}

/// Events until the watch ends. An `Err` is its last item; [`ClientError::is_expired`] asks for a new list.
pub type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchEvent, ClientError>> + Send>>;

/// Carries requests to one API server as one user.
///
/// Implemented over HTTPS here, in process by the API server, and by simulations.
pub trait Transport: Send + Sync {
    /// Sends a request and waits for the whole answer, of any status code. Not for watches.
    fn call(&self, request: Request) -> BoxFuture<'_, Result<Response, TransportError>>;

    /// Lists objects. One page; [`Request`] says which.
    fn list(&self, request: Request) -> BoxFuture<'_, Result<ObjectList, ClientError>>;

    /// Starts a watch.
    fn watch(&self, request: Request) -> BoxFuture<'_, Result<WatchStream, ClientError>>;

    /// Sends a request whose answer is an object. In process this hands out the server's own.
    fn object(&self, request: Request) -> BoxFuture<'_, Result<Arc<Object>, ClientError>> {
        Box::pin(async move {
            let response = call(self, request).await?;
            decode::object(&response).map(Arc::new)
        })
    }
}

/// Sends a request and gives the successful answer, or the reason why there is none.
pub(crate) async fn call<T: Transport + ?Sized>(transport: &T, request: Request) -> Result<Response, ClientError> {
    let write = request.is_write();
    let response = transport.call(request).await.map_err(|error| outcome(error, write))?;
    // A gateway's 504 and the server's own timeouts leave a write's outcome open, too.
    if write && response.code == 504 {
        return Err(ClientError::Unknown(TransportError::Lost(decode::failure(&response).message)));
    }
    response.success()
}

/// What a transport's failure means for the caller.
pub(crate) fn outcome(error: TransportError, write: bool) -> ClientError {
    match error {
        error @ TransportError::Unreached(_) => ClientError::Transport(error),
        error if write => ClientError::Unknown(error),
        error => ClientError::Transport(error),
    }
}

/// A `Status` for an answer that carries none.
pub(crate) fn bare_status(code: u16, message: &str) -> Status {
    let reason = match code {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        405 => "MethodNotAllowed",
        406 => "NotAcceptable",
        409 => "Conflict",
        410 => "Gone",
        413 => "RequestEntityTooLarge",
        415 => "UnsupportedMediaType",
        422 => "Invalid",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        500.. => "InternalError",
        _ => "",
    };
    Status::failure(code, reason, message)
}
