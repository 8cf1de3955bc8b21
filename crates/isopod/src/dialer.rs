//! The API server's way to this node's agent: a unix socket that only root may open.

use apiserver::{DialError, Dialer, Upgrade};
use http::{Request, Response, Uri};
use stdx::BoxFuture;
use wire::client::{Connection, Protocols, Route};
use wire::{Body, Client, ClientOptions};

/// Reaches the one agent of this machine.
pub struct LocalNode {
    name: String,
    client: Client,
}

impl LocalNode {
    /// The agent of node `name` behind `socket`.
    pub fn new(name: &str, socket: &std::path::Path) -> LocalNode {
        let options = ClientOptions {
            route: Route::Unix(socket.into()),
            protocols: Protocols::Http1,
            ..ClientOptions::default()
        };
        LocalNode { name: name.into(), client: Client::new(options) }
    }

    fn addressed(&self, node: &str, mut request: Request<Body>) -> Result<Request<Body>, DialError> {
        let error = |reason: String| DialError { node: node.to_owned(), reason };
        if node != self.name {
            return Err(error("no such node is known here".into()));
        }
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = format!("http://agent{path}").parse::<Uri>().map_err(|why| error(why.to_string()))?;
        Ok(request)
    }
}

impl Dialer for LocalNode {
    fn node<'a>(&'a self, node: &'a str, request: Request<Body>) -> BoxFuture<'a, Result<Response<Body>, DialError>> {
        Box::pin(async move {
            let request = self.addressed(node, request)?;
            let failed = |error: wire::ClientError| DialError { node: node.to_owned(), reason: error.to_string() };
            self.client.send(request).await.map_err(failed)
        })
    }

    fn node_upgrade<'a>(&'a self, node: &'a str, request: Request<Body>) -> BoxFuture<'a, Result<Upgrade, DialError>> {
        Box::pin(async move {
            let request = self.addressed(node, request)?;
            let failed = |error: wire::ClientError| DialError { node: node.to_owned(), reason: error.to_string() };
            let (response, stream) = self.client.upgrade(request).await.map_err(failed)?;
            Ok((response, stream.map(|stream| Box::new(stream) as Box<dyn Connection>)))
        })
    }
}
