//! Lifecycle hooks: what runs right after a container started and right before it is asked to end.
//!
//! Upstream: `pkg/kubelet/lifecycle/handlers.go`. Why a hook failed is logged and not told, since it may hold secrets.

use std::time::Duration;

use k8s_openapi::api::core::v1::{HTTPGetAction, LifecycleHandler};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::probe::{Asked, Place, http_get, port};

/// Runs a hook; the error is for the log.
pub async fn run(asked: &Asked<'_>, handler: &LifecycleHandler, limit: Duration) -> Result<(), String> {
    match stdx::timeout(limit, once(asked, handler)).await {
        Ok(result) => result,
        Err(_) => Err(format!("hook did not end within {}s", limit.as_secs())),
    }
}

async fn once(asked: &Asked<'_>, handler: &LifecycleHandler) -> Result<(), String> {
    if let Some(exec) = &handler.exec {
        let command = exec.command.clone().unwrap_or_default();
        let response = asked.runtime.exec_sync(asked.container_id, command.clone(), Duration::ZERO).await;
        return match response {
            Ok(response) if response.exit_code == 0 => Ok(()),
            Ok(response) => Err(format!(
                "command '{}' exited with {}: {}",
                command.join(" "),
                response.exit_code,
                String::from_utf8_lossy(&response.stderr).trim_end()
            )),
            Err(error) => Err(error.to_string()),
        };
    }
    if let Some(get) = &handler.http_get {
        return http(asked, get).await;
    }
    if let Some(sleep) = &handler.sleep {
        stdx::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    // Also a `tcpSocket`, which nothing ever ran: it fails here as it does upstream.
    Err("Invalid handler".into())
}

/// Any answer will do. A server that answers a secure question plainly is asked plainly. Upstream: `runHTTPHandler`.
async fn http(asked: &Asked<'_>, get: &HTTPGetAction) -> Result<(), String> {
    let port = match &get.port {
        IntOrString::String(name) if name.is_empty() => 80,
        named => port(named, asked.container).ok_or("couldn't find port")?,
    };
    let place = Place::new(get, asked.host(get.host.as_deref()), port);
    match http_get(&place, get).await {
        Err(error) if error.contains("server gave HTTP response to HTTPS client") => {
            http_get(&Place { secure: false, ..place }, get).await.map(drop)
        }
        answer => answer.map(drop),
    }
}
