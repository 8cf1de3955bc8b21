//! hyper's needs met by ours: who runs its tasks, how its upgraded streams read.

use http::Request;
use hyper_util::rt::TokioIo;

use crate::Body;

/// A connection that left HTTP behind after `101 Switching Protocols`, as a tokio byte stream.
pub type Upgraded = TokioIo<hyper::upgrade::Upgraded>;

/// The byte stream of a request that asked for an upgrade.
///
/// Call it before the request is dropped. The future resolves once the `101` response was sent, so it must be awaited in
/// a task of its own, and fails when another response was sent.
pub fn upgraded(request: &mut Request<Body>) -> impl Future<Output = Result<Upgraded, hyper::Error>> + Send + use<> {
    let upgrade = hyper::upgrade::on(request);
    async move { upgrade.await.map(TokioIo::new) }
}

/// Hands hyper's background futures to [`stdx::spawn`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct TaskExecutor;

impl<F> hyper::rt::Executor<F> for TaskExecutor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        // A stream's task ends with its connection, which its server or client owns.
        drop(stdx::spawn(future));
    }
}
