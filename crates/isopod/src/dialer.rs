//! The API server's way out: to nodes' agents over TLS with a certificate of its own, to pods and Services as they are.

use apiserver::{DialError, Dialer, NodeEndpoint, Place, Upgrade};
use http::{Request, Response, Uri};
use stdx::BoxFuture;
use wire::client::{Connection, Protocols};
use wire::tls::{CertificateSlot, ClientTls, Trust};
use wire::{Body, Client, ClientOptions};

/// Reaches agents where their nodes registered them.
pub struct Direct {
    /// Believes agents that show a certificate of the cluster's authority for the address that was dialed.
    agents: Client,
    /// Believes whoever answers, as upstream does: a pod's certificate is nobody's business but its clients'.
    others: Client,
}

impl Direct {
    /// Shows `identity` to agents, and believes those that `authority_pem` signed.
    pub fn new(authority_pem: &str, identity: CertificateSlot) -> anyhow::Result<Direct> {
        let client = |tls| {
            Client::new(ClientOptions { tls: Some(tls), protocols: Protocols::Http1, ..ClientOptions::default() })
        };
        let trust = Trust::from_pem(authority_pem.as_bytes())?;
        Ok(Direct {
            agents: client(ClientTls::new(&trust, Some(std::sync::Arc::new(identity)))?),
            others: client(ClientTls::new(&Trust::Anyone, None)?),
        })
    }
}

fn addressed(scheme: &str, place: &str, mut request: Request<Body>) -> Result<Request<Body>, DialError> {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let uri = format!("{scheme}://{place}{path}").parse::<Uri>();
    *request.uri_mut() = uri.map_err(|error| DialError { reason: error.to_string() })?;
    Ok(request)
}

fn of_agent(node: &NodeEndpoint, mut request: Request<Body>) -> Result<Request<Body>, DialError> {
    request.headers_mut().remove(http::header::HOST);
    let place = Place { secure: true, address: node.address, port: node.port };
    addressed("https", &place.authority(), request)
}

fn of_place(place: &Place, request: Request<Body>) -> Result<Request<Body>, DialError> {
    addressed(if place.secure { "https" } else { "http" }, &place.authority(), request)
}

async fn send(client: &Client, request: Request<Body>) -> Result<Response<Body>, DialError> {
    client.send(request).await.map_err(|error| DialError { reason: error.to_string() })
}

async fn upgrade(client: &Client, request: Request<Body>) -> Result<Upgrade, DialError> {
    let (response, stream) = client.upgrade(request).await.map_err(|error| DialError { reason: error.to_string() })?;
    Ok((response, stream.map(|stream| Box::new(stream) as Box<dyn Connection>)))
}

impl Dialer for Direct {
    fn node<'a>(
        &'a self,
        node: &'a NodeEndpoint,
        request: Request<Body>,
    ) -> BoxFuture<'a, Result<Response<Body>, DialError>> {
        Box::pin(async move { send(&self.agents, of_agent(node, request)?).await })
    }

    fn node_upgrade<'a>(
        &'a self,
        node: &'a NodeEndpoint,
        request: Request<Body>,
    ) -> BoxFuture<'a, Result<Upgrade, DialError>> {
        Box::pin(async move { upgrade(&self.agents, of_agent(node, request)?).await })
    }

    fn direct<'a>(
        &'a self,
        place: &'a Place,
        request: Request<Body>,
    ) -> BoxFuture<'a, Result<Response<Body>, DialError>> {
        Box::pin(async move { send(&self.others, of_place(place, request)?).await })
    }

    fn direct_upgrade<'a>(
        &'a self,
        place: &'a Place,
        request: Request<Body>,
    ) -> BoxFuture<'a, Result<Upgrade, DialError>> {
        Box::pin(async move { upgrade(&self.others, of_place(place, request)?).await })
    }
}
