//! The file that tells a client where a cluster is and who the client is.

use base64::Engine as _;

use crate::Signed;

/// What a kubeconfig of one cluster, one user and one context holds.
#[derive(Clone, PartialEq, Eq)]
pub struct Kubeconfig<'a> {
    /// Name of cluster and context.
    pub cluster: &'a str,
    pub user: &'a str,
    /// `https://host:port`
    pub server: &'a str,
    pub authority_pem: &'a str,
    pub client: &'a Signed,
}

impl Kubeconfig<'_> {
    /// The file's text: YAML, in the key order that kubectl writes.
    pub fn text(&self) -> String {
        let base64 = |pem: &str| base64::engine::general_purpose::STANDARD.encode(pem);
        let Kubeconfig { cluster, user, server, .. } = self;
        format!(
            "apiVersion: v1\n\
             clusters:\n\
             - cluster:\n    certificate-authority-data: {authority}\n    server: {server}\n  name: {cluster}\n\
             contexts:\n\
             - context:\n    cluster: {cluster}\n    user: {user}\n  name: {cluster}\n\
             current-context: {cluster}\n\
             kind: Config\n\
             preferences: {{}}\n\
             users:\n\
             - name: {user}\n  user:\n    client-certificate-data: {certificate}\n    client-key-data: {key}\n",
            authority = base64(self.authority_pem),
            certificate = base64(&self.client.certificate_pem),
            key = base64(&self.client.key_pem),
        )
    }
}

/// A kubeconfig that says only where a cluster is and who vouches for it, as kubeadm writes it into `cluster-info`.
pub fn bare(server: &str, authority_pem: &str) -> String {
    let authority = base64::engine::general_purpose::STANDARD.encode(authority_pem);
    format!(
        "apiVersion: v1\n\
         clusters:\n\
         - cluster:\n    certificate-authority-data: {authority}\n    server: {server}\n  name: \"\"\n\
         contexts: null\n\
         current-context: \"\"\n\
         kind: Config\n\
         preferences: {{}}\n\
         users: null\n"
    )
}

/// The authority that a kubeconfig of one cluster names, PEM.
pub fn authority(text: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix("certificate-authority-data:"))?;
    let pem = base64::engine::general_purpose::STANDARD.decode(line.trim()).ok()?;
    String::from_utf8(pem).ok()
}

/// Where the cluster of such a kubeconfig is.
pub fn server(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.trim_start().strip_prefix("server:")).map(str::trim)
}

/// Whether `text` is a kubeconfig for this server, authority and an unexpired-enough client certificate of this user.
///
/// Used to leave a good file alone, so that clients that watch it are not disturbed.
pub fn still_good(text: &str, wanted: &Kubeconfig<'_>, now: jiff::Timestamp) -> bool {
    let data = |key: &str| {
        let line = text.lines().find_map(|line| line.trim_start().strip_prefix(key))?;
        base64::engine::general_purpose::STANDARD
            .decode(line.trim())
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
    };
    server(text) == Some(wanted.server)
        && authority(text).as_deref() == Some(wanted.authority_pem)
        && data("client-certificate-data:").is_some_and(|pem| !crate::authority::renewal_due(&pem, now))
}
